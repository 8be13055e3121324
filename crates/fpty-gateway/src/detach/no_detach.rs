//! Sessions that cannot be detached, and whose terminal their client has for good: they end with
//! the client, and outlive the gateway all the same. The supervisor has their descriptors, and the
//! next gateway goes on with them.

use std::os::fd::AsFd;
use std::time::Duration;

use super::attach_state::AttachState;
use super::registry::DetachRegistry;
use super::registry_entry::{Client, NoDetach, Program, RegistryEntry, terminal_size};
use super::restore::{Restored, check_recording, entry};
use crate::connection::session_access::{NOBODY, user_of};
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Source};
use crate::event_loop::subject::Subject;
use crate::event_loop::timers::Due;
use crate::observe::audit::Gone;
use crate::process::supervisor::end_record::EndRecord;
use crate::process::supervisor::protocol::{Lent, Record, SessionFds};
use crate::process::table::Programs;
use crate::session::lifecycle::RestoredInfo;
use crate::session::relay::{LiveSession, SessionIo, Sessions};
use crate::session::state::Session;
use fpty::fair_share::Who;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pid_guard::Process;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::{Written, procfs};

/// Delay before a busy supervisor is asked again.
const SUPERVISE_RETRY: Duration = Duration::from_millis(5);

/// Index of no socket.
const NO_DOOR: u16 = u16::MAX;

/// Information of a session's record, without socket and size.
pub(crate) fn restored_info(record: &Record) -> RestoredInfo {
    RestoredInfo {
        story: record.story.clone(),
        command: record.command.clone(),
        started: Timestamp::from(record.since),
        door: NO_DOOR,
        size: terminal_size(None),
        uid: record.uid,
        // The field is missing in records of an earlier version.
        who: record.who.unwrap_or(match record.uid {
            NOBODY => Who::Nobody,
            uid => Who::User(uid),
        }),
        id: record.id.clone(),
        pid: Pid::new(record.pid),
    }
}

impl DetachRegistry {
    /// Hands a session to the supervisor whose terminal was handed over for good. The supervisor is
    /// started by now where it was not worth it before.
    pub fn supervise(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        programs: &mut Programs,
        session: Key,
        command: Option<String>,
    ) {
        let Some(record) = self.no_detach_record(cx, sessions, session, command) else {
            return;
        };
        let Some(live) = sessions.get(session) else {
            return;
        };
        if self.supervisor.connect_at_last() {
            self.watch_supervisor();
        }
        let SessionIo { client, master, program: Some(program), .. } = &live.io else {
            return;
        };
        let Some(pidfd) = program.pidfd() else {
            return;
        };
        let held = Lent {
            master: Some(master.as_fd()),
            program: Some(pidfd.as_fd()),
            client: Some(client.as_fd()),
            ..SessionFds::default()
        };
        match self.supervisor.tell(&record, &held) {
            Written::Bytes(_) => {
                programs.entrusted(pidfd.pid());
                cx.told.entrusted(Subject::Session(session), true);
            }
            Written::Blocked => cx.after(SUPERVISE_RETRY, Due::Keeper(session)),
            // The session ends with this gateway, as without a supervisor.
            Written::Gone => {}
        }
    }

    /// Tells the supervisor that a session is closed.
    pub fn no_longer_supervised(&mut self, cx: &mut Context, session: Key) {
        // Registered sessions tell the supervisor themselves.
        if !self.has_session(session) {
            self.unregister(cx, cx.ids.of(session));
        }
    }

    fn no_detach_record(
        &self,
        cx: &Context,
        sessions: &Sessions,
        session: Key,
        command: Option<String>,
    ) -> Option<Record> {
        let live = sessions.get(session)?;
        let subject = Subject::Session(session);
        let facts = cx.told.of(subject);
        let pid = live.io.program.as_ref()?.pid().as_raw();
        let started = facts.map(|facts| facts.started);
        let started = started.or_else(|| procfs::started(pid).map(Timestamp::from));
        let (door, nth) = cx.doors.address(live.door).unwrap_or_default();
        let known = self.index.by_session(session).and_then(|entry| self.entries.get(entry));
        Some(Record {
            id: known.map_or_else(|| cx.ids.of(session), |entry| entry.id.as_ref().to_owned()),
            uid: user_of(&live.io.client),
            who: Some(Who::of(&live.io.client)),
            door: door.to_owned(),
            nth,
            pid,
            since: started.unwrap_or_else(Timestamp::now).into(),
            story: cx.told.story(subject),
            last: EndRecord::new(cx.told.in_advance(subject)),
            command,
            bound: true,
            ..Record::default()
        })
    }

    /// Restores a session: its client goes on with the terminal, and notices nothing.
    pub(crate) fn restore_no_detach(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        record: Record,
        held: SessionFds,
    ) -> Option<Restored> {
        let info = restored_info(&record);
        let Record { id, uid, door: socket, nth, pid, mut last, .. } = record;
        let (pid, door) = (Pid::new(pid)?, cx.doors.with_address(&socket, nth));
        let SessionFds {
            master: Some(master), program: Some(program), client: Some(client), ..
        } = held
        else {
            self.unregister(cx, id);
            return None;
        };
        let master = Master::given_back(master, true).ok()?;
        let program = PidFd::reopened(pid, program);
        let process = Process::held(program.try_clone().ok()?);
        let size = terminal_size(Some(&master));
        let client = Stream::of_stranger(client);
        let at = door.unwrap_or(NO_DOOR);
        let info = RestoredInfo { door: at, size, ..info };
        if let Some(why) = check_recording(cx, at, &id) {
            let _ = client.write(&why.packet());
            self.unregister(cx, id);
            return Some(Restored::HangUp(master, process, last.take(Gone::Lost, None)));
        }
        let io = SessionIo::new(client, master, Some(process));
        let session = Session::restored(size, None);
        let session = sessions.insert(LiveSession::new(session, io, Transport::Unix, at));
        let client = Client { session, uid };
        let state = AttachState::attached(Program::restored(program), client, Timestamp::now());
        let prepared_line = match (door, last.in_advance()) {
            (None, Some((line, started))) => cx.told.put_in_advance(line, started),
            _ => None,
        };
        let origin = NoDetach { socket: door.is_none().then_some(socket), last, prepared_line };
        let entry = RegistryEntry { no_detach: Some(Box::new(origin)), ..entry(&info, pid, state) };
        let key = self.insert(entry);
        self.watch_restored(cx, sessions, key, session);
        Some(Restored::Attached { entry: key, session, info: Box::new(info) })
    }

    /// Registers the client and the process of a restored session. Where the poller refuses the
    /// session ends (see [`Outcome::NotHeard`]).
    pub(crate) fn watch_restored(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        key: Key,
        session: Key,
    ) {
        let pidfd = self.entries.get(key).and_then(RegistryEntry::restored_pidfd);
        let (Some(pidfd), Some(live)) = (pidfd, sessions.get(session)) else {
            return;
        };
        let token = Source::Caller(key).token();
        let heard = self.poller.add(pidfd, token, Interest::READ);
        let client = live.io.client.as_fd();
        let token = Source::Client(session).token();
        if heard.and_then(|()| cx.poller.add(client, token, Interest::READ)).is_err() {
            cx.then(Outcome::NotHeard(session));
        }
    }

    /// Writes the end line of a session whose socket exists no more.
    pub fn write_end_line(
        &mut self,
        cx: &mut Context,
        session: Key,
        why: Gone,
        exit: Option<Exit>,
    ) {
        let entry = self.index.by_session(session).and_then(|entry| self.entries.get_mut(entry));
        let Some(bound) = entry.and_then(|entry| entry.no_detach.as_mut()) else {
            return;
        };
        if let Some(prepared_line) = bound.prepared_line.take() {
            cx.told.take_down(prepared_line);
        }
        if bound.socket.is_some() {
            bound.last.take(why, exit).into_iter().for_each(|line| cx.told.say(line));
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
