//! A session ends: its program has, or its client has left.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use super::relay::{Attached, Next, Sessions};
use crate::connection::lingering_close::LastWord;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::panic_recovery::INTERNAL;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Due, TerminalDue};
use crate::process::supervisor;
use crate::process::table::Programs;
use fpty::proto::{EndKind, SessionEnd};
use fpty::sys::child::Pid;
use fpty::sys::process_handle::ProcessHandle;

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
pub struct Departures {
    waiting: VecDeque<(Key, Box<Attached>)>,
    this_turn: usize,
}

impl Departures {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The programs of those who wait.
    pub fn programs(&self) -> impl Iterator<Item = Pid> {
        let program = |attached: &Attached| attached.wires.program.as_ref().map(ProcessHandle::pid);
        self.waiting.iter().filter_map(move |(_, attached)| program(attached))
    }
}

impl Departures {
    /// A client has left: its session ends, now or when it is its turn.
    pub fn depart(
        &mut self,
        sessions: &mut Sessions,
        cx: &mut Context,
        programs: &mut Programs,
        key: Key,
    ) {
        // It may not have said so itself: over TCP the kernel is asked.
        if let Some(attached) = sessions.get_mut(key) {
            attached.session.client_left();
        }
        let Some(mut attached) = sessions.end(cx, key) else {
            return;
        };
        if self.this_turn < ENDED_PER_TURN && self.waiting.is_empty() {
            self.this_turn += 1;
            programs.let_go(cx, key, *attached);
            return;
        }
        // Nobody has its tokens any more.
        let _ = cx.poller.remove(attached.wires.client.as_fd());
        attached.forget_terminal(&cx.poller);
        self.waiting.push_back((key, attached));
    }

    /// Has some of the sessions end that wait for it, where the turn had no more
    /// events than it could take.
    pub fn part(&mut self, cx: &mut Context, events: usize) {
        self.this_turn = 0;
        if events < cx.config.events as usize {
            for _ in 0..ENDED_PER_TURN.min(self.waiting.len()) {
                cx.then(Outcome::LetGo);
            }
        }
    }

    /// Lets the next one go.
    pub fn let_go(&mut self, cx: &mut Context, programs: &mut Programs) {
        if let Some((key, attached)) = self.waiting.pop_front() {
            programs.let_go(cx, key, *attached);
        }
    }
}

impl Attached {
    /// The program ended a while ago and its terminal is still open: another
    /// process has it. What the program wrote was delivered; what the other
    /// one writes is waited for only so long.
    pub fn drained(&mut self, cx: &mut Context, key: Key) -> Next {
        if !self.session.terminal_open() {
            return Next::Waits;
        }
        // A client that is slow to read what there is gets its time.
        if self.session.has_output() {
            cx.after(DRAIN, Due::Terminal(key, TerminalDue::Drained));
            return Next::Waits;
        }
        self.drains += 1;
        let spoke = self.read_terminal(cx, false, |_| false);
        if spoke && self.drains < DRAINS {
            cx.after(DRAIN, Due::Terminal(key, TerminalDue::Drained));
        } else {
            self.session.terminal_ended(&mut self.wires);
        }
        self.settle(cx, key)
    }
}

impl Sessions {
    /// The program of a session has ended, and was reaped.
    pub fn program_ended(&mut self, cx: &mut Context, key: Key, ended: SessionEnd) {
        let Some(attached) = self.get_mut(key) else {
            return;
        };
        attached.wires.program = None;
        // What it wrote last is there by now.
        if attached.session.terminal_interest().read {
            attached.read_terminal(cx, true, |_| false);
        }
        attached.session.program_ended(ended, &mut attached.wires);
        if attached.session.terminal_open() {
            cx.after(DRAIN, Due::Terminal(key, TerminalDue::Drained));
        }
        cx.then(Outcome::Settle(key));
    }

    /// Ends a session whose client has all that it will get.
    pub fn close(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        if let Some(attached) = self.end(cx, key) {
            let last = match attached.session.is_extended() {
                true => LastWord::Packet { is_answered: false },
                false => {
                    // To close a terminal takes a while: by then most clients have closed,
                    // and need not be waited for.
                    attached.wires.client.end();
                    LastWord::Ended
                }
            };
            let client = programs.let_go(cx, key, *attached);
            cx.close_when_read(client, last);
        }
    }

    /// Ends a session: its client has left, or is let go. A program that
    /// still runs is hung up, with its foreground job.
    pub fn abandon(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        if let Some(attached) = self.end(cx, key) {
            programs.let_go(cx, key, *attached);
        }
    }

    /// Tells whoever is relayed for that the gateway is to end, as far as that is
    /// taken at once. Terminals that were handed over have somebody else who does, and
    /// who can come back is no more told of this than of a gateway that is killed.
    pub fn stop(&mut self, why: EndKind, line: &str) {
        let keys: Vec<Key> = self.iter().map(|(key, _)| key).collect();
        let is_held = supervisor::link::is_held();
        for key in keys {
            let is_ours = |attached: &&mut Attached| {
                let session = &attached.session;
                let comes_back = why == EndKind::Lost && session.kept().is_some();
                !is_held || !(comes_back || session.is_handed_over())
            };
            if let Some(attached) = self.get_mut(key).filter(is_ours) {
                if attached.session.dismissed().is_none() {
                    attached.session.dismiss(why, line, &mut attached.wires);
                }
            }
        }
    }
}

impl Sessions {
    /// A session ends for no fault of its own.
    pub fn end_panicked(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        self.forget_reaped(programs, key);
        let Some(attached) = self.get_mut(key) else {
            return;
        };
        // In the midst of output that it does not read it would be misread.
        if !attached.session.has_output() && attached.session.dismissed().is_none() {
            let line = format!("session ended: {INTERNAL}");
            attached.session.dismiss(EndKind::Lost, &line, &mut attached.wires);
        }
        self.close(cx, programs, key);
    }

    /// A program that was reaped has no number any more.
    pub fn forget_reaped(&mut self, programs: &Programs, key: Key) {
        let Some(attached) = self.get_mut(key) else {
            return;
        };
        let is_there = |program: &ProcessHandle| !program.is_child() || programs.has(program.pid());
        attached.wires.program = attached.wires.program.take().filter(is_there);
    }
}
