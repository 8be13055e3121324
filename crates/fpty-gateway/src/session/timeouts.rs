//! Idle timeout and maximum time of sessions and commands.

use std::time::Duration;

use super::byte_counts::ByteCounts;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{SessionTimer, Timer};
use fpty::proto::EndKind;

/// How long before a limit the client gets a notice, where the limit is longer than that.
const NOTICE: Duration = Duration::from_secs(60);

/// How long a client may take to read END before its connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Text for a client whose maximum time is over.
pub const MAX_TIME_REACHED: &str = "session ended: its time is over (max-time)";

/// Notice before the maximum time is over.
const MAX_TIME_SOON: &str = "this session ends in a minute: its time is over then (max-time)";

/// Notice before the idle timeout.
const IDLE_SOON: &str = "this session ends in a minute, unless something goes either way before";

/// Text for a client whose session an operator has ended.
pub const ENDED_BY_OPERATOR: &str = "session ended by an operator (fpty --kill)";

/// A session or command with an idle timeout and a maximum time.
pub trait TimeLimited {
    /// The noun of its texts.
    const WHAT: &'static str;
    /// The timer of a session or of a command.
    fn due(key: Key, due: SessionTimer) -> Timer;
    /// The idle timeout that the rules of a socket set.
    fn timeout(rules: &Rules) -> Option<Duration>;
    /// The socket where the client came in, by its index.
    fn listener(&self) -> u16;
    /// Byte counts, with the last activity.
    fn byte_counts(&mut self) -> &mut Option<Box<ByteCounts>>;
    /// Time since the last activity; `None`: it is not known.
    fn idle_for(&self) -> Option<Duration>;
    /// Sends the client a notice.
    fn notice(&mut self, line: &str);
    /// Terminates the session or command with this reason and text.
    fn terminate(&mut self, why: EndKind, line: &str);

    /// Starts the timers of both limits; so much of the maximum time is `over`.
    fn start_timers(&mut self, cx: &mut Context, key: Key, over: Duration) {
        let Some(rules) = cx.listeners.rules(self.listener()) else { return };
        let (timeout, limit) = (Self::timeout(rules), rules.max_time);
        if let Some(left) = limit.map(|limit| limit.saturating_sub(over)) {
            if left > NOTICE {
                cx.schedule(left - NOTICE, Self::due(key, SessionTimer::LimitWarning));
            }
            cx.schedule(left, Self::due(key, SessionTimer::Limit));
        }
        if let Some(timeout) = timeout {
            // A handed-over terminal has its times by the wall clock.
            fpty::sys::clock::observe_wall_clock();
            self.byte_counts().get_or_insert_with(Box::default).touch();
            if let IdleCheck::Wait(wait) = IdleCheck::of(Duration::ZERO, timeout, false) {
                cx.schedule(wait, Self::due(key, SessionTimer::Idle));
            }
        }
    }

    /// Handles a timer of these limits.
    fn on_time_limit(&mut self, cx: &mut Context, key: Key, due: SessionTimer) {
        match due {
            SessionTimer::LimitWarning => self.notice(MAX_TIME_SOON),
            SessionTimer::Limit => self.terminate_with(cx, key, EndKind::Limit, MAX_TIME_REACHED),
            SessionTimer::Idle => self.check_idle(cx, key, false),
            SessionTimer::IdleWarning => self.check_idle(cx, key, true),
            SessionTimer::TcpStalled | SessionTimer::NoticeTimeout | SessionTimer::ExecCheck => {}
        }
    }

    /// Checks the idle time: the client gets one notice, then the end.
    fn check_idle(&mut self, cx: &mut Context, key: Key, was_notified: bool) {
        let Some(timeout) = cx.listeners.rules(self.listener()).and_then(Self::timeout) else {
            return;
        };
        match IdleCheck::of(self.idle_for().unwrap_or(timeout), timeout, was_notified) {
            IdleCheck::Wait(wait) => cx.schedule(wait, Self::due(key, SessionTimer::Idle)),
            IdleCheck::WaitNotified(wait) => {
                cx.schedule(wait, Self::due(key, SessionTimer::IdleWarning))
            }
            IdleCheck::Notify(wait) => {
                self.notice(IDLE_SOON);
                cx.schedule(wait, Self::due(key, SessionTimer::IdleWarning));
            }
            IdleCheck::Expired => {
                self.terminate_with(cx, key, EndKind::Idle, &IdleCheck::line(Self::WHAT, timeout));
            }
        }
    }

    /// Terminates the session or command; the client has a moment to read END.
    fn terminate_with(&mut self, cx: &mut Context, key: Key, why: EndKind, line: &str) {
        self.terminate(why, line);
        cx.schedule(CLOSE_TIMEOUT, Self::due(key, SessionTimer::NoticeTimeout));
    }
}

/// Result of a check of the idle time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleCheck {
    /// Check again after this time.
    Wait(Duration),
    /// Check again after this time; the client had its notice.
    WaitNotified(Duration),
    /// Send a notice, and check again after this time.
    Notify(Duration),
    /// The idle timeout is reached.
    Expired,
}

impl IdleCheck {
    /// The result for an idle time, a timeout, and whether the client had its notice at the last
    /// check.
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
        // The times of a handed-over terminal are rough: a notice is not sent twice.
        match was_notified && left < NOTICE / 4 {
            true => Self::WaitNotified(left),
            false => Self::Notify(left),
        }
    }

    /// Text for a client that was idle for too long.
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
