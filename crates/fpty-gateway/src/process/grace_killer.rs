//! What is hung up and killed in batches, so that clients are served meanwhile: sessions whose
//! grace is over, members of foreground groups, holders of terminals.

use std::time::{Duration, Instant};

use super::supervisor::grace::Grace;
use crate::event_loop::context::Context;
use crate::event_loop::timers::Timer;
use crate::log::log;
use fpty::sys::child::Pid;
use fpty::sys::clock;
use fpty::sys::foreground_group::ForegroundGroup;
use fpty::sys::pidfd::PidFd;
use fpty::sys::process_search::HangUpSearch;
use fpty::sys::process_session::{SessionKiller, SessionLeader};
use fpty::sys::pty::Master;

/// Processes that are looked at in one turn.
const BATCH: usize = 64;

/// Processes that are hung up, and killed where they do not end. Those that have to be
/// searched for in /proc are, a batch each turn: clients are served meanwhile.
pub struct GraceKiller {
    /// Session leaders whose sessions are to be killed.
    leaders_to_kill: Vec<SessionLeader>,
    killer: Option<SessionKiller>,
    /// Members of foreground groups and holders of terminals, who are hung up one by one.
    hang_ups: HangUpSearch,
    /// Terminals whose holders are killed at this time.
    terminals_in_grace: Vec<(Instant, Master)>,
    /// Programs that are not children of ours and were hung up.
    grace: Grace,
}

impl GraceKiller {
    /// A killer, with the programs that the gateway before has left.
    pub fn new(orphaned: Grace) -> Self {
        Self {
            leaders_to_kill: Vec::new(),
            killer: None,
            hang_ups: HangUpSearch::default(),
            terminals_in_grace: Vec::new(),
            grace: orphaned,
        }
    }

    /// Forgets a reaped program, as its pid may be reused.
    pub fn forget(&mut self, pid: Pid, was_hung_up: bool) {
        self.hang_ups.forget(pid);
        if was_hung_up {
            self.leaders_to_kill.retain(|leader| leader.pid() != pid);
            if let Some(killer) = &mut self.killer {
                killer.forget(pid);
            }
        }
    }

    /// One batch: kills sessions whose grace is over, hangs up members and holders.
    pub fn step(&mut self, cx: &mut Context) {
        self.hang_ups.step(BATCH);
        if self.killer.is_none() && !self.leaders_to_kill.is_empty() {
            self.killer = Some(SessionKiller::new(self.leaders_to_kill.drain(..)));
        }
        if self.killer.as_mut().is_some_and(|killer| killer.step(BATCH)) {
            self.killer = None;
        }
        if !self.hang_ups.is_empty() || self.killer.is_some() || !self.leaders_to_kill.is_empty() {
            cx.schedule(Duration::ZERO, Timer::Kill);
        }
    }

    /// Kills the session of a leader.
    pub fn kill_session(&mut self, cx: &mut Context, leader: SessionLeader) {
        if self.leaders_to_kill.is_empty() && self.killer.is_none() {
            cx.schedule(Duration::ZERO, Timer::Kill);
        }
        self.leaders_to_kill.push(leader);
    }

    /// Hangs up a terminal's foreground group, where that is not the leader's own.
    pub fn hang_up(&mut self, cx: &mut Context, foreground: ForegroundGroup) {
        if let Some(later) = foreground.hang_up() {
            if self.hang_ups.is_empty() {
                cx.schedule(Duration::ZERO, Timer::Kill);
            }
            self.hang_ups.add_members(later);
        }
    }

    /// Hangs up the holders of a terminal that we may not revoke: they get SIGHUP, and
    /// SIGKILL after the grace.
    pub fn hang_up_tty_holders(&mut self, cx: &mut Context, terminal: &Master) {
        let name = terminal.slave_name().unwrap_or_default();
        log(&format!(
            "forkptyrouter: cannot hang {name} up (that takes CAP_SYS_ADMIN): \
             telling those who have it open to end"
        ));
        if let Some(grace) = cx.config.hangup_grace {
            if let Ok(terminal) = terminal.try_clone() {
                self.terminals_in_grace.push((clock::now() + grace, terminal));
            }
            cx.schedule(grace, Timer::TtyHoldersGrace);
        }
        if let Ok(terminal) = terminal.try_clone() {
            self.hang_ups.add_holders(terminal, libc::SIGHUP);
        }
        cx.schedule(Duration::ZERO, Timer::Kill);
    }

    /// Kills holders whose grace is over.
    pub fn kill_tty_holders(&mut self, cx: &mut Context) {
        let now = clock::now();
        let terminals_in_grace = std::mem::take(&mut self.terminals_in_grace).into_iter();
        let (due, rest): (Vec<_>, Vec<_>) = terminals_in_grace.partition(|(at, _)| now >= *at);
        self.terminals_in_grace = rest;
        for (_, terminal) in due {
            self.hang_ups.add_holders(terminal, libc::SIGKILL);
        }
        cx.schedule(Duration::ZERO, Timer::Kill);
    }

    /// Hangs up a program that is not a child of ours.
    pub fn terminate(&mut self, cx: &mut Context, program: PidFd) {
        self.grace.hang_up(SessionLeader::from(program));
        self.schedule_grace(cx);
    }

    /// Schedules the end of the next grace.
    pub fn schedule_grace(&self, cx: &mut Context) {
        if let Some(wait) = self.grace.wait() {
            cx.schedule(wait, Timer::OrphanGrace);
        }
    }

    /// Kills programs of the gateway before whose grace is over.
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
