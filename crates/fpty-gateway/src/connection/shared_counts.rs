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
use crate::process::shared_memory::{self, Part};

/// Places of a table; memory is used only for those that ever were.
const PLACES: usize = 1 << 16;

/// How many of them are used at most: it is to be found soon that a key is none.
const MOST: usize = PLACES / 4 * 3;

/// Words of a place: the key, and its number.
const OF_ONE: usize = 2;

/// In the word before the places: there ever was anything, and all that a gateway
/// before the last reload had is there again.
const USED: u64 = 1;
const TAKEN_UP: u64 = 2;

/// A place that was never used, and one that was given up.
const EMPTY: u64 = 0;
const GIVEN_UP: u64 = 1;

/// How long a gateway waits for the others to take up what goes on.
const TAKING_UP: Duration = Duration::from_secs(1);

/// Beside a number: whether there may be the last one of them is not decided.
const CLAIMING: u64 = 1 << 63;

/// How long another gateway may take to decide that: it does nothing else meanwhile,
/// but may have to wait for a processor, or be killed.
const PATIENCE: Duration = Duration::from_millis(20);

/// Words of a table: before its places there is one that says whether any ever was
/// used.
pub const WORDS: usize = 1 + PLACES * OF_ONE;

/// A gateway's table, as anybody sees it.
#[derive(Clone, Copy)]
struct Table(&'static [AtomicU64]);

impl Table {
    fn word(&self, place: usize, word: usize) -> &AtomicU64 {
        &self.0[1 + place * OF_ONE + word]
    }

    fn key(&self, place: usize) -> u64 {
        self.word(place, 0).load(Ordering::SeqCst)
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
        for place in places(key) {
            match self.key(place) {
                EMPTY => return 0,
                found if found == key => {
                    let number = self.word(place, 1).load(Ordering::SeqCst);
                    // Or it is another one's by now.
                    if self.key(place) == key {
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
fn places(key: u64) -> impl Iterator<Item = usize> {
    // The low bits.
    let first = key as usize % PLACES;
    (0..PLACES).map(move |step| (first + step) % PLACES)
}

fn is_one(key: u64) -> bool {
    key != EMPTY && key != GIVEN_UP
}

/// A gateway's own.
struct Own {
    /// All tables, and which one is ours; `None`: they could not be had.
    tables: Option<(Vec<Table>, usize)>,
    secret: proof::Token,
    since: Instant,
    /// What is held here: where it is, and how often.
    held: HashMap<u64, Held>,
    /// What a gateway that was here before us held, and where.
    before: HashMap<u64, usize>,
    /// Not all of that is known that goes on: no number is less than it was.
    restores: bool,
}

#[derive(Clone, Copy)]
struct Held {
    /// `None`: it is in no table.
    place: Option<usize>,
    number: u64,
}

impl Own {
    fn own(&self) -> Option<Table> {
        let (tables, own) = self.tables.as_ref()?;
        tables.get(*own).copied()
    }

    /// So many of a key are here, of which one is only claimed, perhaps.
    fn put(&mut self, key: u64, number: u64, mark: u64) {
        if number == 0 {
            let before = self.held.remove(&key);
            return before.and_then(|held| held.place).into_iter().for_each(|it| self.give_up(it));
        }
        let before = self.held.get(&key).copied();
        let held = before.unwrap_or_else(|| Held { place: self.place(key, number | mark), number });
        let held = Held { number, ..held };
        self.held.insert(key, held);
        self.show(held, mark);
    }

    fn show(&self, held: Held, mark: u64) {
        if let (Some(table), Some(place)) = (self.own(), held.place) {
            let word = table.word(place, 1);
            let least = if self.restores { word.load(Ordering::SeqCst) & !CLAIMING } else { 0 };
            word.store(held.number.max(least) | mark, Ordering::SeqCst);
        }
    }

    /// A place for a key that has none, with this number.
    fn place(&mut self, key: u64, number: u64) -> Option<usize> {
        let before = self.before.remove(&key);
        before.or_else(|| {
            let table = self.own().filter(|_| self.held.len() + self.before.len() < MOST)?;
            let place = places(key).find(|place| !is_one(table.key(*place)))?;
            table.mark(USED);
            // First the number: whoever sees the key has it.
            table.word(place, 1).store(number, Ordering::SeqCst);
            table.word(place, 0).store(key, Ordering::SeqCst);
            Some(place)
        })
    }

    fn number(&self, key: u64) -> u64 {
        self.held.get(&key).map_or(0, |held| held.number)
    }

    /// A place is free; it, and those before it, are empty where nothing stands
    /// behind them.
    fn give_up(&self, place: usize) {
        let Some(table) = self.own() else { return };
        table.word(place, 1).store(0, Ordering::SeqCst);
        table.word(place, 0).store(GIVEN_UP, Ordering::SeqCst);
        let mut place = place;
        while table.key((place + 1) % PLACES) == EMPTY && table.key(place) == GIVEN_UP {
            table.word(place, 0).store(EMPTY, Ordering::SeqCst);
            place = (place + PLACES - 1) % PLACES;
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
    fn there(&self, key: u64) -> There {
        let mut there = There::default();
        for (whose, number) in self.others(key).filter(|(_, number)| *number != 0) {
            there.number += number & !CLAIMING;
            there.whose.get_or_insert(whose);
            if number & CLAIMING != 0 {
                there.claimed += 1;
                there.claims_first.get_or_insert(whose);
            }
        }
        there
    }

    /// One more, where there are no more than `most` then. Nobody else is refused for
    /// what is only claimed: of several that come at once at several gateways the one
    /// with the lowest number comes first, and whoever comes later waits for it.
    ///
    /// # Errors
    /// There are as many: a gateway that has some.
    fn claim(&mut self, key: u64, most: u64) -> Result<(), usize> {
        let own = self.tables.as_ref().map_or(0, |(_, own)| *own);
        let (before, until) = (self.number(key), Instant::now() + PATIENCE);
        loop {
            // First our own, then a look at the others': of two that come at once one
            // sees the other, or both do.
            self.put(key, before + 1, CLAIMING);
            let there = self.there(key);
            if before + 1 + there.number <= most {
                self.put(key, before + 1, 0);
                return Ok(());
            }
            let is_full = before + 1 + there.number - there.claimed > most;
            if is_full || Instant::now() >= until {
                self.put(key, before, 0);
                let other = there.whose.filter(|_| before == 0);
                return Err(other.unwrap_or(own));
            }
            if there.claims_first.is_some_and(|first| first < own) {
                self.put(key, before, 0);
                let waits = || self.there(key).claims_first.is_some_and(|first| first < own);
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
struct There {
    number: u64,
    claimed: u64,
    whose: Option<usize>,
    claims_first: Option<usize>,
}

/// A gateway's numbers.
#[derive(Clone)]
pub struct Tallies(Rc<RefCell<Own>>);

/// Something that counts as long as it is there.
pub struct Tally {
    tallies: Tallies,
    key: u64,
}

impl Tally {
    /// Whether it is of this.
    pub fn is(&self, of: impl Hash) -> bool {
        self.tallies.key(of) == self.key
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let mut own = self.tallies.0.borrow_mut();
        let number = own.number(self.key);
        own.put(self.key, number.saturating_sub(1), 0);
    }
}

impl Tallies {
    /// Those of the gateway of this number. What one had that was here before stays
    /// until [`Tallies::free_rest`].
    pub fn of(ordinal: usize) -> Self {
        let tables =
            (0..shared_memory::gateways()).map(|number| shared_memory::part(Part::Tallies(number)));
        Self::over(tables.collect(), ordinal, proof::token().unwrap_or_default())
    }

    fn over(
        tables: Option<Vec<&'static [AtomicU64]>>,
        ordinal: usize,
        secret: proof::Token,
    ) -> Self {
        let tables = tables.map(|all| (all.into_iter().map(Table).collect(), ordinal));
        let (held, before) = (HashMap::new(), HashMap::new());
        let since = Instant::now();
        let mut own = Own { tables, secret, since, held, before, restores: false };
        if let Some(table) = own.own().filter(|table| table.has(USED)) {
            let all = (0..PLACES).map(|place| (table.key(place), place));
            own.before = all.filter(|(key, _)| is_one(*key)).collect();
            own.restores = true;
        }
        Self(Rc::new(RefCell::new(own)))
    }

    /// The key of this. Nobody outside can have two things have one.
    fn key(&self, of: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.borrow().secret.hash(&mut hasher);
        of.hash(&mut hasher);
        hasher.finish().max(GIVEN_UP + 1)
    }

    /// One more of this.
    pub fn hold(&self, of: impl Hash) -> Tally {
        let key = self.key(of);
        let mut own = self.0.borrow_mut();
        let number = own.number(key);
        own.put(key, number + 1, 0);
        Tally { tallies: self.clone(), key }
    }

    /// How many of this there are, over all gateways.
    pub fn sum(&self, of: impl Hash) -> u64 {
        let (key, own) = (self.key(of), self.0.borrow());
        own.there(key).number + own.number(key)
    }

    /// Which gateway has the only one of this; `None`: nobody has it.
    pub fn whose(&self, of: impl Hash) -> Option<usize> {
        let (key, own) = (self.key(of), self.0.borrow());
        if own.held.contains_key(&key) {
            return Some(own.tables.as_ref().map_or(0, |(_, own)| *own));
        }
        own.there(key).whose
    }

    /// One more of this, where there are no more than `most` then: of gateways that want
    /// the last one at once one gets it.
    ///
    /// # Errors
    /// There are as many already: a gateway that has some, or gets it; it may be our
    /// own.
    pub fn claim(&self, of: impl Hash, most: u64) -> Result<Tally, usize> {
        let key = self.key(of);
        self.0.borrow_mut().claim(key, most)?;
        Ok(Tally { tallies: self.clone(), key })
    }

    /// What a gateway that was here before had, and we have not taken up, is over.
    pub fn free_rest(&self) {
        let mut own = self.0.borrow_mut();
        for (_, place) in std::mem::take(&mut own.before) {
            own.give_up(place);
        }
        own.restores = false;
        own.held.values().for_each(|held| own.show(*held, 0));
        if let Some(table) = own.own() {
            table.mark(TAKEN_UP);
        }
    }

    /// Whether all gateways have taken up what goes on, or have had the time for it.
    /// After a reload nobody knows before that who has a name, and how much there is.
    pub fn are_complete(&self) -> bool {
        let own = self.0.borrow();
        let mut tables = own.tables.iter().flat_map(|(tables, _)| tables);
        own.since.elapsed() >= TAKING_UP || tables.all(|table| table.has(TAKEN_UP))
    }
}

#[cfg(test)]
mod tests;
