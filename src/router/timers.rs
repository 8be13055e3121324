//! What is due when. Nothing is taken back one by one: whoever is woken looks
//! whether there is still something to do, and what has piled up for nothing
//! is thrown out together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::table::Key;
use fpty::sys::child::Pid;

/// Something to do at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Look whether a session has been idle for too long.
    Idle(Key),
    /// The same, where its client was told so a minute ago.
    IdleSoon(Key),
    /// The program has ended, and something else holds its terminal open.
    Drained(Key),
    /// Look whether the program reads at the end of its input again.
    EndOfInput(Key),
    /// Look whether a client that cannot be heard has left.
    Unheard(Key),
    /// Look whether a client takes no more output because its machine is gone.
    Unanswered(Key),
    /// Look whether a program that closed its terminal has opened it again.
    Reopened(Key),
    /// The client was told why, and does not take it.
    Dismissed(Key),
    /// Look whether a program has been executed.
    Executed(Key),
    /// Look whether the terminal can be offered to the client.
    Offer(Key),
    /// The first bytes of a client were held back for long enough.
    First(Key),
    /// Somebody is to look after a terminal that was handed over.
    Keeper(Key),
    /// A client has said nothing yet that its program would start after.
    Silent(Key),
    /// Look whether the client of a command takes no more output because its
    /// machine is gone.
    CommandUnanswered(Key),
    /// Look whether the program of a command has been executed.
    CommandExecuted(Key),
    /// Connections to which the last word was said are looked after.
    Closing,
    /// More programs have ended than one turn sees to.
    Reap,
    /// Give back what slow programs needed.
    Tidy,
    /// The log may take what it did not.
    Log,
    /// A client that asks who is there, or for the statistics, has had its time.
    Inquirer(Key),
    /// The client of a command was told why it ends, and does not take it.
    CommandDismissed(Key),
    /// A question of another gateway's has had time enough for an answer.
    Answer(u64),
    /// What was recorded is to be passed on.
    Recording,
    /// Something waits for the recorder.
    Recorder,
    /// A session has outlived its client.
    Outlived(Pid),
    /// Whoever has a terminal open that ended has had the grace.
    TerminalUsers,
    /// Go on killing what has outlived its client or its gateway.
    Kill,
    /// Sessions of a gateway that was here before us have outlived it.
    LeftBehind,
    /// A socket that is limited takes clients again.
    Door(u16),
    /// A session's time is over before long.
    LimitSoon(Key),
    /// A session's time is over.
    Limit(Key),
    /// A command's is before long.
    CommandLimitSoon(Key),
    /// A command's is.
    CommandLimit(Key),
    /// Accept again after running out of something.
    Accept,
    /// Look after sessions that can be left.
    Left,
}

impl Due {
    /// The session that it is about, if it is about one.
    pub fn session(self) -> Option<Key> {
        match self {
            Due::Idle(key)
            | Due::IdleSoon(key)
            | Due::Drained(key)
            | Due::EndOfInput(key)
            | Due::Unheard(key)
            | Due::Unanswered(key)
            | Due::Reopened(key)
            | Due::Dismissed(key)
            | Due::Executed(key)
            | Due::Offer(key)
            | Due::First(key)
            | Due::Keeper(key)
            | Due::LimitSoon(key)
            | Due::Limit(key) => Some(key),
            Due::CommandUnanswered(_)
            | Due::CommandLimit(_)
            | Due::CommandLimitSoon(_)
            | Due::Door(_)
            | Due::CommandExecuted(_)
            | Due::Tidy
            | Due::Silent(_)
            | Due::Closing
            | Due::Reap
            | Due::Log
            | Due::Recording
            | Due::Recorder
            | Due::Inquirer(_)
            | Due::CommandDismissed(_)
            | Due::Answer(_)
            | Due::Outlived(_)
            | Due::Kill
            | Due::TerminalUsers
            | Due::LeftBehind
            | Due::Left
            | Due::Accept => None,
        }
    }
}

/// Deadlines, the earliest first.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Due)>>,
    /// How many were left when what had no meaning any more was last thrown
    /// out.
    left: usize,
}

/// So many are no reason to look through them.
const FEW: usize = 256;

impl Timers {
    /// Remembers to do this after a while.
    pub fn after(&mut self, now: Instant, wait: Duration, due: Due) {
        self.heap.push(Reverse((now + wait, due)));
    }

    /// Whether more came than were left the last time: short sessions leave
    /// deadlines behind that are hours away.
    pub fn pile_up(&self) -> bool {
        self.heap.len() > FEW + 2 * self.left
    }

    /// Throws out what has no meaning any more, and gives the memory back.
    pub fn retain(&mut self, has_meaning: impl Fn(Due) -> bool) {
        self.heap.retain(|Reverse((_, due))| has_meaning(*due));
        self.left = self.heap.len();
        self.heap.shrink_to(FEW + 2 * self.left);
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

    #[test]
    fn what_has_no_meaning_does_not_pile_up() {
        let now = Instant::now();
        let mut timers = Timers::default();
        for number in 2..1_000_000 {
            let pid = Pid::new(number).expect("above 1");
            timers.after(now, Duration::from_secs(3600), Due::Outlived(pid));
            if timers.pile_up() {
                timers.retain(|due| due == Due::Outlived(pid));
            }
        }
        assert!(timers.heap.len() <= FEW + 3, "{} are left", timers.heap.len());
        assert!(timers.heap.capacity() < 4 * FEW, "room for {}", timers.heap.capacity());
    }
}
