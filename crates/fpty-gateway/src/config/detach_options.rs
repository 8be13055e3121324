//! Options of detached sessions (`forkptyrouter-detach` and its kind).

use std::time::Duration;

/// Options of sessions without a client.
#[derive(Clone, Debug)]
pub struct DetachOptions {
    /// The most detached sessions, in each gateway; 0: none.
    pub sessions: u32,
    /// The most of one user; `None`: half of them, rounded up, so that one user does not
    /// take all.
    pub user: Option<u32>,
    /// How long a session may be detached.
    pub time: Duration,
    /// The scrollback in bytes.
    pub buffer: u32,
    /// Whether terminal queries of its program are answered.
    pub answer: bool,
}

impl Default for DetachOptions {
    fn default() -> Self {
        Self { sessions: 0, user: None, time: DETACH_TIME, buffer: BUFFER, answer: true }
    }
}

/// The default time, and the default scrollback.
pub(crate) const DETACH_TIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
pub(crate) const BUFFER: u32 = 256 * 1024;
/// The most sessions that may be detached: more would not be bounded work.
pub(crate) const MAX_DETACHED: u32 = 100_000;
/// The largest ring, in bytes.
pub(crate) const MAX_BUFFER: u32 = 64 * 1024 * 1024;

impl DetachOptions {
    /// The most detached sessions of one user.
    pub fn max_per_user(&self) -> usize {
        self.user.unwrap_or(self.sessions.div_ceil(2)) as usize
    }
}
