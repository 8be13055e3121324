//! Registry of detachable sessions.

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

/// Most exited sessions that are kept.
pub(crate) const MAX_EXITED: usize = 100;

/// Delay before another try, and interval of polling for what epoll does not report.
pub const RETRY_DELAY: Duration = Duration::from_millis(10);
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The detachable sessions of a gateway, and their viewers.
pub struct DetachRegistry {
    pub(crate) poller: Poller,
    pub(crate) entries: Table<RegistryEntry>,
    pub(crate) index: Index,
    pub(crate) viewers: Table<Viewer>,
    pub(crate) supervisor: client::Client,
    /// Bytes that were read since floods were last checked.
    pub(crate) bytes_read: usize,
    /// Terminals are not read until the next check.
    pub(crate) is_throttled: bool,
    /// Counts over all gateways.
    pub(crate) tallies: Tallies,
    /// Deadlines of the sessions, by time.
    pub(crate) due: BTreeSet<(BootInstant, Key)>,
    /// Pending timers of the loop, the earliest last: an earlier one is added, and all of them
    /// fire.
    pub(crate) wakeups: Vec<BootInstant>,
}

impl DetachRegistry {
    /// The registry of a gateway, with sessions of an earlier gateway; `None`: no session can
    /// outlive the gateway.
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

    /// Whether a live session has an entry: it is detachable, or was restored.
    pub fn has_session(&self, session: Key) -> bool {
        self.index.by_session(session).is_some()
    }

    /// The detached session that this process belongs to.
    pub fn by_program(&self, program: Pid) -> Option<Key> {
        self.index.by_program(program)
    }

    /// The live session of an entry, where a client is attached.
    pub fn session_of(&self, entry: Key) -> Option<Key> {
        self.entries.get(entry)?.state.client().map(|client| client.session)
    }

    /// Processes of detached sessions that are children of this gateway.
    pub fn programs(&self) -> impl Iterator<Item = Pid> {
        self.index.programs()
    }

    /// Number of a session's viewers.
    pub fn viewers_of(&self, entry: Key) -> u32 {
        self.entries.get(entry).map_or(0, |entry| entry.viewers)
    }

    /// Drops an entry or a viewer as it is.
    pub fn drop_one(&mut self, key: Key, watches: bool) {
        match watches {
            true => drop(self.viewers.remove(key)),
            false => drop(self.take(key)),
        }
    }

    /// The command of a session, where it is known.
    pub(crate) fn command_of(&self, cx: &Context, key: Key) -> Option<Box<str>> {
        let entry = self.entries.get(key)?;
        let client = entry.state.client();
        let subject = client.map_or(Subject::Detached(key), |it| Subject::Session(it.session));
        cx.command_of(subject, entry.door).map(Into::into)
    }

    /// Adds an entry: a new session, or a restored one.
    pub(crate) fn insert(&mut self, entry: RegistryEntry) -> Key {
        let key = self.entries.insert(entry);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.update_claims(&self.tallies);
            self.index.add(key, entry);
        }
        key
    }

    /// Changes an entry's state, and its place in the index and the quotas.
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
        // Other processes may have copies of the descriptor.
        if let Some(pidfd) = entry.restored_pidfd() {
            let _ = self.poller.remove(pidfd);
        }
        Some(entry)
    }

    /// Removes an entry that is over, also at the supervisor.
    pub(crate) fn remove(&mut self, cx: &mut Context, key: Key) -> Option<Box<RegistryEntry>> {
        let entry = self.take(key)?;
        self.unregister(cx, entry.id.as_ref().to_owned());
        Some(entry)
    }

    /// Forgets exited sessions above the limit, the oldest of the user that has most of them.
    pub(crate) fn trim_exited(&mut self, cx: &mut Context) {
        while let Some(key) = self.index.oldest_exited(MAX_EXITED) {
            drop(self.remove(cx, key));
        }
    }
}
