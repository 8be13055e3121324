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
use super::subject::Whose;
use crate::log::log;
use fpty::error::Error;
use fpty::text::panic_message;

/// What a client is told.
pub const INTERNAL: &str = "internal error in the router: see the server's log";

/// So many panics that are about nobody, within such a time, are one too many.
const STRIKES: u32 = 16;
const WITHIN: Duration = Duration::from_secs(10);

/// How soon is looked again after what a panic may have cut short.
pub const AGAIN: Duration = Duration::from_millis(200);

/// What is known of panics.
#[derive(Debug, Default)]
pub struct Faults {
    /// What was made by what is done now.
    pub made: Option<Whose>,
    strikes: u32,
    first: Option<Instant>,
    is_hopeless: bool,
}

impl Faults {
    /// It cannot go on.
    pub fn give_up(&mut self) {
        self.is_hopeless = true;
    }

    /// One more that is about nobody.
    pub fn strike(&mut self, now: Instant) {
        if self.first.is_none_or(|first| now.saturating_duration_since(first) > WITHIN) {
            (self.first, self.strikes) = (Some(now), 0);
        }
        self.strikes += 1;
        self.is_hopeless |= self.strikes >= STRIKES;
    }

    /// A session that is being made has begun.
    pub fn begin(&mut self, key: Key) {
        if self.made == Some(Whose::Unborn(key)) {
            self.made = Some(Whose::Session(key));
        }
    }

    /// Whether the gateway can go on.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(&self) -> fpty::error::Result<()> {
        match self.is_hopeless {
            true => Err(Error::new("internal errors that it cannot recover from, see above")),
            false => Ok(()),
        }
    }
}

/// What a panic ends, and puts in order.
pub trait Recover {
    /// What is known of panics.
    fn faults(&mut self) -> &mut Faults;
    /// Ends whom one was about.
    fn end_whose(&mut self, whose: Whose);
    /// The same, where that panics: it is dropped as it is.
    fn drop_whose(&mut self, whose: Whose);
    /// What belongs to nobody is given back.
    fn put_in_order(&mut self);
}

/// Does something for somebody; if it panics they end.
pub fn guarded<T: Recover>(it: &mut T, whose: Whose, body: impl FnOnce(&mut T)) {
    let before = it.faults().made.take();
    let outcome = catch_unwind(AssertUnwindSafe(|| body(it)));
    let made = std::mem::replace(&mut it.faults().made, before);
    if let Err(payload) = outcome {
        recover(it, whose, made, &*payload);
    }
}

#[cold]
fn recover<T: Recover>(it: &mut T, whose: Whose, made: Option<Whose>, payload: &(dyn Any + Send)) {
    log(&format!("forkptyrouter: internal error: {}", panic_message(payload)));
    for whose in [Some(whose), made].into_iter().flatten() {
        if catch_unwind(AssertUnwindSafe(|| it.end_whose(whose))).is_err() {
            log("forkptyrouter: internal error: what it was about is dropped as it is");
            if catch_unwind(AssertUnwindSafe(|| it.drop_whose(whose))).is_err() {
                it.faults().give_up();
            }
        }
    }
    if catch_unwind(AssertUnwindSafe(|| it.put_in_order())).is_err() {
        it.faults().give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_without_end_ends_the_gateway() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        for number in 0..10 * STRIKES {
            faults.strike(now + number * WITHIN);
        }
        assert!(faults.check().is_ok(), "now and then");
        for _ in 0..STRIKES {
            assert!(faults.check().is_ok());
            faults.strike(now + 10 * STRIKES * WITHIN);
        }
        assert!(faults.check().is_err(), "again and again");
    }
}
