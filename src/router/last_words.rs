//! The audit's line of a session's end, written in advance for a process that
//! knows nothing else of the session.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::told::{Gone, board};
use fpty::sys::child::Exit;
use fpty::sys::clock::BootInstant;
use fpty::sys::stdio::Output;
use fpty::text::shown;

/// The line, and when the session began; none where nobody asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWords {
    line: Option<String>,
    /// Nanoseconds since the machine's start.
    began: u64,
}

impl LastWords {
    /// Of a line in advance.
    pub fn new(in_advance: Option<(String, BootInstant)>) -> Self {
        match in_advance.filter(|(line, _)| line.len() <= board::LONGEST) {
            Some((line, began)) => Self { line: Some(line), began: began.as_nanos() },
            None => Self::default(),
        }
    }

    /// The line as it is to be written, once.
    pub fn take(&mut self, why: Gone, exit: Option<Exit>) -> Option<String> {
        let line = self.line.take()?;
        let duration = BootInstant::from_nanos(self.began).elapsed();
        Some(board::because(&board::at(&line, SystemTime::now(), duration), why, exit))
    }

    /// Writes the line, once; a log that nobody reads goes without.
    pub fn say(&mut self, log: &Option<Output>, why: Gone, exit: Option<Exit>) {
        if let (Some(line), Some(log)) = (self.take(why, exit), log) {
            let _ = log.write(format!("{}\n", shown(&line)).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_said_once_and_never_too_long() {
        let began = BootInstant::from_nanos(1234);
        let mut last = LastWords::new(Some((String::from("line"), began)));
        assert_eq!(last.began, 1234);
        assert_eq!(last.take(Gone::Lost, None).as_deref(), Some("line"));
        assert_eq!(last.take(Gone::Lost, None), None);
        let long = "x".repeat(board::LONGEST + 1);
        assert!(LastWords::new(Some((long, began))).line.is_none());
    }
}
