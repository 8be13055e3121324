//! Teardown of sessions: the program has ended, or the client is gone.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use super::relay::{LiveSession, SessionAction, Sessions};
use crate::connection::lingering_close::CloseNotice;
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::panic_recovery::INTERNAL_ERROR;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{TerminalTimer, Timer};
use crate::observe::audit::{RejectReason, Rejection};
use crate::process::process_table::ProcessTable;
use crate::process::supervisor;
use fpty::proto::{EndKind, SessionEnd};
use fpty::sys::child::Pid;
use fpty::sys::process_handle::ProcessHandle;

/// How long the terminal of an ended program may stay silent, where another process holds it open,
/// before its output counts as ended.
const DRAIN: Duration = Duration::from_millis(50);

/// How often a terminal in teardown may have more output.
const DRAINS: u8 = 20;

/// Sessions that one turn tears down at once; more of them wait for a turn with nothing else to do.
const ENDED_PER_TURN: usize = 2;

/// Queue of sessions that are still to be torn down: closing a terminal takes a while, and where a
/// network breaks thousands of clients are lost in one moment. A person who types does not wait for
/// that.
#[derive(Default)]
pub struct TeardownQueue {
    waiting: VecDeque<(Key, Box<LiveSession>)>,
    this_turn: usize,
}

impl TeardownQueue {
    /// Whether no session waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Programs of the sessions that wait.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        let program = |live: &LiveSession| live.io.program.as_ref().map(ProcessHandle::pid);
        self.waiting.iter().filter_map(move |(_, live)| program(live))
    }

    /// Tears a session down whose client is lost, now or in its turn.
    pub fn teardown(&mut self, core: &mut Core, key: Key) {
        let Core { cx, sessions, processes } = core;
        // Over TCP the kernel was asked: the client has not said it.
        if let Some(live) = sessions.get_mut(key) {
            live.session.client_disconnected();
        }
        let Some(mut live) = sessions.end(cx, key) else {
            return;
        };
        if self.this_turn < ENDED_PER_TURN && self.waiting.is_empty() {
            self.this_turn += 1;
            processes.release(cx, key, *live);
            return;
        }
        // Tokens of this session lead nowhere from now on.
        let _ = cx.poller.remove(live.io.client.as_fd());
        live.unregister_terminal(&cx.poller);
        self.waiting.push_back((key, live));
    }

    /// Schedules some of the waiting teardowns, where the turn had fewer events than the poller
    /// takes.
    pub fn run_teardowns(&mut self, cx: &mut Context, events: usize) {
        self.this_turn = 0;
        if events < cx.config.events as usize {
            for _ in 0..ENDED_PER_TURN.min(self.waiting.len()) {
                cx.push_outcome(Outcome::RunTeardown);
            }
        }
    }

    /// Tears the next session down.
    pub fn release_next(&mut self, cx: &mut Context, processes: &mut ProcessTable) {
        if let Some((key, live)) = self.waiting.pop_front() {
            processes.release(cx, key, *live);
        }
    }
}

impl LiveSession {
    /// Drains a terminal that another process holds open after the program's end. All output of the
    /// program was delivered; output of the other process is read for a limited time.
    pub fn drain_again(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        if !self.session.terminal_open() {
            return SessionAction::Wait;
        }
        // A client that is slow to read gets its time.
        if self.session.has_output() {
            cx.schedule(DRAIN, Timer::Terminal(key, TerminalTimer::DrainTimeout));
            return SessionAction::Wait;
        }
        self.drains += 1;
        let spoke = self.read_terminal(cx, false, |_| false);
        if spoke && self.drains < DRAINS {
            cx.schedule(DRAIN, Timer::Terminal(key, TerminalTimer::DrainTimeout));
        } else {
            self.session.terminal_eof(&mut self.io);
        }
        self.settle(cx, key)
    }
}

impl Sessions {
    /// The program of a session has ended and was reaped.
    pub fn program_ended(&mut self, cx: &mut Context, key: Key, ended: SessionEnd) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        live.io.program = None;
        // The program's last output is in the terminal by now.
        if live.session.terminal_interest().read {
            live.read_terminal(cx, true, |_| false);
        }
        live.session.program_ended(ended, &mut live.io);
        if live.session.terminal_open() {
            cx.schedule(DRAIN, Timer::Terminal(key, TerminalTimer::DrainTimeout));
        }
        cx.push_outcome(Outcome::Settle(key));
    }

    /// Notifies clients that the gateway ends, as far as their connections take it at once. A
    /// handed-over terminal has the supervisor, which does that, and a client that can attach again
    /// reads no more than after a gateway that is killed.
    pub fn stop(&mut self, why: EndKind, line: &str) {
        let is_held = supervisor::supervisor_link::is_running();
        for LiveSession { session, io, .. } in self.values_mut() {
            let comes_back = why == EndKind::Lost && session.detach_state().is_some();
            let is_ours = !is_held || !(comes_back || session.is_handed_over());
            if is_ours && session.termination().is_none() {
                session.terminate(why, line, io);
            }
        }
    }
}

impl Core {
    /// Closes a session whose client has all output.
    pub fn close(&mut self, key: Key) {
        let Self { cx, sessions, processes } = self;
        if let Some(live) = sessions.end(cx, key) {
            let last = match live.session.is_extended() {
                true => CloseNotice::Packet { is_answered: false },
                false => {
                    // Closing a terminal takes a while: by then most clients have closed, and need
                    // not be waited for.
                    live.io.client.end();
                    CloseNotice::EofSent
                }
            };
            let client = processes.release(cx, key, *live);
            cx.close_lingering(client, last);
        }
    }

    /// Hangs a session up: its client is gone, or is dropped. A program that still runs gets
    /// SIGHUP, with its foreground job.
    pub fn hang_up(&mut self, key: Key) {
        if let Some(live) = self.sessions.end(&mut self.cx, key) {
            self.processes.release(&mut self.cx, key, *live);
        }
    }

    /// Ends a session that a panic was about.
    pub fn end_panicked(&mut self, key: Key) {
        self.forget_reaped(key);
        let Some(live) = self.sessions.get_mut(key) else {
            return;
        };
        // In the midst of pending output the text would be misread.
        if !live.session.has_output() && live.session.termination().is_none() {
            let line = format!("session ended: {INTERNAL_ERROR}");
            live.session.terminate(EndKind::Lost, &line, &mut live.io);
        }
        self.close(key);
    }

    /// Rejects a pending session that a panic was about.
    pub fn reject_panicked(&mut self, key: Key) {
        self.forget_reaped(key);
        self.reject(key, &Rejection::because(RejectReason::Resources, INTERNAL_ERROR));
    }

    /// Forgets a program that was reaped: its number may be another process's.
    fn forget_reaped(&mut self, key: Key) {
        let Self { sessions, processes, .. } = self;
        if let Some(live) = sessions.get_mut(key) {
            let is_there =
                |program: &ProcessHandle| !program.is_child() || processes.has(program.pid());
            live.io.program = live.io.program.take().filter(is_there);
        }
    }
}
