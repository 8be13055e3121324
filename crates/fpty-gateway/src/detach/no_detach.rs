//! Sessions that cannot be detached, and whose terminal their client has for good: they end with
//! the client, and outlive the gateway all the same. The supervisor has their descriptors, and the
//! next gateway goes on with them.

use std::os::fd::AsFd;
use std::time::Duration;

use super::attach_state::AttachState;
use super::registry::DetachRegistry;
use super::registry_entry::{Client, NoDetach, Program, RegistryEntry, terminal_size};
use super::restore::{check_recording, hang_up, restored_entry};
use crate::connection::session_access::{UNKNOWN_UID, uid_of};
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_domain::SessionRef;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timer;
use crate::observe::audit::EndReason;
use crate::observe::recording::Recordings;
use crate::process::supervisor::end_record::EndRecord;
use crate::process::supervisor::supervisor_protocol::{BorrowedFds, SessionFds, SessionRecord};
use crate::session::lifecycle::RestoredInfo;
use crate::session::relay::{LiveSession, SessionIo, Sessions};
use crate::session::state::Session;
use fpty::fair_share::Principal;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::{WriteOutcome, procfs};

/// Delay before a busy supervisor is asked again.
const SUPERVISE_RETRY: Duration = Duration::from_millis(5);

/// Index of no socket.
const NO_LISTENER: u16 = u16::MAX;

/// Information of a session's record, without socket and size.
pub(crate) fn restored_info(record: &SessionRecord) -> RestoredInfo {
    RestoredInfo {
        history: record.history.clone(),
        command: record.command.clone(),
        started: Timestamp::from(record.since),
        listener: NO_LISTENER,
        size: terminal_size(None),
        uid: record.uid,
        // The field is missing in records of an earlier version.
        principal: record.principal.unwrap_or(match record.uid {
            UNKNOWN_UID => Principal::Unknown,
            uid => Principal::User(uid),
        }),
        id: record.id.clone(),
        pid: Pid::new(record.pid),
    }
}

impl DetachRegistry {
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
                cx.audit.entrusted(SessionRef::Session(session), true);
            }
            WriteOutcome::WouldBlock => cx.schedule(SUPERVISE_RETRY, Timer::Entrust(session)),
            // The session ends with this gateway, as without a supervisor.
            WriteOutcome::Closed => {}
        }
    }

    /// Tells the supervisor that a session is closed.
    pub fn no_longer_supervised(&mut self, cx: &mut Context, session: Key) {
        // Registered sessions tell the supervisor themselves.
        if self.index.by_session(session).is_none() {
            self.unregister(cx, cx.ids.of(session));
        }
    }

    fn no_detach_record(
        &self,
        cx: &Context,
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

    /// Restores a session: its client goes on with the terminal, and notices nothing.
    pub(crate) fn restore_no_detach(
        &mut self,
        core: &mut Core,
        recorder: Option<&mut Recordings>,
        record: SessionRecord,
        held: SessionFds,
    ) -> Option<()> {
        let cx = &mut core.cx;
        let info = restored_info(&record);
        let SessionRecord { id, uid, listener: socket, nth, pid, mut last, .. } = record;
        let (pid, listener) = (Pid::new(pid)?, cx.listeners.by_address(&socket, nth));
        let SessionFds {
            master: Some(master), program: Some(program), client: Some(client), ..
        } = held
        else {
            self.unregister(cx, id);
            return None;
        };
        let master = Master::returned(master, true).ok()?;
        let program = PidFd::reopened(pid, program);
        let process = ProcessHandle::from_pidfd(program.try_clone().ok()?);
        let size = terminal_size(Some(&master));
        let client = Stream::of_stranger(client);
        let at = listener.unwrap_or(NO_LISTENER);
        let info = RestoredInfo { listener: at, size, ..info };
        if let Some(why) = check_recording(cx, at, &id) {
            let _ = client.write(&why.packet());
            self.unregister(cx, id);
            let last = last.take(EndReason::Lost, None);
            hang_up(core, recorder, &master, process, last);
            return Some(());
        }
        let io = SessionIo::new(client, master, Some(process));
        let session = Session::restored(size, None);
        let session = core.sessions.insert(LiveSession::new(session, io, Transport::Unix, at));
        let client = Client { session, uid };
        let state = AttachState::attached(Program::restored(program), client, Timestamp::now());
        let prepared_line = match (listener, last.prepared_end()) {
            (None, Some((line, started))) => cx.audit.put_prepared(line, started),
            _ => None,
        };
        let origin = NoDetach { socket: listener.is_none().then_some(socket), last, prepared_line };
        let entry = RegistryEntry {
            no_detach: Some(Box::new(origin)),
            ..restored_entry(&info, pid, state)
        };
        let key = self.insert(entry);
        self.resume_attached(core, key, session, pid, info);
        Some(())
    }

    /// Writes the end line of a session whose socket exists no more.
    pub fn write_end_line(
        &mut self,
        cx: &mut Context,
        session: Key,
        why: EndReason,
        exit: Option<Exit>,
    ) {
        let entry = self.index.by_session(session).and_then(|entry| self.entries.get_mut(entry));
        let Some(bound) = entry.and_then(|entry| entry.no_detach.as_mut()) else {
            return;
        };
        if let Some(prepared_line) = bound.prepared_line.take() {
            cx.audit.remove_prepared(prepared_line);
        }
        if bound.socket.is_some() {
            bound.last.take(why, exit).into_iter().for_each(|line| cx.audit.write_raw(line));
        }
    }
}

/// Sessions whose terminals were handed over for good: a new supervisor is told of them.
pub fn handed_over_no_detach(sessions: &Sessions) -> Vec<Key> {
    let is_one =
        |live: &LiveSession| live.session.is_handed_over() && live.session.detach_state().is_none();
    let all = sessions.iter().filter(|(_, live)| is_one(live));
    all.map(|(key, _)| key).collect()
}
