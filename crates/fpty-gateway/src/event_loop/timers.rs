//! What is due when. Nothing is taken back one by one: whoever is woken looks
//! whether there is still something to do, and what has piled up for nothing
//! is thrown out together.
//!
//! What is soon is by the clock that the poller waits by, which stands still
//! while the machine sleeps. What is further away (limits of hours) is by the one
//! that counts on, and an alarm of the kernel's rings for the first of it: a turn
//! of the loop does not look at it, and a gateway without such has no alarm.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::slab::{Key, Source};
use fpty::sys::child::Pid;
use fpty::sys::clock::{Alarm, BootInstant};
use fpty::sys::poll::{Interest, Poller};

/// Something to do at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Something about a session.
    Session(Key, LifeDue),
    /// Something about a session's terminal, or its client.
    Terminal(Key, TerminalDue),
    /// Something about a command.
    Command(Key, LifeDue),
    /// The first bytes of a session's client were held back for long enough.
    First(Key),
    /// Somebody is to look after the terminal of a session that was handed over.
    Keeper(Key),
    /// A client has said nothing yet that its program would start after.
    Silent(Key),
    /// A client that asks who is there, or for the statistics, has had its time.
    Inquirer(Key),
    /// A question of another gateway's has had time enough for an answer.
    Answer(u64),
    /// Connections to which the last word was said are looked after.
    Closing,
    /// More programs have ended than one turn sees to.
    Reap,
    /// Give back what slow programs needed.
    Tidy,
    /// The log may take what it did not.
    Log,
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
    /// Accept again after running out of something.
    Accept,
    /// Look after sessions that can be left.
    Detached,
}

/// What is due for a session, and for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifeDue {
    /// Look whether it has been idle for too long.
    Idle,
    /// The same, where its client was told so a minute ago.
    IdleSoon,
    /// Look whether a client takes no more output because its machine is gone.
    Unanswered,
    /// The client was told why, and does not take it.
    Dismissed,
    /// Look whether the program has been executed.
    Executed,
    /// Its time is over before long.
    LimitSoon,
    /// Its time is over.
    Limit,
}

/// What is due for a session's terminal, or its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TerminalDue {
    /// The program has ended, and something else holds its terminal open.
    Drained,
    /// Look whether the program reads at the end of its input again.
    EndOfInput,
    /// Look whether a client that cannot be heard has left.
    Unheard,
    /// Look whether a program that closed its terminal has opened it again.
    Reopened,
    /// Look whether the terminal can be offered to the client.
    Offer,
}

impl Due {
    /// Whether it ends the time that a program is given to end by itself: while the
    /// machine sleeps it cannot.
    fn is_grace(self) -> bool {
        matches!(self, Due::Outlived(_) | Due::TerminalUsers | Due::LeftBehind)
    }
}

/// Deadlines by one clock, the earliest first.
type Deadlines<Time> = BinaryHeap<Reverse<(Time, Due)>>;

/// Deadlines.
#[derive(Default)]
pub struct Timers {
    soon: Deadlines<Instant>,
    far: Deadlines<BootInstant>,
    /// For the first of those that are far; made when there is one.
    alarm: Option<Alarm>,
    /// How many were left when what had no meaning any more was last thrown
    /// out.
    left: usize,
}

/// What is less far away may come so much later where the machine sleeps
/// meanwhile.
const SOON: Duration = Duration::from_secs(10);

/// So many are no reason to look through them.
const FEW: usize = 256;

impl Timers {
    /// Remembers to do this after a while.
    pub fn after(&mut self, wait: Duration, due: Due, poller: &Poller) {
        // Without an alarm it comes, and late where the machine sleeps.
        if wait <= SOON || due.is_grace() || !self.make_alarm(poller) {
            return self.soon.push(Reverse((Instant::now() + wait, due)));
        }
        let at = BootInstant::now() + wait;
        let is_first = self.far.peek().is_none_or(|Reverse((first, _))| at < *first);
        self.far.push(Reverse((at, due)));
        if is_first {
            self.set_alarm();
        }
    }

    fn make_alarm(&mut self, poller: &Poller) -> bool {
        if self.alarm.is_none() {
            let token = Source::Alarm.token();
            self.alarm = Alarm::new()
                .ok()
                .filter(|alarm| poller.add(alarm.as_fd(), token, Interest::READ).is_ok());
        }
        self.alarm.is_some()
    }

    fn set_alarm(&self) {
        match (&self.alarm, self.far.peek()) {
            (Some(alarm), Some(Reverse((first, _)))) => alarm.set(*first),
            (Some(alarm), None) => alarm.stop(),
            (None, _) => {}
        }
    }

    /// The alarm rings: what was far is due.
    pub fn rings(&mut self) {
        let (now, at) = (BootInstant::now(), Instant::now());
        while let Some(due) = next(&mut self.far, now) {
            self.soon.push(Reverse((at, due)));
        }
        self.set_alarm();
    }

    /// Whether more came than were left the last time: short sessions leave
    /// deadlines behind that are hours away.
    pub fn pile_up(&self) -> bool {
        self.soon.len() + self.far.len() > FEW + 2 * self.left
    }

    /// Throws out what has no meaning any more, and gives the memory back.
    pub fn retain(&mut self, has_meaning: impl Fn(Due) -> bool) {
        self.soon.retain(|Reverse((_, due))| has_meaning(*due));
        self.far.retain(|Reverse((_, due))| has_meaning(*due));
        self.left = self.soon.len() + self.far.len();
        self.soon.shrink_to(FEW + 2 * self.soon.len());
        self.far.shrink_to(FEW + 2 * self.far.len());
    }

    /// How long until the next one that is soon; `None` where there is none.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let Reverse((at, _)) = self.soon.peek()?;
        Some(at.saturating_duration_since(now))
    }

    /// Takes one that is due.
    pub fn next(&mut self, now: Instant) -> Option<Due> {
        next(&mut self.soon, now)
    }
}

/// Takes the first, where it is due by now.
fn next<Time: Ord + Copy>(deadlines: &mut Deadlines<Time>, now: Time) -> Option<Due> {
    deadlines.peek().filter(|Reverse((at, _))| *at <= now)?;
    deadlines.pop().map(|Reverse((_, due))| due)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(number: u64) -> Due {
        Due::Answer(number)
    }

    #[test]
    fn they_come_in_order_and_not_early() {
        let poller = Poller::new(1).expect("an epoll");
        let mut timers = Timers::default();
        let now = Instant::now();
        assert_eq!(timers.wait(now), None);
        timers.after(Duration::from_secs(2), due(2), &poller);
        timers.after(Duration::from_secs(1), due(3), &poller);
        let wait = timers.wait(now).expect("one");
        assert!((1..2).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(timers.next(now), None);
        let later = now + Duration::from_secs(600);
        assert_eq!(timers.wait(later), Some(Duration::ZERO));
        assert_eq!(timers.next(later), Some(due(3)));
        assert_eq!(timers.next(later), Some(due(2)));
        assert_eq!(timers.next(later), None);
        // What a program cannot use is no part of its grace.
        timers.after(Duration::from_secs(60), Due::TerminalUsers, &poller);
        assert_eq!(timers.next(later), Some(Due::TerminalUsers));
        assert!(timers.alarm.is_none(), "nothing is far");
    }

    /// The poller's own clock may have stood still all the time.
    #[test]
    fn what_is_far_comes_by_the_clock_that_counts_on() {
        let mut poller = Poller::new(1).expect("an epoll");
        let mut timers = Timers::default();
        timers.after(Duration::from_secs(7200), due(3), &poller);
        timers.after(Duration::from_secs(3600), due(2), &poller);
        assert_eq!(timers.wait(Instant::now()), None);
        assert_eq!(poller.wait(Some(Duration::ZERO)).ok(), Some(0));
        // An hour is over at once.
        let slept = |Reverse((at, due)): Reverse<(BootInstant, Due)>| {
            Reverse((at.before(Duration::from_secs(3600)), due))
        };
        timers.far = timers.far.drain().map(slept).collect();
        timers.set_alarm();
        assert_eq!(poller.wait(Some(SOON)).ok(), Some(1));
        assert_eq!(Source::of(poller.ready(0).token), Source::Alarm);
        timers.rings();
        let now = Instant::now();
        assert_eq!((timers.next(now), timers.next(now)), (Some(due(2)), None));
        assert_eq!(poller.wait(Some(Duration::ZERO)).ok(), Some(0), "it rings once");
        assert_eq!(timers.far.len(), 1);
    }

    #[test]
    fn what_has_no_meaning_does_not_pile_up() {
        for wait in [SOON, 2 * SOON] {
            let poller = Poller::new(1).expect("an epoll");
            let mut timers = Timers::default();
            for number in 2..1_000_000 {
                timers.after(wait, due(number), &poller);
                if timers.pile_up() {
                    timers.retain(|other| other == due(number));
                }
            }
            let (count, room) = match wait == SOON {
                true => (timers.soon.len(), timers.soon.capacity()),
                false => (timers.far.len(), timers.far.capacity()),
            };
            assert!(count <= FEW + 3, "{count} are left");
            assert!(room < 4 * FEW, "room for {room}");
        }
    }
}
