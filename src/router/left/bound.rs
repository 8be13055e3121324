//! Sessions that end with their client, which has their terminal: they outlive the
//! gateway all the same. What keeps sessions has their descriptors, and the next
//! gateway goes on where the one before it was.

use std::os::fd::AsFd;
use std::time::Duration;

use super::super::GatewayLoop;
use super::super::depart::Copies;
use super::super::last_words::LastWords;
use super::super::recovery::Whose;
use super::super::table::{Key, Source};
use super::super::timers::Due;
use super::super::told::{Gone, Said, Subject};
use super::super::traffic::{Attached, Wires};
use super::adopt::entry;
use super::record::{Bound, Held, Record};
use super::{Entry, Place, SOON, Taken};
use crate::session::Session;
use crate::shares::Who;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::process::Process;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::{Size, Written, proc};

/// How soon what keeps sessions is asked again that is busy.
const AGAIN: Duration = Duration::from_millis(5);

/// A socket that there is not.
const NO_DOOR: u16 = u16::MAX;

/// What is known of one that came from a gateway before us.
pub struct Origin {
    /// The address where it began, where there is no such socket any more.
    pub socket: Option<String>,
    /// The line of its end, where nobody else would write it.
    last: LastWords,
}

impl GatewayLoop {
    /// A terminal was handed over for good: whoever keeps sessions is told, and
    /// comes to be where it was not worth it before.
    pub(in crate::router) fn entrust(&mut self, session: Key) {
        let Some(record) = self.bound_record(session) else {
            return;
        };
        let (Some(left), Some(attached)) = (&mut self.left, self.sessions.get(session)) else {
            return;
        };
        if left.store.connect_at_last() {
            left.hear_store();
        }
        let Wires { client, master, program: Some(program), .. } = &attached.wires else {
            return;
        };
        let Some(pidfd) = program.pidfd() else {
            return;
        };
        match left.store.tell(&record, &[(b'm', master), (b'p', &pidfd), (b'c', client)]) {
            Written::Bytes(_) => {
                self.programs.entrusted(pidfd.pid());
                self.cx.told.entrusted(Subject::Session(session));
            }
            Written::Blocked => self.cx.after(AGAIN, Due::Keeper(session)),
            // It ends with this gateway, as others do.
            Written::Gone => {}
        }
    }

    /// What keeps sessions is another one: it is told of all of them.
    pub(super) fn entrust_all(&mut self) {
        let is_bound = |attached: &Attached| {
            attached.session.is_handed_over() && attached.session.kept().is_none()
        };
        let all = self.sessions.iter().filter(|(_, attached)| is_bound(attached));
        let keys: Vec<Key> = all.map(|(key, _)| key).collect();
        for key in keys {
            self.entrust(key);
        }
    }

    /// Such a session is over, whoever ended it, and that was told.
    pub(in crate::router) fn no_longer_entrusted(&mut self, session: Key) {
        // Those that have more to tell say it themselves.
        if let Some(left) = self.left.as_mut().filter(|left| !left.has(session)) {
            if left.store.stream().is_some() {
                left.store.is_over(self.cx.ids.of(session));
                if left.store.waits() {
                    self.look_at_left(SOON);
                }
            }
        }
    }

    fn bound_record(&self, session: Key) -> Option<Record> {
        let attached = self.sessions.get(session)?;
        let subject = Subject::Session(session);
        let facts = self.cx.told.of(subject);
        let pid = attached.wires.program.as_ref()?.pid().as_raw();
        let started = facts.map(|facts| facts.started);
        let started = started.or_else(|| proc::started(pid).map(Timestamp::from));
        let said = facts.map(|facts| &facts.said);
        let text = |of: fn(&Said) -> &Option<Box<str>>| {
            said.and_then(|said| of(said).as_deref()).map(str::to_owned)
        };
        let bound = Bound {
            said: [
                text(|said| &said.ssh_connection),
                text(|said| &said.logname),
                text(|said| &said.term),
            ],
            last: LastWords::new(self.cx.told.in_advance(subject)),
        };
        Some(Record {
            id: self.left_id(session).unwrap_or_else(|| self.cx.ids.of(session)),
            uid: attached.wires.client.peer_uid().unwrap_or(u32::MAX),
            door: self
                .cx
                .doors
                .door(attached.door)
                .map(|door| door.name.clone())
                .unwrap_or_default(),
            pid,
            since: started.unwrap_or_else(Timestamp::now).into(),
            command: self.command_of(subject),
            bound: Some(bound),
            ..Record::default()
        })
    }

    /// Takes one up: its client goes on with the terminal, and has noticed nothing.
    pub(super) fn adopt_bound(&mut self, record: Record, held: Held) -> Option<()> {
        let Record { id, uid, door: socket, pid, since, command, bound, .. } = record;
        let Bound { said: [ssh_connection, logname, term], last } = bound?;
        let (pid, door) = (Pid::new(pid)?, self.cx.doors.named(&socket));
        let since = Timestamp::from(since);
        let Held { master: Some(master), program: Some(program), client: Some(client), .. } = held
        else {
            self.left.as_mut()?.store.is_over(id);
            return None;
        };
        let master = Master::given_back(master, true).ok()?;
        let program = PidFd::reopened(pid, program);
        let process = Process::held(program.try_clone().ok()?);
        let size = master.size().unwrap_or(Size { rows: 24, cols: 80 });
        let client = Stream::of_stranger(client);
        let at = door.unwrap_or(NO_DOOR);
        if let Some(why) = self.cannot_be_recorded(at, &id) {
            let _ = client.write(&why.packet());
            let mut last = last;
            last.take(Gone::Lost, None).into_iter().for_each(|line| self.cx.told.say(line));
            self.left.as_mut()?.store.is_over(id);
            self.hang_up(&master, process, Copies::Ended);
            return None;
        }
        let wires = Wires::new(client, master, Some(process));
        let session = Session::resumed(size, None);
        let session = self.sessions.insert(Attached::new(session, wires, Transport::Unix, at));
        let taken = Taken { session, uid, since: Timestamp::now(), until: None, next: None };
        let place = Place::Attached(taken);
        let origin = Origin { socket: door.is_none().then_some(socket), last };
        let entry = Entry {
            command: command.as_deref().map(Into::into),
            bound: Some(Box::new(origin)),
            ..entry(id, String::new(), uid, at, pid, program, since, place, 0)
        };
        let left = self.left.as_mut()?;
        let key = left.entries.insert(entry);
        left.by_session.insert(session, key);
        self.faults.made = Some(Whose::Session(session));
        let entry = left.entries.get(key)?;
        let _ = left.poller.add(&entry.program, Source::Caller(key).token(), Interest::READ);
        self.inquirers.note_command(Subject::Session(session), command.clone());
        self.keeps_seat(session);
        let text = |text: Option<String>| text.map(Into::into);
        let said =
            Said { ssh_connection: text(ssh_connection), logname: text(logname), term: text(term) };
        self.cx.told.hears(at, "extended", || said);
        self.cx.told.asks(|| command);
        self.note_session(session, size);
        self.cx.told.goes_on(Subject::Session(session), since);
        self.goes_on(session, since);
        let attached = self.sessions.get(session)?;
        let token = Source::Client(session).token();
        let _ = self.cx.poller.add(attached.wires.client.as_fd(), token, Interest::READ);
        Some(())
    }

    /// A session of a gateway before us holds its seat, be there none left.
    pub(super) fn keeps_seat(&mut self, session: Key) {
        let Some(attached) = self.sessions.get(session) else {
            return;
        };
        if let Some(rules) = self.cx.doors.rules(attached.door) {
            let seat = self.cx.seats.keep(rules, Who::of(&attached.wires.client));
            self.cx.seats.is_of(seat, Subject::Session(session));
        }
    }

    /// The idle time and the time of a session that began long ago are looked
    /// after again.
    pub(super) fn goes_on(&mut self, session: Key, started: Timestamp) {
        let Some(attached) = self.sessions.get(session) else {
            return;
        };
        let rules = self.cx.doors.rules(attached.door);
        let (timeout, limit) = rules.map_or((None, None), |rules| (rules.timeout, rules.max_time));
        if let Some(timeout) = timeout {
            self.watch_idleness(session, timeout);
        }
        if let Some(limit) = limit {
            self.limit_time(session, limit.saturating_sub(started.elapsed()));
        }
    }

    /// The line of the end of a session whose socket there is not any more.
    pub(in crate::router) fn last_words_of(
        &mut self,
        session: Key,
        why: Gone,
        exit: Option<Exit>,
    ) -> Option<String> {
        let left = self.left.as_mut()?;
        let entry = left.by_session.get(&session).copied()?;
        let bound = left.entries.get_mut(entry)?.bound.as_mut()?;
        bound.socket.as_ref()?;
        bound.last.take(why, exit)
    }
}
