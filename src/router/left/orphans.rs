//! Sessions whose terminal their client has, while there is no gateway that looks
//! after them: between a killed one and the next, and during a reload.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::holder::{Holder, Stored};
use super::record::{Bound, Held};
use crate::router::told::Gone;
use fpty::ended::of_exit;
use fpty::proto::{Ended, Ending};
use fpty::sys::child::{Exit, Pid};
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller, Several};
use fpty::sys::sessions::{Leader, SessionKiller};
use fpty::sys::socket::Stream;

/// How long whoever inherited an ended program may take to reap it, and how
/// often that is looked after.
const REAPED: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// What becomes of such a session.
pub struct Orphan {
    /// Its program has it; its client has the next one.
    pub token: u64,
    /// When the program ended; its status is waited for.
    ended: Option<Instant>,
}

/// Nothing of it is waited for any more.
pub fn forget(poller: &Poller, held: &Held) {
    for fd in [&held.program, &held.client].into_iter().flatten() {
        let _ = poller.remove(fd.as_fd());
    }
}

fn program_of(stored: &Stored) -> Option<PidFd> {
    let copy = stored.held.program.as_ref()?.try_clone().ok()?;
    Some(PidFd::reopened(Pid::new(stored.record.pid)?, copy))
}

impl Holder {
    /// A gateway has ended: clients that leave tell nobody else.
    pub(super) fn are_orphans(&mut self, ordinal: usize) {
        let is_one = |stored: &Stored| stored.record.bound.is_some() && stored.is_of(ordinal);
        let ids = self.sessions.iter().filter(|(_, stored)| is_one(stored));
        let ids: Vec<String> = ids.map(|(id, _)| id.clone()).collect();
        for id in ids {
            let token = self.token();
            let Some(stored) = self.sessions.get_mut(&id) else {
                continue;
            };
            stored.orphan = Some(Orphan { token, ended: None });
            if let Some(program) = &stored.held.program {
                let _ = self.poller.add(program.as_fd(), token, Interest::READ);
            }
            if let Some(client) = &stored.held.client {
                let _ = self.poller.add(client.as_fd(), token + 1, Interest::default());
            }
            self.watched.insert(token, id);
        }
    }

    /// A program has ended, or a client has left.
    pub(super) fn orphan_ready(&mut self, token: u64) {
        let is_program = self.watched.contains_key(&token);
        let number = if is_program { token } else { token.saturating_sub(1) };
        let Some(id) = self.watched.get(&number).cloned() else {
            return;
        };
        if !is_program {
            return self.client_left(&id);
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
    fn take(&mut self, id: &str) -> Option<(Stored, Bound)> {
        let mut stored = self.sessions.remove(id)?;
        forget(&self.poller, &stored.held);
        if let Some(orphan) = &stored.orphan {
            self.watched.remove(&orphan.token);
        }
        let bound = stored.record.bound.take()?;
        Some((stored, bound))
    }

    /// The client has left. Our copy of its terminal is the last one.
    fn client_left(&mut self, id: &str) {
        let Some((mut stored, mut bound)) = self.take(id) else {
            return;
        };
        bound.last.say(&self.log, Gone::Hangup, None);
        stored.held.master = None;
        let Some(program) = program_of(&stored) else {
            return;
        };
        // Unless somebody else has it.
        program.signal(libc::SIGHUP);
        program.signal(libc::SIGCONT);
        if let Some(grace) = self.grace {
            self.doomed.push((Instant::now() + grace, program));
        }
    }

    /// Does what is due; how long until the next time.
    pub(super) fn look_at_orphans(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let is_told = |stored: &Stored| {
            let Some(ended) = stored.orphan.as_ref().and_then(|orphan| orphan.ended) else {
                return false;
            };
            now >= ended + REAPED || program_of(stored).is_none_or(|it| it.exit().is_some())
        };
        let told = self.sessions.iter().filter(|(_, stored)| is_told(stored));
        let told: Vec<String> = told.map(|(id, _)| id.clone()).collect();
        for id in told {
            self.tell(&id);
        }
        self.doomed.retain(|(_, program)| !program.has_ended());
        let (due, rest): (Vec<_>, Vec<_>) = self.doomed.drain(..).partition(|(at, _)| now >= *at);
        self.doomed = rest;
        if !due.is_empty() {
            let leaders = due.into_iter().map(|(_, program)| Leader::from(program));
            SessionKiller::new(leaders).step(usize::MAX);
        }
        let waits = |stored: &Stored| stored.orphan.as_ref().is_some_and(|it| it.ended.is_some());
        (!self.doomed.is_empty() || self.sessions.values().any(waits)).then_some(LOOK)
    }

    /// Tells a client how its program ended.
    fn tell(&mut self, id: &str) {
        let Some((stored, mut bound)) = self.take(id) else {
            return;
        };
        let exit = program_of(&stored).and_then(|program| program.exit());
        let client = stored.held.client.map(Stream::of_stranger);
        let why = match exit {
            Some(Exit::Status(_)) => Gone::Exit,
            // The kernel hangs a program up whose client has left, and that may be
            // heard of first.
            Some(Exit::Signal { number: libc::SIGHUP, .. }) if has_left(client.as_ref()) => {
                Gone::Hangup
            }
            Some(Exit::Signal { .. }) => Gone::Signal,
            None => Gone::Lost,
        };
        bound.last.say(&self.log, why, exit.filter(|_| why != Gone::Hangup));
        let ended = exit.map(of_exit).unwrap_or_else(|| {
            let why = "its gateway was killed, and this kernel does not tell a program's status";
            Ended::because(Ending::Lost, why)
        });
        if let Some(client) = client {
            let _ = client.write(&ended.packet());
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
