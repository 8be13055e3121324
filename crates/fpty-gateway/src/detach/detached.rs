//! A terminal without a client: its output is kept. A program that ends while
//! nobody is there.

use super::entry::Over;
use super::registry::{LOOK, Left, SOON};
use super::state::Remnants;
use super::viewers::because;
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::{Key, Source};
use crate::log::log;
use crate::observe::audit::Gone;
use crate::observe::recording::Recording;
use crate::process::hang_up::Copies;
use crate::process::supervisor::orphans::{REAPED, end_of};
use crate::process::table::Programs;
use crate::session::handover::HELD_UP;
use crate::session::relay::Sessions;
use fpty::proto::SessionEnd;
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::child::Exit;
use fpty::sys::clock::BootInstant;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::pty::Master;
use fpty::sys::{ReadOutcome, WriteOutcome};

/// What a terminal yields at once, how often one is asked in a turn, and how
/// often at its end.
const ONE_READ: usize = 4096;
const READS: usize = 4;
const LAST_READS: usize = 1024;

/// How much is read of all of them in [`SOON`]: programs that flood nobody's
/// terminal go on, and slowly.
const ENOUGH: usize = 256 * 1024;

/// What a program is told that asks what its terminal is: a VT220 with colours,
/// as most are.
const ANSWER: &[u8] = b"\x1b[?62;22c";

/// Reads what an ended program has left in its terminal.
pub(crate) fn read_the_rest(
    cx: &mut Context,
    master: &Master,
    remains: &mut ScrollbackWriter,
    recording: Option<&Recording>,
) {
    let _armed = master.arm();
    let buffer = &mut cx.buffer[..ONE_READ];
    for _ in 0..LAST_READS {
        let ReadOutcome::Bytes(count) = master.read(buffer) else { break };
        remains.write(&buffer[..count]);
        if let Some(recording) = recording {
            recording.output(&buffer[..count]);
        }
    }
}

impl Left {
    /// A terminal has something; it waits where there might be no room to record it.
    pub(crate) fn alone_ready(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        let entry = self.entries.get_mut(key);
        let Some(alone) = entry.and_then(|entry| entry.state.terminal_mut()) else {
            return;
        };
        if alone.recording.as_ref().is_some_and(|recording| recording.holds()) {
            // A hang-up is told again and again, asked for or not.
            let _ = self.poller.remove(&alone.master);
            alone.waits = true;
            return;
        }
        self.read_alone(cx, programs, key, READS);
    }

    /// There is room to record it again.
    pub fn alone_goes_on(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        let entry = self.entries.get_mut(key);
        let Some(alone) = entry.and_then(|entry| entry.state.terminal_mut()) else {
            return;
        };
        if !std::mem::take(&mut alone.waits) {
            return;
        }
        let token = Source::Terminal(key).token();
        if self.poller.add(&alone.master, token, Interest::READ).is_err() {
            return self.end_unpolled(cx, programs, key);
        }
        self.alone_ready(cx, programs, key);
    }

    /// The poller refuses to tell of its terminal.
    fn end_unpolled(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        if let Some(entry) = self.entries.get(key) {
            let id = &entry.id;
            log(&format!("forkptyrouter: session {id} ends: cannot wait for its terminal"));
        }
        self.end_left(cx, programs, key, Gone::Lost);
    }

    /// Reads on, at most so often.
    pub(crate) fn read_alone(
        &mut self,
        cx: &mut Context,
        programs: &mut Programs,
        key: Key,
        reads: usize,
    ) {
        let Self { entries, poller, taken, .. } = self;
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        let answers = cx.doors.rules(entry.door).is_some_and(|rules| rules.detach.answer);
        let Some(alone) = entry.state.terminal_mut() else {
            return;
        };
        let armed = alone.master.arm();
        let buffer = &mut cx.buffer[..ONE_READ];
        for _ in 0..reads {
            match alone.master.read(buffer) {
                ReadOutcome::Bytes(count) => {
                    *taken += count;
                    fault_injection::strike("left", || &buffer[..count]);
                    alone.remains.write(&buffer[..count]);
                    if let Some(recording) = &alone.recording {
                        recording.output(&buffer[..count]);
                    }
                }
                ReadOutcome::WouldBlock => break,
                ReadOutcome::Eof | ReadOutcome::Closed => {
                    // It may be opened again.
                    let _ = poller.remove(&alone.master);
                    alone.closed = Some(BootInstant::now() + LOOK);
                    break;
                }
            }
        }
        if alone.remains.take_da1_request() && answers {
            let written = alone.master.write(ANSWER);
            if let (Some(recording), WriteOutcome::Bytes(count)) = (&alone.recording, written) {
                recording.input(&ANSWER[..count]);
            }
        }
        let (is_closed, is_stalled) = (alone.closed.is_some(), alone.master.is_stalled());
        drop(armed);
        if is_stalled {
            cx.doors.log_refusal(&format!("forkptyrouter: {HELD_UP}"));
            return self.end_left(cx, programs, key, Gone::Operator);
        }
        if is_closed {
            self.arm(cx, key);
        }
        self.rests_where_enough(cx);
    }

    /// Programs that flood terminals which nobody sees leave the others their time.
    fn rests_where_enough(&mut self, cx: &mut Context) {
        if self.taken > ENOUGH && !std::mem::replace(&mut self.pauses, true) {
            let _ = cx.poller.change(&self.poller, Source::Left.token(), Interest::default());
            self.look_after(cx, SOON);
        }
    }

    /// A terminal was closed: it may have been opened again.
    pub(crate) fn alone_reopened(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Some(alone) = entry.state.terminal_mut() else {
            return;
        };
        alone.closed = None;
        let token = Source::Terminal(key).token();
        if self.poller.add(&alone.master, token, Interest::READ).is_err() {
            return self.end_unpolled(cx, programs, key);
        }
        self.alone_ready(cx, programs, key);
    }

    /// The program of a session that nobody is attached to has ended: what is left is
    /// kept for a while.
    pub fn alone_over(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
        exit: Option<Exit>,
        ended: SessionEnd,
    ) {
        // What it wrote last is there by now.
        self.read_alone(cx, programs, key, LAST_READS);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Some(alone) = entry.state.terminal_mut() else {
            return;
        };
        let _ = self.poller.remove(&alone.master);
        let recording = alone.recording.take();
        let ring = alone.remains.share_file();
        let why = exit.map_or(Gone::Lost, Gone::of_exit);
        let command = self.command_of(cx, key);
        self.unwatch(cx, key, &ended);
        cx.closed_without_client(key, why, exit, recording);
        let Ok(ring) = ring else {
            drop(self.remove(cx, key));
            return;
        };
        self.end_now(cx, sessions, programs, key, Over { ring, ended, command });
    }

    /// Ends a session that nobody is attached to; what is left of one that has
    /// ended is forgotten.
    pub fn end_left(&mut self, cx: &mut Context, programs: &mut Programs, key: Key, why: Gone) {
        let is_left = self.entries.get(key).is_some_and(|entry| entry.state.client().is_none());
        if is_left {
            self.unwatch(cx, key, &because(why));
        }
        let Some(entry) = is_left.then(|| self.remove(cx, key)).flatten() else {
            return;
        };
        let pid = entry.pid;
        let Remnants { program: Some(program), terminal: Some(alone), .. } =
            entry.state.forgotten()
        else {
            return;
        };
        // Others may have copies.
        let _ = self.poller.remove(&alone.master);
        let program = program.process(pid);
        cx.closed_without_client(key, why, None, alone.recording);
        // Clients that had it may have kept a copy.
        programs.hang_up_terminal(cx, &alone.master, program, Copies::Ended);
    }

    /// A program that is not our child has ended: whoever inherited it reaps it.
    pub(crate) fn adopted_is_over(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
    ) {
        let entry = self.entries.get_mut(key);
        let Some(program) = entry.and_then(|entry| entry.state.program_mut()) else {
            return;
        };
        if let Some(pidfd) = &program.pidfd {
            let _ = self.poller.remove(pidfd);
        }
        program.ending.get_or_insert_with(|| BootInstant::now() + REAPED);
        self.adopted_ended(cx, sessions, programs, key);
    }

    /// Its status may be known by now.
    pub(crate) fn adopted_ended(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
    ) {
        let entry = self.entries.get_mut(key);
        let Some(program) = entry.and_then(|entry| entry.state.program_mut()) else {
            return;
        };
        let exit = program.pidfd.as_ref().and_then(PidFd::exit);
        let is_late = program.ending.is_some_and(|until| BootInstant::now() >= until);
        if exit.is_none() && !is_late {
            return self.arm(cx, key);
        }
        program.ending = None;
        let ended = end_of(exit);
        match self.session_of(key) {
            Some(session) => {
                if let Some(exit) = exit {
                    sessions.exited(cx, session, exit);
                }
                self.tell_watchers(cx, session, &ended);
                sessions.program_ended(cx, session, ended);
            }
            None => self.alone_over(cx, sessions, programs, key, exit, ended),
        }
    }
}
