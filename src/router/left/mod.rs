//! Sessions that can be left and found again.
//!
//! Such a session keeps its last output in a ring. While a client is attached
//! it is a session like others; without one it is here: its terminal is read
//! on into the ring, so that the program never waits. Its descriptors are also
//! with a process that outlives the gateway, so that the next one takes it up.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | which sessions there are, and whose; what is due |
//! | `leaving.rs` | a client leaves, or is lost |
//! | `coming.rs` | a client comes back, or has another one go |
//! | `alone.rs` | a terminal without a client; a program that has ended |
//! | `watch.rs` | clients that only watch, and those that see the last of an ended session |
//! | `adopt.rs` | sessions of a gateway that was here before us |
//! | `bound.rs` | sessions that end with their client, and outlive the gateway all the same |
//! | `list.rs` | what is told of them |
//!
//! What is waited for here has an epoll of its own, which the loop waits for as
//! for one thing: a flood of output of a hundred such terminals costs the others
//! no more than one does.

pub mod adopt;
mod alone;
pub mod bound;
mod coming;
mod leaving;
mod list;
mod watch;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::GatewayLoop;
use super::context::Context;
use super::fault;
use super::record::Recording;
use super::recovery::Whose;
use super::supervisor::client::{Client, Found};
use super::supervisor::door;
use super::supervisor::end_record::EndRecord;
use super::supervisor::protocol::{Hello, Lent, Record, SessionFds};
use super::table::{Key, Source, Table};
use super::timers::Due;
use super::told::Subject;
use super::traffic::Attached;
use crate::config::router::Router;
use crate::uwsgi::proof;
use fpty::proto::Ended;
use fpty::remains::Remains;
use fpty::sys::Written;
use fpty::sys::child::Pid;
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;

pub use coming::Waiting;
pub use list::Listed;
use watch::Watcher;

/// Ended sessions that are kept at most, and how long.
const ENDED: usize = 100;
const ENDED_FOR: Duration = Duration::from_secs(600);

/// How long what had to wait waits, and how often it is looked after what
/// nothing tells of.
pub const SOON: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(200);
const RARELY: Duration = Duration::from_secs(1);

/// Sessions that can be left.
pub struct Left {
    poller: Poller,
    entries: Table<Entry>,
    by_session: HashMap<Key, Key>,
    watchers: Table<Watcher>,
    store: Client,
    /// Output that was read since it was last looked.
    taken: usize,
    /// No more is read until then.
    pauses: bool,
    due_at: Option<BootInstant>,
}

/// Such a session.
struct Entry {
    id: String,
    /// What it is called; may be empty.
    name: String,
    uid: u32,
    /// What runs, where that is known.
    command: Option<Box<str>>,
    /// Where it began: it is found there alone.
    door: u16,
    pid: Pid,
    program: PidFd,
    /// The program is not our child: its end is told by its descriptor.
    adopted: bool,
    /// Its end was told, and its status is waited for until then.
    ending: Option<Instant>,
    since: Timestamp,
    place: Place,
    /// What keeps it was not told how it is.
    untold: bool,
    turned: Turned,
    /// It cannot be left: it came from a gateway before us, and ends with its
    /// client.
    bound: Option<Box<bound::Origin>>,
}

/// When it last became what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turned {
    /// Into what, by its rank.
    place: u8,
    /// Seconds would not tell which of two was left last.
    at: BootInstant,
}

/// How it is with a session.
enum Place {
    /// A client is attached.
    Attached(Taken),
    /// Nobody is.
    Alone(Box<Alone>),
    /// Its program has ended, and nobody was there.
    Over(Over),
}

impl Place {
    /// How near it is to whoever comes back and says no more: what runs alone comes
    /// before what has ended, and both before what is attached.
    fn rank(&self) -> u8 {
        match self {
            Self::Alone(_) => 2,
            Self::Over(_) => 1,
            Self::Attached(_) => 0,
        }
    }
}

/// A session's client.
struct Taken {
    session: Key,
    uid: u32,
    since: Timestamp,
    /// It has come back, and has to have answered by then.
    until: Option<Instant>,
    /// It has to go: somebody else waits, until then.
    next: Option<(Box<Waiting>, Instant)>,
}

/// A terminal without a client.
struct Alone {
    master: Master,
    remains: Remains,
    since: Timestamp,
    /// The terminal is closed; it is looked at again then.
    closed: Option<Instant>,
    /// Where it is recorded.
    recording: Option<Rc<Recording>>,
}

/// What is left of an ended session.
struct Over {
    ring: OwnedFd,
    ended: Ended,
    at: Timestamp,
}

impl Left {
    /// Of a gateway; `None`: no session can outlive it. Sessions of one before us
    /// come along.
    pub fn new(
        config: &Router,
        ordinal: usize,
        poller: &Poller,
    ) -> std::io::Result<(Option<Box<Self>>, Found)> {
        let any = config.all_rules().iter().any(|rules| rules.detach.sessions > 0);
        if !door::there_is_one() || !PidFd::there_are() {
            return Ok((None, Vec::new()));
        }
        let count = usize::try_from(config.processes).unwrap_or(1);
        let has_audit = config.all_rules().iter().any(|rules| rules.audit.is_some());
        let hello = Hello { ordinal, count, token: proof::token().unwrap_or_default() };
        let (store, found) = Client::new(hello, config.hangup_grace, has_audit, any);
        let left = Self {
            poller: Poller::new(16)?,
            entries: Table::new(),
            by_session: HashMap::new(),
            watchers: Table::new(),
            store,
            taken: 0,
            pauses: false,
            due_at: None,
        };
        left.hear_store();
        poller.add(&left.poller, Source::Left.token(), Interest::READ)?;
        Ok((Some(Box::new(left)), found))
    }

    /// Waits for what keeps the sessions to end.
    fn hear_store(&self) {
        if let Some(stream) = self.store.stream() {
            let _ = self.poller.add(stream.as_fd(), Source::Children.token(), Interest::READ);
        }
    }

    /// The next program whose session the supervisor could not keep.
    pub fn could_not_be_kept(&self) -> Option<Pid> {
        self.store.could_not_be_kept()
    }

    /// Whether the supervisor has ended.
    pub fn supervisor_is_gone(&self) -> bool {
        self.store.stream().is_none_or(Stream::has_hung_up)
    }

    /// Connects to the supervisor once more: it is another one.
    pub fn reconnect(&mut self) {
        if let Some(stream) = self.store.stream() {
            let _ = self.poller.remove(stream.as_fd());
        }
        // We have what it might have of ours.
        let _ = self.store.connect();
        self.hear_store();
    }

    /// All of them.
    pub fn keys(&self) -> Vec<Key> {
        self.entries.iter().map(|(key, _)| key).collect()
    }

    /// Whether there is more to know of this session: it can be left, or came from
    /// a gateway before us.
    pub fn has(&self, session: Key) -> bool {
        !self.by_session.is_empty() && self.by_session.contains_key(&session)
    }

    /// How many go on without a client, and how many of those are of this user.
    fn alone(&self, door: u16, uid: u32) -> (usize, usize) {
        let is_one = |entry: &Entry| entry.door == door && matches!(entry.place, Place::Alone(_));
        let alone = self.entries.iter().filter(|(_, entry)| is_one(entry));
        alone.fold((0, 0), |(all, own), (_, entry)| (all + 1, own + usize::from(entry.uid == uid)))
    }

    /// The session without a client whose program this is.
    pub fn of_program(&self, program: Pid) -> Option<Key> {
        let is_it = |entry: &Entry| {
            entry.pid == program && !entry.adopted && matches!(entry.place, Place::Alone(_))
        };
        self.entries.iter().find(|(_, entry)| is_it(entry)).map(|(key, _)| key)
    }

    /// The session that this one is, where somebody is attached.
    pub fn session_of(&self, entry: Key) -> Option<Key> {
        match &self.entries.get(entry)?.place {
            Place::Attached(taken) => Some(taken.session),
            Place::Alone(_) | Place::Over(_) => None,
        }
    }

    /// The programs of ours that run for nobody who is there.
    pub fn programs(&self) -> impl Iterator<Item = Pid> {
        let is_one = |entry: &&Entry| !entry.adopted && matches!(entry.place, Place::Alone(_));
        self.entries.iter().map(|(_, entry)| entry).filter(is_one).map(|entry| entry.pid)
    }

    /// One is closed as it is: a session, or somebody who watches.
    pub fn drop_one(&mut self, key: Key, watches: bool) {
        match watches {
            true => drop(self.watchers.remove(key)),
            false => drop(self.entries.remove(key)),
        }
    }

    /// Whether this one may take a name: nobody of one's own has it.
    fn is_free(&self, door: u16, uid: u32, name: &str) -> bool {
        let has_it = |entry: &Entry| {
            (entry.door, entry.uid) == (door, uid)
                && entry.name == name
                && !matches!(entry.place, Place::Over(_))
        };
        !self.entries.iter().any(|(_, entry)| has_it(entry))
    }

    /// A session is over, or can be left no more.
    fn remove(&mut self, key: Key) -> Option<Box<Entry>> {
        let entry = self.entries.remove(key)?;
        if let Place::Attached(taken) = &entry.place {
            self.by_session.remove(&taken.session);
        }
        self.store.is_over(entry.id.clone());
        Some(entry)
    }

    /// The earliest of what ended is forgotten where there is too much, of
    /// whoever has the most of it.
    fn bound_ended(&mut self) {
        loop {
            let ended = self.entries.iter().filter_map(|(key, entry)| match &entry.place {
                Place::Over(over) => Some((entry.uid, over.at.boot, key)),
                _ => None,
            });
            let all: Vec<(u32, BootInstant, Key)> = ended.collect();
            if all.len() <= ENDED {
                return;
            }
            let mut counts = HashMap::new();
            all.iter().for_each(|(uid, ..)| *counts.entry(*uid).or_insert(0_usize) += 1);
            let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(uid, _)| uid);
            let of_one = all.iter().filter(|(uid, ..)| Some(*uid) == most);
            match of_one.map(|(_, at, key)| (*at, *key)).min() {
                Some((_, key)) => self.remove(key),
                None => return,
            };
        }
    }
}

impl Entry {
    fn record(&self, door: &str) -> Record {
        let (mut attached, mut left, mut ended) = (None, None, None);
        match &self.place {
            Place::Attached(taken) => attached = Some((taken.uid, taken.since.into())),
            Place::Alone(alone) => left = Some(alone.since.into()),
            Place::Over(over) => {
                left = Some(over.at.into());
                let payload = over.ended.packet().split_off(fpty::proto::HEADER);
                ended = Some((payload, over.at.into()));
            }
        }
        Record {
            id: self.id.clone(),
            name: self.name.clone(),
            uid: self.uid,
            door: door.to_owned(),
            pid: self.pid.as_raw(),
            since: self.since.into(),
            attached,
            left,
            ended,
            command: self.command.as_deref().map(str::to_owned),
            turned: self.turned.at.as_nanos(),
            shared: true,
            ..Record::default()
        }
    }

    /// Notes since when it is what it is.
    fn turn(&mut self) {
        if self.turned.place != self.place.rank() || self.turned.at == BootInstant::default() {
            self.turned = Turned { place: self.place.rank(), at: BootInstant::now() };
        }
    }
}

impl GatewayLoop {
    /// What keeps sessions is told how it is with this one.
    pub(super) fn tell_store(&mut self, entry: Key) {
        let Some(left) = &mut self.left else {
            return;
        };
        let Some(found) = left.entries.get_mut(entry).filter(|found| found.bound.is_none()) else {
            return;
        };
        found.turn();
        let name =
            self.cx.doors.door(found.door).map(|door| door.name.as_str()).unwrap_or_default();
        let mut record = found.record(name);
        let program = &found.program;
        let told = match &found.place {
            Place::Alone(alone) => {
                record.shared = alone.master.is_shared();
                record.recording = alone.recording.as_ref().map(|recording| recording.kept());
                let held = Lent {
                    master: Some(alone.master.as_fd()),
                    program: Some(program.as_fd()),
                    ring: Some(alone.remains.as_fd()),
                    client: None,
                };
                left.store.tell(&record, &held)
            }
            Place::Over(over) => {
                let ring = Some(over.ring.as_fd());
                left.store.tell(&record, &Lent { ring, ..SessionFds::default() })
            }
            Place::Attached(taken) => {
                let Some(attached) = self.sessions.get_mut(taken.session) else {
                    return;
                };
                let Some(kept) = attached.session.kept() else {
                    return;
                };
                let wires = &attached.wires;
                record.shared = wires.master.is_shared() || !kept.relays;
                let subject = Subject::Session(taken.session);
                record.last = EndRecord::new(self.cx.told.in_advance(subject));
                record.said = bound::said_of(&self.cx, subject);
                record.recording = wires.recording().map(|recording| recording.kept());
                // One that is relayed would miss what was on its way.
                let is_theirs = attached.session.is_handed_over();
                let held = Lent {
                    master: Some(wires.master.as_fd()),
                    program: Some(program.as_fd()),
                    ring: Some(kept.remains.as_fd()),
                    client: is_theirs.then(|| wires.client.as_fd()),
                };
                let told = left.store.tell(&record, &held);
                if matches!(told, Written::Bytes(_)) {
                    self.cx.told.entrusted(subject);
                }
                told
            }
        };
        found.untold = told == Written::Blocked;
        let (pid, untold) = (found.pid, found.untold);
        if untold {
            self.look_at_left(SOON);
        } else if told != Written::Gone {
            self.programs.entrusted(pid);
        }
    }

    /// A terminal was handed over to its client: if that can leave, whoever
    /// keeps the session is told. Whether it can.
    pub(super) fn handed_over_for_a_while(&mut self, session: Key) -> bool {
        let entry = self.left.as_ref().and_then(|left| left.by_session.get(&session).copied());
        let Some(entry) = entry else {
            return false;
        };
        if let Some(taken) = self.left.as_mut().and_then(|left| left.taken_mut(entry)) {
            taken.until = None;
        }
        self.tell_store(entry);
        if let Some(attached) = self.sessions.get_mut(session) {
            if attached.session.owes_go() {
                attached.session.say_go(&mut attached.wires);
            }
        }
        self.settle(session);
        true
    }

    /// Has it looked after what is due after so long, or before.
    pub(super) fn look_at_left(&mut self, wait: Duration) {
        if let Some(left) = &mut self.left {
            left.look_after(&mut self.cx, wait);
        }
    }

    /// Does what is due.
    pub(super) fn look_after_left(&mut self) {
        let Some(left) = &mut self.left else {
            return;
        };
        let now = BootInstant::now();
        // Another one that was asked for before.
        if left.due_at.is_some_and(|due| now < due) {
            return;
        }
        left.due_at = None;
        left.taken = 0;
        if std::mem::take(&mut left.pauses) {
            let token = Source::Left.token();
            let _ = self.cx.poller.change(&left.poller, token, Interest::READ);
        }
        let mut again = left.store.flush().then_some(SOON);
        let keys: Vec<Key> = left.entries.iter().map(|(key, _)| key).collect();
        for key in keys {
            let mut next = None;
            self.guarded(Whose::Left(key), |router| next = router.look_after_entry(key));
            again = again.into_iter().chain(next).min();
        }
        let next = self.feed_watchers();
        again = again.into_iter().chain(next).min();
        if let Some(wait) = again {
            self.look_at_left(wait);
        }
    }

    /// Does what is due for a session; when to look again.
    fn look_after_entry(&mut self, key: Key) -> Option<Duration> {
        let entry = self.left.as_mut()?.entries.get_mut(key)?;
        fault::point("left");
        let rules = self.cx.doors.rules(entry.door)?;
        let (time, whole) = (rules.detach.time, rules.max_time.unwrap_or(Duration::MAX));
        if entry.untold {
            self.tell_store(key);
        }
        let entry = self.left.as_mut()?.entries.get_mut(key)?;
        if entry.ending.is_some() {
            self.adopted_ended(key);
            return Some(LOOK);
        }
        let now_at = Instant::now();
        match &mut entry.place {
            Place::Over(over) if over.at.elapsed() >= ENDED_FOR => {
                self.left.as_mut()?.remove(key);
                None
            }
            Place::Over(_) => Some(RARELY),
            Place::Alone(alone)
                if alone.since.elapsed() >= time || entry.since.elapsed() >= whole =>
            {
                self.end_alone(key);
                None
            }
            Place::Alone(alone) => match alone.closed {
                Some(at) if now_at >= at => {
                    self.alone_reopened(key);
                    Some(LOOK)
                }
                Some(_) => Some(LOOK),
                None => Some(RARELY),
            },
            Place::Attached(taken) => {
                let session = taken.session;
                // One that has come back was told to go on.
                let is_hidden = |attached: &mut Attached| attached.session.is_hidden();
                if !self.sessions.get_mut(session).is_some_and(is_hidden) {
                    taken.until = None;
                }
                let next_is_due = taken.next.as_ref().is_some_and(|(_, until)| now_at >= *until);
                let late = taken.until.is_some_and(|until| now_at >= until);
                let waits = taken.next.is_some() || taken.until.is_some();
                if next_is_due || late {
                    self.leave_after_all(session);
                }
                waits.then_some(LOOK)
            }
        }
    }
}

impl Left {
    /// Has it looked after what is due after so long, or before.
    pub fn look_after(&mut self, cx: &mut Context, wait: Duration) {
        let at = BootInstant::now() + wait;
        if self.due_at.is_none_or(|due| at < due) {
            self.due_at = Some(at);
            cx.after(wait, Due::Left);
        }
    }

    fn taken_mut(&mut self, entry: Key) -> Option<&mut Taken> {
        match &mut self.entries.get_mut(entry)?.place {
            Place::Attached(taken) => Some(taken),
            _ => None,
        }
    }
}
