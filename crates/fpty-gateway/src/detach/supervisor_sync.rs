//! Synchronisation with the supervisor, which keeps each session's record and descriptors for the
//! next gateway: of sessions that can be detached, and of those that end with their client, but
//! whose client has their terminal for good.

use std::os::fd::AsFd;
use std::time::Duration;

use super::detachable_session::{DetachableSession, ExitedSession};
use super::registry::{DetachRegistry, RETRY_DELAY};
use crate::connection::session_access::uid_of;
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Token};
use crate::event_loop::timers::Timer;
use crate::observe::audit::EndReason;
use crate::process::process_table::ProcessTable;
use crate::process::supervisor::end_record::EndRecord;
use crate::process::supervisor::supervisor_protocol::{BorrowedFds, SessionFds, SessionRecord};
use crate::session::relay::{LiveSession, SessionIo};
use crate::session::session_ref::SessionRef;
use fpty::fair_share::Principal;
use fpty::sys::child::Exit;
use fpty::sys::clock::Timestamp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::{WriteOutcome, procfs};

/// Delay before a busy supervisor is asked again.
const SUPERVISE_RETRY: Duration = Duration::from_millis(5);

/// Log line of a session that the supervisor has no room for.
const NOT_SUPERVISED: &str = "forkptyrouter: a session ends with its gateway: it could not be kept";

impl DetachableSession {
    /// The record of the session for the supervisor.
    pub(crate) fn record(&self, (listener, nth): (&str, usize)) -> SessionRecord {
        let since = self.state.since().into();
        let client = self.state.client();
        let payload = |over: &ExitedSession| over.ended.packet().split_off(fpty::proto::HEADER);
        SessionRecord {
            id: self.id.as_ref().to_owned(),
            name: self.name.clone(),
            uid: self.uid,
            principal: Some(self.principal),
            secrets: self.secrets.clone(),
            listener: listener.to_owned(),
            nth,
            pid: self.pid.as_raw(),
            since: self.since.into(),
            attached: client.map(|client| (client.uid, since)),
            detached_at: client.is_none().then_some(since),
            ended: self.state.exited().map(|over| (payload(over), since)),
            changed_at: self.state.since().boot.as_nanos(),
            shared: true,
            ..SessionRecord::default()
        }
    }

    /// Opens the descriptors for the supervisor that were not worth it before: the pidfd of a child
    /// that was not reaped, and the scrollback's file.
    ///
    /// # Errors
    /// There is no descriptor or memory now.
    fn open_for_supervisor(&mut self, processes: &ProcessTable) -> Result<Option<PidFd>, ()> {
        if let Some(detached) = self.state.terminal_mut() {
            detached.remains.open_file().map_err(drop)?;
        }
        let is_ours = self.state.program().is_some() && self.restored_pidfd().is_none();
        match is_ours && processes.has(self.pid) {
            true => PidFd::open(self.pid).map(Some).ok_or(()),
            false => Ok(None),
        }
    }

    /// Closes the scrollback's file: two descriptors are enough for a detached session, of which
    /// there may be thousands. A viewer has a copy of the file, and is to see more.
    fn close_ring_file(&mut self) {
        if self.restored_pidfd().is_some() && self.viewers == 0 {
            if let Some(detached) = self.state.terminal_mut() {
                detached.remains.close_file();
            }
        }
    }
}

impl DetachRegistry {
    /// Registers the supervisor's connection with the registry's poller.
    pub(crate) fn watch_supervisor(&self) {
        if let Some(stream) = self.supervisor.stream() {
            let _ = self.poller.add(stream.as_fd(), Token::Children.token(), Interest::READ);
        }
    }

    /// Handles an event of the supervisor: a session that it could not keep, or its death, after
    /// which a new supervisor is told of everything.
    pub fn supervisor_ready(&mut self, core: &mut Core) {
        let Core { cx, sessions, processes } = core;
        while let Some(program) = self.supervisor.next_rejected() {
            let session = processes.set_unsupervised(program);
            let detached = self.index.by_program(program).map(SessionRef::Detached);
            if let Some(session_ref) = detached.or(session) {
                cx.audit.set_supervised(session_ref, false);
            }
            cx.listeners.log_rejection(NOT_SUPERVISED);
        }
        let stream = self.supervisor.stream();
        if stream.is_some_and(|stream| !stream.has_hung_up()) {
            return;
        }
        processes.supervisor_lost();
        cx.audit.supervisor_lost();
        if let Some(stream) = stream {
            let _ = self.poller.remove(stream.as_fd());
        }
        // This gateway still has all sessions that the supervisor could return.
        let _ = self.supervisor.connect();
        self.watch_supervisor();
        let is_one = |live: &LiveSession| {
            live.session.is_handed_over() && live.session.detach_state().is_none()
        };
        let handed_over = sessions.iter().filter(|(_, live)| is_one(live));
        for (key, _) in handed_over {
            cx.push_outcome(Outcome::Supervise(key));
        }
        let keys: Vec<Key> = self.entries.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.sync_supervisor(core, key);
        }
    }

    /// Tells the supervisor that a session is over, now or when it reads again.
    pub fn unregister(&mut self, cx: &mut Context, id: String) {
        if self.supervisor.send_ended(id) {
            self.wake_in(cx, RETRY_DELAY);
        }
    }

    /// Stores the current state of a session at the supervisor.
    pub fn sync_supervisor(&mut self, core: &mut Core, entry: Key) {
        let Core { cx, sessions, processes } = core;
        let Some(found) = self.entries.get_mut(entry).filter(|found| found.no_detach.is_none())
        else {
            return;
        };
        let Ok(client_request) = found.open_for_supervisor(processes) else {
            found.dirty = true;
            return self.schedule(cx, entry);
        };
        let mut record = found.record(cx.listeners.address(found.listener).unwrap_or_default());
        let client = found.state.client();
        let session_ref =
            client.map_or(SessionRef::Detached(entry), |it| SessionRef::Session(it.session));
        record.command = match found.state.exited() {
            Some(over) => over.command.as_deref().map(str::to_owned),
            None => cx.command_of(session_ref, found.listener),
        };
        record.last = EndRecord::new(cx.audit.prepared_end(session_ref));
        record.history = cx.audit.history(session_ref);
        let program = found.restored_pidfd().or(client_request.as_ref()).map(AsFd::as_fd);
        let attached = client.and_then(|client| sessions.get(client.session));
        let held = match (found.state.exited(), found.state.terminal(), attached) {
            (Some(over), ..) => {
                BorrowedFds { ring: Some(over.ring.as_fd()), ..SessionFds::default() }
            }
            (_, Some(detached), _) => {
                record.shared = detached.master.is_shared();
                record.recording = detached.recording.as_ref().map(|recording| recording.state());
                let (master, ring) =
                    (Some(detached.master.as_fd()), detached.remains.shared_file());
                BorrowedFds { master, program, ring, ..SessionFds::default() }
            }
            (_, _, Some(attached)) => {
                let Some(detach_state) = attached.session.detach_state() else {
                    return;
                };
                let io = &attached.io;
                record.shared = io.master.is_shared() || !detach_state.relay_only;
                record.recording = io.recording().map(|recording| recording.state());
                // A relayed session cannot go on with its client: output under way would be lost.
                let is_handed_over = attached.session.is_handed_over();
                BorrowedFds {
                    master: Some(io.master.as_fd()),
                    program,
                    ring: detach_state.remains.shared_file(),
                    client: is_handed_over.then(|| io.client.as_fd()),
                    memory: None,
                }
            }
            (None, None, None) => return,
        };
        let told = self.supervisor.send_session(&record, &held);
        if matches!(told, WriteOutcome::Bytes(_)) {
            cx.audit.set_supervised(session_ref, true);
        }
        found.dirty = told == WriteOutcome::WouldBlock;
        let pid = found.pid;
        match told {
            WriteOutcome::WouldBlock => self.schedule(cx, entry),
            WriteOutcome::Bytes(_) => {
                found.close_ring_file();
                processes.set_supervised(pid);
            }
            WriteOutcome::Closed => {}
        }
    }

    /// Stores a detachable session at the supervisor whose terminal was handed over, then sends GO.
    /// Whether the session is detachable.
    pub fn hand_over_detachable(&mut self, core: &mut Core, session: Key) -> bool {
        let Some(entry) = self.index.by_session(session) else {
            return false;
        };
        if let Some(found) = self.entries.get_mut(entry) {
            found.state.confirm_attach();
            found.secrets.confirm();
        }
        self.sync_supervisor(core, entry);
        core.sessions.send_go(session);
        core.cx.push_outcome(Outcome::Settle(session));
        true
    }

    /// Hands a session to the supervisor whose terminal was handed over for good. The supervisor is
    /// started by now where it was not worth it before.
    pub fn supervise(&mut self, core: &mut Core, session: Key) {
        let Core { cx, sessions, processes } = core;
        let Some(live) = sessions.get(session) else {
            return;
        };
        let Some(record) = self.no_detach_record(cx, live, session) else {
            return;
        };
        if self.supervisor.connect_if_needed() {
            self.watch_supervisor();
        }
        let SessionIo { client, master, program: Some(program), .. } = &live.io else {
            return;
        };
        let Some(pidfd) = program.pidfd() else {
            return;
        };
        let held = BorrowedFds {
            master: Some(master.as_fd()),
            program: Some(pidfd.as_fd()),
            client: Some(client.as_fd()),
            ..SessionFds::default()
        };
        match self.supervisor.send_session(&record, &held) {
            WriteOutcome::Bytes(_) => {
                processes.set_supervised(pidfd.pid());
                cx.audit.set_supervised(SessionRef::Session(session), true);
            }
            WriteOutcome::WouldBlock => cx.schedule(SUPERVISE_RETRY, Timer::Entrust(session)),
            // The session ends with this gateway, as without a supervisor.
            WriteOutcome::Closed => {}
        }
    }

    fn no_detach_record(
        &self,
        cx: &mut Context,
        live: &LiveSession,
        session: Key,
    ) -> Option<SessionRecord> {
        let session_ref = SessionRef::Session(session);
        let info = cx.audit.of(session_ref);
        let pid = live.io.program.as_ref()?.pid().as_raw();
        let started = info.map(|info| info.started);
        let started = started.or_else(|| procfs::started(pid).map(Timestamp::from));
        let (listener, nth) = cx.listeners.address(live.listener).unwrap_or_default();
        let known = self.index.by_session(session).and_then(|entry| self.entries.get(entry));
        Some(SessionRecord {
            id: known.map_or_else(|| cx.ids.of(session), |entry| entry.id.as_ref().to_owned()),
            uid: uid_of(&live.io.client),
            principal: Some(Principal::of(&live.io.client)),
            listener: listener.to_owned(),
            nth,
            pid,
            since: started.unwrap_or_else(Timestamp::now).into(),
            history: cx.audit.history(session_ref),
            last: EndRecord::new(cx.audit.prepared_end(session_ref)),
            command: cx.command_of(session_ref, live.listener),
            bound: true,
            ..SessionRecord::default()
        })
    }

    /// A session with a client is closed. Its end line is written here where its socket exists no
    /// more.
    pub fn session_closed(
        &mut self,
        cx: &mut Context,
        session: Key,
        (why, exit): (EndReason, Option<Exit>),
        was_supervised: bool,
    ) {
        let Some(key) = self.index.by_session(session) else {
            // Registered sessions tell the supervisor themselves.
            if was_supervised {
                self.unregister(cx, cx.ids.of(session));
            }
            return;
        };
        let entry = self.entries.get_mut(key);
        if let Some(bound) = entry.and_then(|entry| entry.no_detach.as_mut()) {
            if let Some(prepared_line) = bound.prepared_line.take() {
                cx.audit.remove_prepared(prepared_line);
            }
            if bound.socket.is_some() {
                bound.last.take(why, exit).into_iter().for_each(|line| cx.audit.write_raw(line));
            }
        }
        self.forget_entry(cx, key);
    }
}
