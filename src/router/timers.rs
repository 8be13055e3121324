//! What is due when. Nothing is ever taken back: whoever is woken looks
//! whether there is still something to do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::table::Key;
use crate::sys::child::Pid;

/// Something to do at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Look whether a session has been idle for too long.
    Idle(Key),
    /// The program has ended, and something else holds its terminal open.
    Drained(Key),
    /// Look whether the program reads at the end of its input again.
    EndOfInput(Key),
    /// Look whether a program that closed its terminal has opened it again.
    Reopened(Key),
    /// The client was told why, and does not take it.
    Dismissed(Key),
    /// A client of the statistics has said nothing, or does not read.
    Stats(Key),
    /// A session has outlived its client.
    Outlived(Pid),
    /// Sessions of a gateway that was here before us have outlived it.
    LeftBehind,
    /// Accept again after running out of something.
    Accept,
}

/// Deadlines, the earliest first.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Due)>>,
}

impl Timers {
    /// Remembers to do this after a while.
    pub fn after(&mut self, now: Instant, wait: Duration, due: Due) {
        self.heap.push(Reverse((now + wait, due)));
    }

    /// How long until the next one; `None` where there is none.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let Reverse((at, _)) = self.heap.peek()?;
        Some(at.saturating_duration_since(now))
    }

    /// Takes one that is due.
    pub fn next(&mut self, now: Instant) -> Option<Due> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, due))| due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_in_order_and_not_early() {
        let now = Instant::now();
        let mut timers = Timers::default();
        let pid = |number| Pid::new(number).map(Due::Outlived).expect("above 1");
        assert_eq!(timers.wait(now), None);
        timers.after(now, Duration::from_secs(2), pid(2));
        timers.after(now, Duration::from_secs(1), pid(3));
        assert_eq!(timers.wait(now), Some(Duration::from_secs(1)));
        assert_eq!(timers.next(now), None);
        let later = now + Duration::from_secs(3);
        assert_eq!(timers.wait(later), Some(Duration::ZERO));
        assert_eq!(timers.next(later), Some(pid(3)));
        assert_eq!(timers.next(later), Some(pid(2)));
        assert_eq!(timers.next(later), None);
    }
}
