//! Sessions of a gateway that was here before us, which was killed or whose
//! instance was reloaded.

use std::os::fd::OwnedFd;

use super::detached::read_the_rest;
use super::entry::{Alone, Client, Entry, Held, Over, Program, terminal_size};
use super::no_detach::past_of;
use super::registry::Left;
use super::state::{Remnants, State};
use crate::config::recording::OnError;
use crate::connection::session_access::Secrets;
use crate::event_loop::context::Context;
use crate::event_loop::slab::{Key, Source};
use crate::event_loop::subject::Subject;
use crate::log::log;
use crate::observe::audit::Gone;
use crate::observe::recording::{Recorder, Recording};
use crate::process::supervisor::protocol::{Record, SessionFds};
use crate::session::lifecycle::Past;
use crate::session::relay::{Attached, Sessions, Wires};
use crate::session::state::Session;
use crate::session::state::detach_state::Kept;
use fpty::proto::{EndKind, SessionEnd};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};

/// Why a session is not recorded that is older than the option.
const NOT_RECORDED: &str = "it began before recordings did";

/// Why one ends that the kernel refuses to tell of.
pub const NOT_HEARD: &str = "session ended: the router cannot wait for it (out of memory)";

/// What became of one.
#[must_use]
pub enum Restored {
    /// There is nothing of it.
    Over,
    /// It has ended, and there is nobody so far to be told.
    Ended(Key),
    /// It goes on without a client.
    Alone {
        /// Where it is known here.
        entry: Key,
        /// What it was before.
        past: Box<Past>,
        /// It had a client since then, which was lost with its gateway.
        lost: Option<Timestamp>,
    },
    /// It goes on, with its client.
    Attached {
        /// Where it is known here.
        entry: Key,
        /// The session.
        session: Key,
        /// What it was before.
        past: Box<Past>,
    },
    /// It cannot go on. The line of its end, where nobody else writes that.
    Ends(Master, ProcessHandle, Option<String>),
}

impl Left {
    /// Takes one up.
    pub fn restore(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        recorder: Option<&mut Recorder>,
        (record, held): (Record, SessionFds),
    ) -> Restored {
        let restored = match record.bound {
            true => self.restore_bound(cx, sessions, record, held),
            false => self.restore_one(cx, sessions, recorder, (record, held)),
        };
        restored.unwrap_or(Restored::Over)
    }

    /// The recording of one without a client.
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
        let past = past_of(&record);
        let Record { id, name, door, nth, pid, attached, left: at, .. } = record;
        let Record { ended, command, shared, recording, mut last, secrets, .. } = record;
        let secrets = Secrets::of(secrets);
        let (pid, door) = (Pid::new(pid)?, cx.doors.with_address(&door, nth));
        let entry = |past: &Past, state| Entry { name, secrets, ..entry(past, pid, state) };
        let SessionFds { master, program, ring, client, memory } = held;
        if let Some((ended, at)) = ended {
            let mut ring = ring?;
            // It ended while there was no gateway.
            let terminal = master.and_then(|master| Master::returned(master, shared).ok());
            let ended = SessionEnd::read(&ended).unwrap_or(SessionEnd::new(EndKind::Lost, ""));
            let size = terminal_size(terminal.as_ref());
            let recording = recording.zip(door).and_then(|(kept, door)| {
                recorder.as_mut()?.go_on(cx, door, kept, size).ok().flatten()
            });
            let whole = terminal
                .and_then(|terminal| with_the_rest(cx, &ring, terminal, recording.as_deref()));
            if let Some(whole) = whole {
                ring = whole;
            }
            if let Some(recorder) = recorder {
                recorder.end(cx, recording, exit_of(&ended), None);
            }
            let state =
                State::Over(Over { ring, ended, command: command.map(Into::into) }, at.into());
            let key = self.insert(entry(&Past { door: door?, ..past }, state));
            self.arm(cx, key);
            return Some(Restored::Ended(key));
        }
        let master = Master::returned(master?, shared).ok()?;
        let program = PidFd::reopened(pid, program?);
        let client = client.map(Stream::of_stranger);
        let allows =
            |door: &u16| cx.doors.rules(*door).is_some_and(|rules| rules.detach.sessions > 0);
        // Nobody could come to it any more.
        let why = "sessions cannot be left here any more (forkptyrouter-detach)";
        let door = door.filter(allows).ok_or_else(|| SessionEnd::new(EndKind::Stopped, why));
        let size = terminal_size(Some(&master));
        let goes_on = door.and_then(|door| {
            let recording = match (recording, recorder) {
                (Some(kept), Some(recorder)) => recorder.go_on(cx, door, kept, size)?,
                _ => not_recorded(cx, door, &id).map_or(Ok(None), Err)?,
            };
            Ok((door, recording))
        });
        let (door, recording) = match goes_on {
            Ok(goes_on) => goes_on,
            Err(why) => {
                client.map(|client| client.write(&why.packet()));
                self.tell_over(cx, id);
                let last = last.take(Gone::Lost, None);
                return Some(Restored::Ends(master, ProcessHandle::from_pidfd(program), last));
            }
        };
        let buffer = cx.doors.rules(door).map_or(0, |rules| rules.detach.buffer);
        let past = Past { door, size, ..past };
        let remains = match memory {
            Some(ring) => ScrollbackWriter::from_ring(*ring).ok(),
            None => ring.and_then(|ring| ScrollbackWriter::resume(ring).ok()),
        };
        // It may have been written by anybody.
        let remains = remains.or_else(|| ScrollbackWriter::new(buffer as usize, size).ok())?;
        let (Some((who, since_then)), Some(client)) = (attached, client) else {
            // Its client was lost with the one before us: that is now.
            let left = at.map_or_else(Timestamp::now, Timestamp::from);
            let alone = Box::new(Alone::new(master, remains, recording));
            let program = Program::adopted(program);
            let key = self.insert(entry(&past, State::alone(program, alone, left)));
            self.arm(cx, key);
            let lost = attached.filter(|_| at.is_none()).map(|(_, since)| Timestamp::from(since));
            return match self.hear_alone(key) {
                true => Some(Restored::Alone { entry: key, past: Box::new(past), lost }),
                false => self.end_unheard(cx, key),
            };
        };
        // Its client goes on with the terminal, and has noticed nothing.
        let session = Session::resumed(size, Some(Kept { remains, hidden: false, relays: false }));
        let process = ProcessHandle::from_pidfd(program.try_clone().ok()?);
        let program = Program::adopted(program);
        let mut wires = Wires::new(client, master, Some(process));
        wires.record_by(recording);
        let session = sessions.insert(Attached::new(session, wires, Transport::Unix, door));
        let client = Client { session, uid: who };
        let key = self.insert(entry(&past, State::attached(program, client, since_then.into())));
        self.hear_adopted(cx, sessions, key, session);
        let attached = sessions.get_mut(session)?;
        // The one before may have been killed before it said so.
        attached.session.say_go(&mut attached.wires);
        Some(Restored::Attached { entry: key, session, past: Box::new(past) })
    }

    /// Waits for the terminal of one that has no client, and for the end of its
    /// program. Whether it can.
    fn hear_alone(&self, key: Key) -> bool {
        let Some(entry) = self.entries.get(key) else {
            return false;
        };
        let (Some(pidfd), Some(alone)) = (entry.adopted(), entry.state.terminal()) else {
            return false;
        };
        let token = Source::Caller(key).token();
        let heard = self.poller.add(pidfd, token, Interest::READ);
        if let Some(recording) = &alone.recording {
            recording.belongs_to(Subject::Left(key));
        }
        let token = Source::Terminal(key).token();
        heard.and_then(|()| self.poller.add(&alone.master, token, Interest::READ)).is_ok()
    }

    /// What nobody can wait for ends.
    fn end_unheard(&mut self, cx: &mut Context, key: Key) -> Option<Restored> {
        let entry = self.remove(cx, key)?;
        log(&format!("forkptyrouter: {NOT_HEARD}"));
        let Remnants { program, terminal, .. } = entry.state.forgotten();
        Some(Restored::Ends(terminal?.master, ProcessHandle::from_pidfd(program?.pidfd?), None))
    }
}

/// What is left of an ended program, with what nobody has read of its terminal.
fn with_the_rest(
    cx: &mut Context,
    ring: &OwnedFd,
    terminal: Master,
    recording: Option<&Recording>,
) -> Option<OwnedFd> {
    let mut remains = ScrollbackWriter::resume(ring.try_clone().ok()?).ok()?;
    read_the_rest(cx, &terminal, &mut remains, recording);
    remains.share_file().ok()
}

/// How a program ended whose end was told, as far as it was its own.
fn exit_of(ended: &SessionEnd) -> Option<Exit> {
    match ended.ending {
        EndKind::Exit => Some(Exit::Status(ended.value.into())),
        EndKind::Signal => Some(Exit::Signal { number: ended.value.into(), core: false }),
        _ => None,
    }
}

/// Why a session of a gateway before us cannot go on where sessions are
/// recorded by now: what it wrote so far, and writes past us, is in no
/// recording.
pub(crate) fn not_recorded(cx: &Context, door: u16, id: &str) -> Option<SessionEnd> {
    let record = &cx.doors.rules(door)?.record;
    record.folder.as_ref()?;
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

/// One that has no name, and can be left.
pub(crate) fn entry(past: &Past, pid: Pid, state: State<Held>) -> Entry {
    Entry {
        id: past.id.as_str().into(),
        name: String::new(),
        uid: past.uid,
        who: past.who,
        secrets: Secrets::default(),
        door: past.door,
        pid,
        since: past.started,
        state,
        untold: false,
        armed: None,
        watchers: 0,
        bound: None,
        held: None,
        counts: None,
    }
}
