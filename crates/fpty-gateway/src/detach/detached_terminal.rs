//! Detached terminals: their output goes into the scrollback, and the program's end is kept.

use super::attach_state::ReleasedSession;
use super::detachable_session::ExitedSession;
use super::registry::{DetachRegistry, POLL_INTERVAL, RETRY_DELAY};
use super::viewers::end_for_viewers;
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::{Key, Token};
use crate::log::log;
use crate::observe::audit::EndReason;
use crate::observe::recording::RecordingTap;
use crate::process::hang_up::MasterCopies;
use crate::process::supervisor::orphan_sessions::{REAP_TIMEOUT, end_for_client};
use crate::session::handover::TERMINAL_BLOCKED;
use fpty::proto::SessionEnd;
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::child::Exit;
use fpty::sys::clock::BootInstant;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::pty::Master;
use fpty::sys::{ReadOutcome, WriteOutcome};

/// Most bytes of one read, reads of one terminal in a turn, and reads at its end.
const ONE_READ: usize = 4096;
const READS: usize = 4;
const LAST_READS: usize = 1024;

/// Bytes that are read of all detached terminals in [`RETRY_DELAY`]: programs that flood a terminal
/// which nobody sees go on, and slowly.
const FLOOD_LIMIT: usize = 256 * 1024;

/// Answer to a program that queries its terminal (DA1): a VT220 with colours, as most are.
const ANSWER: &[u8] = b"\x1b[?62;22c";

/// Drains the terminal of an ended program.
pub(crate) fn drain_terminal(
    cx: &mut Context,
    master: &Master,
    remains: &mut ScrollbackWriter,
    recording: Option<&RecordingTap>,
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

impl DetachRegistry {
    /// Handles an event of a detached terminal, unless the recorder may have no room for output.
    pub(crate) fn terminal_ready(&mut self, core: &mut Core, key: Key) {
        let entry = self.entries.get_mut(key);
        let Some(detached) = entry.and_then(|entry| entry.state.terminal_mut()) else {
            return;
        };
        if detached.recording.as_ref().is_some_and(|recording| recording.throttles()) {
            // A level-triggered hang-up is reported without end, asked for or not.
            let _ = self.poller.remove(&detached.master);
            detached.is_throttled = true;
            return;
        }
        self.read_terminal(core, key, READS);
    }

    /// Resumes reading when the recorder has room again.
    pub fn resume_reading(&mut self, core: &mut Core, key: Key) {
        let entry = self.entries.get_mut(key);
        let detached = entry.and_then(|entry| entry.state.terminal_mut());
        if detached.is_some_and(|detached| std::mem::take(&mut detached.is_throttled)) {
            self.register_again(core, key);
        }
    }

    /// Registers a terminal again that was not read, and reads it. A session whose terminal the
    /// poller refuses ends.
    pub(crate) fn register_again(&mut self, core: &mut Core, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Some(detached) = entry.state.terminal_mut() else {
            return;
        };
        // A slave that was closed may be open by now.
        detached.closed = None;
        let token = Token::Terminal(key).token();
        if self.poller.add(&detached.master, token, Interest::READ).is_err() {
            let id = &entry.id;
            log(&format!("forkptyrouter: session {id} ends: cannot wait for its terminal"));
            return self.end_detached(core, key, EndReason::Lost);
        }
        self.terminal_ready(core, key);
    }

    /// Reads a detached terminal, at most this often.
    pub(crate) fn read_terminal(&mut self, core: &mut Core, key: Key, reads: usize) {
        let Self { entries, poller, bytes_read, .. } = self;
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        let cx = &mut core.cx;
        let answers = cx.listeners.rules(entry.listener).is_some_and(|rules| rules.detach.answer);
        let Some(detached) = entry.state.terminal_mut() else {
            return;
        };
        let armed = detached.master.arm();
        let buffer = &mut cx.buffer[..ONE_READ];
        for _ in 0..reads {
            match detached.master.read(buffer) {
                ReadOutcome::Bytes(count) => {
                    *bytes_read += count;
                    fault_injection::panic_if_requested("left", || &buffer[..count]);
                    detached.remains.write(&buffer[..count]);
                    if let Some(recording) = &detached.recording {
                        recording.output(&buffer[..count]);
                    }
                }
                ReadOutcome::WouldBlock => break,
                ReadOutcome::Eof | ReadOutcome::Closed => {
                    // The slave may be opened again.
                    let _ = poller.remove(&detached.master);
                    detached.closed = Some(BootInstant::now() + POLL_INTERVAL);
                    break;
                }
            }
        }
        if detached.remains.take_da1_request() && answers {
            let written = detached.master.write(ANSWER);
            if let (Some(recording), WriteOutcome::Bytes(count)) = (&detached.recording, written) {
                recording.input(&ANSWER[..count]);
            }
        }
        let (is_closed, is_stalled) = (detached.closed.is_some(), detached.master.is_stalled());
        drop(armed);
        if is_stalled {
            core.cx.listeners.log_rejection(&format!("forkptyrouter: {TERMINAL_BLOCKED}"));
            return self.end_detached(core, key, EndReason::Operator);
        }
        if is_closed {
            self.schedule(&mut core.cx, key);
        }
        self.throttle_floods(&mut core.cx);
    }

    /// Throttles floods of output, so that live sessions have their time.
    fn throttle_floods(&mut self, cx: &mut Context) {
        if self.bytes_read > FLOOD_LIMIT && !std::mem::replace(&mut self.is_throttled, true) {
            let _ = cx.poller.change(&self.poller, Token::Detached.token(), Interest::default());
            self.wake_in(cx, RETRY_DELAY);
        }
    }

    /// The program of a detached session has ended: the session is kept as exited.
    pub fn detached_exited(
        &mut self,
        core: &mut Core,
        key: Key,
        exit: Option<Exit>,
        ended: SessionEnd,
    ) {
        // The program's last output is in the terminal by now.
        self.read_terminal(core, key, LAST_READS);
        let entry = self.entries.get_mut(key);
        let Some(detached) = entry.and_then(|entry| entry.state.terminal_mut()) else {
            return;
        };
        let _ = self.poller.remove(&detached.master);
        let recording = detached.recording.take();
        let ring = detached.remains.share_file();
        let why = exit.map_or(EndReason::Lost, EndReason::of_exit);
        let cx = &mut core.cx;
        let command = self.command_of(cx, key);
        self.end_viewers(cx, key, &ended);
        cx.closed_without_client(key, why, exit, recording);
        let Ok(ring) = ring else {
            drop(self.remove(cx, key));
            return;
        };
        self.set_exited(core, key, ExitedSession { ring, ended, command });
    }

    /// Ends a detached session; an exited one is forgotten.
    pub fn end_detached(&mut self, core: &mut Core, key: Key, why: EndReason) {
        let cx = &mut core.cx;
        let is_detached = self.entries.get(key).is_some_and(|entry| entry.state.client().is_none());
        if is_detached {
            self.end_viewers(cx, key, &end_for_viewers(why));
        }
        let Some(entry) = is_detached.then(|| self.remove(cx, key)).flatten() else {
            return;
        };
        let pid = entry.pid;
        let ReleasedSession { program: Some(program), terminal: Some(detached), .. } =
            entry.state.release()
        else {
            return;
        };
        // Other processes may have copies of the descriptor.
        let _ = self.poller.remove(&detached.master);
        let program = program.process(pid);
        cx.closed_without_client(key, why, None, detached.recording);
        // Clients that had the terminal may have kept a copy.
        core.processes.hang_up_terminal(cx, &detached.master, program, MasterCopies::Revoked);
    }

    /// The process of a restored session has ended: it is no child of this gateway, so whoever
    /// inherited it reaps it.
    pub(crate) fn restored_exited(&mut self, core: &mut Core, key: Key) {
        let entry = self.entries.get_mut(key);
        let Some(program) = entry.and_then(|entry| entry.state.program_mut()) else {
            return;
        };
        if let Some(pidfd) = &program.pidfd {
            let _ = self.poller.remove(pidfd);
        }
        program.status_deadline.get_or_insert_with(|| BootInstant::now() + REAP_TIMEOUT);
        self.check_restored_exit(core, key);
    }

    /// Reads the status of such a process, which may be known by now (PIDFD_INFO_EXIT).
    pub(crate) fn check_restored_exit(&mut self, core: &mut Core, key: Key) {
        let entry = self.entries.get_mut(key);
        let Some(program) = entry.and_then(|entry| entry.state.program_mut()) else {
            return;
        };
        let exit = program.pidfd.as_ref().and_then(PidFd::exit);
        let is_late = program.status_deadline.is_some_and(|until| BootInstant::now() >= until);
        if exit.is_none() && !is_late {
            return self.schedule(&mut core.cx, key);
        }
        program.status_deadline = None;
        let ended = end_for_client(exit);
        match self.session_of(key) {
            Some(session) => {
                let Core { cx, sessions, .. } = core;
                if let Some(exit) = exit {
                    sessions.exited(cx, session, exit);
                }
                self.tell_viewers(cx, session, &ended);
                sessions.program_ended(cx, session, ended);
            }
            None => self.detached_exited(core, key, exit, ended),
        }
    }
}
