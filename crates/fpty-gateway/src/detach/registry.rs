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

use super::index::Index;
use super::registry_entry::RegistryEntry;
use super::viewer::Viewer;

/// Ended sessions that are kept at most.
pub(crate) const MAX_EXITED: usize = 100;

/// How long what had to wait waits, and how often it is looked after what
/// nothing tells of.
pub const RETRY_DELAY: Duration = Duration::from_millis(10);
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Sessions that can be left.
pub struct DetachRegistry {
    pub(crate) poller: Poller,
    pub(crate) entries: Table<RegistryEntry>,
    pub(crate) index: Index,
    pub(crate) viewers: Table<Viewer>,
    pub(crate) supervisor: client::Client,
    /// Output that was read since it was last looked.
    pub(crate) bytes_read: usize,
    /// No more is read until then.
    pub(crate) is_throttled: bool,
    /// What counts over all gateways.
    pub(crate) tallies: Tallies,
    /// Which sessions are to be looked after, and when.
    pub(crate) due: BTreeSet<(BootInstant, Key)>,
    /// When the loop is to have us look, the next time last: who wants it earlier
    /// adds one, and each comes.
    pub(crate) wakeups: Vec<BootInstant>,
}

impl DetachRegistry {
    /// Of a gateway; `None`: no session can outlive it. Sessions of one before us
    /// come along.
    pub fn new(
        config: &Router,
        ordinal: usize,
        poller: &Poller,
        tallies: Tallies,
    ) -> std::io::Result<(Option<Box<Self>>, Found)> {
        let any = config.all_rules().iter().any(|rules| rules.detach.sessions > 0);
        if !link::there_is_one() || !PidFd::there_are() {
            return Ok((None, Vec::new()));
        }
        let has_audit = config.all_rules().iter().any(|rules| rules.audit.is_some());
        let hello = Hello::of(ordinal, config.processes);
        let (supervisor, found) = client::Client::new(hello, config.hangup_grace, has_audit, any);
        let left = Self {
            poller: Poller::new(16)?,
            entries: Table::new(),
            index: Index::default(),
            viewers: Table::new(),
            supervisor,
            bytes_read: 0,
            is_throttled: false,
            tallies,
            due: BTreeSet::new(),
            wakeups: Vec::new(),
        };
        left.watch_supervisor();
        poller.add(&left.poller, Source::Detached.token(), Interest::READ)?;
        Ok((Some(Box::new(left)), found))
    }

    /// Whether there is more to know of this session: it can be left, or came from
    /// a gateway before us.
    pub fn has_session(&self, session: Key) -> bool {
        self.index.by_session(session).is_some()
    }

    /// The session without a client whose program this is.
    pub fn by_program(&self, program: Pid) -> Option<Key> {
        self.index.by_program(program)
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
    pub fn viewers_of(&self, entry: Key) -> u32 {
        self.entries.get(entry).map_or(0, |entry| entry.viewers)
    }

    /// One is closed as it is: a session, or somebody who watches.
    pub fn drop_one(&mut self, key: Key, watches: bool) {
        match watches {
            true => drop(self.viewers.remove(key)),
            false => drop(self.take(key)),
        }
    }

    /// What runs, where that is known.
    pub(crate) fn command_of(&self, cx: &Context, key: Key) -> Option<Box<str>> {
        let entry = self.entries.get(key)?;
        let client = entry.state.client();
        let subject = client.map_or(Subject::Detached(key), |it| Subject::Session(it.session));
        cx.command_of(subject, entry.door).map(Into::into)
    }

    /// A session that has begun, or comes from a gateway before us.
    pub(crate) fn insert(&mut self, entry: RegistryEntry) -> Key {
        let key = self.entries.insert(entry);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.update_claims(&self.tallies);
            self.index.add(key, entry);
        }
        key
    }

    /// Has a session become something else; where it is found by follows that.
    pub(crate) fn update<T>(
        &mut self,
        key: Key,
        update: impl FnOnce(&mut RegistryEntry) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(key)?;
        self.index.remove(key, entry);
        let outcome = update(entry);
        entry.update_claims(&self.tallies);
        self.index.add(key, entry);
        Some(outcome)
    }

    pub(crate) fn take(&mut self, key: Key) -> Option<Box<RegistryEntry>> {
        let entry = self.entries.remove(key)?;
        self.index.remove(key, &entry);
        if let Some(scheduled) = entry.scheduled {
            self.due.remove(&(scheduled, key));
        }
        // Others may have copies of it.
        if let Some(pidfd) = entry.restored_pidfd() {
            let _ = self.poller.remove(pidfd);
        }
        Some(entry)
    }

    /// A session is over, or can be left no more.
    pub(crate) fn remove(&mut self, cx: &mut Context, key: Key) -> Option<Box<RegistryEntry>> {
        let entry = self.take(key)?;
        self.unregister(cx, entry.id.as_ref().to_owned());
        Some(entry)
    }

    /// The earliest of what ended is forgotten where there is too much, of
    /// whoever has the most of it.
    pub(crate) fn trim_exited(&mut self, cx: &mut Context) {
        while let Some(key) = self.index.oldest_exited(MAX_EXITED) {
            drop(self.remove(cx, key));
        }
    }
}
