//! Sessions that end with their client, which has their terminal: they outlive the
//! gateway all the same. What keeps sessions has their descriptors, and the next
//! gateway goes on where the one before it was.

use std::os::fd::AsFd;
use std::time::Duration;

use super::entry::{Client, Entry, Origin, Program, terminal_size};
use super::registry::Left;
use super::restore::{Restored, entry, not_recorded};
use super::state::State;
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
use crate::session::lifecycle::Past;
use crate::session::relay::{Attached, Sessions, Wires};
use crate::session::state::Session;
use fpty::fair_share::Who;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::{WriteOutcome, procfs};

/// How soon what keeps sessions is asked again that is busy.
const AGAIN: Duration = Duration::from_millis(5);

/// A socket that there is not.
const NO_DOOR: u16 = u16::MAX;

/// What was known of one, but for the socket and the size.
pub(crate) fn past_of(record: &Record) -> Past {
    Past {
        story: record.story.clone(),
        command: record.command.clone(),
        started: Timestamp::from(record.since),
        door: NO_DOOR,
        size: terminal_size(None),
        uid: record.uid,
        // A gateway of an earlier version has not said it.
        who: record.who.unwrap_or(match record.uid {
            NOBODY => Who::Nobody,
            uid => Who::User(uid),
        }),
        id: record.id.clone(),
        pid: Pid::new(record.pid),
    }
}

impl Left {
    /// A terminal was handed over for good: whoever keeps sessions is told, and
    /// comes to be where it was not worth it before.
    pub fn entrust(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        programs: &mut Programs,
        session: Key,
        command: Option<String>,
    ) {
        let Some(record) = self.bound_record(cx, sessions, session, command) else {
            return;
        };
        let Some(attached) = sessions.get(session) else {
            return;
        };
        if self.store.connect_at_last() {
            self.hear_store();
        }
        let Wires { client, master, program: Some(program), .. } = &attached.wires else {
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
        match self.store.tell(&record, &held) {
            WriteOutcome::Bytes(_) => {
                programs.entrusted(pidfd.pid());
                cx.told.entrusted(Subject::Session(session), true);
            }
            WriteOutcome::WouldBlock => cx.after(AGAIN, Due::Keeper(session)),
            // It ends with this gateway, as others do.
            WriteOutcome::Closed => {}
        }
    }

    /// Such a session is over, whoever ended it, and that was told.
    pub fn no_longer_entrusted(&mut self, cx: &mut Context, session: Key) {
        // Those that have more to tell say it themselves.
        if !self.has(session) {
            self.tell_over(cx, cx.ids.of(session));
        }
    }

    fn bound_record(
        &self,
        cx: &Context,
        sessions: &Sessions,
        session: Key,
        command: Option<String>,
    ) -> Option<Record> {
        let attached = sessions.get(session)?;
        let subject = Subject::Session(session);
        let facts = cx.told.of(subject);
        let pid = attached.wires.program.as_ref()?.pid().as_raw();
        let started = facts.map(|facts| facts.started);
        let started = started.or_else(|| procfs::started(pid).map(Timestamp::from));
        let (door, nth) = cx.doors.address(attached.door).unwrap_or_default();
        let known = self.index.of_session(session).and_then(|entry| self.entries.get(entry));
        Some(Record {
            id: known.map_or_else(|| cx.ids.of(session), |entry| entry.id.as_ref().to_owned()),
            uid: user_of(&attached.wires.client),
            who: Some(Who::of(&attached.wires.client)),
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

    /// Takes one up: its client goes on with the terminal, and has noticed nothing.
    pub(crate) fn restore_bound(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        record: Record,
        held: SessionFds,
    ) -> Option<Restored> {
        let past = past_of(&record);
        let Record { id, uid, door: socket, nth, pid, mut last, .. } = record;
        let (pid, door) = (Pid::new(pid)?, cx.doors.with_address(&socket, nth));
        let SessionFds {
            master: Some(master), program: Some(program), client: Some(client), ..
        } = held
        else {
            self.tell_over(cx, id);
            return None;
        };
        let master = Master::returned(master, true).ok()?;
        let program = PidFd::reopened(pid, program);
        let process = ProcessHandle::from_pidfd(program.try_clone().ok()?);
        let size = terminal_size(Some(&master));
        let client = Stream::of_stranger(client);
        let at = door.unwrap_or(NO_DOOR);
        let past = Past { door: at, size, ..past };
        if let Some(why) = not_recorded(cx, at, &id) {
            let _ = client.write(&why.packet());
            self.tell_over(cx, id);
            return Some(Restored::Ends(master, process, last.take(Gone::Lost, None)));
        }
        let wires = Wires::new(client, master, Some(process));
        let session = Session::resumed(size, None);
        let session = sessions.insert(Attached::new(session, wires, Transport::Unix, at));
        let client = Client { session, uid };
        let state = State::attached(Program::adopted(program), client, Timestamp::now());
        let noted = match (door, last.in_advance()) {
            (None, Some((line, started))) => cx.told.put_in_advance(line, started),
            _ => None,
        };
        let origin = Origin { socket: door.is_none().then_some(socket), last, noted };
        let entry = Entry { bound: Some(Box::new(origin)), ..entry(&past, pid, state) };
        let key = self.insert(entry);
        self.hear_adopted(cx, sessions, key, session);
        Some(Restored::Attached { entry: key, session, past: Box::new(past) })
    }

    /// Waits for what its client says and for the end of its program. What cannot be
    /// waited for ends (see [`Outcome::NotHeard`]).
    pub(crate) fn hear_adopted(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        key: Key,
        session: Key,
    ) {
        let pidfd = self.entries.get(key).and_then(Entry::adopted);
        let (Some(pidfd), Some(attached)) = (pidfd, sessions.get(session)) else {
            return;
        };
        let token = Source::Caller(key).token();
        let heard = self.poller.add(pidfd, token, Interest::READ);
        let client = attached.wires.client.as_fd();
        let token = Source::Client(session).token();
        if heard.and_then(|()| cx.poller.add(client, token, Interest::READ)).is_err() {
            cx.then(Outcome::NotHeard(session));
        }
    }

    /// Writes the line of the end of a session whose socket there is not any more.
    pub fn tell_last_of(&mut self, cx: &mut Context, session: Key, why: Gone, exit: Option<Exit>) {
        let entry = self.index.of_session(session).and_then(|entry| self.entries.get_mut(entry));
        let Some(bound) = entry.and_then(|entry| entry.bound.as_mut()) else {
            return;
        };
        if let Some(noted) = bound.noted.take() {
            cx.told.take_down(noted);
        }
        if bound.socket.is_some() {
            bound.last.take(why, exit).into_iter().for_each(|line| cx.told.say(line));
        }
    }
}

/// The sessions that have their terminal for good: another process that keeps
/// sessions has to be told of them.
pub fn handed_over_for_good(sessions: &Sessions) -> Vec<Key> {
    let is_one = |attached: &Attached| {
        attached.session.is_handed_over() && attached.session.kept().is_none()
    };
    let all = sessions.iter().filter(|(_, attached)| is_one(attached));
    all.map(|(key, _)| key).collect()
}
