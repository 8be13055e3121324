//! Programs lose their client: they are hung up.

use std::os::fd::AsFd;
use std::time::Instant;

use super::table::Programs;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Due;
use crate::log::log;
use crate::session::relay::{LiveSession, SessionIo};
use fpty::sys::child::{self, Pid};
use fpty::sys::foreground_group::Foreground;
use fpty::sys::pid_guard::Process;
use fpty::sys::process_session::Leader;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;

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
    /// Lets the program and its terminal go, of a session that nobody finds by its
    /// key any more; the client may have more to read.
    pub fn release(&mut self, cx: &mut Context, key: Key, mut live: LiveSession) -> Stream {
        // The poller forgets descriptors when they close here; where a copy
        // lives a moment longer (sys/detached.rs), nobody has its token. Others'
        // copies, of the terminal and of the client, live as long as those like:
        // it would tell of them without end.
        let is_elsewhere = live.io.master.is_shared() || live.session.detach_state().is_some();
        if is_elsewhere {
            live.unregister_terminal(&cx.poller);
            let _ = cx.poller.remove(live.io.client.as_fd());
        }
        let LiveSession { session, io: SessionIo { client, master, program, .. }, .. } = live;
        // It may have been reaped while this had to wait its turn.
        let is_its = |program: &Process| !program.is_child() || self.is_of(program.pid(), key);
        if let Some(program) = program.filter(is_its) {
            // A terminal that was offered may be open elsewhere, and is then not
            // hung up by our close.
            let copies = match is_elsewhere {
                true if session.termination().is_some() => Copies::Ended,
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
        if let Some(foreground) = foreground {
            self.killing.hang_up(cx, foreground);
        }
        let is_over = copies == Copies::None || terminal.hang_up();
        if !is_over && copies == Copies::Ended {
            self.killing.hang_up_users(cx, terminal);
        }
        if program.is_child() {
            self.lose_client(cx, program.pid());
        } else if let Some(program) = program.pidfd() {
            self.killing.end_program(cx, program);
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
        // One that was reaped has no number any more.
        if self.has(program) {
            self.left.insert(program, Instant::now());
        }
        if let Some(grace) = cx.config.hangup_grace {
            cx.after(grace, Due::Outlived(program));
        }
    }

    /// A session's leader has ignored that its client left, perhaps.
    pub fn outlived(&mut self, cx: &mut Context, leader: Pid) {
        // Where it was reaped its number may be another one's.
        let since = self.left.get(&leader);
        if since.zip(cx.config.hangup_grace).is_some_and(|(it, grace)| it.elapsed() >= grace) {
            log(&format!(
                "forkptyrouter: process {leader} has outlived its client: killing its session"
            ));
            self.killing.kill_session(cx, Leader::child(leader));
        }
    }
}
