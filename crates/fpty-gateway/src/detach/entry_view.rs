//! What a list has of sessions that can be left.

use super::registry::DetachRegistry;
use super::registry_entry::RegistryEntry;
use crate::connection::session_access::NOBODY;
use crate::event_loop::slab::Key;
use crate::event_loop::subject::Subject;
use crate::session::selector::SessionSelector;
use fpty::sys::clock::Timestamp;
use fpty::sys::pty::Master;

/// Such a session.
pub struct EntryView<'a> {
    /// Its id.
    pub id: &'a str,
    /// What it is called; may be empty.
    pub name: &'a str,
    /// Whose it is, where that is known.
    pub uid: Option<u32>,
    /// Where it began.
    pub door: u16,
    /// Its program; of an ended one what it was.
    pub pid: i32,
    /// What ran, of one that has ended, where that is known.
    pub command: Option<&'a str>,
    /// When it began.
    pub since: Timestamp,
    /// When it was left.
    pub left: Option<Timestamp>,
    /// How it has ended: what `$?` would be.
    pub status: Option<u8>,
    /// It ends with its client.
    pub ends_with_client: bool,
    /// The address where it began, where there is no such socket any more.
    pub socket: Option<&'a str>,
    /// Its terminal, where nobody else has it.
    pub master: Option<&'a Master>,
    /// So many watch it.
    pub viewers: u32,
}

impl RegistryEntry {
    fn view(&self) -> EntryView<'_> {
        let (detached, over) = (self.state.terminal(), self.state.exited());
        let left = self.state.client().is_none().then(|| self.state.since());
        EntryView {
            id: &self.id,
            name: &self.name,
            uid: (self.uid != NOBODY).then_some(self.uid),
            door: self.door,
            pid: self.pid.as_raw(),
            command: over.and_then(|over| over.command.as_deref()),
            since: self.since,
            left,
            status: over.map(|over| over.ended.status()),
            ends_with_client: self.no_detach.is_some(),
            socket: self.no_detach.as_ref().and_then(|bound| bound.socket.as_deref()),
            master: detached.map(|detached| &detached.master),
            viewers: self.viewers,
        }
    }
}

impl DetachRegistry {
    /// Whether there is such a session.
    pub fn has_entry(&self, key: Key) -> bool {
        self.entries.has(key)
    }

    /// The keys of those from this place on, each with its place.
    pub fn from(&self, place: usize) -> impl Iterator<Item = (usize, Key)> {
        self.entries.from(place)
    }

    /// Those that are meant by this: by their id or how it begins, and a user's own by
    /// their name (a stranger may have called anything like that).
    pub fn meant(&self, by: &SessionSelector, uid: u32) -> impl Iterator<Item = Subject> {
        let text = by.to_string();
        let by_id = self.index.with_id_prefix(&text.to_ascii_lowercase());
        let is_another = |key: &Key| self.entries.get(*key).is_some_and(|it| !by.begins(&it.id));
        let by_name = self.index.named(uid, &text).filter(is_another);
        by_id.chain(by_name).map(|key| self.subject_of(key))
    }

    /// One that nobody is attached to.
    pub fn detached_or_exited(&self, key: Key) -> Option<EntryView<'_>> {
        let is_left = |entry: &&RegistryEntry| entry.state.client().is_none();
        self.entries.get(key).filter(is_left).map(RegistryEntry::view)
    }

    /// A session that can be left.
    pub fn by_session(&self, session: Key) -> Option<EntryView<'_>> {
        self.entries.get(self.index.by_session(session)?).map(RegistryEntry::view)
    }
}
