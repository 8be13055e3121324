//! Timers. None is cancelled one by one: the part that is called looks whether there is
//! something to do, and timers that have no meaning any more are pruned together.
//!
//! Timers that are near go by the clock of the poller, which stops during suspend. Those that
//! are far (limits of hours) go by CLOCK_BOOTTIME, and a timerfd fires for the first of them:
//! a turn of the loop does not look at them, and a gateway without any has no timerfd.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::slab::{Key, Token};
use fpty::sys::child::Pid;
use fpty::sys::clock::{self, BootInstant, BoottimeTimer};
use fpty::sys::poll::{Interest, Poller};

/// A timer: what is to be done at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A timer of a session.
    Session(Key, SessionTimer),
    /// A timer of a session's terminal or client.
    Terminal(Key, TerminalTimer),
    /// A timer of a command.
    Command(Key, SessionTimer),
    /// The hold time of an HTTP probe is over.
    HttpProbe(Key),
    /// The supervisor is to have a session that was handed over.
    Entrust(Key),
    /// A deadline of a handshake.
    Handshake(Key),
    /// The timeout of a control client.
    ControlClient(Key),
    /// The timeout of a peer's reply.
    PeerReply(u64),
    /// A check of lingering connections.
    LingeringClose,
    /// More programs have ended than one turn reaps.
    Reap,
    /// Tidy up after slow starts.
    Tidy,
    /// Flush the log.
    LogFlush,
    /// Flush the queue to the recorder.
    RecordingFlush,
    /// Check the recorder's progress.
    RecorderCheck,
    /// The grace of a program that was hung up is over.
    HangUpGrace(Pid),
    /// The grace of processes that hold a terminal open is over.
    TtyHoldersGrace,
    /// Go on hanging up and killing, a batch each turn.
    Kill,
    /// The grace of programs of the gateway before is over.
    OrphanGrace,
    /// Resume a listener that its rate has paused.
    Listener(u16),
    /// Accept again after a shortage.
    Accept,
    /// Look after sessions that can be detached.
    Detached,
}

/// Timers of sessions and commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionTimer {
    /// Check the idle time.
    Idle,
    /// Check the idle time after the warning.
    IdleWarning,
    /// Check whether the client's TCP is stalled.
    TcpStalled,
    /// The client has had time to read why its session ends.
    NoticeTimeout,
    /// Check whether the program was executed.
    ExecCheck,
    /// Warn of the time limit.
    LimitWarning,
    /// The time limit.
    Limit,
}

/// Timers of a session's terminal or client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TerminalTimer {
    /// The drain of the terminal of a program that has ended is over.
    DrainTimeout,
    /// Send EOF again, where the program has not read it.
    EndOfInput,
    /// Check whether a client that is not read has closed.
    PeerClosed,
    /// Check whether the slave was opened again.
    SlaveReopened,
    /// Offer the terminal for handover.
    Offer,
}

/// Deadlines by one clock, the earliest first.
type Deadlines<Time> = BinaryHeap<Reverse<(Time, Timer)>>;

/// Deadlines.
#[derive(Default)]
pub struct Timers {
    near: Deadlines<Instant>,
    far: Deadlines<BootInstant>,
    /// The timerfd of the first far deadline; made when there is one.
    alarm: Option<BoottimeTimer>,
    /// Number of timers that were left when void ones were last removed.
    left: usize,
}

/// Timers within this time may be late by a suspend.
const NEAR: Duration = Duration::from_secs(10);

/// Timers are pruned above this number.
const PRUNE_ABOVE: usize = 256;

impl Timers {
    /// Schedules a timer.
    pub fn schedule(&mut self, wait: Duration, timer: Timer, poller: &Poller) {
        // Without an alarm it comes, and late where the machine sleeps.
        // An alarm knows nothing of time that a test has moved.
        let is_near = wait <= NEAR || clock::is_movable();
        // During suspend a program cannot end by itself.
        let is_grace =
            matches!(timer, Timer::HangUpGrace(_) | Timer::TtyHoldersGrace | Timer::OrphanGrace);
        if is_near || is_grace || !self.make_alarm(poller) {
            return self.near.push(Reverse((clock::now() + wait, timer)));
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

    /// The timerfd has fired: far timers are due.
    pub fn alarm_fired(&mut self) {
        let (now, at) = (BootInstant::now(), clock::now());
        while let Some(timer) = next(&mut self.far, now) {
            self.near.push(Reverse((at, timer)));
        }
        self.set_alarm();
    }

    /// Whether timers are to be pruned: short sessions leave some behind that are hours
    /// away.
    pub fn needs_pruning(&self) -> bool {
        self.near.len() + self.far.len() > PRUNE_ABOVE + 2 * self.left
    }

    /// Prunes timers that are not valid, and gives their memory back.
    pub fn retain(&mut self, is_valid: impl Fn(Timer) -> bool) {
        self.near.retain(|Reverse((_, timer))| is_valid(*timer));
        self.far.retain(|Reverse((_, timer))| is_valid(*timer));
        self.left = self.near.len() + self.far.len();
        self.near.shrink_to(PRUNE_ABOVE + 2 * self.near.len());
        self.far.shrink_to(PRUNE_ABOVE + 2 * self.far.len());
    }

    /// The time until the next near timer; `None`: there is none.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let Reverse((at, _)) = self.near.peek()?;
        Some(at.saturating_duration_since(now))
    }

    /// Takes a due timer.
    pub fn next(&mut self, now: Instant) -> Option<Timer> {
        next(&mut self.near, now)
    }
}

/// Takes the first deadline, where it is due by now.
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
