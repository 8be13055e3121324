//! Restore: sessions of an earlier gateway, which was killed or whose instance was reloaded, go on.

use std::os::fd::OwnedFd;

use super::attach_state::{AttachState, Released};
use super::detached::drain_terminal;
use super::no_detach::restored_info;
use super::registry::DetachRegistry;
use super::registry_entry::{
    Client, DetachResources, DetachedTerminal, ExitedSession, Program, RegistryEntry, terminal_size,
};
use crate::config::recording::OnError;
use crate::connection::session_access::Secrets;
use crate::event_loop::context::Context;
use crate::event_loop::slab::{Key, Source};
use crate::event_loop::subject::Subject;
use crate::log::log;
use crate::observe::audit::Gone;
use crate::observe::recording::{Recorder, Recording};
use crate::process::supervisor::protocol::{Record, SessionFds};
use crate::session::lifecycle::RestoredInfo;
use crate::session::relay::{LiveSession, SessionIo, Sessions};
use crate::session::state::Session;
use crate::session::state::detach_state::DetachState;
use fpty::proto::{Ended, Ending};
use fpty::scrollback::Remains;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pid_guard::Process;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
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
    HangUp(Master, Process, Option<String>),
}

impl DetachRegistry {
    /// Restores a session from the supervisor's record and descriptors.
    pub fn restore(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        recorder: Option<&mut Recorder>,
        (record, held): (Record, SessionFds),
    ) -> Restored {
        let restored = match record.bound {
            true => self.restore_no_detach(cx, sessions, record, held),
            false => self.restore_one(cx, sessions, recorder, (record, held)),
        };
        restored.unwrap_or(Restored::Nothing)
    }

    /// The recording of a detached session.
    pub fn recording(&self, key: Key) -> Option<&Recording> {
        self.entries.get(key)?.state.terminal()?.recording.as_deref()
    }

    fn restore_one(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        mut recorder: Option<&mut Recorder>,
        (record, held): (Record, SessionFds),
    ) -> Option<Restored> {
        let info = restored_info(&record);
        let Record { id, name, door, nth, pid, attached, left: at, .. } = record;
        let Record { ended, command, shared, recording, mut last, secrets, .. } = record;
        let secrets = Secrets::of(secrets);
        let (pid, door) = (Pid::new(pid)?, cx.doors.with_address(&door, nth));
        let entry =
            |info: &RestoredInfo, state| RegistryEntry { name, secrets, ..entry(info, pid, state) };
        let SessionFds { master, program, ring, client, memory } = held;
        if let Some((ended, at)) = ended {
            let mut ring = ring?;
            // The program ended while there was no gateway.
            let terminal = master.and_then(|master| Master::given_back(master, shared).ok());
            let ended = Ended::read(&ended).unwrap_or(Ended::because(Ending::Lost, ""));
            let size = terminal_size(terminal.as_ref());
            let recording = recording.zip(door).and_then(|(kept, door)| {
                recorder.as_mut()?.go_on(cx, door, kept, size).ok().flatten()
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
            let key = self.insert(entry(&RestoredInfo { door: door?, ..info }, state));
            self.schedule(cx, key);
            return Some(Restored::Exited(key));
        }
        let master = Master::given_back(master?, shared).ok()?;
        let program = PidFd::reopened(pid, program?);
        let client = client.map(Stream::of_stranger);
        let allows =
            |door: &u16| cx.doors.rules(*door).is_some_and(|rules| rules.detach.sessions > 0);
        // No client could attach any more.
        let why = "sessions cannot be left here any more (forkptyrouter-detach)";
        let door = door.filter(allows).ok_or_else(|| Ended::because(Ending::Stopped, why));
        let size = terminal_size(Some(&master));
        let goes_on = door.and_then(|door| {
            let recording = match (recording, recorder) {
                (Some(kept), Some(recorder)) => recorder.go_on(cx, door, kept, size)?,
                _ => check_recording(cx, door, &id).map_or(Ok(None), Err)?,
            };
            Ok((door, recording))
        });
        let (door, recording) = match goes_on {
            Ok(goes_on) => goes_on,
            Err(why) => {
                client.map(|client| client.write(&why.packet()));
                self.unregister(cx, id);
                let last = last.take(Gone::Lost, None);
                return Some(Restored::HangUp(master, Process::held(program), last));
            }
        };
        let buffer = cx.doors.rules(door).map_or(0, |rules| rules.detach.buffer);
        let info = RestoredInfo { door, size, ..info };
        let remains = match memory {
            Some(ring) => Remains::of(*ring).ok(),
            None => ring.and_then(|ring| Remains::go_on(ring).ok()),
        };
        // Another process may have written into a shared scrollback.
        let remains = remains.or_else(|| Remains::new(buffer as usize, size).ok())?;
        let (Some((who, since_then)), Some(client)) = (attached, client) else {
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
        let process = Process::held(program.try_clone().ok()?);
        let program = Program::restored(program);
        let mut io = SessionIo::new(client, master, Some(process));
        io.set_recording(recording);
        let session = sessions.insert(LiveSession::new(session, io, Transport::Unix, door));
        let client = Client { session, uid: who };
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
        let token = Source::Caller(key).token();
        let heard = self.poller.add(pidfd, token, Interest::READ);
        if let Some(recording) = &detached.recording {
            recording.belongs_to(Subject::Detached(key));
        }
        let token = Source::Terminal(key).token();
        heard.and_then(|()| self.poller.add(&detached.master, token, Interest::READ)).is_ok()
    }

    /// Ends a restored session that the poller refuses.
    fn end_unpollable(&mut self, cx: &mut Context, key: Key) -> Option<Restored> {
        let entry = self.remove(cx, key)?;
        log(&format!("forkptyrouter: {UNPOLLABLE}"));
        let Released { program, terminal, .. } = entry.state.release();
        Some(Restored::HangUp(terminal?.master, Process::held(program?.pidfd?), None))
    }
}

/// Scrollback of an ended program, with the output that nobody has read.
fn with_drained_output(
    cx: &mut Context,
    ring: &OwnedFd,
    terminal: Master,
    recording: Option<&Recording>,
) -> Option<OwnedFd> {
    let mut remains = Remains::go_on(ring.try_clone().ok()?).ok()?;
    drain_terminal(cx, &terminal, &mut remains, recording);
    remains.share().ok()
}

/// The exit of a program by its END, where that is the program's own.
fn exit_of(ended: &Ended) -> Option<Exit> {
    match ended.ending {
        Ending::Exit => Some(Exit::Status(ended.value.into())),
        Ending::Signal => Some(Exit::Signal { number: ended.value.into(), core: false }),
        _ => None,
    }
}

/// Checks whether an earlier gateway's session may go on where sessions are recorded by now: no
/// recording has its output so far, nor what goes past the gateway. Returns END if it may not.
pub(crate) fn check_recording(cx: &Context, door: u16, id: &str) -> Option<Ended> {
    let record = &cx.doors.rules(door)?.record;
    record.folder.as_ref()?;
    match record.on_error {
        OnError::Close => {
            log(&format!("forkptyrouter: session {id} ends: {NOT_RECORDED}"));
            let why = format!("session ended: it cannot be recorded: {NOT_RECORDED}");
            Some(Ended::because(Ending::Lost, why))
        }
        OnError::Continue => {
            log(&format!("forkptyrouter: session {id} is not recorded: {NOT_RECORDED}"));
            None
        }
    }
}

/// An entry of a session without a name.
pub(crate) fn entry(
    info: &RestoredInfo,
    pid: Pid,
    state: AttachState<DetachResources>,
) -> RegistryEntry {
    RegistryEntry {
        id: info.id.as_str().into(),
        name: String::new(),
        uid: info.uid,
        who: info.who,
        secrets: Secrets::default(),
        door: info.door,
        pid,
        since: info.started,
        state,
        dirty: false,
        scheduled: None,
        viewers: 0,
        no_detach: None,
        name_claim: None,
        detached_claims: None,
    }
}
