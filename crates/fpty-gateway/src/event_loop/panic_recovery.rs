//! Recovery from a panic: its fault domain ends, alone, and nothing of it is left. The gateway
//! goes on.
//!
//! A panic leaves traces: an entry in one table and not in another, a program without a
//! session. So what was being made ends as well, and what has no owner any more is given
//! back.
//!
//! Where the recovery panics, or panics without a fault domain go on and on, the gateway
//! ends, and the server starts another one: sessions that were handed over or detached live
//! on.

use std::time::{Duration, Instant};

use super::fault_domain::FaultDomain;
use super::slab::Key;
use fpty::error::Error;

/// The text for the client.
pub const INTERNAL_ERROR: &str = "internal error in the gateway: see the server's log";

/// The limit of panics without a fault domain of their own, within this time.
const MAX_UNATTRIBUTED: u32 = 16;
const STRIKE_WINDOW: Duration = Duration::from_secs(10);

/// Delay until work is looked for that a panic may have cut short.
pub const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The state of panic recovery.
#[derive(Debug, Default)]
pub struct PanicState {
    /// The fault domain that the running part has made so far.
    pub in_progress: Option<FaultDomain>,
    unattributed: u32,
    first: Option<Instant>,
    is_fatal: bool,
}

impl PanicState {
    /// The gateway cannot go on.
    pub fn set_fatal(&mut self) {
        self.is_fatal = true;
    }

    /// Counts a panic of the whole gateway.
    pub fn count_unattributed(&mut self, now: Instant) {
        if self.first.is_none_or(|first| now.saturating_duration_since(first) > STRIKE_WINDOW) {
            (self.first, self.unattributed) = (Some(now), 0);
        }
        self.unattributed += 1;
        self.is_fatal |= self.unattributed >= MAX_UNATTRIBUTED;
    }

    /// A pending session has started.
    pub fn begin(&mut self, key: Key) {
        if self.in_progress == Some(FaultDomain::PendingSession(key)) {
            self.in_progress = Some(FaultDomain::Session(key));
        }
    }

    /// Whether the gateway can go on.
    ///
    /// # Errors
    /// The gateway cannot go on.
    pub fn check(&self) -> fpty::error::Result<()> {
        match self.is_fatal {
            true => Err(Error::new("internal errors that it cannot recover from, see above")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_without_end_ends_the_gateway() {
        let (mut panics, now) = (PanicState::default(), Instant::now());
        for number in 0..10 * MAX_UNATTRIBUTED {
            panics.count_unattributed(now + number * STRIKE_WINDOW);
        }
        assert!(panics.check().is_ok(), "now and then");
        for _ in 0..MAX_UNATTRIBUTED {
            assert!(panics.check().is_ok());
            panics.count_unattributed(now + 10 * MAX_UNATTRIBUTED * STRIKE_WINDOW);
        }
        assert!(panics.check().is_err(), "again and again");
    }
}
