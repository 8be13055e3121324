//! Who was hung up and does not end is killed, after the grace.

use std::time::{Duration, Instant};

use super::supervisor::grace::Grace;
use crate::event_loop::context::Context;
use crate::event_loop::timers::Due;
use crate::log::log;
use fpty::sys::child::Pid;
use fpty::sys::foreground_group::{Foreground, HangUps};
use fpty::sys::pidfd::PidFd;
use fpty::sys::process_session::{Leader, SessionKiller};
use fpty::sys::pty::Master;
use fpty::sys::tty_holders::TerminalUsers;

/// Members of sessions that are looked for at once.
const AT_ONCE: usize = 64;

/// Those that are told to end, and killed where they do not: who has to be looked for
/// is, a little in each turn. The living are served meanwhile.
pub struct Killing {
    /// Leaders whose sessions are to be killed.
    outlived: Vec<Leader>,
    killing: Option<SessionKiller>,
    /// Foreground groups whose members are to be hung up one by one.
    hang_ups: HangUps,
    /// Terminals whose users are signalled one by one.
    users: TerminalUsers,
    /// And those that are killed then.
    doomed: Vec<(Instant, Master)>,
    /// Those that are not our children and were told to end.
    grace: Grace,
}

impl Killing {
    /// Of those alone that a gateway before us has left.
    pub fn new(left_behind: Grace) -> Self {
        Self {
            outlived: Vec::new(),
            killing: None,
            hang_ups: HangUps::default(),
            users: TerminalUsers::default(),
            doomed: Vec::new(),
            grace: left_behind,
        }
    }

    /// One was reaped: its number may be another's. It may have outlived its client.
    pub fn forget(&mut self, pid: Pid, has_outlived: bool) {
        self.hang_ups.forget(pid);
        if has_outlived {
            self.outlived.retain(|leader| leader.pid() != pid);
            if let Some(killing) = &mut self.killing {
                killing.forget(pid);
            }
        }
    }

    /// Kills what has been found to outlive its client or its gateway, and hangs up who
    /// has to be looked for, as much as one turn does.
    pub fn go_on(&mut self, cx: &mut Context) {
        self.hang_ups.step(AT_ONCE);
        self.users.step(AT_ONCE);
        if self.killing.is_none() && !self.outlived.is_empty() {
            self.killing = Some(SessionKiller::new(self.outlived.drain(..)));
        }
        if self.killing.as_mut().is_some_and(|killing| killing.step(AT_ONCE)) {
            self.killing = None;
        }
        let has_more = !self.hang_ups.is_empty() || !self.users.is_empty();
        if has_more || self.killing.is_some() || !self.outlived.is_empty() {
            cx.after(Duration::ZERO, Due::Kill);
        }
    }

    /// Has the session of this leader killed.
    pub fn kill_session(&mut self, cx: &mut Context, leader: Leader) {
        if self.outlived.is_empty() && self.killing.is_none() {
            cx.after(Duration::ZERO, Due::Kill);
        }
        self.outlived.push(leader);
    }

    /// Hangs a terminal's foreground group up, where that is not the leader's own.
    pub fn hang_up(&mut self, cx: &mut Context, foreground: Foreground) {
        if let Some(later) = foreground.hang_up() {
            if self.hang_ups.is_empty() {
                cx.after(Duration::ZERO, Due::Kill);
            }
            self.hang_ups.add(later);
        }
    }

    /// Hangs up a terminal that we may not take from those who have it: they are told,
    /// and killed then.
    pub fn hang_up_users(&mut self, cx: &mut Context, terminal: &Master) {
        let name = terminal.slave_name().unwrap_or_default();
        log(&format!(
            "forkptyrouter: cannot hang {name} up (that takes CAP_SYS_ADMIN): \
             telling those who have it open to end"
        ));
        if let Some(grace) = cx.config.hangup_grace {
            if let Ok(terminal) = terminal.try_clone() {
                self.doomed.push((Instant::now() + grace, terminal));
            }
            cx.after(grace, Due::TerminalUsers);
        }
        if let Ok(terminal) = terminal.try_clone() {
            self.users.add(terminal, libc::SIGHUP);
        }
        cx.after(Duration::ZERO, Due::Kill);
    }

    /// The grace of such users may be over.
    pub fn kill_users(&mut self, cx: &mut Context) {
        let now = Instant::now();
        let doomed = std::mem::take(&mut self.doomed).into_iter();
        let (due, rest): (Vec<_>, Vec<_>) = doomed.partition(|(at, _)| now >= *at);
        self.doomed = rest;
        for (_, terminal) in due {
            self.users.add(terminal, libc::SIGKILL);
        }
        cx.after(Duration::ZERO, Due::Kill);
    }

    /// A program that is not our child is to end.
    pub fn end_program(&mut self, cx: &mut Context, program: PidFd) {
        self.grace.hang_up(Leader::from(program));
        self.wait_for_grace(cx);
    }

    /// Those that are not our children are looked at when their grace is over.
    pub fn wait_for_grace(&self, cx: &mut Context) {
        if let Some(wait) = self.grace.wait() {
            cx.after(wait, Due::LeftBehind);
        }
    }

    /// The grace is over of what a gateway before us left, or of what we took up of
    /// it.
    pub fn end_left_behind(&mut self, cx: &mut Context) {
        for leader in self.grace.over() {
            log(&format!(
                "forkptyrouter: process {} has outlived its gateway: killing its session",
                leader.pid()
            ));
            self.kill_session(cx, leader);
        }
        self.wait_for_grace(cx);
    }
}
