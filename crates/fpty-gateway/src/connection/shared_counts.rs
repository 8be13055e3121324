//! Shared counts: each gateway counts, and all others see it: who has a name, and how many
//! sessions there are under a limit. Each gateway writes its own table alone, and reads the
//! others': no lock, what a killed gateway leaves its successor restores, and a look-up costs
//! the same however many sessions there are.
//!
//! A table is a hash table with open addressing: a count stands in the slot of its key or
//! behind it, and a deleted slot (a tombstone) is empty again only where nothing stands
//! behind it. So a reader finds what was there when it began.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::process::gateway_token;
use crate::process::shared_memory::{self, Region};
use fpty::sys::clock;

/// Slots of a table; memory is used only for slots that ever were used.
const SLOTS: usize = 1 << 16;

/// The most used slots, so that a look-up of an absent key ends soon.
const MAX_USED: usize = SLOTS / 4 * 3;

/// Words of a slot: the key, and the count.
const SLOT_WORDS: usize = 2;

/// Flags in the word before the slots: some slot was ever used; the counts of the gateway
/// before are restored.
const USED: u64 = 1;
const RESTORED: u64 = 2;

/// A slot that was never used, and a deleted one.
const EMPTY: u64 = 0;
const TOMBSTONE: u64 = 1;

/// How long a gateway waits until all have restored their counts.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(1);

/// Flag of a count: the last one of it is a claim that is not decided.
const CLAIM_BIT: u64 = 1 << 63;

/// How long another gateway may take to decide a claim: it does nothing else meanwhile, but
/// may be without a processor, or killed.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(20);

/// Words of a table: one of flags, then the slots.
pub const WORDS: usize = 1 + SLOTS * SLOT_WORDS;

/// The table of a gateway, to read.
#[derive(Clone, Copy)]
struct CountTable(&'static [AtomicU64]);

impl CountTable {
    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        &self.0[1 + slot * SLOT_WORDS + word]
    }

    fn key(&self, slot: usize) -> u64 {
        self.word(slot, 0).load(Ordering::SeqCst)
    }

    fn has(&self, mark: u64) -> bool {
        self.0[0].load(Ordering::SeqCst) & mark != 0
    }

    fn mark(&self, mark: u64) {
        self.0[0].fetch_or(mark, Ordering::SeqCst);
    }

    /// The count of a key.
    fn get(&self, key: u64) -> u64 {
        if !self.has(USED) {
            return 0;
        }
        for slot in probe_sequence(key) {
            match self.key(slot) {
                EMPTY => return 0,
                found if found == key => {
                    let number = self.word(slot, 1).load(Ordering::SeqCst);
                    // Or it is another one's by now.
                    if self.key(slot) == key {
                        return number;
                    }
                }
                _ => {}
            }
        }
        0
    }
}

/// Slots where a key may be, in order.
fn probe_sequence(key: u64) -> impl Iterator<Item = usize> {
    // The low bits.
    let first = key as usize % SLOTS;
    (0..SLOTS).map(move |step| (first + step) % SLOTS)
}

fn is_key(key: u64) -> bool {
    key != EMPTY && key != TOMBSTONE
}

/// A gateway's own counts.
struct OwnCounts {
    /// All tables, by gateway; none where there is no shared memory.
    tables: Vec<CountTable>,
    /// The ordinal of this gateway.
    ordinal: usize,
    secret: gateway_token::Token,
    since: Instant,
    /// Counts of this gateway, with their slots.
    held: HashMap<u64, HeldCount>,
    /// Slots of the predecessor that are not restored yet.
    before: HashMap<u64, usize>,
    /// While restoring no count becomes less than it was.
    is_restoring: bool,
}

#[derive(Clone, Copy)]
struct HeldCount {
    /// `None`: the table is full.
    slot: Option<usize>,
    number: u64,
}

impl OwnCounts {
    fn own(&self) -> Option<CountTable> {
        self.tables.get(self.ordinal).copied()
    }

    /// Sets the count of a key, with a mark.
    fn set(&mut self, key: u64, number: u64, mark: u64) {
        if number == 0 {
            let before = self.held.remove(&key);
            return before.and_then(|held| held.slot).into_iter().for_each(|it| self.delete(it));
        }
        let before = self.held.get(&key).copied();
        let held =
            before.unwrap_or_else(|| HeldCount { slot: self.slot(key, number | mark), number });
        let held = HeldCount { number, ..held };
        self.held.insert(key, held);
        self.publish(held, mark);
    }

    fn publish(&self, held: HeldCount, mark: u64) {
        if let (Some(table), Some(slot)) = (self.own(), held.slot) {
            let word = table.word(slot, 1);
            let least =
                if self.is_restoring { word.load(Ordering::SeqCst) & !CLAIM_BIT } else { 0 };
            word.store(held.number.max(least) | mark, Ordering::SeqCst);
        }
    }

    /// The slot for a key that has none, with this count.
    fn slot(&mut self, key: u64, number: u64) -> Option<usize> {
        let before = self.before.remove(&key);
        before.or_else(|| {
            let table = self.own().filter(|_| self.held.len() + self.before.len() < MAX_USED)?;
            let slot = probe_sequence(key).find(|slot| !is_key(table.key(*slot)))?;
            table.mark(USED);
            // First the number: whoever sees the key has it.
            table.word(slot, 1).store(number, Ordering::SeqCst);
            table.word(slot, 0).store(key, Ordering::SeqCst);
            Some(slot)
        })
    }

    fn number(&self, key: u64) -> u64 {
        self.held.get(&key).map_or(0, |held| held.number)
    }

    /// Deletes a slot; it and those before it are empty where nothing stands behind.
    fn delete(&self, slot: usize) {
        let Some(table) = self.own() else { return };
        table.word(slot, 1).store(0, Ordering::SeqCst);
        table.word(slot, 0).store(TOMBSTONE, Ordering::SeqCst);
        let mut slot = slot;
        while table.key((slot + 1) % SLOTS) == EMPTY && table.key(slot) == TOMBSTONE {
            table.word(slot, 0).store(EMPTY, Ordering::SeqCst);
            slot = (slot + SLOTS - 1) % SLOTS;
        }
    }

    /// The counts of the other gateways for a key.
    fn others(&self, key: u64) -> impl Iterator<Item = (usize, u64)> {
        let others = self.tables.iter().enumerate().filter(|(other, _)| *other != self.ordinal);
        others.map(move |(other, table)| (other, table.get(key)))
    }

    /// The sum of the others' counts of a key, the claims among them, the first claimant,
    /// and an owner.
    fn remote(&self, key: u64) -> RemoteCounts {
        let mut remote = RemoteCounts::default();
        for (gateway, number) in self.others(key).filter(|(_, number)| *number != 0) {
            remote.number += number & !CLAIM_BIT;
            remote.gateway.get_or_insert(gateway);
            if number & CLAIM_BIT != 0 {
                remote.claimed += 1;
                remote.first_claimant.get_or_insert(gateway);
            }
        }
        remote
    }

    /// Claims one more, where there are no more than `most` then. A claim alone rejects no
    /// one else: of several at once the gateway with the lowest ordinal comes first, and
    /// the others wait for it.
    ///
    /// # Errors
    /// The limit is reached: a gateway that has some.
    fn claim(&mut self, key: u64, most: u64) -> Result<(), usize> {
        let own = self.ordinal;
        let (before, until) = (self.number(key), clock::now() + CLAIM_TIMEOUT);
        loop {
            // First our own, then a look at the others': of two that come at once one
            // sees the other, or both do.
            self.set(key, before + 1, CLAIM_BIT);
            let remote = self.remote(key);
            if before + 1 + remote.number <= most {
                self.set(key, before + 1, 0);
                return Ok(());
            }
            let is_full = before + 1 + remote.number - remote.claimed > most;
            if is_full || clock::now() >= until {
                self.set(key, before, 0);
                let other = remote.gateway.filter(|_| before == 0);
                return Err(other.unwrap_or(own));
            }
            if remote.first_claimant.is_some_and(|first| first < own) {
                self.set(key, before, 0);
                let waits = || self.remote(key).first_claimant.is_some_and(|first| first < own);
                while waits() && clock::now() < until {
                    std::thread::yield_now();
                }
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// The others' counts of a key.
#[derive(Default)]
struct RemoteCounts {
    number: u64,
    claimed: u64,
    gateway: Option<usize>,
    first_claimant: Option<usize>,
}

/// The shared counts of a gateway.
#[derive(Clone)]
pub struct SharedCounts(Rc<RefCell<OwnCounts>>);

/// One count of a key, as long as it lives.
pub struct SharedCount {
    shared_counts: SharedCounts,
    key: u64,
}

impl SharedCount {
    /// Whether this is a count of that key.
    pub fn is(&self, of: impl Hash) -> bool {
        self.shared_counts.key(of) == self.key
    }
}

impl Drop for SharedCount {
    fn drop(&mut self) {
        let mut own = self.shared_counts.0.borrow_mut();
        let number = own.number(self.key);
        own.set(self.key, number.saturating_sub(1), 0);
    }
}

impl SharedCounts {
    /// The counts of this gateway. Those of its predecessor stay until
    /// [`SharedCounts::drop_unrestored`].
    pub fn of(ordinal: usize) -> Self {
        let tables = (0..shared_memory::gateways())
            .map(|number| shared_memory::region(Region::SharedCounts(number)));
        // All or none.
        let tables = tables.collect::<Option<Vec<_>>>().unwrap_or_default();
        Self::from_tables(&tables, ordinal, gateway_token::token().unwrap_or_default())
    }

    fn from_tables(
        tables: &[&'static [AtomicU64]],
        ordinal: usize,
        secret: gateway_token::Token,
    ) -> Self {
        let mut own = OwnCounts {
            tables: tables.iter().copied().map(CountTable).collect(),
            ordinal,
            secret,
            since: clock::now(),
            held: HashMap::new(),
            before: HashMap::new(),
            is_restoring: false,
        };
        if let Some(table) = own.own().filter(|table| table.has(USED)) {
            let all = (0..SLOTS).map(|slot| (table.key(slot), slot));
            own.before = all.filter(|(key, _)| is_key(*key)).collect();
            own.is_restoring = true;
        }
        Self(Rc::new(RefCell::new(own)))
    }

    /// The key's hash, with a secret: nobody outside can make two keys collide.
    fn key(&self, of: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.borrow().secret.hash(&mut hasher);
        of.hash(&mut hasher);
        hasher.finish().max(TOMBSTONE + 1)
    }

    /// Counts one more.
    pub fn increment(&self, of: impl Hash) -> SharedCount {
        let key = self.key(of);
        let mut own = self.0.borrow_mut();
        let number = own.number(key);
        own.set(key, number + 1, 0);
        SharedCount { shared_counts: self.clone(), key }
    }

    /// The sum over all gateways.
    pub fn total(&self, of: impl Hash) -> u64 {
        let (key, own) = (self.key(of), self.0.borrow());
        own.remote(key).number + own.number(key)
    }

    /// The gateway that has the only one; `None`: no gateway has.
    pub fn owner(&self, of: impl Hash) -> Option<usize> {
        let (key, own) = (self.key(of), self.0.borrow());
        if own.held.contains_key(&key) {
            return Some(own.ordinal);
        }
        own.remote(key).gateway
    }

    /// Counts one more, where there are no more than `most` then: of gateways that want the
    /// last one at once exactly one gets it.
    ///
    /// # Errors
    /// The limit is reached: a gateway that has some, perhaps the own one.
    pub fn claim(&self, of: impl Hash, most: u64) -> Result<SharedCount, usize> {
        let key = self.key(of);
        self.0.borrow_mut().claim(key, most)?;
        Ok(SharedCount { shared_counts: self.clone(), key })
    }

    /// Drops counts of the predecessor that were not restored.
    pub fn drop_unrestored(&self) {
        let mut own = self.0.borrow_mut();
        for (_, slot) in std::mem::take(&mut own.before) {
            own.delete(slot);
        }
        own.is_restoring = false;
        own.held.values().for_each(|held| own.publish(*held, 0));
        if let Some(table) = own.own() {
            table.mark(RESTORED);
        }
    }

    /// Whether all gateways have restored their counts, or have had the time. Before that
    /// counts and names are not complete after a reload.
    pub fn are_restored(&self) -> bool {
        let own = self.0.borrow();
        let are_restored = || own.tables.iter().all(|table| table.has(RESTORED));
        own.since.elapsed() >= RESTORE_TIMEOUT || are_restored()
    }
}

#[cfg(test)]
mod tests;
