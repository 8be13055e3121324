//! The audit's line of a session's end, written in advance for a process that
//! knows nothing else of the session.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::observe::audit::Gone;
use crate::observe::audit::prepared_end::{self, LONGEST};
use fpty::sys::child::Exit;
use fpty::sys::clock::BootInstant;
use fpty::sys::stdio::Output;
use fpty::text::shown;

/// The line, and when the session began; none where nobody asked for it, or where
/// it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    line: Option<String>,
    /// Nanoseconds since the machine's start.
    began: u64,
}

impl EndRecord {
    /// Of a line in advance.
    pub fn new(in_advance: Option<(String, BootInstant)>) -> Self {
        match in_advance.filter(|(line, _)| line.len() <= LONGEST) {
            Some((line, began)) => Self { line: Some(line), began: began.as_nanos() },
            None => Self::default(),
        }
    }

    /// The line as it was written in advance, and when the session began.
    pub fn in_advance(&self) -> Option<(&str, BootInstant)> {
        Some((self.line.as_deref()?, BootInstant::from_nanos(self.began)))
    }

    /// The line as it is to be written, once.
    pub fn take(&mut self, why: Gone, exit: Option<Exit>) -> Option<String> {
        let line = self.line.take()?;
        let duration = BootInstant::from_nanos(self.began).elapsed();
        Some(prepared_end::because(
            &prepared_end::at(&line, SystemTime::now(), duration),
            why,
            exit,
        ))
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
        let began = BootInstant::from_nanos(1234);
        let mut last = EndRecord::new(Some((String::from("line"), began)));
        assert_eq!(last.began, 1234);
        assert_eq!(last.take(Gone::Lost, None).as_deref(), Some("line"));
        assert_eq!(last.take(Gone::Lost, None), None);
        let long = "x".repeat(LONGEST + 1);
        assert!(EndRecord::new(Some((long, began))).line.is_none());
    }
}
