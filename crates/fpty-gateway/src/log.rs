//! Lines for the server's log. They never wait for it: a log that nobody
//! reads, a full pipe, stops no session.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::host::host;
use crate::log_queue::LogQueue;
use fpty::sys::stdio;
use fpty::text::{cut, shown};

/// Lines that may wait for the log; what comes then is lost.
const MAX_LINES: usize = 256;

/// The longest line, in bytes: what a poll has found room for in a pipe
/// (PIPE_BUF, pipe(7)), less what the server writes before it.
const MAX_LINE: usize = 3072;

/// Lines that the log has not taken.
static WAITING: Mutex<LogQueue> = Mutex::new(LogQueue::of(MAX_LINES));

/// Whether lines wait: a look at it costs nothing.
static HAS_MORE: AtomicBool = AtomicBool::new(false);

/// Writes one line to the server's log (`uwsgi_log`), or keeps it until that
/// takes it; see [`flush`].
pub fn log(line: &str) {
    with_queue(|waiting| waiting.say(|_| escape_audit_prefix(line).into_owned(), try_write));
}

/// An ordinary line, in which somebody may be called like the beginning of the
/// audit's.
fn escape_audit_prefix(line: &str) -> Cow<'_, str> {
    let word = AUDIT.trim_end();
    match line.contains(word) {
        true => Cow::Owned(line.replace(word, "forkptyrouter\\u002daudit:")),
        false => Cow::Borrowed(line),
    }
}

/// The audit's lines begin so: rules of the server that look for it
/// (`log-route`) do so anywhere in a line.
pub const AUDIT: &str = "forkptyrouter-audit: ";

/// Writes a line to the server's log, as of the audit; returns whether that takes
/// it now.
pub fn try_write(line: &str) -> bool {
    let try_write = stdio::stderr_has_room();
    if try_write {
        write(line);
    }
    try_write
}

/// Whether lines wait for the log.
pub fn has_more() -> bool {
    HAS_MORE.load(Ordering::Relaxed)
}

/// Writes the lines that wait, as far as the log takes them.
pub fn flush() {
    with_queue(|_| {});
}

fn with_queue(then: impl FnOnce(&mut LogQueue)) {
    // After a panic the lines are as good as before.
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.flush(try_write);
    if *waiting.lost() > 0 && !waiting.waits() {
        let line = |lost: &mut u64| {
            let lost = std::mem::take(lost);
            format!("forkptyrouter: {lost} lines were lost: nobody read the log")
        };
        waiting.say(line, try_write);
    }
    then(&mut waiting);
    HAS_MORE.store(waiting.waits(), Ordering::Relaxed);
}

/// All that comes to the log comes through here: whatever a peer is called, it is
/// one line, and does nothing to a terminal that shows it.
fn write(line: &str) {
    let line = shown(line);
    host().write_log(cut(&line, MAX_LINE));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_makes_a_line_one_of_the_audit() {
        let line = "forkptyrouter: cannot execute forkptyrouter-audit: {}";
        assert!(!escape_audit_prefix(line).contains("forkptyrouter-audit:"));
        assert_eq!(escape_audit_prefix("forkptyrouter: x"), "forkptyrouter: x");
    }
}
