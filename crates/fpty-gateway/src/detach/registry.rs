//! The sessions that can be left, and whose.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::gateway_config::Router;
use crate::connection::shared_counts::Tallies;
use crate::event_loop::context::Context;
use crate::event_loop::slab::{Key, Source, Table};
use crate::event_loop::subject::Subject;
use crate::process::ipc::Hello;
use crate::process::supervisor::client::{self, Found};
use crate::process::supervisor::link;
use fpty::sys::child::Pid;
use fpty::sys::clock::BootInstant;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller};

use super::entry::Entry;
use super::index::Index;
use super::viewer::Watcher;

/// Ended sessions that are kept at most.
pub(crate) const ENDED: usize = 100;

/// How long what had to wait waits, and how often it is looked after what
/// nothing tells of.
pub const SOON: Duration = Duration::from_millis(10);
pub(crate) const LOOK: Duration = Duration::from_millis(200);

/// Sessions that can be left.
pub struct Left {
    pub(crate) poller: Poller,
    pub(crate) entries: Table<Entry>,
    pub(crate) index: Index,
    pub(crate) watchers: Table<Watcher>,
    pub(crate) store: client::Client,
    /// Output that was read since it was last looked.
    pub(crate) taken: usize,
    /// No more is read until then.
    pub(crate) pauses: bool,
    /// What counts over all gateways.
    pub(crate) tallies: Tallies,
    /// Which sessions are to be looked after, and when.
    pub(crate) due: BTreeSet<(BootInstant, Key)>,
    /// When the loop is to have us look, the next time last: who wants it earlier
    /// adds one, and each comes.
    pub(crate) alarms: Vec<BootInstant>,
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
        if !link::there_is_one() || !PidFd::are_supported() {
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
    pub(crate) fn command_of(&self, cx: &Context, key: Key) -> Option<Box<str>> {
        let entry = self.entries.get(key)?;
        let client = entry.state.client();
        let subject = client.map_or(Subject::Left(key), |it| Subject::Session(it.session));
        cx.command_of(subject, entry.door).map(Into::into)
    }

    /// A session that has begun, or comes from a gateway before us.
    pub(crate) fn insert(&mut self, entry: Entry) -> Key {
        let key = self.entries.insert(entry);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.count(&self.tallies);
            self.index.add(key, entry);
        }
        key
    }

    /// Has a session become something else; where it is found by follows that.
    pub(crate) fn change<T>(
        &mut self,
        key: Key,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(key)?;
        self.index.remove(key, entry);
        let outcome = change(entry);
        entry.count(&self.tallies);
        self.index.add(key, entry);
        Some(outcome)
    }

    pub(crate) fn take(&mut self, key: Key) -> Option<Box<Entry>> {
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
    pub(crate) fn remove(&mut self, cx: &mut Context, key: Key) -> Option<Box<Entry>> {
        let entry = self.take(key)?;
        self.tell_over(cx, entry.id.as_ref().to_owned());
        Some(entry)
    }

    /// The earliest of what ended is forgotten where there is too much, of
    /// whoever has the most of it.
    pub(crate) fn bound_ended(&mut self, cx: &mut Context) {
        while let Some(key) = self.index.too_much(ENDED) {
            drop(self.remove(cx, key));
        }
    }
}
