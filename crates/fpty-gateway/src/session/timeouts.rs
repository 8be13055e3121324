//! What may take only so long, and be idle only for so long.

use std::time::Duration;

use super::byte_counts::Traffic;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Due, LifeDue};
use fpty::proto::EndKind;

/// How long before its end the client of what takes too long, or is idle, is told of
/// that, where it is not all of its time.
const NOTICE: Duration = Duration::from_secs(60);

/// How long a client may take to hear that its time is over, or that it was idle.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What its client is told whose time is over.
pub const TIME_IS_OVER: &str = "session ended: its time is over (max-time)";

/// What it is told before that.
const LIMIT_COMES: &str = "this session ends in a minute: its time is over then (max-time)";

/// The same of one that is idle.
const ENDS_SOON: &str = "this session ends in a minute, unless something goes either way before";

/// What the client of a session is told that was ended at somebody's wish.
pub const BY_AN_OPERATOR: &str = "session ended by an operator (fpty --kill)";

/// What may take only so long, and be idle only for so long.
pub trait Timed {
    /// What it is.
    const WHAT: &'static str;
    /// Something that is due for it.
    fn due(key: Key, due: LifeDue) -> Due;
    /// How long it may be idle where these rules hold.
    fn timeout(rules: &Rules) -> Option<Duration>;
    /// Where its client came in.
    fn door(&self) -> u16;
    /// How much goes and when.
    fn traffic(&mut self) -> &mut Option<Box<Traffic>>;
    /// How long nothing has gone either way, as far as that is known.
    fn idle_for(&self) -> Option<Duration>;
    /// Its client is told this.
    fn notice(&mut self, line: &str);
    /// It ends, and its client is told why.
    fn dismiss(&mut self, why: EndKind, line: &str);

    /// Its time begins that it may take and be idle, of which so much is over.
    fn watch_time(&mut self, cx: &mut Context, key: Key, over: Duration) {
        let Some(rules) = cx.doors.rules(self.door()) else { return };
        let (timeout, limit) = (Self::timeout(rules), rules.max_time);
        if let Some(left) = limit.map(|limit| limit.saturating_sub(over)) {
            if left > NOTICE {
                cx.after(left - NOTICE, Self::due(key, LifeDue::LimitSoon));
            }
            cx.after(left, Self::due(key, LifeDue::Limit));
        }
        if let Some(timeout) = timeout {
            // A terminal that is handed over keeps its times by that one.
            fpty::sys::clock::observe_wall_clock();
            self.traffic().get_or_insert_with(Box::default).note();
            if let Idleness::Wait(wait) = Idleness::of(Duration::ZERO, timeout, false) {
                cx.after(wait, Self::due(key, LifeDue::Idle));
            }
        }
    }

    /// Some of that time is over.
    fn time_passes(&mut self, cx: &mut Context, key: Key, due: LifeDue) {
        match due {
            LifeDue::LimitSoon => self.notice(LIMIT_COMES),
            LifeDue::Limit => self.end_with(cx, key, EndKind::Limit, TIME_IS_OVER),
            LifeDue::Idle => self.look_for_idleness(cx, key, false),
            LifeDue::IdleSoon => self.look_for_idleness(cx, key, true),
            LifeDue::Unanswered | LifeDue::Dismissed | LifeDue::Executed => {}
        }
    }

    /// It may have been idle for too long, or will have been before long, which its
    /// client is told once.
    fn look_for_idleness(&mut self, cx: &mut Context, key: Key, was_told: bool) {
        let Some(timeout) = cx.doors.rules(self.door()).and_then(Self::timeout) else { return };
        match Idleness::of(self.idle_for().unwrap_or(timeout), timeout, was_told) {
            Idleness::Wait(wait) => cx.after(wait, Self::due(key, LifeDue::Idle)),
            Idleness::WaitOfTold(wait) => cx.after(wait, Self::due(key, LifeDue::IdleSoon)),
            Idleness::Tell(wait) => {
                self.notice(ENDS_SOON);
                cx.after(wait, Self::due(key, LifeDue::IdleSoon));
            }
            Idleness::Over => {
                self.end_with(cx, key, EndKind::Idle, &Idleness::line(Self::WHAT, timeout));
            }
        }
    }

    /// It ends; its client is told why, and has a moment to hear that.
    fn end_with(&mut self, cx: &mut Context, key: Key, why: EndKind, line: &str) {
        self.dismiss(why, line);
        cx.after(LAST_WORD, Self::due(key, LifeDue::Dismissed));
    }
}

/// What is to be done with whoever may have been idle for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idleness {
    /// It is looked at again after so long.
    Wait(Duration),
    /// The same, as one that was told.
    WaitOfTold(Duration),
    /// Its client is to be told, and then the same.
    Tell(Duration),
    /// It is over.
    Over,
}

impl Idleness {
    /// Of what has been idle for so long, may be for `timeout`, and was told or
    /// not when it was looked at last.
    pub fn of(idle: Duration, timeout: Duration, was_told: bool) -> Self {
        let left = timeout.saturating_sub(idle);
        if left.is_zero() {
            return Self::Over;
        }
        if timeout <= NOTICE {
            return Self::Wait(left);
        }
        if left > NOTICE {
            return Self::Wait(left - NOTICE);
        }
        // A terminal's own clock is rough: what was said is not said again.
        match was_told && left < NOTICE / 4 {
            true => Self::WaitOfTold(left),
            false => Self::Tell(left),
        }
    }

    /// How it ended.
    pub fn line(what: &str, timeout: Duration) -> String {
        format!("{what} ended: no traffic for {} seconds", timeout.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_told_once_and_then_over() {
        let of = |idle, was_told| Idleness::of(seconds(idle), seconds(100), was_told);
        assert_eq!(of(0, false), Idleness::Wait(seconds(40)));
        assert_eq!(of(39, true), Idleness::Wait(seconds(1)));
        assert_eq!(of(40, false), Idleness::Tell(seconds(60)));
        assert_eq!(of(95, true), Idleness::WaitOfTold(seconds(5)));
        assert_eq!(of(100, true), Idleness::Over);
        assert_eq!(of(1_000_000, false), Idleness::Over);
        assert_eq!(Idleness::of(seconds(10), seconds(60), false), Idleness::Wait(seconds(50)));
    }

    proptest! {
        /// Whatever goes when: who is silent is told at most once, ends when the
        /// time is over, and not before.
        #[test]
        fn who_is_silent_ends_in_time(timeout in 1_u64..500, busy in 0_u64..400) {
            let (mut now, mut was_told, mut told) = (0, false, 0);
            loop {
                let idle = now - busy.min(now);
                let (wait, tells) = match Idleness::of(seconds(idle), seconds(timeout), was_told) {
                    Idleness::Over => break,
                    Idleness::Wait(wait) => (wait, false),
                    Idleness::WaitOfTold(wait) => (wait, true),
                    Idleness::Tell(wait) => {
                        told += 1;
                        (wait, true)
                    }
                };
                was_told = tells;
                now += wait.as_secs();
            }
            prop_assert_eq!(now, busy + timeout);
            prop_assert_eq!(told, u64::from(timeout > 60));
        }
    }
}
