//! Sessions that can be left and found again.
//!
//! Such a session keeps its last output in a ring. While a client is attached
//! it is a session like others; without one it is here: its terminal is read
//! on into the ring, so that the program never waits. Its descriptors are also
//! with a process that outlives the gateway, so that the next one takes it up.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | which sessions there are, and whose |
//! | `state.rs` | attaching and leaving, as a state machine |
//! | `index.rs` | where they are |
//! | `due.rs` | when something is due |
//! | `events.rs` | what happens, and what is due |
//! | `begin.rs` | one begins |
//! | `leaving.rs` | a client leaves, or is lost |
//! | `coming.rs` | a client comes back, or has another one go |
//! | `alone.rs` | a terminal without a client; a program that has ended |
//! | `watch.rs` | clients that only watch, and those that see the last of an ended session |
//! | `adopt.rs` | sessions of a gateway that was here before us |
//! | `bound.rs` | sessions that end with their client, and outlive the gateway all the same |
//! | `supervised.rs` | what the supervisor is told of them |
//! | `list.rs` | what is told of them |
//!
//! What is waited for here has an epoll of its own, which the loop waits for as
//! for one thing: a flood of output of a hundred such terminals costs the others
//! no more than one does.

pub mod adopt;
mod alone;
mod begin;
pub mod bound;
mod coming;
mod due;
mod events;
mod index;
mod leaving;
mod list;
mod state;
mod supervised;
pub mod watch;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::beginning::Beginning;
use super::codec::Hello;
use super::context::Context;
use super::record::Recording;
use super::secrets::{NOBODY, Secrets};
use super::siblings::sought;
use super::supervisor::client::{self, Found};
use super::supervisor::door;
use super::table::{Key, Source, Table};
use super::tallies::{Tallies, Tally};
use super::whose::Subject;
use crate::config::router::Router;
use crate::shares::Who;
use fpty::proto::Ended;
use fpty::remains::Remains;
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::process::Process;
use fpty::sys::pty::Master;

pub use coming::{Came, Waiting, comes_back};
use index::Index;
pub use leaving::{NOT_ALLOWED, Parting, Why};
pub use list::Listed;
use state::{State, Things};
use watch::Watcher;

/// Ended sessions that are kept at most.
const ENDED: usize = 100;

/// How long what had to wait waits, and how often it is looked after what
/// nothing tells of.
pub const SOON: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(200);

/// The size of a terminal; of one that does not tell it the usual one.
fn terminal_size(master: Option<&Master>) -> Size {
    master.and_then(Master::size).unwrap_or(Size { rows: 24, cols: 80 })
}

/// Sessions that can be left.
pub struct Left {
    poller: Poller,
    entries: Table<Entry>,
    index: Index,
    watchers: Table<Watcher>,
    store: client::Client,
    /// Output that was read since it was last looked.
    taken: usize,
    /// No more is read until then.
    pauses: bool,
    /// What counts over all gateways.
    tallies: Tallies,
    /// Which sessions are to be looked after, and when.
    due: BTreeSet<(BootInstant, Key)>,
    /// When the loop is to have us look, the next time last: who wants it earlier
    /// adds one, and each comes.
    alarms: Vec<BootInstant>,
}

/// Such a session.
struct Entry {
    id: Rc<str>,
    /// What it is called; may be empty.
    name: String,
    uid: u32,
    /// For whom it counts where sessions are limited: whoever began it.
    who: Who,
    secrets: Secrets,
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
    /// Its name is its own, over all gateways.
    held: Option<Tally>,
    /// It is one of those without a client, over all gateways.
    counts: Option<[Tally; 2]>,
}

/// What those without a client count for: of all at a socket, and of a user's.
#[derive(Hash)]
enum WithoutClient {
    All(u16),
    Own(u16, u32),
}

/// One more that goes on without a client, whatever there may be.
fn without_client(tallies: &Tallies, door: u16, uid: u32) -> [Tally; 2] {
    [WithoutClient::All(door), WithoutClient::Own(door, uid)].map(|it| tallies.hold(it))
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
    /// Of one that is not our child: its end is told by that. A child of ours has its
    /// number until we reap it.
    pidfd: Option<PidFd>,
    /// Its end was told, and its status is waited for until then.
    ending: Option<BootInstant>,
}

impl Program {
    /// One of a gateway before us.
    fn adopted(pidfd: PidFd) -> Self {
        Self { pidfd: Some(pidfd), ending: None }
    }

    /// What it is signalled by; it has this number.
    fn process(self, pid: Pid) -> Process {
        self.pidfd.map_or_else(|| Process::child(pid), Process::held)
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
    /// Where it is recorded.
    recording: Option<Rc<Recording>>,
    /// It is not read until there is room to record what comes.
    waits: bool,
}

impl Alone {
    fn new(master: Master, remains: Remains, recording: Option<Rc<Recording>>) -> Self {
        Self { master, remains, closed: None, recording, waits: false }
    }
}

/// What is left of an ended session.
struct Over {
    ring: OwnedFd,
    ended: Ended,
    /// What ran, where that is known.
    command: Option<Box<str>>,
}

impl Left {
    /// Of a gateway; `None`: no session can outlive it. Sessions of one before us
    /// come along.
    pub fn new(
        config: &Router,
        ordinal: usize,
        poller: &Poller,
        tallies: Tallies,
    ) -> std::io::Result<(Option<Box<Self>>, Found)> {
        let any = config.all_rules().iter().any(|rules| rules.detach.sessions > 0);
        if !door::there_is_one() || !PidFd::there_are() {
            return Ok((None, Vec::new()));
        }
        let has_audit = config.all_rules().iter().any(|rules| rules.audit.is_some());
        let hello = Hello::of(ordinal, config.processes);
        let (store, found) = client::Client::new(hello, config.hangup_grace, has_audit, any);
        let left = Self {
            poller: Poller::new(16)?,
            entries: Table::new(),
            index: Index::default(),
            watchers: Table::new(),
            store,
            taken: 0,
            pauses: false,
            tallies,
            due: BTreeSet::new(),
            alarms: Vec::new(),
        };
        left.hear_store();
        poller.add(&left.poller, Source::Left.token(), Interest::READ)?;
        Ok((Some(Box::new(left)), found))
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

    /// One is closed as it is: a session, or somebody who watches.
    pub fn drop_one(&mut self, key: Key, watches: bool) {
        match watches {
            true => drop(self.watchers.remove(key)),
            false => drop(self.take(key)),
        }
    }

    /// What runs, where that is known.
    fn command_of(&self, cx: &Context, key: Key) -> Option<Box<str>> {
        let entry = self.entries.get(key)?;
        let client = entry.state.client();
        let subject = client.map_or(Subject::Left(key), |it| Subject::Session(it.session));
        cx.command_of(subject, entry.door).map(Into::into)
    }

    /// A session that has begun, or comes from a gateway before us.
    fn insert(&mut self, entry: Entry) -> Key {
        let key = self.entries.insert(entry);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.count(&self.tallies);
            self.index.add(key, entry);
        }
        key
    }

    /// Has a session become something else; where it is found by follows that.
    fn change<T>(&mut self, key: Key, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let entry = self.entries.get_mut(key)?;
        self.index.remove(key, entry);
        let outcome = change(entry);
        entry.count(&self.tallies);
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
        if let Some(pidfd) = entry.adopted() {
            let _ = self.poller.remove(pidfd);
        }
        Some(entry)
    }

    /// A session is over, or can be left no more.
    fn remove(&mut self, cx: &mut Context, key: Key) -> Option<Box<Entry>> {
        let entry = self.take(key)?;
        self.tell_over(cx, entry.id.as_ref().to_owned());
        Some(entry)
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
    /// Has it count as what it is, over all gateways.
    fn count(&mut self, tallies: &Tallies) {
        let is_ones_own = self.uid != NOBODY && !self.state.is_over();
        let name = Beginning::of(self.name.as_bytes()).filter(|_| is_ones_own);
        let name = name.map(|name| sought::name(self.door, self.uid, name));
        self.held = name.and_then(|name| self.held.take().or_else(|| tallies.claim(name, 1).ok()));
        self.counts = match self.state.terminal() {
            Some(_) => {
                self.counts.take().or_else(|| Some(without_client(tallies, self.door, self.uid)))
            }
            None => None,
        };
    }

    /// The program, where it is not our child.
    fn adopted(&self) -> Option<&PidFd> {
        self.state.program()?.pidfd.as_ref()
    }
}
