//! Detachable sessions as lists show them.

use super::detachable_session::DetachableSession;
use super::registry::DetachRegistry;
use crate::connection::session_access::UNKNOWN_UID;
use crate::event_loop::slab::Key;
use crate::session::selector::SessionSelector;
use crate::session::session_ref::SessionRef;
use fpty::sys::clock::Timestamp;
use fpty::sys::pty::Master;

/// A detachable session as lists show it.
pub struct EntryView<'a> {
    /// The session's id.
    pub id: &'a str,
    /// The session's name; may be empty.
    pub name: &'a str,
    /// The owner's user id, where it is known.
    pub uid: Option<u32>,
    /// The socket where the session was opened, by its index.
    pub listener: u16,
    /// The process id; of an exited session the former one.
    pub pid: i32,
    /// The command of an exited session, where it is known.
    pub command: Option<&'a str>,
    /// Time of the start.
    pub since: Timestamp,
    /// Time of the detach.
    pub detached_at: Option<Timestamp>,
    /// Exit status as a shell's `$?`, of an exited session.
    pub status: Option<u8>,
    /// The session ends with its client.
    pub ends_with_client: bool,
    /// The address of the socket, where that exists no more.
    pub socket: Option<&'a str>,
    /// The terminal of a detached session.
    pub master: Option<&'a Master>,
    /// Number of viewers.
    pub viewers: u32,
}

impl DetachableSession {
    fn view(&self) -> EntryView<'_> {
        let (detached, over) = (self.state.terminal(), self.state.exited());
        let detached_at = self.state.client().is_none().then(|| self.state.since());
        EntryView {
            id: &self.id,
            name: &self.name,
            uid: (self.uid != UNKNOWN_UID).then_some(self.uid),
            listener: self.listener,
            pid: self.pid.as_raw(),
            command: over.and_then(|over| over.command.as_deref()),
            since: self.since,
            detached_at,
            status: over.map(|over| over.ended.status()),
            ends_with_client: self.no_detach.is_some(),
            socket: self.no_detach.as_ref().and_then(|bound| bound.socket.as_deref()),
            master: detached.map(|detached| &detached.master),
            viewers: self.viewers,
        }
    }
}

impl DetachRegistry {
    /// Whether there is such an entry.
    pub fn has_entry(&self, key: Key) -> bool {
        self.entries.has(key)
    }

    /// Keys of the entries from this place of the table on, each with its place.
    pub fn iter_from(&self, place: usize) -> impl Iterator<Item = (usize, Key)> {
        self.entries.iter_from(place)
    }

    /// Sessions that a selector matches: by id or prefix of one, and by name among the user's own
    /// (another user's names are no match: anybody may have chosen them).
    pub fn matching(&self, by: &SessionSelector, uid: u32) -> impl Iterator<Item = SessionRef> {
        let text = by.to_string();
        let by_id = self.index.with_id_prefix(&text.to_ascii_lowercase());
        let is_another =
            |key: &Key| self.entries.get(*key).is_some_and(|it| !by.matches_prefix(&it.id));
        let by_name = self.index.named(uid, &text).filter(is_another);
        by_id.chain(by_name).map(|key| self.session_ref_of(key))
    }

    /// A session that is detached or has exited.
    pub fn detached_or_exited(&self, key: Key) -> Option<EntryView<'_>> {
        let is_detached = |entry: &&DetachableSession| entry.state.client().is_none();
        self.entries.get(key).filter(is_detached).map(DetachableSession::view)
    }

    /// The entry of a live session.
    pub fn by_session(&self, session: Key) -> Option<EntryView<'_>> {
        self.entries.get(self.index.by_session(session)?).map(DetachableSession::view)
    }
}
