//! Programs lose their client: they are hung up, given a grace, killed, and
//! reaped.

use std::os::fd::AsFd;
use std::time::Duration;

use super::context::Context;
use super::outcome::Outcome;
use super::programs::Programs;
use super::table::Key;
use super::timers::Due;
use super::traffic::{Attached, Wires};
use crate::uwsgi::log::log;
use fpty::sys::child::{self, Pid};
use fpty::sys::foreground::Foreground;
use fpty::sys::pidfd::PidFd;
use fpty::sys::process::Process;
use fpty::sys::pty::Master;
use fpty::sys::sessions::Leader;
use fpty::sys::socket::Stream;

/// How soon ended programs are looked for that the kernel did not name, among
/// many.
const SCAN: Duration = Duration::from_millis(20);

/// Ended programs that one turn sees to.
const REAPED_PER_TURN: usize = 32;

/// Whether somebody else may have a copy of a terminal's master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// Our close is its end.
    None,
    /// It was handed over at some time; whoever had it has left.
    MayBe,
    /// The same, and it is to end whoever has it.
    Ended,
}

impl Programs {
    /// A program has ended, this one perhaps, and others may have: the kernel tells
    /// it once.
    pub fn some_ended(&mut self, cx: &mut Context, told: Option<Pid>) {
        if !self.are_many() {
            return self.reap_all(cx);
        }
        if let Some(child) = told {
            self.reap_this(cx, child);
        }
        if !std::mem::replace(&mut self.reap_is_due, true) {
            cx.after(SCAN, Due::Reap);
        }
    }

    /// Takes the statuses of those that have ended.
    pub fn reap_all(&mut self, cx: &mut Context) {
        self.reap_is_due = false;
        for _ in 0..REAPED_PER_TURN {
            let Some((program, session, exit)) = self.reap() else {
                return;
            };
            cx.then(Outcome::Reaped(program, session, exit));
        }
        cx.after(Duration::ZERO, Due::Reap);
    }

    /// This one may have ended.
    pub fn reap_this(&mut self, cx: &mut Context, program: Pid) {
        if let Some((program, session, exit)) = self.reap_one(program) {
            cx.then(Outcome::Reaped(program, session, exit));
        }
    }

    /// A program that is not our child is to end.
    pub fn end_program(&mut self, cx: &mut Context, program: PidFd) {
        self.hang_up_stranger(program);
        if let Some(wait) = self.grace_lasts() {
            cx.after(wait, Due::LeftBehind);
        }
    }

    /// Lets the program and its terminal go, of a session that nobody finds by its
    /// key any more; the client may have more to read.
    pub fn let_go(&mut self, cx: &mut Context, key: Key, mut attached: Attached) -> Stream {
        // The poller forgets descriptors when they close here; where a copy
        // lives a moment longer (sys/detached.rs), nobody has its token. Others'
        // copies, of the terminal and of the client, live as long as those like:
        // it would tell of them without end.
        let is_elsewhere = attached.wires.master.is_shared() || attached.session.kept().is_some();
        if is_elsewhere {
            attached.forget_terminal(&cx.poller);
            let _ = cx.poller.remove(attached.wires.client.as_fd());
        }
        let Attached { session, wires: Wires { client, master, program, .. }, .. } = attached;
        // It may have been reaped while this had to wait its turn.
        let is_its = |program: &Process| !program.is_child() || self.is_of(program.pid(), key);
        if let Some(program) = program.filter(is_its) {
            // A terminal that was offered may be open elsewhere, and is then not
            // hung up by our close.
            let copies = match is_elsewhere {
                true if session.dismissed().is_some() => Copies::Ended,
                true => Copies::MayBe,
                false => Copies::None,
            };
            self.hang_up_terminal(cx, &master, program, copies);
        }
        client
    }

    /// Hangs up the program of a terminal, its foreground job, and the terminal
    /// where our close does not.
    pub fn hang_up_terminal(
        &mut self,
        cx: &mut Context,
        terminal: &Master,
        program: Process,
        copies: Copies,
    ) {
        // Closing the master sends SIGHUP and SIGCONT to the session's
        // leader; its foreground job would hear of it only when the
        // leader ends, and that may ignore it.
        let leader = program.try_clone();
        let foreground = leader.and_then(|leader| Foreground::of(terminal, leader));
        if copies != Copies::None {
            program.signal(libc::SIGHUP);
            program.signal(libc::SIGCONT);
        }
        if foreground.is_some_and(|foreground| self.hang_up(foreground)) {
            cx.after(Duration::ZERO, Due::Kill);
        }
        let is_over = copies == Copies::None || terminal.hang_up();
        if !is_over && copies == Copies::Ended {
            self.hang_up_terminal_users(cx, terminal);
        }
        if program.is_child() {
            self.lose_client(cx, program.pid());
        } else if let Some(program) = program.pidfd() {
            self.end_program(cx, program);
        }
    }

    /// A program's process group is hung up: its client has left.
    pub fn hang_up_group(&mut self, cx: &mut Context, program: Pid) {
        self.lose_client(cx, program);
        // It was not reaped: the number is its own, and its group's.
        for signal in [libc::SIGHUP, libc::SIGCONT] {
            child::signal_group(program, signal);
        }
    }

    fn lose_client(&mut self, cx: &mut Context, program: Pid) {
        self.client_left(program);
        if let Some(grace) = cx.config.hangup_grace {
            cx.after(grace, Due::Outlived(program));
        }
    }

    /// Hangs up a terminal that we may not take from those who have it.
    fn hang_up_terminal_users(&mut self, cx: &mut Context, terminal: &Master) {
        let grace = cx.config.hangup_grace;
        let name = terminal.slave_name().unwrap_or_default();
        log(&format!(
            "forkptyrouter: cannot hang {name} up (that takes CAP_SYS_ADMIN): \
             telling those who have it open to end"
        ));
        self.hang_up_users(terminal, grace);
        cx.after(Duration::ZERO, Due::Kill);
        if let Some(grace) = grace {
            cx.after(grace, Due::TerminalUsers);
        }
    }

    /// Those have not ended.
    pub fn kill_terminal_users(&mut self, cx: &mut Context) {
        self.kill_users();
        cx.after(Duration::ZERO, Due::Kill);
    }

    /// A session's leader has ignored that its client left.
    pub fn outlived(&mut self, cx: &mut Context, leader: Pid) {
        let grace = cx.config.hangup_grace;
        if grace.is_some_and(|grace| self.has_outlived(leader, grace)) {
            log(&format!(
                "forkptyrouter: process {leader} has outlived its client: killing its session"
            ));
            self.kill_session(cx, Leader::child(leader));
        }
    }

    /// The grace is over of what a gateway before us left, or of what we took up of
    /// it.
    pub fn end_left_behind(&mut self, cx: &mut Context) {
        for leader in self.take_left_behind() {
            log(&format!(
                "forkptyrouter: process {} has outlived its gateway: killing its session",
                leader.pid()
            ));
            self.kill_session(cx, leader);
        }
        if let Some(wait) = self.grace_lasts() {
            cx.after(wait, Due::LeftBehind);
        }
    }

    /// Has the session of this leader killed.
    pub fn kill_session(&mut self, cx: &mut Context, leader: Leader) {
        if self.kill(leader) {
            cx.after(Duration::ZERO, Due::Kill);
        }
    }

    /// Goes on killing what has outlived its client or its gateway.
    pub fn kill_outlived(&mut self, cx: &mut Context) {
        if self.go_on_killing() {
            cx.after(Duration::ZERO, Due::Kill);
        }
    }
}
