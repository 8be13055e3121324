//! Index of detachable sessions: lookup by client, process, id, name and user without a search
//! through all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use super::detachable_session::DetachableSession;
use crate::event_loop::slab::Key;
use fpty::sys::child::Pid;
use fpty::sys::clock::BootInstant;

/// Index of the registry's entries.
#[derive(Default)]
pub struct Index {
    by_session: HashMap<Key, Key>,
    /// Detached sessions by process, where that is a child of this gateway.
    by_program: HashMap<Pid, Key>,
    by_id: BTreeSet<(Rc<str>, Key)>,
    /// Sessions by user and name.
    by_name: BTreeSet<(u32, Rc<str>, Key)>,
    /// Detached and exited sessions by socket, user, rank and time: the last of a user is the
    /// default target.
    detached: BTreeSet<(u16, u32, u8, BootInstant, Key)>,
    /// Exited sessions by user and time of their end.
    exited: BTreeSet<(u32, BootInstant, Key)>,
}

impl Index {
    /// Adds an entry in its current state.
    pub fn add(&mut self, key: Key, entry: &DetachableSession) {
        if let Some(client) = entry.state.client() {
            self.by_session.insert(client.session, key);
        }
        // A session that cannot be detached is no target.
        if entry.no_detach.is_none() {
            self.put(key, entry, true);
        }
    }

    /// Removes an entry, which is in the state in which it was added.
    pub fn remove(&mut self, key: Key, entry: &DetachableSession) {
        if let Some(client) = entry.state.client() {
            self.by_session.remove(&client.session);
        }
        if entry.no_detach.is_none() {
            self.put(key, entry, false);
        }
    }

    fn put(&mut self, key: Key, entry: &DetachableSession, there: bool) {
        fn put<T: Ord>(set: &mut BTreeSet<T>, one: T, there: bool) {
            let _ = if there { set.insert(one) } else { set.remove(&one) };
        }
        put(&mut self.by_id, (entry.id.clone(), key), there);
        if !entry.name.is_empty() {
            put(&mut self.by_name, (entry.uid, entry.name.as_str().into(), key), there);
        }
        let (rank, since) = (entry.state.rank(), entry.state.since().boot);
        if rank > 0 {
            put(&mut self.detached, (entry.listener, entry.uid, rank, since, key), there);
        }
        if entry.state.has_exited() {
            put(&mut self.exited, (entry.uid, since, key), there);
        } else if rank > 0 && entry.restored_pidfd().is_none() {
            match there {
                true => drop(self.by_program.insert(entry.pid, key)),
                false => drop(self.by_program.remove(&entry.pid)),
            }
        }
    }

    /// The entry of a live session.
    pub fn by_session(&self, session: Key) -> Option<Key> {
        match self.by_session.is_empty() {
            true => None,
            false => self.by_session.get(&session).copied(),
        }
    }

    /// The detached session that this process belongs to.
    pub fn by_program(&self, program: Pid) -> Option<Key> {
        self.by_program.get(&program).copied()
    }

    /// Processes of detached sessions that are children of this gateway.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        self.by_program.keys().copied()
    }

    /// The target of a request to attach that names none.
    pub fn default_target(&self, listener: u16, uid: u32) -> Option<Key> {
        // No rank is as high.
        let above = (listener, uid, u8::MAX, BootInstant::from_nanos(0), Key::FIRST);
        let (of, whose, .., key) = self.detached.range(..above).next_back()?;
        (*of == listener && *whose == uid).then_some(*key)
    }

    /// Sessions of a user that have this name.
    pub fn named<'a>(&'a self, uid: u32, name: &str) -> impl Iterator<Item = Key> + use<'a> {
        let name: Rc<str> = name.into();
        let from = self.by_name.range((uid, name.clone(), Key::FIRST)..);
        from.take_while(move |(of, it, _)| *of == uid && *it == name).map(|(.., key)| *key)
    }

    /// Sessions whose ids begin so, in order.
    pub fn with_id_prefix<'a>(&'a self, id: &str) -> impl Iterator<Item = Key> + use<'a> {
        let id: Rc<str> = id.into();
        let from = self.by_id.range((id.clone(), Key::FIRST)..);
        from.take_while(move |(it, _)| it.starts_with(&*id)).map(|(_, key)| *key)
    }

    /// The exited session to forget where there are more than `most`: the oldest of the user that
    /// has most of them.
    pub fn oldest_exited(&self, most: usize) -> Option<Key> {
        if self.exited.len() <= most {
            return None;
        }
        let mut counts = BTreeMap::new();
        self.exited.iter().for_each(|(uid, ..)| *counts.entry(*uid).or_insert(0_usize) += 1);
        let (uid, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let mut of_one = self.exited.iter().filter(|(of, ..)| *of == uid);
        of_one.next().map(|(.., key)| *key)
    }
}
