//! Where the sessions are that can be left: by their client, program, id, name and
//! user. Nobody looks through all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use super::registry_entry::Entry;
use crate::event_loop::slab::Key;
use fpty::sys::child::Pid;
use fpty::sys::clock::BootInstant;

/// See above.
#[derive(Default)]
pub struct Index {
    by_session: HashMap<Key, Key>,
    /// Programs of ours that run for nobody.
    by_program: HashMap<Pid, Key>,
    by_id: BTreeSet<(Rc<str>, Key)>,
    /// By user and name.
    by_name: BTreeSet<(u32, Rc<str>, Key)>,
    /// What nobody is attached to, by socket and user: the nearest to whoever comes
    /// back is the last.
    left: BTreeSet<(u16, u32, u8, BootInstant, Key)>,
    /// What has ended, by user and since when.
    over: BTreeSet<(u32, BootInstant, Key)>,
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
        if !entry.name.is_empty() {
            put(&mut self.by_name, (entry.uid, entry.name.as_str().into(), key), there);
        }
        let (rank, since) = (entry.state.rank(), entry.state.since().boot);
        if rank > 0 {
            put(&mut self.left, (entry.door, entry.uid, rank, since, key), there);
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
        // No rank is as high.
        let above = (door, uid, u8::MAX, BootInstant::from_nanos(0), Key::FIRST);
        let (of, whose, .., key) = self.left.range(..above).next_back()?;
        (*of == door && *whose == uid).then_some(*key)
    }

    /// Those of a user that are called so.
    pub fn named<'a>(&'a self, uid: u32, name: &str) -> impl Iterator<Item = Key> + use<'a> {
        let name: Rc<str> = name.into();
        let from = self.by_name.range((uid, name.clone(), Key::FIRST)..);
        from.take_while(move |(of, it, _)| *of == uid && *it == name).map(|(.., key)| *key)
    }

    /// Those whose ids begin so, in their order.
    pub fn beginning<'a>(&'a self, id: &str) -> impl Iterator<Item = Key> + use<'a> {
        let id: Rc<str> = id.into();
        let from = self.by_id.range((id.clone(), Key::FIRST)..);
        from.take_while(move |(it, _)| it.starts_with(&*id)).map(|(_, key)| *key)
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
