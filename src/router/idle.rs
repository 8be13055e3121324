//! What is to be done with whoever may have been idle for too long.

use std::time::Duration;

/// How long before the end of what is idle its client is told, where that is not
/// all of its time.
const NOTICE: Duration = Duration::from_secs(60);

/// How long a client may take to hear that its time is over, or that it was idle.
pub const LAST_WORD: Duration = Duration::from_secs(5);

/// What its client is told then.
pub const ENDS_SOON: &str =
    "this session ends in a minute, unless something goes either way before";

/// What is to be done.
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
