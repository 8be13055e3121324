//! The audit's line of a session's end, written in advance for a process that
//! knows nothing else of the session.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::told::{Gone, board};
use fpty::sys::child::{Exit, Pid};
use fpty::sys::stdio::Output;
use fpty::text::shown;

/// The line, and when the session began; none where nobody asked for it.
#[derive(Debug, Default)]
pub struct LastWords {
    line: Option<String>,
    started: u64,
}

/// Bytes before the line: the process, and milliseconds.
const HEAD: usize = 4 + 8;

impl LastWords {
    /// The longest message, in bytes.
    pub const LONGEST: usize = HEAD + board::LONGEST;

    /// Of a line in advance.
    pub fn new(in_advance: Option<(String, SystemTime)>) -> Self {
        let Some((line, started)) = in_advance.filter(|(line, _)| line.len() <= board::LONGEST)
        else {
            return Self::default();
        };
        let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { line: Some(line), started: u64::try_from(since.as_millis()).unwrap_or(0) }
    }

    /// Whether there are any.
    pub fn are_any(&self) -> bool {
        self.line.is_some()
    }

    /// For another process: the session's leader goes along.
    pub fn message(&self, leader: Pid) -> Vec<u8> {
        let mut message = leader.as_raw().to_le_bytes().to_vec();
        message.extend_from_slice(&self.started.to_le_bytes());
        message.extend_from_slice(self.line.as_deref().unwrap_or_default().as_bytes());
        message
    }

    /// What that process reads.
    pub fn of(message: &[u8]) -> Option<(Pid, Self)> {
        let (leader, rest) = message.split_first_chunk()?;
        let (started, line) = rest.split_first_chunk()?;
        let line = String::from_utf8(line.to_vec()).ok().filter(|line| !line.is_empty());
        let last = Self { line, started: u64::from_le_bytes(*started) };
        Some((Pid::new(i32::from_le_bytes(*leader))?, last))
    }

    /// Writes the line, once; a log that nobody reads goes without.
    pub fn say(&mut self, log: &Option<Output>, why: Gone, exit: Option<Exit>) {
        let (Some(line), Some(log)) = (self.line.take(), log) else {
            return;
        };
        let (now, started) = (SystemTime::now(), UNIX_EPOCH + Duration::from_millis(self.started));
        let duration = now.duration_since(started).unwrap_or_default();
        let line = board::because(&board::at(&line, now, duration), why, exit);
        let _ = log.write(format!("{}\n", shown(&line)).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let leader = Pid::new(4711).expect("above 1");
        let started = UNIX_EPOCH + Duration::from_millis(1234);
        for line in [Some(String::from("line")), None] {
            let last = LastWords::new(line.clone().map(|line| (line, started)));
            let (read, other) = LastWords::of(&last.message(leader)).expect("a message");
            assert_eq!((read, &other.line), (leader, &line));
            assert_eq!(other.started, if line.is_some() { 1234 } else { 0 });
        }
        let long = "x".repeat(board::LONGEST + 1);
        assert!(LastWords::new(Some((long, started))).line.is_none());
        assert!(LastWords::of(&[1, 2, 3]).is_none());
    }
}
