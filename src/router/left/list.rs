//! What a list has of sessions that can be left.

use super::{Entry, Left, Place};
use crate::router::GatewayLoop;
use crate::router::table::Key;
use fpty::sys::clock::Timestamp;
use fpty::sys::pty::Master;

/// Such a session.
pub struct Listed<'a> {
    /// Its id.
    pub id: &'a str,
    /// What it is called; may be empty.
    pub name: &'a str,
    /// Whose it is.
    pub uid: u32,
    /// Where it began.
    pub door: u16,
    /// Its program; of an ended one what it was.
    pub pid: i32,
    /// What runs, where that is known.
    pub command: Option<&'a str>,
    /// When it began.
    pub since: Timestamp,
    /// When it was left.
    pub left: Option<Timestamp>,
    /// How it has ended: what `$?` would be.
    pub status: Option<u8>,
    /// It ends with its client.
    pub is_bound: bool,
    /// The address where it began, where there is no such socket any more.
    pub socket: Option<&'a str>,
    /// Its terminal, where nobody else has it.
    pub master: Option<&'a Master>,
    /// How many watch it.
    pub watchers: u32,
}

impl Entry {
    fn listed(&self, watchers: u32) -> Listed<'_> {
        let (left, status, master) = match &self.place {
            Place::Attached(_) => (None, None, None),
            Place::Alone(alone) => (Some(alone.since), None, Some(&alone.master)),
            Place::Over(over) => (Some(over.at), Some(over.ended.status()), None),
        };
        Listed {
            id: &self.id,
            name: &self.name,
            uid: self.uid,
            door: self.door,
            pid: self.pid.as_raw(),
            command: self.command.as_deref(),
            since: self.since,
            left,
            status,
            is_bound: self.bound.is_some(),
            socket: self.bound.as_ref().and_then(|bound| bound.socket.as_deref()),
            master,
            watchers,
        }
    }
}

impl Left {
    /// Whether there is such a session.
    pub fn has_entry(&self, key: Key) -> bool {
        self.entries.has(key)
    }

    /// The keys of those from this place on, each with its place.
    pub fn from(&self, place: usize) -> impl Iterator<Item = (usize, Key)> {
        self.entries.from(place)
    }

    fn watchers_of(&self, key: Key) -> u32 {
        let watching = self.watchers.iter().filter(|(_, watcher)| watcher.entry == key);
        // There are few of them, see there.
        watching.count() as u32
    }

    /// One that nobody is attached to.
    pub fn alone_or_over(&self, key: Key) -> Option<Listed<'_>> {
        let is_left = |entry: &&Entry| !matches!(entry.place, Place::Attached(_));
        self.entries.get(key).filter(is_left).map(|it| it.listed(self.watchers_of(key)))
    }

    /// A session that can be left.
    pub fn of_session(&self, session: Key) -> Option<Listed<'_>> {
        let key = *self.by_session.get(&session)?;
        self.entries.get(key).map(|it| it.listed(self.watchers_of(key)))
    }
}

impl GatewayLoop {
    /// Ends one that nobody is attached to; what is left of one that has
    /// ended is forgotten.
    pub(in crate::router) fn end_left(&mut self, key: Key) {
        let Some(left) = &mut self.left else {
            return;
        };
        match left.entries.get(key).map(|entry| &entry.place) {
            Some(Place::Alone(_)) => self.end_alone(key),
            Some(Place::Over(_)) => {
                left.remove(key);
            }
            Some(Place::Attached(_)) | None => {}
        }
    }
}
