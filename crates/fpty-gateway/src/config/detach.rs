//! How sessions go on without a client.

use std::time::Duration;

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

impl Default for Detach {
    fn default() -> Self {
        Self { sessions: 0, user: None, time: DETACH_TIME, buffer: BUFFER, answer: true }
    }
}

/// The usual time, and how much is usually kept.
pub(crate) const DETACH_TIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
pub(crate) const BUFFER: u32 = 256 * 1024;
/// More would not be bounded work.
pub(crate) const MAX_SESSIONS: u32 = 100_000;
/// As large as a ring can be.
pub(crate) const MAX_BUFFER: u32 = 64 * 1024 * 1024;

impl Detach {
    /// How many sessions of one user may go on without a client.
    pub fn of_one_user(&self) -> usize {
        self.user.unwrap_or(self.sessions.div_ceil(2)) as usize
    }
}
