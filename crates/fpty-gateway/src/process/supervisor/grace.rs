//! The one rule of grace: a program that was hung up and still runs after
//! `forkptyrouter-hangup-grace` is killed, with its whole session (setsid(2)).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fpty::sys::clock;
use fpty::sys::foreground_group::ForegroundGroup;
use fpty::sys::pidfd::PidFd;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::process_search::HangUpSearch;
use fpty::sys::process_session::{SessionKiller, SessionLeader};
use fpty::sys::pty::Master;

/// Interval of checks whether programs have ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Hangs up the foreground job of a terminal that is about to close. The kernel sends
/// SIGHUP to the session leader alone, which may ignore it, and go on waiting for the job.
pub fn hang_up_foreground(terminal: &Master, leader: &PidFd) {
    let leader = leader.try_clone().ok().map(ProcessHandle::from_pidfd);
    let foreground = leader.and_then(|leader| ForegroundGroup::of(terminal, leader));
    if let Some(later) = foreground.and_then(ForegroundGroup::hang_up) {
        let mut members = HangUpSearch::default();
        members.add_members(later);
        members.step(usize::MAX);
    }
}

/// Session leaders that were hung up, in order.
pub struct Grace {
    /// The grace; `None`: for ever.
    grace: Option<Duration>,
    waiting: VecDeque<(Instant, SessionLeader)>,
}

impl Grace {
    /// A grace without leaders.
    pub fn new(grace: Option<Duration>) -> Self {
        Self { grace, waiting: VecDeque::new() }
    }

    /// Adds a leader that was hung up now.
    pub fn add(&mut self, leader: SessionLeader) {
        self.add_at(leader, clock::now());
    }

    fn add_at(&mut self, leader: SessionLeader, now: Instant) {
        if let Some(grace) = self.grace {
            self.waiting.push_back((now + grace, leader));
        }
    }

    /// Hangs up a leader, and adds it.
    pub fn hang_up(&mut self, leader: SessionLeader) {
        leader.hang_up();
        self.add(leader);
    }

    /// Forgets leaders that have ended.
    pub fn forget_ended(&mut self) {
        self.waiting.retain(|(_, leader)| !leader.has_ended());
    }

    /// Takes leaders whose grace is over and that still run.
    pub fn expired(&mut self) -> Vec<SessionLeader> {
        self.expired_at(clock::now())
    }

    fn expired_at(&mut self, now: Instant) -> Vec<SessionLeader> {
        let count = self.waiting.iter().take_while(|(until, _)| now >= *until).count();
        let over = self.waiting.drain(..count).map(|(_, leader)| leader);
        over.filter(|leader| !leader.has_ended()).collect()
    }

    /// The time until the next grace is over.
    pub fn wait(&self) -> Option<Duration> {
        let (until, _) = self.waiting.front()?;
        Some(until.saturating_duration_since(clock::now()))
    }

    /// Kills sessions whose grace is over. Returns the time of the next check. For
    /// processes that serve no clients meanwhile.
    pub fn kill_expired(&mut self) -> Option<Duration> {
        self.forget_ended();
        let over = self.expired();
        if !over.is_empty() {
            SessionKiller::new(over).step(usize::MAX);
        }
        (!self.waiting.is_empty()).then_some(CHECK_INTERVAL)
    }

    /// Waits for all leaders, and kills those that do not end.
    pub fn end_all(mut self) {
        while let Some(wait) = self.kill_expired() {
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
        let own = || SessionLeader::child(Pid::new(std::process::id() as i32).expect("above 1"));
        grace.add_at(own(), now);
        grace.add_at(own(), now + Duration::from_secs(1));
        assert!(grace.expired_at(now + Duration::from_millis(2999)).is_empty());
        assert_eq!(grace.expired_at(now + Duration::from_secs(3)).len(), 1);
        assert!(grace.wait().is_some_and(|wait| wait <= Duration::from_secs(4)));
        assert_eq!(grace.expired_at(now + Duration::from_secs(9)).len(), 1);
        assert!(grace.wait().is_none());
        let mut for_ever = Grace::new(None);
        for_ever.add(own());
        assert!(for_ever.waiting.is_empty());
    }
}
