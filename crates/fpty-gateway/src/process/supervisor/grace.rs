//! The one rule for programs that were hung up: whoever ignores that is killed
//! after a grace (`forkptyrouter-hangup-grace`), with its whole session.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fpty::sys::foreground_group::{Foreground, HangUps};
use fpty::sys::pid_guard::Process;
use fpty::sys::pidfd::PidFd;
use fpty::sys::process_session::{Leader, SessionKiller};
use fpty::sys::pty::Master;

/// How often is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(50);

/// Hangs up the foreground job of a terminal that is about to close. The kernel tells
/// the leader of its session alone, which may ignore that, and go on waiting for the
/// job.
pub fn hang_up_foreground(terminal: &Master, leader: &PidFd) {
    let leader = leader.try_clone().ok().map(Process::held);
    let foreground = leader.and_then(|leader| Foreground::of(terminal, leader));
    if let Some(later) = foreground.and_then(Foreground::hang_up) {
        let mut members = HangUps::default();
        members.add(later);
        members.step(usize::MAX);
    }
}

/// Sessions that were told to end, in the order in which they were.
pub struct Grace {
    /// How long they have; `None`: for ever.
    grace: Option<Duration>,
    waiting: VecDeque<(Instant, Leader)>,
}

impl Grace {
    /// With nobody to wait for.
    pub fn new(grace: Option<Duration>) -> Self {
        Self { grace, waiting: VecDeque::new() }
    }

    /// One was told to end, now.
    pub fn add(&mut self, leader: Leader) {
        self.add_at(leader, Instant::now());
    }

    fn add_at(&mut self, leader: Leader, now: Instant) {
        if let Some(grace) = self.grace {
            self.waiting.push_back((now + grace, leader));
        }
    }

    /// Tells one to end.
    pub fn hang_up(&mut self, leader: Leader) {
        leader.hang_up();
        self.add(leader);
    }

    /// Forgets those that have ended.
    pub fn forget_ended(&mut self) {
        self.waiting.retain(|(_, leader)| !leader.has_ended());
    }

    /// Those whose grace is over, and that live.
    pub fn over(&mut self) -> Vec<Leader> {
        self.over_at(Instant::now())
    }

    fn over_at(&mut self, now: Instant) -> Vec<Leader> {
        let count = self.waiting.iter().take_while(|(until, _)| now >= *until).count();
        let over = self.waiting.drain(..count).map(|(_, leader)| leader);
        over.filter(|leader| !leader.has_ended()).collect()
    }

    /// How long until the next one is due.
    pub fn wait(&self) -> Option<Duration> {
        let (until, _) = self.waiting.front()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Kills those whose grace is over; how soon to look again. For who has nobody
    /// to serve meanwhile.
    pub fn kill_over(&mut self) -> Option<Duration> {
        self.forget_ended();
        let over = self.over();
        if !over.is_empty() {
            SessionKiller::new(over).step(usize::MAX);
        }
        (!self.waiting.is_empty()).then_some(LOOK)
    }

    /// Waits for all of them, and kills who is left.
    pub fn end_all(mut self) {
        while let Some(wait) = self.kill_over() {
            std::thread::sleep(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty::sys::child::Pid;

    #[test]
    fn who_waits_longest_is_the_first_and_none_is_due_before() {
        let now = Instant::now();
        let mut grace = Grace::new(Some(Duration::from_secs(3)));
        // Children are there until they were reaped; ourselves we never reap.
        let own = || Leader::child(Pid::new(std::process::id() as i32).expect("above 1"));
        grace.add_at(own(), now);
        grace.add_at(own(), now + Duration::from_secs(1));
        assert!(grace.over_at(now + Duration::from_millis(2999)).is_empty());
        assert_eq!(grace.over_at(now + Duration::from_secs(3)).len(), 1);
        assert!(grace.wait().is_some_and(|wait| wait <= Duration::from_secs(4)));
        assert_eq!(grace.over_at(now + Duration::from_secs(9)).len(), 1);
        assert!(grace.wait().is_none());
        let mut for_ever = Grace::new(None);
        for_ever.add(own());
        assert!(for_ever.waiting.is_empty());
    }
}
