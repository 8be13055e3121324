//! The audit's line of a session's end, written in advance for a process that
//! knows nothing else of the session.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::router::told::Gone;
use crate::router::told::in_advance::{self, LONGEST};
use fpty::sys::child::Exit;
use fpty::sys::stdio::Output;
use fpty::text::shown;

/// The line, and when the session began; none where nobody asked for it, or where
/// it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    line: Option<String>,
    /// Milliseconds since 1970.
    started: u64,
}

impl EndRecord {
    /// Of a line in advance.
    pub fn new(in_advance: Option<(String, SystemTime)>) -> Self {
        let Some((line, started)) = in_advance.filter(|(line, _)| line.len() <= LONGEST) else {
            return Self::default();
        };
        let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { line: Some(line), started: u64::try_from(since.as_millis()).unwrap_or(0) }
    }

    /// The line as it was written in advance, and when the session began.
    pub fn in_advance(&self) -> Option<(&str, SystemTime)> {
        Some((self.line.as_deref()?, UNIX_EPOCH + Duration::from_millis(self.started)))
    }

    /// The line as it is to be written, once.
    pub fn take(&mut self, why: Gone, exit: Option<Exit>) -> Option<String> {
        let line = self.line.take()?;
        let (now, started) = (SystemTime::now(), UNIX_EPOCH + Duration::from_millis(self.started));
        let duration = now.duration_since(started).unwrap_or_default();
        Some(in_advance::because(&in_advance::at(&line, now, duration), why, exit))
    }

    /// Writes the line, once; a log that nobody reads goes without.
    pub fn say(&mut self, log: &Option<Output>, why: Gone, exit: Option<Exit>) {
        if let Some(line) = self.take(why, exit) {
            say(log, &line);
        }
    }
}

/// Writes a line to the server's log, for a process that has nothing else of it; one
/// that nobody reads goes without.
pub fn say(log: &Option<Output>, line: &str) {
    if let Some(log) = log {
        let _ = log.write(format!("{}\n", shown(line)).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_said_once_and_never_too_long() {
        let started = UNIX_EPOCH + Duration::from_millis(1234);
        let mut last = EndRecord::new(Some((String::from("line"), started)));
        assert_eq!(last.started, 1234);
        assert_eq!(last.take(Gone::Lost, None).as_deref(), Some("line"));
        assert_eq!(last.take(Gone::Lost, None), None);
        let long = "x".repeat(LONGEST + 1);
        assert!(EndRecord::new(Some((long, started))).line.is_none());
    }
}
