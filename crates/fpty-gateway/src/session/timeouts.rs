//! What may take only so long, and be idle only for so long.

use std::time::Duration;

use super::byte_counts::ByteCounts;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Due, LifeDue};
use fpty::proto::Ending;

/// How long before its end the client of what takes too long, or is idle, is told of
/// that, where it is not all of its time.
const NOTICE: Duration = Duration::from_secs(60);

/// How long a client may take to hear that its time is over, or that it was idle.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What its client is told whose time is over.
pub const MAX_TIME_REACHED: &str = "session ended: its time is over (max-time)";

/// What it is told before that.
const MAX_TIME_SOON: &str = "this session ends in a minute: its time is over then (max-time)";

/// The same of one that is idle.
const IDLE_SOON: &str = "this session ends in a minute, unless something goes either way before";

/// What the client of a session is told that was ended at somebody's wish.
pub const ENDED_BY_OPERATOR: &str = "session ended by an operator (fpty --kill)";

/// What may take only so long, and be idle only for so long.
pub trait TimeLimited {
    /// What it is.
    const WHAT: &'static str;
    /// Something that is due for it.
    fn due(key: Key, due: LifeDue) -> Due;
    /// How long it may be idle where these rules hold.
    fn timeout(rules: &Rules) -> Option<Duration>;
    /// Where its client came in.
    fn door(&self) -> u16;
    /// How much goes and when.
    fn byte_counts(&mut self) -> &mut Option<Box<ByteCounts>>;
    /// How long nothing has gone either way, as far as that is known.
    fn idle_for(&self) -> Option<Duration>;
    /// Its client is told this.
    fn notice(&mut self, line: &str);
    /// It ends, and its client is told why.
    fn terminate(&mut self, why: Ending, line: &str);

    /// Its time begins that it may take and be idle, of which so much is over.
    fn start_timers(&mut self, cx: &mut Context, key: Key, over: Duration) {
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
            fpty::sys::clock::look_at_wall_clock();
            self.byte_counts().get_or_insert_with(Box::default).touch();
            if let IdleCheck::Wait(wait) = IdleCheck::of(Duration::ZERO, timeout, false) {
                cx.after(wait, Self::due(key, LifeDue::Idle));
            }
        }
    }

    /// Some of that time is over.
    fn on_time_limit(&mut self, cx: &mut Context, key: Key, due: LifeDue) {
        match due {
            LifeDue::LimitSoon => self.notice(MAX_TIME_SOON),
            LifeDue::Limit => self.terminate_with(cx, key, Ending::Limit, MAX_TIME_REACHED),
            LifeDue::Idle => self.check_idle(cx, key, false),
            LifeDue::IdleSoon => self.check_idle(cx, key, true),
            LifeDue::Unanswered | LifeDue::Dismissed | LifeDue::Executed => {}
        }
    }

    /// It may have been idle for too long, or will have been before long, which its
    /// client is told once.
    fn check_idle(&mut self, cx: &mut Context, key: Key, was_notified: bool) {
        let Some(timeout) = cx.doors.rules(self.door()).and_then(Self::timeout) else { return };
        match IdleCheck::of(self.idle_for().unwrap_or(timeout), timeout, was_notified) {
            IdleCheck::Wait(wait) => cx.after(wait, Self::due(key, LifeDue::Idle)),
            IdleCheck::WaitNotified(wait) => cx.after(wait, Self::due(key, LifeDue::IdleSoon)),
            IdleCheck::Notify(wait) => {
                self.notice(IDLE_SOON);
                cx.after(wait, Self::due(key, LifeDue::IdleSoon));
            }
            IdleCheck::Expired => {
                self.terminate_with(cx, key, Ending::Idle, &IdleCheck::line(Self::WHAT, timeout));
            }
        }
    }

    /// It ends; its client is told why, and has a moment to hear that.
    fn terminate_with(&mut self, cx: &mut Context, key: Key, why: Ending, line: &str) {
        self.terminate(why, line);
        cx.after(CLOSE_TIMEOUT, Self::due(key, LifeDue::Dismissed));
    }
}

/// What is to be done with whoever may have been idle for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleCheck {
    /// It is looked at again after so long.
    Wait(Duration),
    /// The same, as one that was told.
    WaitNotified(Duration),
    /// Its client is to be told, and then the same.
    Notify(Duration),
    /// It is over.
    Expired,
}

impl IdleCheck {
    /// Of what has been idle for so long, may be for `timeout`, and was told or
    /// not when it was looked at last.
    pub fn of(idle: Duration, timeout: Duration, was_notified: bool) -> Self {
        let left = timeout.saturating_sub(idle);
        if left.is_zero() {
            return Self::Expired;
        }
        if timeout <= NOTICE {
            return Self::Wait(left);
        }
        if left > NOTICE {
            return Self::Wait(left - NOTICE);
        }
        // A terminal's own clock is rough: what was said is not said again.
        match was_notified && left < NOTICE / 4 {
            true => Self::WaitNotified(left),
            false => Self::Notify(left),
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
        let of = |idle, was_notified| IdleCheck::of(seconds(idle), seconds(100), was_notified);
        assert_eq!(of(0, false), IdleCheck::Wait(seconds(40)));
        assert_eq!(of(39, true), IdleCheck::Wait(seconds(1)));
        assert_eq!(of(40, false), IdleCheck::Notify(seconds(60)));
        assert_eq!(of(95, true), IdleCheck::WaitNotified(seconds(5)));
        assert_eq!(of(100, true), IdleCheck::Expired);
        assert_eq!(of(1_000_000, false), IdleCheck::Expired);
        assert_eq!(IdleCheck::of(seconds(10), seconds(60), false), IdleCheck::Wait(seconds(50)));
    }

    proptest! {
        /// Whatever goes when: who is silent is told at most once, ends when the
        /// time is over, and not before.
        #[test]
        fn who_is_silent_ends_in_time(timeout in 1_u64..500, busy in 0_u64..400) {
            let (mut now, mut was_notified, mut told) = (0, false, 0);
            loop {
                let idle = now - busy.min(now);
                let (wait, tells) = match IdleCheck::of(seconds(idle), seconds(timeout), was_notified) {
                    IdleCheck::Expired => break,
                    IdleCheck::Wait(wait) => (wait, false),
                    IdleCheck::WaitNotified(wait) => (wait, true),
                    IdleCheck::Notify(wait) => {
                        told += 1;
                        (wait, true)
                    }
                };
                was_notified = tells;
                now += wait.as_secs();
            }
            prop_assert_eq!(now, busy + timeout);
            prop_assert_eq!(told, u64::from(timeout > 60));
        }
    }
}
