//! Where the sessions are that can be left: by their client, program, id, name and
//! user. Nobody looks through all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use super::Entry;
use crate::router::table::Key;
use fpty::sys::child::Pid;
use fpty::sys::clock::BootInstant;

/// See above.
#[derive(Default)]
pub struct Index {
    by_session: HashMap<Key, Key>,
    /// Programs of ours that run for nobody.
    by_program: HashMap<Pid, Key>,
    by_id: BTreeSet<(Rc<str>, Key)>,
    /// By socket and user.
    users: HashMap<(u16, u32), User>,
    /// What has ended, by user and since when.
    over: BTreeSet<(u32, BootInstant, Key)>,
}

/// What is somebody's at a socket.
#[derive(Default)]
struct User {
    by_name: BTreeSet<(Rc<str>, Key)>,
    /// What nobody is attached to: the nearest to whoever comes back is the last.
    left: BTreeSet<(u8, BootInstant, Key)>,
}

impl Index {
    /// Notes a session as it is.
    pub fn add(&mut self, key: Key, entry: &Entry) {
        if let Some(client) = entry.state.client() {
            self.by_session.insert(client.session, key);
        }
        // It cannot be left, and is found by nobody.
        if entry.bound.is_none() {
            self.note(key, entry, true);
        }
    }

    /// Forgets it; it is as it was when it was noted.
    pub fn remove(&mut self, key: Key, entry: &Entry) {
        if let Some(client) = entry.state.client() {
            self.by_session.remove(&client.session);
        }
        if entry.bound.is_none() {
            self.note(key, entry, false);
        }
    }

    fn note(&mut self, key: Key, entry: &Entry, there: bool) {
        fn put<T: Ord>(set: &mut BTreeSet<T>, one: T, there: bool) {
            let _ = if there { set.insert(one) } else { set.remove(&one) };
        }
        put(&mut self.by_id, (entry.id.clone(), key), there);
        let user = self.users.entry((entry.door, entry.uid)).or_default();
        if !entry.name.is_empty() {
            put(&mut user.by_name, (entry.name.as_str().into(), key), there);
        }
        let (rank, since) = (entry.state.rank(), entry.state.since().boot);
        if rank > 0 {
            put(&mut user.left, (rank, since, key), there);
        }
        if user.is_empty() {
            self.users.remove(&(entry.door, entry.uid));
        }
        if entry.state.is_over() {
            put(&mut self.over, (entry.uid, since, key), there);
        } else if rank > 0 && entry.adopted().is_none() {
            match there {
                true => drop(self.by_program.insert(entry.pid, key)),
                false => drop(self.by_program.remove(&entry.pid)),
            }
        }
    }

    /// The session with this client.
    pub fn of_session(&self, session: Key) -> Option<Key> {
        match self.by_session.is_empty() {
            true => None,
            false => self.by_session.get(&session).copied(),
        }
    }

    /// The one without a client whose program this is.
    pub fn of_program(&self, program: Pid) -> Option<Key> {
        self.by_program.get(&program).copied()
    }

    /// The programs of ours that run for nobody.
    pub fn programs(&self) -> impl Iterator<Item = Pid> {
        self.by_program.keys().copied()
    }

    /// What somebody would come back to who says no more.
    pub fn nearest(&self, door: u16, uid: u32) -> Option<Key> {
        self.users.get(&(door, uid))?.left.last().map(|(.., key)| *key)
    }

    /// Those of a user that are called so.
    pub fn named(&self, door: u16, uid: u32, name: &str) -> impl Iterator<Item = Key> {
        let user = self.users.get(&(door, uid));
        user.into_iter().flat_map(|user| beginning_with(&user.by_name, name, |it, by| it == by))
    }

    /// Those whose ids begin so, in their order.
    pub fn beginning(&self, id: &str) -> impl Iterator<Item = Key> {
        beginning_with(&self.by_id, id, |it, by| it.starts_with(by))
    }

    /// What has ended longest ago, of whoever has the most of it, where there is more
    /// than this.
    pub fn too_much(&self, most: usize) -> Option<Key> {
        if self.over.len() <= most {
            return None;
        }
        let mut counts = BTreeMap::new();
        self.over.iter().for_each(|(uid, ..)| *counts.entry(*uid).or_insert(0_usize) += 1);
        let (uid, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let mut of_one = self.over.iter().filter(|(of, ..)| *of == uid);
        of_one.next().map(|(.., key)| *key)
    }
}

impl User {
    fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.left.is_empty()
    }
}

fn beginning_with<'a>(
    set: &'a BTreeSet<(Rc<str>, Key)>,
    by: &str,
    is_one: fn(&str, &str) -> bool,
) -> impl Iterator<Item = Key> + use<'a> {
    let by: Rc<str> = by.into();
    let from = (by.clone(), Key::FIRST);
    set.range(from..).take_while(move |(it, _)| is_one(it, &by)).map(|(_, key)| *key)
}
