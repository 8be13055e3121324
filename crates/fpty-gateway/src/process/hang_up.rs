//! Hang-up: programs whose client has left get SIGHUP.

use std::os::fd::AsFd;

use super::process_table::ProcessTable;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timer;
use crate::log::log;
use crate::session::relay::{LiveSession, SessionIo};
use crate::session::session_ref::SessionRef;
use fpty::sys::child::{self, Pid};
use fpty::sys::clock;
use fpty::sys::foreground_group::ForegroundGroup;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::process_session::SessionLeader;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;

/// Whether another process may have a copy of a terminal's master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterCopies {
    /// No copy: closing the master ends the terminal.
    None,
    /// The master was handed over at some time; its client has left.
    Possible,
    /// The master was handed over, and the terminal is to end for every holder.
    Revoked,
}

impl ProcessTable {
    /// Releases program and terminal of a session that has no entry any more; returns the
    /// client, which may have more to read.
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
        let session_ref = SessionRef::Session(key);
        // It may have been reaped while this had to wait its turn.
        let is_its =
            |program: &ProcessHandle| !program.is_child() || self.is_of(program.pid(), session_ref);
        if let Some(program) = program.filter(is_its) {
            // A terminal that was offered may be open elsewhere, and is then not
            // hung up by our close.
            let copies = match is_elsewhere {
                true if session.termination().is_some() => MasterCopies::Revoked,
                true => MasterCopies::Possible,
                false => MasterCopies::None,
            };
            self.hang_up_terminal(cx, &master, program, copies);
        }
        client
    }

    /// Hangs up the program of a terminal, its foreground job, and the terminal itself
    /// where closing the master does not.
    pub fn hang_up_terminal(
        &mut self,
        cx: &mut Context,
        terminal: &Master,
        program: ProcessHandle,
        copies: MasterCopies,
    ) {
        // Closing the master sends SIGHUP and SIGCONT to the session's
        // leader; its foreground job would hear of it only when the
        // leader ends, and that may ignore it.
        let leader = program.try_clone();
        let foreground = leader.and_then(|leader| ForegroundGroup::of(terminal, leader));
        if copies != MasterCopies::None {
            program.signal(libc::SIGHUP);
            program.signal(libc::SIGCONT);
        }
        if let Some(foreground) = foreground {
            self.killer.hang_up(cx, foreground);
        }
        let is_over = copies == MasterCopies::None || terminal.hang_up();
        if !is_over && copies == MasterCopies::Revoked {
            self.killer.hang_up_tty_holders(cx, terminal);
        }
        if program.is_child() {
            self.client_lost(cx, program.pid());
        } else if let Some(program) = program.pidfd() {
            self.killer.terminate(cx, program);
        }
    }

    /// Hangs up a program's process group: its client has left.
    pub fn hang_up_group(&mut self, cx: &mut Context, program: Pid) {
        self.client_lost(cx, program);
        // It was not reaped: the number is its own, and its group's.
        for signal in [libc::SIGHUP, libc::SIGCONT] {
            child::signal_group(program, signal);
        }
    }

    fn client_lost(&mut self, cx: &mut Context, program: Pid) {
        // One that was reaped has no number any more.
        if self.has(program) {
            self.hung_up.insert(program, clock::now());
        }
        if let Some(grace) = cx.config.hangup_grace {
            cx.schedule(grace, Timer::HangUpGrace(program));
        }
    }

    /// The grace of a session leader is over: kills its session if it still runs.
    pub fn hang_up_grace_over(&mut self, cx: &mut Context, leader: Pid) {
        // Where it was reaped its number may be another one's.
        let since = self.hung_up.get(&leader);
        if since.zip(cx.config.hangup_grace).is_some_and(|(it, grace)| it.elapsed() >= grace) {
            log(&format!(
                "forkptyrouter: process {leader} has outlived its client: killing its session"
            ));
            self.killer.kill_session(cx, SessionLeader::child(leader));
        }
    }
}
