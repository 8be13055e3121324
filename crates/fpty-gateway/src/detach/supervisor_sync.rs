//! Synchronisation with the supervisor, which keeps each session's record and descriptors for the
//! next gateway.

use std::os::fd::AsFd;

use super::no_detach;
use super::registry::{DetachRegistry, RETRY_DELAY};
use super::registry_entry::RegistryEntry;
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_domain::SessionRef;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Token};
use crate::process::process_table::ProcessTable;
use crate::process::supervisor::end_record::EndRecord;
use crate::process::supervisor::supervisor_protocol::{BorrowedFds, SessionFds, SessionRecord};
use fpty::sys::WriteOutcome;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;

/// Log line of a session that the supervisor has no room for.
const NOT_SUPERVISED: &str = "forkptyrouter: a session ends with its gateway: it could not be kept";

impl RegistryEntry {
    pub(crate) fn record(&self, (listener, nth): (&str, usize)) -> SessionRecord {
        let since = self.state.since().into();
        let (mut attached, mut left, mut ended) = (None, None, None);
        if let Some(client) = self.state.client() {
            attached = Some((client.uid, since));
        }
        if self.state.terminal().is_some() {
            left = Some(since);
        }
        if let Some(over) = self.state.exited() {
            left = Some(since);
            let payload = over.ended.packet().split_off(fpty::proto::HEADER);
            ended = Some((payload, since));
        }
        SessionRecord {
            id: self.id.as_ref().to_owned(),
            name: self.name.clone(),
            uid: self.uid,
            principal: Some(self.principal),
            secrets: self.secrets.save(),
            listener: listener.to_owned(),
            nth,
            pid: self.pid.as_raw(),
            since: self.since.into(),
            attached,
            left,
            ended,
            changed_at: self.state.since().boot.as_nanos(),
            shared: true,
            ..SessionRecord::default()
        }
    }
}

impl RegistryEntry {
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
            let session = processes.set_unsupervised(program).map(SessionRef::Session);
            let detached = self.index.by_program(program).map(SessionRef::Detached);
            if let Some(session_ref) = detached.or(session) {
                cx.audit.entrusted(session_ref, false);
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
        let handed_over = no_detach::handed_over_no_detach(sessions);
        let keys: Vec<Key> = self.entries.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.sync_supervisor(core, key);
        }
        for key in handed_over {
            core.cx.push_outcome(Outcome::Supervise(key));
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
            cx.audit.entrusted(session_ref, true);
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
}
