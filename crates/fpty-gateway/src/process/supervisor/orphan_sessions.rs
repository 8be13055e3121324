//! Orphaned sessions: those without a gateway, between a killed one and the next, and during
//! a reload.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::end_lines::{self, LineSelection};
use super::end_record::write_line;
use super::grace::hang_up_foreground;
use super::supervisor_process::{SupervisedSession, Supervisor};
use super::supervisor_protocol::SessionFds;
use crate::observe::audit::EndReason;
use crate::observe::metrics::counters::Counters;
use fpty::exit_status::session_end;
use fpty::proto::{EndKind, HEADER, SessionEnd};
use fpty::sys::WriteOutcome;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::{self, Timestamp};
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, PollSet, Poller};
use fpty::sys::process_session::SessionLeader;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;

/// How long init may take to reap an ended program, and the interval of checks.
pub const REAP_TIMEOUT: Duration = Duration::from_secs(5);
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The END of a program that was not a child of ours.
pub fn end_for_client(exit: Option<Exit>) -> SessionEnd {
    exit.map(session_end).unwrap_or_else(|| {
        let why = "its gateway was killed, and this kernel does not tell a program's status";
        SessionEnd::new(EndKind::Lost, why)
    })
}

/// An orphaned session.
pub struct Orphan {
    /// The token of the session's program; its client has the next one.
    token: u64,
    /// Time at which the program ended; its status is pending.
    ended: Option<Instant>,
}

impl Orphan {
    /// Unregisters the session: a gateway has it again, or it has ended.
    pub fn forget(
        self,
        poller: &Poller,
        orphan_tokens: &mut HashMap<u64, String>,
        fds: &SessionFds,
    ) {
        orphan_tokens.remove(&self.token);
        for fd in [&fds.program, &fds.client].into_iter().flatten() {
            let _ = poller.remove(fd.as_fd());
        }
    }
}

fn program_of(supervised: &SupervisedSession) -> Option<PidFd> {
    let copy = supervised.fds.program.as_ref()?.try_clone().ok()?;
    Some(PidFd::reopened(Pid::new(supervised.record.pid)?, copy))
}

impl Supervisor {
    /// A gateway has ended: registers its sessions' programs and clients at the poller.
    pub(crate) fn orphan_sessions(&mut self, ordinal: usize) {
        // The end of what is recorded belongs into its recording: the next gateway has
        // both.
        let is_one = |supervised: &SupervisedSession| {
            supervised.ordinal == ordinal
                && supervised.record.ended.is_none()
                && supervised.record.recording.is_none()
        };
        let ids = self.sessions.iter().filter(|(_, supervised)| is_one(supervised));
        let ids: Vec<String> = ids.map(|(id, _)| id.clone()).collect();
        for id in ids {
            let token = self.token();
            let Some(supervised) = self.sessions.get_mut(&id) else {
                continue;
            };
            let fds = &supervised.fds;
            let program = fds.program.as_ref();
            let is_heard =
                program.map(|program| self.poller.add(program.as_fd(), token, Interest::READ));
            // What cannot be waited for is looked at.
            let ended = (!matches!(is_heard, Some(Ok(())))).then(Instant::now);
            supervised.orphan = Some(Orphan { token, ended });
            // One that can be detached goes on without its client.
            if let Some(client) = fds.client.as_ref().filter(|_| supervised.record.bound) {
                let _ = self.poller.add(client.as_fd(), token + 1, Interest::default());
            }
            self.orphan_tokens.insert(token, id);
        }
    }

    /// A program has ended, or a client has closed.
    pub(crate) fn orphan_ready(&mut self, token: u64) {
        let is_program = self.orphan_tokens.contains_key(&token);
        let number = if is_program { token } else { token.saturating_sub(1) };
        let Some(id) = self.orphan_tokens.get(&number).cloned() else {
            return;
        };
        if !is_program {
            return self.client_disconnected(&id);
        }
        if let Some(supervised) = self.sessions.get_mut(&id) {
            if let Some(program) = &supervised.fds.program {
                let _ = self.poller.remove(program.as_fd());
            }
            if let Some(orphan) = &mut supervised.orphan {
                orphan.ended = Some(clock::now());
            }
        }
    }

    /// Removes a session.
    fn take(&mut self, id: &str) -> Option<SupervisedSession> {
        let mut supervised = self.sessions.remove(id)?;
        if let Some(orphan) = supervised.orphan.take() {
            orphan.forget(&self.poller, &mut self.orphan_tokens, &supervised.fds);
        }
        Some(supervised)
    }

    /// A client has closed: the supervisor has the last copy of its terminal.
    fn client_disconnected(&mut self, id: &str) {
        let Some(mut supervised) = self.take(id) else {
            return;
        };
        self.end(&mut supervised, EndReason::Hangup, None);
        let terminal = supervised.fds.master.take().and_then(|it| Master::returned(it, true).ok());
        if let Some(program) = program_of(&supervised) {
            if let Some(terminal) = terminal {
                hang_up_foreground(&terminal, &program);
            }
            // Unless somebody else has it.
            self.grace.hang_up(SessionLeader::from(program));
        }
    }

    /// Writes the audit lines of an end, and counts it.
    fn end(&self, supervised: &mut SupervisedSession, why: EndReason, exit: Option<Exit>) {
        let watchers = end_lines::take_remaining(supervised.ordinal, LineSelection::Viewers);
        watchers.iter().for_each(|line| write_line(&self.log, line));
        supervised.record.last.write_line(&self.log, why, exit);
        let lasted = Timestamp::from(supervised.record.since).elapsed();
        Counters::at(supervised.ordinal).session_ended_elsewhere(why, lasted);
    }

    /// Handles what is due. Returns the time of the next check.
    pub(crate) fn look_after_orphans(&mut self) -> Option<Duration> {
        let now = clock::now();
        let is_told = |supervised: &SupervisedSession| {
            let Some(ended) = supervised.orphan.as_ref().and_then(|orphan| orphan.ended) else {
                return false;
            };
            program_of(supervised).is_none_or(|it| {
                it.has_ended() && (now >= ended + REAP_TIMEOUT || it.exit().is_some())
            })
        };
        let told = self.sessions.iter().filter(|(_, supervised)| is_told(supervised));
        let told: Vec<String> = told.map(|(id, _)| id.clone()).collect();
        for id in told {
            self.tell(&id);
        }
        let wait = self.grace.kill_expired();
        let waits = |supervised: &SupervisedSession| {
            supervised.orphan.as_ref().is_some_and(|it| it.ended.is_some())
        };
        wait.or_else(|| self.sessions.values().any(waits).then_some(CHECK_INTERVAL))
    }

    /// Reports the end of a program: to the audit, to its client, and where a client may
    /// attach again, to the next gateway.
    fn tell(&mut self, id: &str) {
        let Some(mut supervised) = self.take(id) else {
            return;
        };
        let exit = program_of(&supervised).and_then(|program| program.exit());
        let client = supervised.fds.client.take().map(Stream::of_stranger);
        let has_client = supervised.record.bound || client.is_some();
        let why = match exit {
            Some(Exit::Status(_)) => EndReason::Exit,
            // The kernel hangs a program up whose client has left, and that may be
            // heard of first.
            Some(Exit::Signal { number: libc::SIGHUP, .. })
                if has_client && has_left(client.as_ref()) =>
            {
                EndReason::Hangup
            }
            Some(Exit::Signal { .. }) => EndReason::Signal,
            None => EndReason::Lost,
        };
        self.end(&mut supervised, why, exit.filter(|_| why != EndReason::Hangup));
        let packet = end_for_client(exit).packet();
        let is_told =
            client.is_some_and(|client| matches!(client.write(&packet), WriteOutcome::Bytes(_)));
        if !is_told && !supervised.record.bound && supervised.fds.has_output() {
            let now = Timestamp::now().into();
            supervised.record.ended = Some((packet[HEADER..].to_vec(), now));
            supervised.record.detached_at.get_or_insert(now);
            supervised.fds.program = None;
            self.sessions.insert(id.to_owned(), supervised);
        }
    }
}

/// Whether a session's client has closed its connection.
fn has_left(client: Option<&Stream>) -> bool {
    client.is_none_or(|client| {
        let mut polled = PollSet::default();
        let at = polled.add(client.as_fd(), false, false);
        polled.wait(Some(Duration::ZERO)).hung_up(at)
    })
}
