//! A session ends: its program has, or its client has left.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use super::relay::{LiveSession, SessionAction, Sessions};
use crate::connection::lingering_close::LastWord;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::panic_recovery::INTERNAL;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Due, TerminalDue};
use crate::process::supervisor;
use crate::process::table::Programs;
use fpty::proto::{Ended, Ending};
use fpty::sys::child::Pid;
use fpty::sys::pid_guard::Process;

/// How long the terminal of an ended program may stay silent before the end
/// is the end, where something else holds it open.
const DRAIN: Duration = Duration::from_millis(50);

/// How often it may have had something to say.
const DRAINS: u8 = 20;

/// Sessions that one turn ends at once; more of them wait until there is
/// nothing else to do.
const ENDED_PER_TURN: usize = 2;

/// Sessions whose clients have left, and that are still to be ended: closing
/// a terminal takes a while, and where a network breaks thousands leave in
/// one moment. Whoever types does not wait for that.
#[derive(Default)]
pub struct TeardownQueue {
    waiting: VecDeque<(Key, Box<LiveSession>)>,
    this_turn: usize,
}

impl TeardownQueue {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The programs of those who wait.
    pub fn programs(&self) -> impl Iterator<Item = Pid> {
        let program = |live: &LiveSession| live.io.program.as_ref().map(Process::pid);
        self.waiting.iter().filter_map(move |(_, live)| program(live))
    }
}

impl TeardownQueue {
    /// A client has left: its session ends, now or when it is its turn.
    pub fn teardown(
        &mut self,
        sessions: &mut Sessions,
        cx: &mut Context,
        programs: &mut Programs,
        key: Key,
    ) {
        // It may not have said so itself: over TCP the kernel is asked.
        if let Some(live) = sessions.get_mut(key) {
            live.session.client_disconnected();
        }
        let Some(mut live) = sessions.end(cx, key) else {
            return;
        };
        if self.this_turn < ENDED_PER_TURN && self.waiting.is_empty() {
            self.this_turn += 1;
            programs.release(cx, key, *live);
            return;
        }
        // Nobody has its tokens any more.
        let _ = cx.poller.remove(live.io.client.as_fd());
        live.unregister_terminal(&cx.poller);
        self.waiting.push_back((key, live));
    }

    /// Has some of the sessions end that wait for it, where the turn had no more
    /// events than it could take.
    pub fn run_teardowns(&mut self, cx: &mut Context, events: usize) {
        self.this_turn = 0;
        if events < cx.config.events as usize {
            for _ in 0..ENDED_PER_TURN.min(self.waiting.len()) {
                cx.then(Outcome::RunTeardown);
            }
        }
    }

    /// Lets the next one go.
    pub fn release_next(&mut self, cx: &mut Context, programs: &mut Programs) {
        if let Some((key, live)) = self.waiting.pop_front() {
            programs.release(cx, key, *live);
        }
    }
}

impl LiveSession {
    /// The program ended a while ago and its terminal is still open: another
    /// process has it. What the program wrote was delivered; what the other
    /// one writes is waited for only so long.
    pub fn drained(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        if !self.session.terminal_open() {
            return SessionAction::Wait;
        }
        // A client that is slow to read what there is gets its time.
        if self.session.has_output() {
            cx.after(DRAIN, Due::Terminal(key, TerminalDue::Drained));
            return SessionAction::Wait;
        }
        self.drains += 1;
        let spoke = self.read_terminal(cx, false, |_| false);
        if spoke && self.drains < DRAINS {
            cx.after(DRAIN, Due::Terminal(key, TerminalDue::Drained));
        } else {
            self.session.terminal_eof(&mut self.io);
        }
        self.settle(cx, key)
    }
}

impl Sessions {
    /// The program of a session has ended, and was reaped.
    pub fn program_ended(&mut self, cx: &mut Context, key: Key, ended: Ended) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        live.io.program = None;
        // What it wrote last is there by now.
        if live.session.terminal_interest().read {
            live.read_terminal(cx, true, |_| false);
        }
        live.session.program_ended(ended, &mut live.io);
        if live.session.terminal_open() {
            cx.after(DRAIN, Due::Terminal(key, TerminalDue::Drained));
        }
        cx.then(Outcome::Settle(key));
    }

    /// Ends a session whose client has all that it will get.
    pub fn close(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        if let Some(live) = self.end(cx, key) {
            let last = match live.session.is_extended() {
                true => LastWord::Packet { is_answered: false },
                false => {
                    // To close a terminal takes a while: by then most clients have closed,
                    // and need not be waited for.
                    live.io.client.end();
                    LastWord::Ended
                }
            };
            let client = programs.release(cx, key, *live);
            cx.close_when_read(client, last);
        }
    }

    /// Ends a session: its client has left, or is let go. A program that
    /// still runs is hung up, with its foreground job.
    pub fn hang_up(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        if let Some(live) = self.end(cx, key) {
            programs.release(cx, key, *live);
        }
    }

    /// Tells whoever is relayed for that the gateway is to end, as far as that is
    /// taken at once. Terminals that were handed over have somebody else who does, and
    /// who can come back is no more told of this than of a gateway that is killed.
    pub fn stop(&mut self, why: Ending, line: &str) {
        let keys: Vec<Key> = self.iter().map(|(key, _)| key).collect();
        let is_held = supervisor::link::is_held();
        for key in keys {
            let is_ours = |live: &&mut LiveSession| {
                let session = &live.session;
                let comes_back = why == Ending::Lost && session.detach_state().is_some();
                !is_held || !(comes_back || session.is_handed_over())
            };
            if let Some(live) = self.get_mut(key).filter(is_ours) {
                if live.session.termination().is_none() {
                    live.session.terminate(why, line, &mut live.io);
                }
            }
        }
    }
}

impl Sessions {
    /// A session ends for no fault of its own.
    pub fn end_panicked(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        self.forget_reaped(programs, key);
        let Some(live) = self.get_mut(key) else {
            return;
        };
        // In the midst of output that it does not read it would be misread.
        if !live.session.has_output() && live.session.termination().is_none() {
            let line = format!("session ended: {INTERNAL}");
            live.session.terminate(Ending::Lost, &line, &mut live.io);
        }
        self.close(cx, programs, key);
    }

    /// A program that was reaped has no number any more.
    pub fn forget_reaped(&mut self, programs: &Programs, key: Key) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        let is_there = |program: &Process| !program.is_child() || programs.has(program.pid());
        live.io.program = live.io.program.take().filter(is_there);
    }
}
