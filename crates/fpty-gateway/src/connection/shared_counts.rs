//! Numbers that every gateway has and all others see: who has a name, and how
//! much there is of what is limited over all of them. Each gateway writes its own
//! table alone, and looks into the others': nobody waits for anybody, whoever is
//! killed leaves what the next one takes up, and to look costs the same however
//! many sessions there are.
//!
//! A table is one of open addressing, without a chain: a number stands in the place
//! of its key or behind it, and a place that was given up is only empty again where
//! nothing stands behind it. So whoever looks finds what was there when it began.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::process::proof;
use crate::process::shared_memory::{self, Region};

/// Places of a table; memory is used only for those that ever were.
const SLOTS: usize = 1 << 16;

/// How many of them are used at most: it is to be found soon that a key is none.
const MAX_USED: usize = SLOTS / 4 * 3;

/// Words of a place: the key, and its number.
const SLOT_WORDS: usize = 2;

/// In the word before the places: there ever was anything, and all that a gateway
/// before the last reload had is there again.
const USED: u64 = 1;
const RESTORED: u64 = 2;

/// A place that was never used, and one that was given up.
const EMPTY: u64 = 0;
const TOMBSTONE: u64 = 1;

/// How long a gateway waits for the others to take up what goes on.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(1);

/// Beside a number: whether there may be the last one of them is not decided.
const CLAIM_BIT: u64 = 1 << 63;

/// How long another gateway may take to decide that: it does nothing else meanwhile,
/// but may have to wait for a processor, or be killed.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(20);

/// Words of a table: before its places there is one that says whether any ever was
/// used.
pub const WORDS: usize = 1 + SLOTS * SLOT_WORDS;

/// A gateway's table, as anybody sees it.
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

    /// The number of a key; 0: it has none.
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

/// Where a key may be, one after the other.
fn probe_sequence(key: u64) -> impl Iterator<Item = usize> {
    // The low bits.
    let first = key as usize % SLOTS;
    (0..SLOTS).map(move |step| (first + step) % SLOTS)
}

fn is_key(key: u64) -> bool {
    key != EMPTY && key != TOMBSTONE
}

/// A gateway's own.
struct OwnCounts {
    /// All tables, and which one is ours; `None`: they could not be had.
    tables: Option<(Vec<CountTable>, usize)>,
    secret: proof::Token,
    since: Instant,
    /// What is held here: where it is, and how often.
    held: HashMap<u64, HeldCount>,
    /// What a gateway that was here before us held, and where.
    before: HashMap<u64, usize>,
    /// Not all of that is known that goes on: no number is less than it was.
    is_restoring: bool,
}

#[derive(Clone, Copy)]
struct HeldCount {
    /// `None`: it is in no table.
    slot: Option<usize>,
    number: u64,
}

impl OwnCounts {
    fn own(&self) -> Option<CountTable> {
        let (tables, own) = self.tables.as_ref()?;
        tables.get(*own).copied()
    }

    /// So many of a key are here, of which one is only claimed, perhaps.
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

    /// A place for a key that has none, with this number.
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

    /// A place is free; it, and those before it, are empty where nothing stands
    /// behind them.
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

    /// The other gateways, with what they have for a key.
    fn others(&self, key: u64) -> impl Iterator<Item = (usize, u64)> {
        let (tables, own) = self.tables.as_ref().map_or((&[][..], 0), |(all, own)| (all, *own));
        let others = tables.iter().enumerate().filter(move |(ordinal, _)| *ordinal != own);
        others.map(move |(ordinal, table)| (ordinal, table.get(key)))
    }

    /// The others' numbers of a key: how many there are, how many of these are only
    /// claimed, and by whom first; whose one of them is.
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

    /// One more, where there are no more than `most` then. Nobody else is refused for
    /// what is only claimed: of several that come at once at several gateways the one
    /// with the lowest number comes first, and whoever comes later waits for it.
    ///
    /// # Errors
    /// There are as many: a gateway that has some.
    fn claim(&mut self, key: u64, most: u64) -> Result<(), usize> {
        let own = self.tables.as_ref().map_or(0, |(_, own)| *own);
        let (before, until) = (self.number(key), Instant::now() + CLAIM_TIMEOUT);
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
            if is_full || Instant::now() >= until {
                self.set(key, before, 0);
                let other = remote.gateway.filter(|_| before == 0);
                return Err(other.unwrap_or(own));
            }
            if remote.first_claimant.is_some_and(|first| first < own) {
                self.set(key, before, 0);
                let waits = || self.remote(key).first_claimant.is_some_and(|first| first < own);
                while waits() && Instant::now() < until {
                    std::thread::yield_now();
                }
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// What other gateways have of a key.
#[derive(Default)]
struct RemoteCounts {
    number: u64,
    claimed: u64,
    gateway: Option<usize>,
    first_claimant: Option<usize>,
}

/// A gateway's numbers.
#[derive(Clone)]
pub struct SharedCounts(Rc<RefCell<OwnCounts>>);

/// Something that counts as long as it is there.
pub struct SharedCount {
    shared_counts: SharedCounts,
    key: u64,
}

impl SharedCount {
    /// Whether it is of this.
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
    /// Those of the gateway of this number. What one had that was here before stays
    /// until [`SharedCounts::drop_unrestored`].
    pub fn of(ordinal: usize) -> Self {
        let tables = (0..shared_memory::gateways())
            .map(|number| shared_memory::region(Region::SharedCounts(number)));
        Self::from_tables(tables.collect(), ordinal, proof::token().unwrap_or_default())
    }

    fn from_tables(
        tables: Option<Vec<&'static [AtomicU64]>>,
        ordinal: usize,
        secret: proof::Token,
    ) -> Self {
        let tables = tables.map(|all| (all.into_iter().map(CountTable).collect(), ordinal));
        let (held, before) = (HashMap::new(), HashMap::new());
        let since = Instant::now();
        let mut own = OwnCounts { tables, secret, since, held, before, is_restoring: false };
        if let Some(table) = own.own().filter(|table| table.has(USED)) {
            let all = (0..SLOTS).map(|slot| (table.key(slot), slot));
            own.before = all.filter(|(key, _)| is_key(*key)).collect();
            own.is_restoring = true;
        }
        Self(Rc::new(RefCell::new(own)))
    }

    /// The key of this. Nobody outside can have two things have one.
    fn key(&self, of: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.borrow().secret.hash(&mut hasher);
        of.hash(&mut hasher);
        hasher.finish().max(TOMBSTONE + 1)
    }

    /// One more of this.
    pub fn increment(&self, of: impl Hash) -> SharedCount {
        let key = self.key(of);
        let mut own = self.0.borrow_mut();
        let number = own.number(key);
        own.set(key, number + 1, 0);
        SharedCount { shared_counts: self.clone(), key }
    }

    /// How many of this there are, over all gateways.
    pub fn total(&self, of: impl Hash) -> u64 {
        let (key, own) = (self.key(of), self.0.borrow());
        own.remote(key).number + own.number(key)
    }

    /// Which gateway has the only one of this; `None`: nobody has it.
    pub fn owner(&self, of: impl Hash) -> Option<usize> {
        let (key, own) = (self.key(of), self.0.borrow());
        if own.held.contains_key(&key) {
            return Some(own.tables.as_ref().map_or(0, |(_, own)| *own));
        }
        own.remote(key).gateway
    }

    /// One more of this, where there are no more than `most` then: of gateways that want
    /// the last one at once one gets it.
    ///
    /// # Errors
    /// There are as many already: a gateway that has some, or gets it; it may be our
    /// own.
    pub fn claim(&self, of: impl Hash, most: u64) -> Result<SharedCount, usize> {
        let key = self.key(of);
        self.0.borrow_mut().claim(key, most)?;
        Ok(SharedCount { shared_counts: self.clone(), key })
    }

    /// What a gateway that was here before had, and we have not taken up, is over.
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

    /// Whether all gateways have taken up what goes on, or have had the time for it.
    /// After a reload nobody knows before that who has a name, and how much there is.
    pub fn are_restored(&self) -> bool {
        let own = self.0.borrow();
        let mut tables = own.tables.iter().flat_map(|(tables, _)| tables);
        own.since.elapsed() >= RESTORE_TIMEOUT || tables.all(|table| table.has(RESTORED))
    }
}

#[cfg(test)]
mod tests;
