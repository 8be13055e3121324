//! Registry of detachable sessions.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::options::GatewayConfig;
use crate::connection::shared_counts::SharedCounts;
use crate::event_loop::context::Context;
use crate::event_loop::slab::{Key, Slab, Token};
use crate::process::ipc::Hello;
use crate::process::supervisor::supervisor_client::{self, RestoredSessions};
use crate::process::supervisor::supervisor_link;
use fpty::sys::child::Pid;
use fpty::sys::clock::BootInstant;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller};

use super::detachable_session::DetachableSession;
use super::index::Index;
use super::viewers::Viewer;

/// Delay before another try, and interval of polling for what epoll does not report.
pub const RETRY_DELAY: Duration = Duration::from_millis(10);
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The detachable sessions of a gateway, and their viewers.
pub struct DetachRegistry {
    pub(crate) poller: Poller,
    pub(crate) entries: Slab<DetachableSession>,
    pub(crate) index: Index,
    pub(crate) viewers: Slab<Viewer>,
    pub(crate) supervisor: supervisor_client::SupervisorClient,
    /// Bytes that were read since floods were last checked.
    pub(crate) bytes_read: usize,
    /// Terminals are not read until the next check.
    pub(crate) is_throttled: bool,
    /// Counts over all gateways.
    pub(crate) shared_counts: SharedCounts,
    /// Deadlines of the sessions, by time.
    pub(crate) due: BTreeSet<(BootInstant, Key)>,
    /// Pending timers of the loop, the earliest last: an earlier one is added, and all of them
    /// fire.
    pub(crate) wakeups: Vec<BootInstant>,
}

impl DetachRegistry {
    /// The registry of a gateway, with sessions of an earlier gateway; `None`: no session can
    /// outlive the gateway.
    ///
    /// # Errors
    /// A poller cannot be made or registered: too many descriptors.
    pub fn new(
        config: &GatewayConfig,
        ordinal: usize,
        poller: &Poller,
        shared_counts: SharedCounts,
    ) -> std::io::Result<(Option<Box<Self>>, RestoredSessions)> {
        let any = config.any(|rules| rules.detach.sessions > 0);
        if !supervisor_link::is_available() || !PidFd::are_supported() {
            return Ok((None, Vec::new()));
        }
        let has_audit = config.any(|rules| rules.audit.is_some());
        let hello = Hello::of(ordinal, config.processes);
        let (supervisor, found) =
            supervisor_client::SupervisorClient::new(hello, config.hangup_grace, has_audit, any);
        let registry = Self {
            poller: Poller::new(16)?,
            entries: Slab::new(),
            index: Index::default(),
            viewers: Slab::new(),
            supervisor,
            bytes_read: 0,
            is_throttled: false,
            shared_counts,
            due: BTreeSet::new(),
            wakeups: Vec::new(),
        };
        registry.watch_supervisor();
        poller.add(&registry.poller, Token::Detached.token(), Interest::READ)?;
        Ok((Some(Box::new(registry)), found))
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
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        self.index.processes()
    }

    /// Drops a viewer as it is.
    pub fn discard_viewer(&mut self, key: Key) {
        self.viewers.remove(key);
    }

    /// The command of a session, where it is known.
    pub(crate) fn command_of(&self, cx: &Context, key: Key) -> Option<Box<str>> {
        let listener = self.entries.get(key)?.listener;
        cx.command_of(self.session_ref_of(key), listener).map(Into::into)
    }

    /// Adds an entry: a new session, or a restored one.
    pub(crate) fn insert(&mut self, entry: DetachableSession) -> Key {
        let key = self.entries.insert(entry);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.update_claims(&self.shared_counts);
            self.index.add(key, entry);
        }
        key
    }

    /// Changes an entry's state, and its place in the index and the quotas.
    pub(crate) fn update<T>(
        &mut self,
        key: Key,
        update: impl FnOnce(&mut DetachableSession) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(key)?;
        self.index.remove(key, entry);
        let outcome = update(entry);
        entry.update_claims(&self.shared_counts);
        self.index.add(key, entry);
        Some(outcome)
    }

    /// Takes an entry out; the supervisor still has it.
    pub(crate) fn take(&mut self, key: Key) -> Option<Box<DetachableSession>> {
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
    pub(crate) fn remove(&mut self, cx: &mut Context, key: Key) -> Option<Box<DetachableSession>> {
        let entry = self.take(key)?;
        self.unregister(cx, entry.id.as_ref().to_owned());
        Some(entry)
    }
}
