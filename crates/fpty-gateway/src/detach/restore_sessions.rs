//! Restore: sessions of an earlier gateway, which was killed or whose instance was reloaded, go on.

use std::os::fd::{AsFd, OwnedFd};

use super::attach_state::{AttachState, ReleasedSession};
use super::detachable_session::{
    Client, DetachResources, DetachableSession, DetachedTerminal, ExitedSession, NoDetach, Program,
    terminal_size,
};
use super::detached_terminal::drain_terminal;
use super::registry::DetachRegistry;
use crate::config::recording_options::OnError;
use crate::connection::session_access::UNKNOWN_UID;
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_domain::FaultDomain;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Token};
use crate::log::log;
use crate::observe::audit::EndReason;
use crate::observe::recording::{RecordingTap, Recordings};
use crate::process::hang_up::MasterCopies;
use crate::process::supervisor::supervisor_protocol::{SessionFds, SessionRecord};
use crate::session::lifecycle::RestoredInfo;
use crate::session::relay::{LiveSession, SessionIo};
use crate::session::session_ref::SessionRef;
use crate::session::state::Session;
use crate::session::state::extended::DetachState;
use crate::session::timeouts::TimeLimited;
use fpty::fair_share::Principal;
use fpty::proto::{EndKind, SessionEnd};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};

/// Reason why a session is not recorded that is older than the option.
const NOT_RECORDED: &str = "it began before recordings did";

/// Text for a client whose session the poller refuses.
pub const UNPOLLABLE: &str = "session ended: the gateway cannot wait for it (out of memory)";

/// Index of no socket.
const NO_LISTENER: u16 = u16::MAX;

impl DetachRegistry {
    /// Restores a session from the supervisor's record and descriptors, where anything is left of it.
    pub fn restore(
        &mut self,
        core: &mut Core,
        recorder: Option<&mut Recordings>,
        (record, held): (SessionRecord, SessionFds),
    ) {
        let _ = match record.bound {
            true => self.restore_no_detach(core, recorder, record, held),
            false => self.restore_detachable(core, recorder, record, held),
        };
    }

    fn restore_detachable(
        &mut self,
        core: &mut Core,
        mut recorder: Option<&mut Recordings>,
        record: SessionRecord,
        held: SessionFds,
    ) -> Option<()> {
        let cx = &mut core.cx;
        let info = restored_info(&record);
        let SessionRecord { id, name, listener, nth, pid, attached, detached_at, .. } = record;
        let SessionRecord { ended, command, shared, recording, mut last, secrets, .. } = record;
        let (pid, listener) = (Pid::new(pid)?, cx.listeners.by_address(&listener, nth));
        let entry = |info: &RestoredInfo, state| DetachableSession {
            name,
            secrets,
            ..restored_entry(info, pid, state)
        };
        let SessionFds { master, program, ring, client, memory } = held;
        if let Some((ended, at)) = ended {
            let mut ring = ring?;
            // The program ended while there was no gateway.
            let terminal = master.and_then(|master| Master::returned(master, shared).ok());
            let ended = SessionEnd::read(&ended).unwrap_or(SessionEnd::new(EndKind::Lost, ""));
            let size = terminal_size(terminal.as_ref());
            let recording = recording.zip(listener).and_then(|(kept, listener)| {
                recorder.as_mut()?.resume(cx, listener, kept, size).ok().flatten()
            });
            let whole = terminal.and_then(|terminal| {
                with_drained_output(cx, &ring, terminal, recording.as_deref())
            });
            if let Some(whole) = whole {
                ring = whole;
            }
            if let Some(recorder) = recorder {
                recorder.end(cx, recording, exit_of(&ended), None);
            }
            let state = AttachState::Exited(
                ExitedSession { ring, ended, command: command.map(Into::into) },
                at.into(),
            );
            let key = self.insert(entry(&RestoredInfo { listener: listener?, ..info }, state));
            self.schedule(cx, key);
            // The supervisor need not end the recording any more.
            self.sync_supervisor(core, key);
            return Some(());
        }
        let master = Master::returned(master?, shared).ok()?;
        let program = PidFd::reopened(pid, program?);
        let client = client.map(Stream::of_stranger);
        let allows = |listener: &u16| {
            cx.listeners.rules(*listener).is_some_and(|rules| rules.detach.sessions > 0)
        };
        // No client could attach any more.
        let why = "sessions cannot be detached here any more (forkptyrouter-detach)";
        let listener =
            listener.filter(allows).ok_or_else(|| SessionEnd::new(EndKind::Stopped, why));
        let size = terminal_size(Some(&master));
        let goes_on = listener.and_then(|listener| {
            let recording = match (recording, &mut recorder) {
                (Some(kept), Some(recorder)) => recorder.resume(cx, listener, kept, size)?,
                _ => check_recording(cx, listener, &id).map_or(Ok(None), Err)?,
            };
            Ok((listener, recording))
        });
        let (listener, recording) = match goes_on {
            Ok(goes_on) => goes_on,
            Err(why) => {
                client.map(|client| client.write(&why.packet()));
                self.unregister(cx, id);
                let last = last.take(EndReason::Lost, None);
                let program = ProcessHandle::from_pidfd(program);
                hang_up(core, recorder, &master, program, last);
                return Some(());
            }
        };
        let buffer = cx.listeners.rules(listener).map_or(0, |rules| rules.detach.buffer);
        let info = RestoredInfo { listener, size, ..info };
        let remains = match memory {
            Some(ring) => ScrollbackWriter::from_ring(*ring).ok(),
            None => ring.and_then(|ring| ScrollbackWriter::resume(ring).ok()),
        };
        // Another process may have written into a shared scrollback.
        let remains = remains.or_else(|| ScrollbackWriter::new(buffer as usize, size).ok())?;
        let (Some((principal, since_then)), Some(client)) = (attached, client) else {
            // The client was lost with the earlier gateway: the session is detached as of now.
            let since = detached_at.map_or_else(Timestamp::now, Timestamp::from);
            let detached = Box::new(DetachedTerminal::new(master, remains, recording));
            let program = Program::restored(program);
            let key = self.insert(entry(&info, AttachState::detached(program, detached, since)));
            self.schedule(cx, key);
            let lost =
                attached.filter(|_| detached_at.is_none()).map(|(_, since)| Timestamp::from(since));
            if !self.watch_detached(key) {
                log(&format!("forkptyrouter: {UNPOLLABLE}"));
                let ReleasedSession { program, terminal, .. } =
                    self.remove(cx, key)?.state.release();
                let program = ProcessHandle::from_pidfd(program?.pidfd?);
                hang_up(core, recorder, &terminal?.master, program, None);
                return Some(());
            }
            core.processes.restored(pid);
            cx.panics.in_progress = Some(FaultDomain::Detached(key));
            cx.restored_detached(key, info, lost);
            let detached = self.entries.get(key).and_then(|entry| entry.state.terminal());
            if let Some(recording) = detached.and_then(|detached| detached.recording.as_deref()) {
                Recordings::tell(cx, recording);
            }
            self.sync_supervisor(core, key);
            return Some(());
        };
        // The client goes on with the terminal, and notices nothing.
        let detach_state = DetachState { remains, awaiting_go: false, relay_only: false };
        let mut session = Session::restored(size, Some(detach_state));
        let process = ProcessHandle::from_pidfd(program.try_clone().ok()?);
        let mut io = SessionIo::new(client, master, Some(process));
        io.set_recording(recording);
        // The earlier gateway may have been killed before it sent GO.
        session.send_go(&mut io);
        let live = LiveSession::new(session, io, Transport::Unix, listener);
        let session = core.sessions.insert(live);
        let client = Client { session, uid: principal };
        let state = AttachState::attached(Program::restored(program), client, since_then.into());
        let key = self.insert(entry(&info, state));
        self.resume_attached(core, key, session, pid, info);
        Some(())
    }

    /// Restores a session that cannot be detached, and whose terminal its client has for good: it
    /// ends with the client, which goes on with the terminal, and notices nothing.
    fn restore_no_detach(
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
        let entry = DetachableSession {
            no_detach: Some(Box::new(origin)),
            ..restored_entry(&info, pid, state)
        };
        let key = self.insert(entry);
        self.resume_attached(core, key, session, pid, info);
        Some(())
    }

    /// A restored session goes on with its client. Where the poller refuses client or process it
    /// ends (see [`Outcome::Unpollable`]).
    fn resume_attached(
        &mut self,
        core: &mut Core,
        key: Key,
        session: Key,
        pid: Pid,
        info: RestoredInfo,
    ) {
        let Core { cx, sessions, processes } = &mut *core;
        processes.restored(pid);
        cx.panics.in_progress = Some(FaultDomain::Session(session));
        let pidfd = self.entries.get(key).and_then(DetachableSession::restored_pidfd);
        let (Some(pidfd), Some(live)) = (pidfd, sessions.get_mut(session)) else {
            return;
        };
        let heard = self.poller.add(pidfd, Token::PendingConnection(key).token(), Interest::READ);
        let (client, token) = (live.io.client.as_fd(), Token::Client(session).token());
        if heard.and_then(|()| cx.poller.add(client, token, Interest::READ)).is_err() {
            cx.push_outcome(Outcome::Unpollable(session));
        }
        let started = info.started;
        live.set_restored(cx, session, info);
        live.start_timers(cx, session, started.elapsed());
        self.sync_supervisor(core, key);
    }

    /// Registers the terminal and the process of a restored detached session. Whether the poller
    /// takes them.
    fn watch_detached(&self, key: Key) -> bool {
        let Some(entry) = self.entries.get(key) else {
            return false;
        };
        let (Some(pidfd), Some(detached)) = (entry.restored_pidfd(), entry.state.terminal()) else {
            return false;
        };
        let token = Token::PendingConnection(key).token();
        let heard = self.poller.add(pidfd, token, Interest::READ);
        if let Some(recording) = &detached.recording {
            recording.assign_to(SessionRef::Detached(key));
        }
        let token = Token::Terminal(key).token();
        heard.and_then(|()| self.poller.add(&detached.master, token, Interest::READ)).is_ok()
    }
}

/// Hangs a session up that cannot go on; `last`: its end line, where no other process writes it.
fn hang_up(
    core: &mut Core,
    recorder: Option<&mut Recordings>,
    master: &Master,
    program: ProcessHandle,
    last: Option<String>,
) {
    if let Some(line) = last {
        write_end_line(&mut core.cx, recorder, line);
    }
    core.processes.hang_up_terminal(&mut core.cx, master, program, MasterCopies::Revoked);
}

/// Writes the end line of an earlier gateway's session, as soon as the result of its recording is
/// known.
pub fn write_end_line(cx: &mut Context, recorder: Option<&mut Recordings>, line: String) {
    let line = match recorder {
        Some(recorder) => recorder.await_recording(line),
        None => Some(line),
    };
    line.into_iter().for_each(|line| cx.audit.write_raw(line));
}

/// Scrollback of an ended program, with the output that nobody has read.
fn with_drained_output(
    cx: &mut Context,
    ring: &OwnedFd,
    terminal: Master,
    recording: Option<&RecordingTap>,
) -> Option<OwnedFd> {
    let mut remains = ScrollbackWriter::resume(ring.try_clone().ok()?).ok()?;
    drain_terminal(cx, &terminal, &mut remains, recording);
    remains.share_file().ok()
}

/// The exit of a program by its END, where that is the program's own.
fn exit_of(ended: &SessionEnd) -> Option<Exit> {
    match ended.ending {
        EndKind::Exit => Some(Exit::Status(ended.value.into())),
        EndKind::Signal => Some(Exit::Signal { number: ended.value.into(), core: false }),
        _ => None,
    }
}

/// Checks whether an earlier gateway's session may go on where sessions are recorded by now: no
/// recording has its output so far, nor what goes past the gateway. Returns END if it may not.
fn check_recording(cx: &Context, listener: u16, id: &str) -> Option<SessionEnd> {
    let record = &cx.listeners.rules(listener)?.record;
    record.dir.as_ref()?;
    match record.on_error {
        OnError::Close => {
            log(&format!("forkptyrouter: session {id} ends: {NOT_RECORDED}"));
            let why = format!("session ended: it cannot be recorded: {NOT_RECORDED}");
            Some(SessionEnd::new(EndKind::Lost, why))
        }
        OnError::Continue => {
            log(&format!("forkptyrouter: session {id} is not recorded: {NOT_RECORDED}"));
            None
        }
    }
}

/// Information of a session's record, without socket and size.
fn restored_info(record: &SessionRecord) -> RestoredInfo {
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

/// Entry of a restored session, without its name.
fn restored_entry(
    info: &RestoredInfo,
    pid: Pid,
    state: AttachState<DetachResources>,
) -> DetachableSession {
    let owner = (info.uid, info.principal);
    DetachableSession::new((&info.id, info.started), owner, info.listener, pid, state)
}
