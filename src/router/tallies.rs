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

use super::memory::{self, Part};
use crate::uwsgi::proof;

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
        let tables = (0..memory::gateways()).map(|number| memory::part(Part::Tallies(number)));
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
mod tests {
    use super::*;
    use fpty::sys::shared::Shared;
    use proptest::prelude::*;

    fn tables(count: usize) -> Vec<&'static [AtomicU64]> {
        let new = |_| Shared::new(WORDS).expect("memory").words();
        (0..count).map(new).collect()
    }

    fn gateways(tables: &[&'static [AtomicU64]]) -> Vec<Tallies> {
        let of = |ordinal| Tallies::over(Some(tables.to_vec()), ordinal, [7; 4]);
        (0..tables.len()).map(of).collect()
    }

    #[test]
    fn a_name_is_one_gateways_and_a_number_all_have() {
        let tables = tables(3);
        let all = gateways(&tables);
        let held = all[1].claim("name", 1).expect("nobody has it");
        assert_eq!(all[2].whose("name"), Some(1));
        for (other, tallies) in all.iter().enumerate() {
            assert_eq!(tallies.claim("name", 1).err(), Some(1), "{other}");
        }
        drop(held);
        let again = all[0].claim("name", 1).expect("it is free");
        assert_eq!(all[1].claim("name", 1).err(), Some(0));
        let more: Vec<_> = [0, 1, 1, 2].map(|of| all[of].hold(("left", 7))).into();
        assert_eq!((all[0].sum(("left", 7)), all[2].sum(("left", 8))), (4, 0));
        drop((more, again));
        assert_eq!((all[0].sum(("left", 7)), all[2].whose("name")), (0, None));
    }

    #[test]
    fn the_next_gateway_takes_up_what_goes_on() {
        let tables = tables(2);
        let all = gateways(&tables);
        let (kept, lost) = (all[0].claim("kept", 1), all[0].claim("lost", 1));
        let counted = [all[0].hold("left"), all[0].hold("left")];
        // It is killed.
        std::mem::forget((kept, lost, counted));
        let next = Tallies::over(Some(tables), 0, [7; 4]);
        assert_eq!(all[1].claim("kept", 1).err(), Some(0), "before it is taken up");
        let (kept, counted) = (next.claim("kept", 1), next.hold("left"));
        assert!(kept.is_ok());
        // Of two, as long as it is not known how many go on.
        assert_eq!((all[1].claim("lost", 1).err(), all[1].sum("left")), (Some(0), 2));
        assert!(!next.are_complete());
        next.free_rest();
        assert!(all[1].claim("lost", 1).is_ok() && !next.are_complete());
        all[1].free_rest();
        assert!(next.are_complete() && all[1].are_complete());
        assert_eq!((all[1].whose("kept"), all[1].sum("left")), (Some(0), 1));
        drop(counted);
    }

    #[test]
    fn without_memory_it_is_as_with_one_gateway() {
        let alone = Tallies::over(None, 0, [7; 4]);
        let held = alone.claim("name", 1);
        assert_eq!((alone.claim("name", 1).err(), alone.whose("name")), (Some(0), Some(0)));
        drop(held);
        let more = [alone.hold("left"), alone.hold("left")];
        assert_eq!((alone.whose("name"), alone.sum("left")), (None, 2));
        drop(more);
    }

    /// Of two that come at once, be it the first or the second that goes.
    #[test]
    fn nobody_is_refused_for_what_is_only_claimed() {
        for (claims, comes) in [(0, 1), (1, 0)] {
            let tables = tables(2);
            let other = &gateways(&tables)[claims];
            let key = other.key("seat");
            other.0.borrow_mut().put(key, 1, CLAIMING);
            std::thread::scope(|scope| {
                let came = scope.spawn(|| {
                    let next = Tallies::over(Some(tables.clone()), comes, [7; 4]);
                    next.claim("seat", 1).is_ok()
                });
                while !Table(tables[comes]).has(USED) {
                    std::thread::yield_now();
                }
                other.0.borrow_mut().put(key, 0, 0);
                assert!(came.join().expect("no panic"), "{claims} {comes}");
            });
        }
    }

    /// At once, again and again: what there is is taken, each time, and no more.
    #[test]
    fn of_several_that_want_the_last_ones_as_many_get_them_as_there_are() {
        const ROUNDS: usize = 300;
        for most in 1..=3 {
            let tables = tables(4);
            let barrier = std::sync::Barrier::new(tables.len());
            let got: Vec<AtomicU64> = (0..ROUNDS).map(|_| AtomicU64::new(0)).collect();
            std::thread::scope(|scope| {
                for ordinal in 0..tables.len() {
                    let (tables, barrier, got) = (tables.clone(), &barrier, &got);
                    scope.spawn(move || {
                        let tallies = Tallies::over(Some(tables), ordinal, [7; 4]);
                        for got in got {
                            barrier.wait();
                            let held = tallies.claim("seat", most);
                            got.fetch_add(held.is_ok().into(), Ordering::SeqCst);
                            barrier.wait();
                        }
                    });
                }
            });
            let got: Vec<u64> = got.iter().map(|got| got.load(Ordering::SeqCst)).collect();
            // One that waits for a processor for too long counts as if it had one.
            let fewer = got.iter().filter(|got| **got < most).count();
            assert!(got.iter().all(|got| *got <= most) && fewer < ROUNDS / 20, "{most}: {got:?}");
        }
    }

    proptest! {
        /// Keys that share places, in any order: it is as a map.
        #[test]
        fn a_table_is_a_map(steps in proptest::collection::vec((0..12_u64, any::<bool>()), 1..200)) {
            let all = gateways(&tables(2));
            let mut map: HashMap<u64, u64> = HashMap::new();
            for (which, more) in steps {
                // Their low bits are alike, but for two.
                let key = which / 4 * PLACES as u64 + 100 + which % 4;
                let mut own = all[0].0.borrow_mut();
                let number = map.entry(key).or_default();
                match more {
                    true => *number += 1,
                    false => *number = number.saturating_sub(1),
                }
                own.put(key, *number, 0);
                for (key, number) in &map {
                    prop_assert_eq!(all[1].0.borrow().others(*key).next(), Some((0, *number)));
                }
            }
            map.into_keys().for_each(|key| all[0].0.borrow_mut().put(key, 0, 0));
            let own = all[0].0.borrow();
            let table = own.own().expect("a table");
            prop_assert!((0..PLACES).all(|place| table.key(place) == EMPTY), "nothing is left");
        }
    }
}
