//! A bug shows itself as a panic in the midst of something: what that was
//! about ends, alone, and nothing is left of it. The gateway goes on.
//!
//! A panic leaves its own traces: somebody in one table and not in another, a
//! program that belongs to nobody. So after it whatever was being made is
//! ended as well, and what nobody has any more is given back.
//!
//! Where even that panics, or what concerns all of them does so again and
//! again, the gateway ends, and the server starts another one: sessions that
//! were handed over or left live on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::slab::Key;
use super::subject::FaultDomain;
use crate::log::log;
use fpty::error::Error;
use fpty::text::panic_message;

/// What a client is told.
pub const INTERNAL_ERROR: &str = "internal error in the router: see the server's log";

/// So many panics that are about nobody, within such a time, are one too many.
const MAX_UNATTRIBUTED: u32 = 16;
const STRIKE_WINDOW: Duration = Duration::from_secs(10);

/// How soon is looked again after what a panic may have cut short.
pub const RETRY_DELAY: Duration = Duration::from_millis(200);

/// What is known of panics.
#[derive(Debug, Default)]
pub struct PanicState {
    /// What was made by what is done now.
    pub in_progress: Option<FaultDomain>,
    unattributed: u32,
    first: Option<Instant>,
    is_fatal: bool,
}

impl PanicState {
    /// It cannot go on.
    pub fn set_fatal(&mut self) {
        self.is_fatal = true;
    }

    /// One more that is about nobody.
    pub fn count_unattributed(&mut self, now: Instant) {
        if self.first.is_none_or(|first| now.saturating_duration_since(first) > STRIKE_WINDOW) {
            (self.first, self.unattributed) = (Some(now), 0);
        }
        self.unattributed += 1;
        self.is_fatal |= self.unattributed >= MAX_UNATTRIBUTED;
    }

    /// A session that is being made has begun.
    pub fn begin(&mut self, key: Key) {
        if self.in_progress == Some(FaultDomain::PendingSession(key)) {
            self.in_progress = Some(FaultDomain::Session(key));
        }
    }

    /// Whether the gateway can go on.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(&self) -> fpty::error::Result<()> {
        match self.is_fatal {
            true => Err(Error::new("internal errors that it cannot recover from, see above")),
            false => Ok(()),
        }
    }
}

/// What a panic ends, and puts in order.
pub trait PanicRecovery {
    /// What is known of panics.
    fn panics(&mut self) -> &mut PanicState;
    /// Ends whom one was about.
    fn end_fault_domain(&mut self, fault_domain: FaultDomain);
    /// The same, where that panics: it is dropped as it is.
    fn discard_fault_domain(&mut self, fault_domain: FaultDomain);
    /// What belongs to nobody is given back.
    fn clean_up(&mut self);
}

/// Does something for somebody; if it panics they end.
pub fn guarded<T: PanicRecovery>(it: &mut T, fault_domain: FaultDomain, body: impl FnOnce(&mut T)) {
    let before = it.panics().in_progress.take();
    let outcome = catch_unwind(AssertUnwindSafe(|| body(it)));
    let in_progress = std::mem::replace(&mut it.panics().in_progress, before);
    if let Err(payload) = outcome {
        recover(it, fault_domain, in_progress, &*payload);
    }
}

#[cold]
fn recover<T: PanicRecovery>(
    it: &mut T,
    fault_domain: FaultDomain,
    in_progress: Option<FaultDomain>,
    payload: &(dyn Any + Send),
) {
    log(&format!("forkptyrouter: internal error: {}", panic_message(payload)));
    for fault_domain in [Some(fault_domain), in_progress].into_iter().flatten() {
        if catch_unwind(AssertUnwindSafe(|| it.end_fault_domain(fault_domain))).is_err() {
            log("forkptyrouter: internal error: what it was about is dropped as it is");
            if catch_unwind(AssertUnwindSafe(|| it.discard_fault_domain(fault_domain))).is_err() {
                it.panics().set_fatal();
            }
        }
    }
    if catch_unwind(AssertUnwindSafe(|| it.clean_up())).is_err() {
        it.panics().set_fatal();
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
