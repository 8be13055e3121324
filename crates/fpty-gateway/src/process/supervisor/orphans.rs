//! Sessions while there is no gateway that looks after them: between a killed one
//! and the next, and during a reload.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::end_lines::{self, Which};
use super::end_record::say;
use super::grace::hang_up_foreground;
use super::protocol::SessionFds;
use super::server::{Stored, Supervisor};
use crate::observe::audit::Gone;
use crate::observe::metrics::counters::Counters;
use fpty::exit_status::of_exit;
use fpty::proto::{Ended, Ending, HEADER};
use fpty::sys::Written;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller, Several};
use fpty::sys::process_session::Leader;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;

/// How long whoever inherited an ended program may take to reap it, and how
/// often that is looked after.
pub const REAPED: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// How a program ended that was not our child, as far as that is known.
pub fn end_of(exit: Option<Exit>) -> Ended {
    exit.map(of_exit).unwrap_or_else(|| {
        let why = "its gateway was killed, and this kernel does not tell a program's status";
        Ended::because(Ending::Lost, why)
    })
}

/// What becomes of such a session.
pub struct Orphan {
    /// Its program has it; its client has the next one.
    token: u64,
    /// When the program ended; its status is waited for.
    ended: Option<Instant>,
}

impl Orphan {
    /// A gateway looks after it again, or nobody has to: nothing of it is waited for
    /// any more.
    pub fn forget(self, poller: &Poller, watched: &mut HashMap<u64, String>, held: &SessionFds) {
        watched.remove(&self.token);
        for fd in [&held.program, &held.client].into_iter().flatten() {
            let _ = poller.remove(fd.as_fd());
        }
    }
}

fn program_of(stored: &Stored) -> Option<PidFd> {
    let copy = stored.held.program.as_ref()?.try_clone().ok()?;
    Some(PidFd::reopened(Pid::new(stored.record.pid)?, copy))
}

impl Supervisor {
    /// A gateway has ended: programs that end, and clients that leave, tell nobody
    /// else.
    pub(crate) fn orphan_sessions(&mut self, ordinal: usize) {
        // The end of what is recorded belongs into its recording: the next gateway has
        // both.
        let is_one = |stored: &Stored| {
            stored.is_of(ordinal)
                && stored.record.ended.is_none()
                && stored.record.recording.is_none()
        };
        let ids = self.sessions.iter().filter(|(_, stored)| is_one(stored));
        let ids: Vec<String> = ids.map(|(id, _)| id.clone()).collect();
        for id in ids {
            let token = self.token();
            let Some(stored) = self.sessions.get_mut(&id) else {
                continue;
            };
            let held = &stored.held;
            let program = held.program.as_ref();
            let is_heard =
                program.map(|program| self.poller.add(program.as_fd(), token, Interest::READ));
            // What cannot be waited for is looked at.
            let ended = (!matches!(is_heard, Some(Ok(())))).then(Instant::now);
            stored.orphan = Some(Orphan { token, ended });
            // One that can be left goes on without its client.
            if let Some(client) = held.client.as_ref().filter(|_| stored.record.bound) {
                let _ = self.poller.add(client.as_fd(), token + 1, Interest::default());
            }
            self.watched.insert(token, id);
        }
    }

    /// A program has ended, or a client has left.
    pub(crate) fn orphan_ready(&mut self, token: u64) {
        let is_program = self.watched.contains_key(&token);
        let number = if is_program { token } else { token.saturating_sub(1) };
        let Some(id) = self.watched.get(&number).cloned() else {
            return;
        };
        if !is_program {
            return self.client_disconnected(&id);
        }
        if let Some(stored) = self.sessions.get_mut(&id) {
            if let Some(program) = &stored.held.program {
                let _ = self.poller.remove(program.as_fd());
            }
            if let Some(orphan) = &mut stored.orphan {
                orphan.ended = Some(Instant::now());
            }
        }
    }

    /// Takes one out.
    fn take(&mut self, id: &str) -> Option<Stored> {
        let mut stored = self.sessions.remove(id)?;
        if let Some(orphan) = stored.orphan.take() {
            orphan.forget(&self.poller, &mut self.watched, &stored.held);
        }
        Some(stored)
    }

    /// The client has left. Our copy of its terminal is the last one.
    fn client_disconnected(&mut self, id: &str) {
        let Some(mut stored) = self.take(id) else {
            return;
        };
        self.end(&mut stored, Gone::Hangup, None);
        let terminal = stored.held.master.take().and_then(|it| Master::given_back(it, true).ok());
        if let Some(program) = program_of(&stored) {
            if let Some(terminal) = terminal {
                hang_up_foreground(&terminal, &program);
            }
            // Unless somebody else has it.
            self.grace.hang_up(Leader::from(program));
        }
    }

    /// Writes and counts how a session has ended.
    fn end(&self, stored: &mut Stored, why: Gone, exit: Option<Exit>) {
        let watchers = end_lines::take_left(stored.ordinal(), Which::OfWatchers);
        watchers.iter().for_each(|line| say(&self.log, line));
        stored.record.last.say(&self.log, why, exit);
        let lasted = Timestamp::from(stored.record.since).elapsed();
        Counters::at(stored.ordinal()).ended_elsewhere(why, lasted);
    }

    /// Does what is due; how long until the next time.
    pub(crate) fn look_after_orphans(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let is_told = |stored: &Stored| {
            let Some(ended) = stored.orphan.as_ref().and_then(|orphan| orphan.ended) else {
                return false;
            };
            program_of(stored)
                .is_none_or(|it| it.has_ended() && (now >= ended + REAPED || it.exit().is_some()))
        };
        let told = self.sessions.iter().filter(|(_, stored)| is_told(stored));
        let told: Vec<String> = told.map(|(id, _)| id.clone()).collect();
        for id in told {
            self.tell(&id);
        }
        let wait = self.grace.kill_over();
        let waits = |stored: &Stored| stored.orphan.as_ref().is_some_and(|it| it.ended.is_some());
        wait.or_else(|| self.sessions.values().any(waits).then_some(LOOK))
    }

    /// Tells how a program ended: the audit, its client, and, where whoever comes
    /// back is to be told, the next gateway.
    fn tell(&mut self, id: &str) {
        let Some(mut stored) = self.take(id) else {
            return;
        };
        let exit = program_of(&stored).and_then(|program| program.exit());
        let client = stored.held.client.take().map(Stream::of_stranger);
        let has_client = stored.record.bound || client.is_some();
        let why = match exit {
            Some(Exit::Status(_)) => Gone::Exit,
            // The kernel hangs a program up whose client has left, and that may be
            // heard of first.
            Some(Exit::Signal { number: libc::SIGHUP, .. })
                if has_client && has_left(client.as_ref()) =>
            {
                Gone::Hangup
            }
            Some(Exit::Signal { .. }) => Gone::Signal,
            None => Gone::Lost,
        };
        self.end(&mut stored, why, exit.filter(|_| why != Gone::Hangup));
        let packet = end_of(exit).packet();
        let is_told =
            client.is_some_and(|client| matches!(client.write(&packet), Written::Bytes(_)));
        if !is_told && !stored.record.bound && stored.held.has_output() {
            let now = Timestamp::now().into();
            stored.record.ended = Some((packet[HEADER..].to_vec(), now));
            stored.record.left.get_or_insert(now);
            stored.held.program = None;
            self.sessions.insert(id.to_owned(), stored);
        }
    }
}

/// Whether a session's client has closed its connection.
fn has_left(client: Option<&Stream>) -> bool {
    client.is_none_or(|client| {
        let mut polled = Several::default();
        let at = polled.add(client.as_fd(), false, false);
        polled.wait(Some(Duration::ZERO)).hung_up(at)
    })
}
