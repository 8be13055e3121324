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
//! | `state.rs` | attaching and leaving, as a state machine |
//! | `index.rs` | where they are |
//! | `leaving.rs` | a client leaves, or is lost |
//! | `coming.rs` | a client comes back, or has another one go |
//! | `alone.rs` | a terminal without a client; a program that has ended |
//! | `watch.rs` | clients that only watch, and those that see the last of an ended session |
//! | `adopt.rs` | sessions of a gateway that was here before us |
//! | `bound.rs` | sessions that end with their client, and outlive the gateway all the same |
//! | `store.rs`, `holder.rs`, `orphans.rs`, `record.rs` | the process that keeps descriptors, and what it is told |
//! | `list.rs` | what is told of them |
//!
//! What is waited for here has an epoll of its own, which the loop waits for as
//! for one thing: a flood of output of a hundred such terminals costs the others
//! no more than one does.

pub mod adopt;
mod alone;
pub mod bound;
mod coming;
mod holder;
mod index;
mod leaving;
mod list;
mod orphans;
pub(super) mod record;
mod state;
mod store;
mod watch;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::context::Context;
use super::fault;
use super::outcome::Outcome;
use super::programs::Programs;
use super::seats::Seat;
use super::table::{Key, Source, Table};
use super::timers::Due;
use super::traffic::Sessions;
use crate::config::router::Router;
use crate::uwsgi::{outlives, proof};
use fpty::proto::Ended;
use fpty::remains::Remains;
use fpty::sys::Written;
use fpty::sys::child::Pid;
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::pty::Master;

pub use coming::{Came, Waiting, comes_back};
use index::Index;
pub use leaving::{NOT_ALLOWED, Parting, Why, Wish};
pub use list::Listed;
use record::{Hello, Record};
use state::{Overdue, State, Things, Times};
use store::Store;
use watch::Watcher;

/// Ended sessions that are kept at most.
const ENDED: usize = 100;

/// How long what had to wait waits, and how often it is looked after what
/// nothing tells of.
pub const SOON: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(200);

/// Sessions that can be left.
pub struct Left {
    poller: Poller,
    entries: Table<Entry>,
    index: Index,
    watchers: Table<Watcher>,
    /// Programs of a gateway before us that were told to end: they are killed
    /// then.
    doomed: Vec<(Instant, PidFd)>,
    store: Store,
    /// Output that was read since it was last looked.
    taken: usize,
    /// No more is read until then.
    pauses: bool,
    /// Which sessions are to be looked after, and when.
    due: BTreeSet<(BootInstant, Key)>,
    /// When the loop is to have us look, the next time last: who wants it earlier
    /// adds one, and each comes.
    alarms: Vec<BootInstant>,
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
    /// Its program; of one that has ended what it was.
    pid: Pid,
    /// When it began.
    since: Timestamp,
    state: State<Held>,
    /// What keeps it was not told how it is.
    untold: bool,
    /// When it is looked after next: its place among what is due.
    armed: Option<BootInstant>,
    /// How many watch it.
    watchers: u32,
    /// It cannot be left: it came from a gateway before us, and ends with its
    /// client.
    bound: Option<Box<bound::Origin>>,
}

/// What is held of a session.
struct Held;

impl Things for Held {
    type Program = Program;
    type Client = Client;
    type Terminal = Box<Alone>;
    type Last = Over;
    type Newcomer = Box<Waiting>;
}

/// A program that runs.
struct Program {
    pidfd: PidFd,
    /// It is not our child: its end is told by its descriptor.
    adopted: bool,
    /// Its end was told, and its status is waited for until then.
    ending: Option<BootInstant>,
}

impl Program {
    /// One of a gateway before us.
    fn adopted(pidfd: PidFd) -> Self {
        Self { pidfd, adopted: true, ending: None }
    }
}

/// A session's client.
#[derive(Clone, Copy)]
struct Client {
    session: Key,
    uid: u32,
}

/// A terminal without a client.
struct Alone {
    master: Master,
    remains: Remains,
    /// The terminal is closed; it is looked at again then.
    closed: Option<BootInstant>,
}

/// What is left of an ended session.
struct Over {
    ring: OwnedFd,
    ended: Ended,
}

impl Left {
    /// Of a gateway; `None`: no session can outlive it. Sessions of one before us
    /// come along.
    pub fn new(
        config: &Router,
        ordinal: usize,
        poller: &Poller,
    ) -> std::io::Result<(Option<Box<Self>>, adopt::Found)> {
        let any = config.all_rules().iter().any(|rules| rules.detach.sessions > 0);
        if outlives::get().is_none() || !PidFd::there_are() {
            return Ok((None, Vec::new()));
        }
        let count = usize::try_from(config.processes).unwrap_or(1);
        let has_audit = config.all_rules().iter().any(|rules| rules.audit.is_some());
        let hello = Hello { ordinal, count, token: proof::token().unwrap_or_default() };
        let (store, found) = Store::new(hello, config.hangup_grace, has_audit, any);
        let left = Self {
            poller: Poller::new(16)?,
            entries: Table::new(),
            index: Index::default(),
            watchers: Table::new(),
            doomed: Vec::new(),
            store,
            taken: 0,
            pauses: false,
            due: BTreeSet::new(),
            alarms: Vec::new(),
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

    /// Whether there is more to know of this session: it can be left, or came from
    /// a gateway before us.
    pub fn has(&self, session: Key) -> bool {
        self.index.of_session(session).is_some()
    }

    /// The session without a client whose program this is.
    pub fn of_program(&self, program: Pid) -> Option<Key> {
        self.index.of_program(program)
    }

    /// The session that this one is, where somebody is attached.
    pub fn session_of(&self, entry: Key) -> Option<Key> {
        self.entries.get(entry)?.state.client().map(|client| client.session)
    }

    /// The programs of ours that run for nobody who is there.
    pub fn programs(&self) -> impl Iterator<Item = Pid> {
        self.index.programs()
    }

    /// How many watch a session.
    pub fn watchers_of(&self, entry: Key) -> u32 {
        self.entries.get(entry).map_or(0, |entry| entry.watchers)
    }

    /// The seats of those who wait for a session.
    pub fn waiting_seats(&self) -> impl Iterator<Item = &Seat> {
        self.entries.iter().filter_map(|(_, entry)| entry.state.next()?.seat())
    }

    /// One is closed as it is: a session, or somebody who watches.
    pub fn drop_one(&mut self, key: Key, watches: bool) {
        match watches {
            true => drop(self.watchers.remove(key)),
            false => drop(self.take(key)),
        }
    }

    /// A session that has begun, or comes from a gateway before us.
    fn insert(&mut self, entry: Entry) -> Key {
        let key = self.entries.insert(entry);
        if let Some(entry) = self.entries.get(key) {
            self.index.add(key, entry);
        }
        key
    }

    /// Has a session become something else; where it is found by follows that.
    fn change<T>(&mut self, key: Key, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let entry = self.entries.get_mut(key)?;
        self.index.remove(key, entry);
        let outcome = change(entry);
        self.index.add(key, entry);
        Some(outcome)
    }

    fn take(&mut self, key: Key) -> Option<Box<Entry>> {
        let entry = self.entries.remove(key)?;
        self.index.remove(key, &entry);
        if let Some(armed) = entry.armed {
            self.due.remove(&(armed, key));
        }
        // Others may have copies of it.
        if let Some(program) = entry.state.program().filter(|program| program.adopted) {
            let _ = self.poller.remove(&program.pidfd);
        }
        Some(entry)
    }

    /// A session is over, or can be left no more.
    fn remove(&mut self, cx: &mut Context, key: Key) -> Option<Box<Entry>> {
        let entry = self.take(key)?;
        self.tell_over(cx, entry.id.clone());
        Some(entry)
    }

    /// What keeps sessions is told that one is over, now or when it listens.
    fn tell_over(&mut self, cx: &mut Context, id: String) {
        self.store.is_over(id);
        if self.store.waits() {
            self.look_after(cx, SOON);
        }
    }

    /// The earliest of what ended is forgotten where there is too much, of
    /// whoever has the most of it.
    fn bound_ended(&mut self, cx: &mut Context) {
        while let Some(key) = self.index.too_much(ENDED) {
            drop(self.remove(cx, key));
        }
    }
}

impl Entry {
    /// The program is not our child.
    fn is_adopted(&self) -> bool {
        self.state.program().is_some_and(|program| program.adopted)
    }

    fn record(&self, door: &str) -> Record {
        let since = self.state.since().into();
        let (mut attached, mut left, mut ended) = (None, None, None);
        if let Some(client) = self.state.client() {
            attached = Some((client.uid, since));
        }
        if self.state.terminal().is_some() {
            left = Some(since);
        }
        if let Some(over) = self.state.last() {
            left = Some(since);
            let payload = over.ended.packet().split_off(fpty::proto::HEADER);
            ended = Some((payload, since));
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
            bound: None,
            turned: self.state.since().boot.as_nanos(),
            shared: true,
        }
    }

    /// How long it is kept, by the rules of where it began.
    fn times(&self, cx: &Context) -> Times {
        let rules = cx.doors.rules(self.door);
        Times {
            alone: rules.map_or(Duration::MAX, |rules| rules.detach.time),
            end: rules.and_then(|rules| rules.max_time).map(|whole| self.since.boot + whole),
        }
    }

    /// When it is to be looked after next.
    fn due(&self, cx: &Context) -> Option<BootInstant> {
        let ending = self.state.program().and_then(|program| program.ending);
        let untold = self.untold.then(|| BootInstant::now() + SOON);
        let ending = ending.map(|_| BootInstant::now() + LOOK);
        let closed = self.state.terminal().and_then(|alone| alone.closed);
        let due = self.state.due(self.times(cx));
        due.into_iter().chain(untold).chain(ending).chain(closed).min()
    }
}

impl Left {
    /// What keeps sessions is told how it is with this one.
    pub fn tell_store(
        &mut self,
        cx: &mut Context,
        sessions: &Sessions,
        programs: &mut Programs,
        entry: Key,
    ) {
        let Some(found) = self.entries.get_mut(entry).filter(|found| found.bound.is_none()) else {
            return;
        };
        let name = cx.doors.door(found.door).map(|door| door.name.as_str()).unwrap_or_default();
        let mut record = found.record(name);
        let told = match &found.state {
            State::Over(over, _) => self.store.tell(&record, &[(b'r', &over.ring)]),
            State::Runs(running) => {
                let program = &running.program.pidfd;
                if let Some(alone) = found.state.terminal() {
                    record.shared = alone.master.is_shared();
                    let held: [(u8, &dyn AsFd); 3] =
                        [(b'm', &alone.master), (b'p', program), (b'r', &alone.remains)];
                    self.store.tell(&record, &held)
                } else {
                    let client = found.state.client();
                    let attached = client.and_then(|client| sessions.get(client.session));
                    let Some(attached) = attached else {
                        return;
                    };
                    let Some(kept) = attached.session.kept() else {
                        return;
                    };
                    let wires = &attached.wires;
                    record.shared = wires.master.is_shared() || !kept.relays;
                    let mut held: Vec<(u8, &dyn AsFd)> =
                        vec![(b'm', &wires.master), (b'p', program), (b'r', &kept.remains)];
                    // One that is relayed would miss what was on its way.
                    if attached.session.is_handed_over() {
                        held.push((b'c', &wires.client));
                    }
                    self.store.tell(&record, &held)
                }
            }
        };
        found.untold = told == Written::Blocked;
        let pid = found.pid;
        match told {
            Written::Blocked => self.arm(cx, entry),
            Written::Bytes(_) => programs.entrusted(pid),
            Written::Gone => {}
        }
    }

    /// A terminal was handed over to its client: if that can leave, whoever
    /// keeps the session is told. Whether it can.
    pub fn handed_over_for_a_while(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        session: Key,
    ) -> bool {
        let Some(entry) = self.index.of_session(session) else {
            return false;
        };
        if let Some(found) = self.entries.get_mut(entry) {
            found.state.has_arrived();
        }
        self.tell_store(cx, sessions, programs, entry);
        if let Some(attached) = sessions.get_mut(session) {
            if attached.session.owes_go() {
                attached.session.say_go(&mut attached.wires);
            }
        }
        cx.then(Outcome::Settle(session));
        true
    }

    /// Has a session looked after when something of it is due.
    fn arm(&mut self, cx: &mut Context, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let due = entry.due(cx);
        if due == entry.armed {
            return;
        }
        if let Some(before) = std::mem::replace(&mut entry.armed, due) {
            self.due.remove(&(before, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
            self.look_after(cx, due.since(BootInstant::now()));
        }
    }

    /// Does what is due for a session.
    pub fn look_after_entry(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
    ) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        fault::point("left");
        let ends = entry.state.program().is_some_and(|program| program.ending.is_some());
        let now = BootInstant::now();
        let is_closed = |alone: &Box<Alone>| alone.closed.is_some_and(|at| now >= at);
        let is_closed = entry.state.terminal().is_some_and(is_closed);
        // One that has come was told to go on.
        let client = entry.state.client().and_then(|client| sessions.get(client.session));
        if client.is_some_and(|attached| !attached.session.is_hidden()) {
            entry.state.has_arrived();
        }
        if entry.untold {
            self.tell_store(cx, sessions, programs, key);
        }
        if ends {
            self.adopted_ended(cx, sessions, programs, key);
        } else if is_closed {
            self.alone_reopened(cx, key);
        }
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match entry.state.overdue(entry.times(cx), now) {
            Some(Overdue::LetGo(client)) => cx.then(Outcome::LetGo(client.session)),
            Some(Overdue::Ends) => self.end_left(cx, key),
            None => self.arm(cx, key),
        }
    }

    /// Has it looked after what is due after so long, or before.
    pub fn look_after(&mut self, cx: &mut Context, wait: Duration) {
        let at = BootInstant::now() + wait;
        if self.alarms.last().is_none_or(|next| at < *next) {
            self.alarms.push(at);
            cx.after(wait, Due::Left);
        }
    }

    /// Does what is due, and has the loop look after each session of which something
    /// is.
    pub fn look_after_left(&mut self, cx: &mut Context, programs: &mut Programs) {
        let now = BootInstant::now();
        while self.alarms.last().is_some_and(|next| *next <= now) {
            self.alarms.pop();
        }
        self.taken = 0;
        if std::mem::take(&mut self.pauses) {
            let _ = cx.poller.change(&self.poller, Source::Left.token(), Interest::READ);
        }
        while let Some((_, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            if let Some(entry) = self.entries.get_mut(key) {
                entry.armed = None;
            }
            cx.then(Outcome::LookAfterLeft(key));
        }
        let next = self.due.first().map(|(at, _)| at.since(now));
        let again = self.store.flush().then_some(SOON).into_iter().chain(next);
        let again = again.chain(self.watched(cx)).chain(self.end_doomed(cx, programs));
        if let Some(wait) = again.min() {
            self.look_after(cx, wait);
        }
    }

    /// Something happened to what is waited for here.
    pub fn left_ready(&mut self, cx: &mut Context) {
        let count = self.poller.wait(Some(Duration::ZERO)).unwrap_or(0);
        for index in 0..count {
            cx.then(Outcome::LeftReady(self.poller.ready(index)));
        }
    }

    /// What that was.
    pub fn one_ready(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        ready: Ready,
    ) {
        match Source::of(ready.token) {
            Source::Terminal(entry) => self.read_alone(cx, entry, alone::READS),
            Source::Caller(entry) => self.adopted_is_over(cx, sessions, programs, entry),
            Source::Client(watcher) => self.watcher_ready(cx, watcher, ready),
            Source::Children => self.store_is_gone(cx, sessions, programs),
            _ => {}
        }
    }
}
