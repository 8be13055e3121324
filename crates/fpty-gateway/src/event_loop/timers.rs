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

use super::slab::{Key, Token};
use fpty::sys::child::Pid;
use fpty::sys::clock::{self, BootInstant, BoottimeTimer};
use fpty::sys::poll::{Interest, Poller};

/// Something to do at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Something about a session.
    Session(Key, SessionTimer),
    /// Something about a session's terminal, or its client.
    Terminal(Key, TerminalTimer),
    /// Something about a command.
    Command(Key, SessionTimer),
    /// The first bytes of a session's client were held back for long enough.
    HttpProbe(Key),
    /// Somebody is to look after the terminal of a session that was handed over.
    Entrust(Key),
    /// A client has said nothing yet that its program would start after.
    Handshake(Key),
    /// A client that asks who is there, or for the statistics, has had its time.
    ControlClient(Key),
    /// A question of another gateway's has had time enough for an answer.
    PeerReply(u64),
    /// Connections to which the last word was said are looked after.
    LingeringClose,
    /// More programs have ended than one turn sees to.
    Reap,
    /// Give back what slow programs needed.
    Tidy,
    /// The log may take what it did not.
    LogFlush,
    /// What was recorded is to be passed on.
    RecordingFlush,
    /// Something waits for the recorder.
    RecorderCheck,
    /// A session has outlived its client.
    HangUpGrace(Pid),
    /// Whoever has a terminal open that ended has had the grace.
    TtyHoldersGrace,
    /// Go on killing what has outlived its client or its gateway.
    Kill,
    /// Sessions of a gateway that was here before us have outlived it.
    OrphanGrace,
    /// A socket that is limited takes clients again.
    Listener(u16),
    /// Accept again after running out of something.
    Accept,
    /// Look after sessions that can be left.
    Detached,
}

/// What is due for a session, and for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionTimer {
    /// Look whether it has been idle for too long.
    Idle,
    /// The same, where its client was told so a minute ago.
    IdleWarning,
    /// Look whether a client takes no more output because its machine is gone.
    TcpStalled,
    /// The client was told why, and does not take it.
    NoticeTimeout,
    /// Look whether the program has been executed.
    ExecCheck,
    /// Its time is over before long.
    LimitWarning,
    /// Its time is over.
    Limit,
}

/// What is due for a session's terminal, or its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TerminalTimer {
    /// The program has ended, and something else holds its terminal open.
    DrainTimeout,
    /// Look whether the program reads at the end of its input again.
    EndOfInput,
    /// Look whether a client that cannot be heard has left.
    PeerClosed,
    /// Look whether a program that closed its terminal has opened it again.
    SlaveReopened,
    /// Look whether the terminal can be offered to the client.
    Offer,
}

impl Timer {
    /// Whether it ends the time that a program is given to end by itself: while the
    /// machine sleeps it cannot.
    fn is_grace(self) -> bool {
        matches!(self, Timer::HangUpGrace(_) | Timer::TtyHoldersGrace | Timer::OrphanGrace)
    }
}

/// Deadlines by one clock, the earliest first.
type Deadlines<Time> = BinaryHeap<Reverse<(Time, Timer)>>;

/// Deadlines.
#[derive(Default)]
pub struct Timers {
    near: Deadlines<Instant>,
    far: Deadlines<BootInstant>,
    /// For the first of those that are far; made when there is one.
    alarm: Option<BoottimeTimer>,
    /// How many were left when what had no meaning any more was last thrown
    /// out.
    left: usize,
}

/// What is less far away may come so much later where the machine sleeps
/// meanwhile.
const NEAR: Duration = Duration::from_secs(10);

/// So many are no reason to look through them.
const PRUNE_ABOVE: usize = 256;

impl Timers {
    /// Remembers to do this after a while.
    pub fn schedule(&mut self, wait: Duration, timer: Timer, poller: &Poller) {
        // Without an alarm it comes, and late where the machine sleeps.
        // An alarm knows nothing of time that a test has moved.
        let is_near = wait <= NEAR || clock::is_movable();
        if is_near || timer.is_grace() || !self.make_alarm(poller) {
            return self.near.push(Reverse((Instant::now() + wait, timer)));
        }
        let at = BootInstant::now() + wait;
        let is_first = self.far.peek().is_none_or(|Reverse((first, _))| at < *first);
        self.far.push(Reverse((at, timer)));
        if is_first {
            self.set_alarm();
        }
    }

    fn make_alarm(&mut self, poller: &Poller) -> bool {
        if self.alarm.is_none() {
            let token = Token::Alarm.token();
            self.alarm = BoottimeTimer::new()
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
    pub fn alarm_fired(&mut self) {
        let (now, at) = (BootInstant::now(), Instant::now());
        while let Some(timer) = next(&mut self.far, now) {
            self.near.push(Reverse((at, timer)));
        }
        self.set_alarm();
    }

    /// Whether more came than were left the last time: short sessions leave
    /// deadlines behind that are hours away.
    pub fn needs_pruning(&self) -> bool {
        self.near.len() + self.far.len() > PRUNE_ABOVE + 2 * self.left
    }

    /// Throws out what has no meaning any more, and gives the memory back.
    pub fn retain(&mut self, is_valid: impl Fn(Timer) -> bool) {
        self.near.retain(|Reverse((_, timer))| is_valid(*timer));
        self.far.retain(|Reverse((_, timer))| is_valid(*timer));
        self.left = self.near.len() + self.far.len();
        self.near.shrink_to(PRUNE_ABOVE + 2 * self.near.len());
        self.far.shrink_to(PRUNE_ABOVE + 2 * self.far.len());
    }

    /// How long until the next one that is soon; `None` where there is none.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let Reverse((at, _)) = self.near.peek()?;
        Some(at.saturating_duration_since(now))
    }

    /// Takes one that is due.
    pub fn next(&mut self, now: Instant) -> Option<Timer> {
        next(&mut self.near, now)
    }
}

/// Takes the first, where it is due by now.
fn next<Time: Ord + Copy>(deadlines: &mut Deadlines<Time>, now: Time) -> Option<Timer> {
    deadlines.peek().filter(|Reverse((at, _))| *at <= now)?;
    deadlines.pop().map(|Reverse((_, timer))| timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(number: u64) -> Timer {
        Timer::PeerReply(number)
    }

    #[test]
    fn they_come_in_order_and_not_early() {
        let poller = Poller::new(1).expect("an epoll");
        let mut timers = Timers::default();
        let now = Instant::now();
        assert_eq!(timers.wait(now), None);
        timers.schedule(Duration::from_secs(2), timer(2), &poller);
        timers.schedule(Duration::from_secs(1), timer(3), &poller);
        let wait = timers.wait(now).expect("one");
        assert!((1..2).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(timers.next(now), None);
        let later = now + Duration::from_secs(600);
        assert_eq!(timers.wait(later), Some(Duration::ZERO));
        assert_eq!(timers.next(later), Some(timer(3)));
        assert_eq!(timers.next(later), Some(timer(2)));
        assert_eq!(timers.next(later), None);
        // What a program cannot use is no part of its grace.
        timers.schedule(Duration::from_secs(60), Timer::TtyHoldersGrace, &poller);
        assert_eq!(timers.next(later), Some(Timer::TtyHoldersGrace));
        assert!(timers.alarm.is_none(), "nothing is far");
    }

    /// The poller's own clock may have stood still all the time.
    #[test]
    fn what_is_far_comes_by_the_clock_that_counts_on() {
        let mut poller = Poller::new(1).expect("an epoll");
        let mut timers = Timers::default();
        timers.schedule(Duration::from_secs(7200), timer(3), &poller);
        timers.schedule(Duration::from_secs(3600), timer(2), &poller);
        assert_eq!(timers.wait(Instant::now()), None);
        assert_eq!(poller.wait(Some(Duration::ZERO)).ok(), Some(0));
        // An hour is over at once.
        let slept = |Reverse((at, timer)): Reverse<(BootInstant, Timer)>| {
            Reverse((at.before(Duration::from_secs(3600)), timer))
        };
        timers.far = timers.far.drain().map(slept).collect();
        timers.set_alarm();
        assert_eq!(poller.wait(Some(NEAR)).ok(), Some(1));
        assert_eq!(Token::of(poller.ready(0).token), Token::Alarm);
        timers.alarm_fired();
        let now = Instant::now();
        assert_eq!((timers.next(now), timers.next(now)), (Some(timer(2)), None));
        assert_eq!(poller.wait(Some(Duration::ZERO)).ok(), Some(0), "it rings once");
        assert_eq!(timers.far.len(), 1);
    }

    #[test]
    fn what_has_no_meaning_does_not_pile_up() {
        for wait in [NEAR, 2 * NEAR] {
            let poller = Poller::new(1).expect("an epoll");
            let mut timers = Timers::default();
            for number in 2..1_000_000 {
                timers.schedule(wait, timer(number), &poller);
                if timers.needs_pruning() {
                    timers.retain(|other| other == timer(number));
                }
            }
            let (count, room) = match wait == NEAR {
                true => (timers.near.len(), timers.near.capacity()),
                false => (timers.far.len(), timers.far.capacity()),
            };
            assert!(count <= PRUNE_ABOVE + 3, "{count} are left");
            assert!(room < 4 * PRUNE_ABOVE, "room for {room}");
        }
    }
}
