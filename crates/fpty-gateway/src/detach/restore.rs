//! Restore: sessions of an earlier gateway, which was killed or whose instance was reloaded, go on.

use std::os::fd::OwnedFd;

use super::attach_state::{AttachState, Released};
use super::detached::drain_terminal;
use super::no_detach::restored_info;
use super::registry::DetachRegistry;
use super::registry_entry::{
    Client, DetachResources, DetachedTerminal, ExitedSession, Program, RegistryEntry, terminal_size,
};
use crate::config::recording_options::OnError;
use crate::connection::session_access::Secrets;
use crate::event_loop::context::Context;
use crate::event_loop::fault_domain::SessionRef;
use crate::event_loop::slab::{Key, Token};
use crate::log::log;
use crate::observe::audit::EndReason;
use crate::observe::recording::{RecordingTap, Recordings};
use crate::process::supervisor::supervisor_protocol::{SessionFds, SessionRecord};
use crate::session::lifecycle::RestoredInfo;
use crate::session::relay::{LiveSession, SessionIo, Sessions};
use crate::session::state::Session;
use crate::session::state::extended_state::DetachState;
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
pub const UNPOLLABLE: &str = "session ended: the router cannot wait for it (out of memory)";

/// Result of restoring a session.
#[must_use]
pub enum Restored {
    /// Nothing of the session is left.
    Nothing,
    /// The session has exited, and no client was told so far.
    Exited(Key),
    /// The session goes on detached.
    Detached {
        /// The session's entry.
        entry: Key,
        /// What was known of the session.
        info: Box<RestoredInfo>,
        /// Since when it had a client, which was lost with the gateway.
        lost: Option<Timestamp>,
    },
    /// The session goes on with its client.
    Attached {
        /// The session's entry.
        entry: Key,
        /// The live session.
        session: Key,
        /// What was known of the session.
        info: Box<RestoredInfo>,
    },
    /// The session is to be hung up; with the end line, where no other process writes it.
    HangUp(Master, ProcessHandle, Option<String>),
}

impl DetachRegistry {
    /// Restores a session from the supervisor's record and descriptors.
    pub fn restore(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        recorder: Option<&mut Recordings>,
        (record, held): (SessionRecord, SessionFds),
    ) -> Restored {
        let restored = match record.bound {
            true => self.restore_no_detach(cx, sessions, record, held),
            false => self.restore_one(cx, sessions, recorder, (record, held)),
        };
        restored.unwrap_or(Restored::Nothing)
    }

    /// The recording of a detached session.
    pub fn recording(&self, key: Key) -> Option<&RecordingTap> {
        self.entries.get(key)?.state.terminal()?.recording.as_deref()
    }

    fn restore_one(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        mut recorder: Option<&mut Recordings>,
        (record, held): (SessionRecord, SessionFds),
    ) -> Option<Restored> {
        let info = restored_info(&record);
        let SessionRecord { id, name, listener, nth, pid, attached, left: at, .. } = record;
        let SessionRecord { ended, command, shared, recording, mut last, secrets, .. } = record;
        let secrets = Secrets::restore(secrets);
        let (pid, listener) = (Pid::new(pid)?, cx.listeners.by_address(&listener, nth));
        let entry = |info: &RestoredInfo, state| RegistryEntry {
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
                recorder.as_mut()?.go_on(cx, listener, kept, size).ok().flatten()
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
            return Some(Restored::Exited(key));
        }
        let master = Master::returned(master?, shared).ok()?;
        let program = PidFd::reopened(pid, program?);
        let client = client.map(Stream::of_stranger);
        let allows = |listener: &u16| {
            cx.listeners.rules(*listener).is_some_and(|rules| rules.detach.sessions > 0)
        };
        // No client could attach any more.
        let why = "sessions cannot be left here any more (forkptyrouter-detach)";
        let listener =
            listener.filter(allows).ok_or_else(|| SessionEnd::new(EndKind::Stopped, why));
        let size = terminal_size(Some(&master));
        let goes_on = listener.and_then(|listener| {
            let recording = match (recording, recorder) {
                (Some(kept), Some(recorder)) => recorder.go_on(cx, listener, kept, size)?,
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
                return Some(Restored::HangUp(master, ProcessHandle::from_pidfd(program), last));
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
            let left = at.map_or_else(Timestamp::now, Timestamp::from);
            let detached = Box::new(DetachedTerminal::new(master, remains, recording));
            let program = Program::restored(program);
            let key = self.insert(entry(&info, AttachState::detached(program, detached, left)));
            self.schedule(cx, key);
            let lost = attached.filter(|_| at.is_none()).map(|(_, since)| Timestamp::from(since));
            return match self.watch_detached(key) {
                true => Some(Restored::Detached { entry: key, info: Box::new(info), lost }),
                false => self.end_unpollable(cx, key),
            };
        };
        // The client goes on with the terminal, and notices nothing.
        let session = Session::restored(
            size,
            Some(DetachState { remains, awaiting_go: false, relay_only: false }),
        );
        let process = ProcessHandle::from_pidfd(program.try_clone().ok()?);
        let program = Program::restored(program);
        let mut io = SessionIo::new(client, master, Some(process));
        io.set_recording(recording);
        let session = sessions.insert(LiveSession::new(session, io, Transport::Unix, listener));
        let client = Client { session, uid: principal };
        let key =
            self.insert(entry(&info, AttachState::attached(program, client, since_then.into())));
        self.watch_restored(cx, sessions, key, session);
        let attached = sessions.get_mut(session)?;
        // The earlier gateway may have been killed before it sent GO.
        attached.session.send_go(&mut attached.io);
        Some(Restored::Attached { entry: key, session, info: Box::new(info) })
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

    /// Ends a restored session that the poller refuses.
    fn end_unpollable(&mut self, cx: &mut Context, key: Key) -> Option<Restored> {
        let entry = self.remove(cx, key)?;
        log(&format!("forkptyrouter: {UNPOLLABLE}"));
        let Released { program, terminal, .. } = entry.state.release();
        Some(Restored::HangUp(terminal?.master, ProcessHandle::from_pidfd(program?.pidfd?), None))
    }
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
pub(crate) fn check_recording(cx: &Context, listener: u16, id: &str) -> Option<SessionEnd> {
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

/// Entry of a restored session, without its name.
pub(crate) fn restored_entry(
    info: &RestoredInfo,
    pid: Pid,
    state: AttachState<DetachResources>,
) -> RegistryEntry {
    let owner = (info.uid, info.principal);
    RegistryEntry::new((&info.id, info.started), owner, info.listener, pid, state)
}
