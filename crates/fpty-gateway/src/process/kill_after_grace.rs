//! Who was hung up and does not end is killed, after the grace.

use std::time::{Duration, Instant};

use super::supervisor::grace::Grace;
use crate::event_loop::context::Context;
use crate::event_loop::timers::Timer;
use crate::log::log;
use fpty::sys::child::Pid;
use fpty::sys::foreground_group::{ForegroundGroup, ForegroundHangups};
use fpty::sys::pidfd::PidFd;
use fpty::sys::process_session::{SessionKiller, SessionLeader};
use fpty::sys::pty::Master;
use fpty::sys::tty_holders::TtyHolders;

/// Members of sessions that are looked for at once.
const BATCH: usize = 64;

/// Those that are told to end, and killed where they do not: who has to be looked for
/// is, a little in each turn. The living are served meanwhile.
pub struct GraceKiller {
    /// Leaders whose sessions are to be killed.
    leaders_to_kill: Vec<SessionLeader>,
    killer: Option<SessionKiller>,
    /// Foreground groups whose members are to be hung up one by one.
    hang_ups: ForegroundHangups,
    /// Terminals whose users are signalled one by one.
    tty_holders: TtyHolders,
    /// And those that are killed then.
    terminals_in_grace: Vec<(Instant, Master)>,
    /// Those that are not our children and were told to end.
    grace: Grace,
}

impl GraceKiller {
    /// Of those alone that a gateway before us has left.
    pub fn new(orphaned: Grace) -> Self {
        Self {
            leaders_to_kill: Vec::new(),
            killer: None,
            hang_ups: ForegroundHangups::default(),
            tty_holders: TtyHolders::default(),
            terminals_in_grace: Vec::new(),
            grace: orphaned,
        }
    }

    /// One was reaped: its number may be another's. It may have outlived its client.
    pub fn forget(&mut self, pid: Pid, was_hung_up: bool) {
        self.hang_ups.forget(pid);
        if was_hung_up {
            self.leaders_to_kill.retain(|leader| leader.pid() != pid);
            if let Some(killer) = &mut self.killer {
                killer.forget(pid);
            }
        }
    }

    /// Kills what has been found to outlive its client or its gateway, and hangs up who
    /// has to be looked for, as much as one turn does.
    pub fn step(&mut self, cx: &mut Context) {
        self.hang_ups.step(BATCH);
        self.tty_holders.step(BATCH);
        if self.killer.is_none() && !self.leaders_to_kill.is_empty() {
            self.killer = Some(SessionKiller::new(self.leaders_to_kill.drain(..)));
        }
        if self.killer.as_mut().is_some_and(|killer| killer.step(BATCH)) {
            self.killer = None;
        }
        let has_more = !self.hang_ups.is_empty() || !self.tty_holders.is_empty();
        if has_more || self.killer.is_some() || !self.leaders_to_kill.is_empty() {
            cx.schedule(Duration::ZERO, Timer::Kill);
        }
    }

    /// Has the session of this leader killed.
    pub fn kill_session(&mut self, cx: &mut Context, leader: SessionLeader) {
        if self.leaders_to_kill.is_empty() && self.killer.is_none() {
            cx.schedule(Duration::ZERO, Timer::Kill);
        }
        self.leaders_to_kill.push(leader);
    }

    /// Hangs a terminal's foreground group up, where that is not the leader's own.
    pub fn hang_up(&mut self, cx: &mut Context, foreground: ForegroundGroup) {
        if let Some(later) = foreground.hang_up() {
            if self.hang_ups.is_empty() {
                cx.schedule(Duration::ZERO, Timer::Kill);
            }
            self.hang_ups.add(later);
        }
    }

    /// Hangs up a terminal that we may not take from those who have it: they are told,
    /// and killed then.
    pub fn hang_up_tty_holders(&mut self, cx: &mut Context, terminal: &Master) {
        let name = terminal.slave_name().unwrap_or_default();
        log(&format!(
            "forkptyrouter: cannot hang {name} up (that takes CAP_SYS_ADMIN): \
             telling those who have it open to end"
        ));
        if let Some(grace) = cx.config.hangup_grace {
            if let Ok(terminal) = terminal.try_clone() {
                self.terminals_in_grace.push((Instant::now() + grace, terminal));
            }
            cx.schedule(grace, Timer::TtyHoldersGrace);
        }
        if let Ok(terminal) = terminal.try_clone() {
            self.tty_holders.add(terminal, libc::SIGHUP);
        }
        cx.schedule(Duration::ZERO, Timer::Kill);
    }

    /// The grace of such users may be over.
    pub fn kill_tty_holders(&mut self, cx: &mut Context) {
        let now = Instant::now();
        let terminals_in_grace = std::mem::take(&mut self.terminals_in_grace).into_iter();
        let (due, rest): (Vec<_>, Vec<_>) = terminals_in_grace.partition(|(at, _)| now >= *at);
        self.terminals_in_grace = rest;
        for (_, terminal) in due {
            self.tty_holders.add(terminal, libc::SIGKILL);
        }
        cx.schedule(Duration::ZERO, Timer::Kill);
    }

    /// A program that is not our child is to end.
    pub fn terminate(&mut self, cx: &mut Context, program: PidFd) {
        self.grace.hang_up(SessionLeader::from(program));
        self.schedule_grace(cx);
    }

    /// Those that are not our children are looked at when their grace is over.
    pub fn schedule_grace(&self, cx: &mut Context) {
        if let Some(wait) = self.grace.wait() {
            cx.schedule(wait, Timer::OrphanGrace);
        }
    }

    /// The grace is over of what a gateway before us left, or of what we took up of
    /// it.
    pub fn kill_orphans(&mut self, cx: &mut Context) {
        for leader in self.grace.expired() {
            log(&format!(
                "forkptyrouter: process {} has outlived its gateway: killing its session",
                leader.pid()
            ));
            self.kill_session(cx, leader);
        }
        self.schedule_grace(cx);
    }
}
