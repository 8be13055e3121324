//! How sessions go on without a client.

use std::ffi::OsStr;
use std::time::Duration;

use super::value;
use fpty::error::Result;

/// How sessions go on without a client.
#[derive(Clone, Debug)]
pub struct Detach {
    /// How many may, in each gateway; 0: none.
    pub sessions: u32,
    /// How many of one user; `None`: half of them, rounded up, so that one user
    /// does not take all.
    pub user: Option<u32>,
    /// How long one may.
    pub time: Duration,
    /// How much of its last output is kept, in bytes.
    pub buffer: u32,
    /// Whether its program is told what terminal it has.
    pub answer: bool,
}

/// One of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// How many.
    Sessions,
    /// How many of one user.
    User,
    /// How long.
    Time,
    /// How much is kept.
    Buffer,
    /// Whether programs are answered.
    Answer,
}

impl Default for Detach {
    fn default() -> Self {
        Self {
            sessions: 0,
            user: None,
            time: Duration::from_secs(7 * 24 * 60 * 60),
            buffer: 256 * 1024,
            answer: true,
        }
    }
}

/// More would not be bounded work.
const MAX_SESSIONS: u32 = 100_000;
/// As large as a ring can be.
const MAX_BUFFER: u32 = 64 * 1024 * 1024;

impl Detach {
    /// How many sessions of one user may go on without a client.
    pub fn of_one_user(&self) -> usize {
        self.user.unwrap_or(self.sessions.div_ceil(2)) as usize
    }

    /// Takes one of them as typed; a number of 0 means the default.
    ///
    /// # Errors
    /// A value that it cannot have: the line for the operator.
    pub fn set(&mut self, part: Part, option: &str, typed: impl AsRef<OsStr>) -> Result<()> {
        let usual = Self::default();
        match part {
            Part::Sessions => self.sessions = value::number(option, typed, 0..=MAX_SESSIONS)?,
            Part::User => {
                let count = value::number(option, typed, 0..=MAX_SESSIONS)?;
                self.user = (count > 0).then_some(count);
            }
            Part::Time => self.time = value::time(option, typed)?.unwrap_or(usual.time),
            Part::Buffer => {
                self.buffer = match value::number(option, typed, 0..=MAX_BUFFER)? {
                    0 => usual.buffer,
                    bytes => bytes,
                };
            }
            Part::Answer => self.answer = value::switch(option, typed)?,
        }
        Ok(())
    }
}
