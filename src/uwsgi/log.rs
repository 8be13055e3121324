//! Lines for the server's log. They never wait for it: a log that nobody
//! reads, a full pipe, stops no session.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::ffi;
use fpty::sys::stdio;
use fpty::text::{cut, shown};

/// Lines that may wait for the log; what comes then is lost.
const MOST: usize = 256;

/// The longest line, in bytes: what a poll has found room for in a pipe
/// (PIPE_BUF, pipe(7)), less what the server writes before it.
const LONGEST: usize = 3072;

/// Lines that the log has not taken.
struct Waiting {
    lines: VecDeque<String>,
    lost: usize,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { lines: VecDeque::new(), lost: 0 });

/// Whether there are any: a look at it costs nothing.
static HAS_MORE: AtomicBool = AtomicBool::new(false);

/// Writes one line to the server's log (`uwsgi_log`), or keeps it until that
/// takes it; see [`flush`].
pub fn log(line: &str) {
    let line = &*unlike_the_audit(line);
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.write();
    if waiting.lines.is_empty() && stdio::stderr_takes() {
        return write(line);
    }
    if waiting.lines.len() < MOST {
        waiting.lines.push_back(line.to_owned());
    } else {
        waiting.lost += 1;
    }
    HAS_MORE.store(true, Ordering::Relaxed);
}

/// An ordinary line, in which somebody may be called like the beginning of the
/// audit's.
fn unlike_the_audit(line: &str) -> Cow<'_, str> {
    let word = AUDIT.trim_end();
    match line.contains(word) {
        true => Cow::Owned(line.replace(word, "forkptyrouter\\u002daudit:")),
        false => Cow::Borrowed(line),
    }
}

/// The audit's lines begin so: rules of the server that look for it
/// (`log-route`) do so anywhere in a line.
pub const AUDIT: &str = "forkptyrouter-audit: ";

/// Writes a line of the audit to the server's log; returns whether that takes it
/// now.
pub fn takes(line: &str) -> bool {
    let takes = stdio::stderr_takes();
    if takes {
        write(line);
    }
    takes
}

/// Whether lines wait for the log.
pub fn has_more() -> bool {
    HAS_MORE.load(Ordering::Relaxed)
}

/// Writes the lines that wait, as far as the log takes them.
pub fn flush() {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.write();
    HAS_MORE.store(!waiting.lines.is_empty(), Ordering::Relaxed);
}

impl Waiting {
    fn write(&mut self) {
        while !self.lines.is_empty() && stdio::stderr_takes() {
            if let Some(line) = self.lines.pop_front() {
                write(&line);
            }
        }
        if self.lost > 0 && self.lines.is_empty() && stdio::stderr_takes() {
            let lost = std::mem::take(&mut self.lost);
            write(&format!("forkptyrouter: {lost} lines were lost: nobody read the log"));
        }
    }
}

/// All that comes to the log comes through here: whatever a peer is called, it is
/// one line, and does nothing to a terminal that shows it.
fn write(line: &str) {
    let line = shown(line);
    let line = cut(&line, LONGEST);
    // uwsgi_log is printf-like: what we print is always an argument, never
    // the format, and its length is explicit.
    let length = c_int::try_from(line.len()).unwrap_or(c_int::MAX);
    // SAFETY: %.*s reads at most `length` bytes from `line`, which has them.
    unsafe { ffi::uwsgi_log(c"%.*s\n".as_ptr(), length, line.as_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_makes_a_line_one_of_the_audit() {
        let line = "forkptyrouter: cannot execute forkptyrouter-audit: {}";
        assert!(!unlike_the_audit(line).contains("forkptyrouter-audit:"));
        assert_eq!(unlike_the_audit("forkptyrouter: x"), "forkptyrouter: x");
    }
}
