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

/// Instead of a number: somebody is about to have the name.
const CLAIMING: u64 = 1 << 63;

/// How long another gateway may take to see that it does not get a name: it does
/// nothing else meanwhile, but may have to wait for a processor.
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

    fn set(&self, held: Held) {
        if let (Some(table), Some(place)) = (self.own(), held.place) {
            let word = table.word(place, 1);
            let least = if self.restores { word.load(Ordering::SeqCst) & !CLAIMING } else { 0 };
            word.store(held.number.max(least), Ordering::SeqCst);
        }
    }

    /// Has this number for a key that has none.
    fn insert(&mut self, key: u64, number: u64) -> Held {
        let before = self.before.remove(&key);
        let place = before.or_else(|| {
            let table = self.own().filter(|_| self.held.len() + self.before.len() < MOST)?;
            let place = places(key).find(|place| !is_one(table.key(*place)))?;
            table.mark(USED);
            // First the number: whoever sees the key has it.
            table.word(place, 1).store(number, Ordering::SeqCst);
            table.word(place, 0).store(key, Ordering::SeqCst);
            Some(place)
        });
        let held = Held { place, number };
        self.held.insert(key, held);
        self.set(held);
        held
    }

    fn add(&mut self, key: u64) {
        match self.held.get(&key).copied() {
            Some(held) => {
                let held = Held { number: held.number + 1, ..held };
                self.held.insert(key, held);
                self.set(held);
            }
            None => drop(self.insert(key, 1)),
        }
    }

    fn take(&mut self, key: u64) {
        let Some(held) = self.held.get(&key).copied() else { return };
        if held.number & !CLAIMING > 1 {
            let held = Held { number: held.number - 1, ..held };
            self.held.insert(key, held);
            return self.set(held);
        }
        self.held.remove(&key);
        if let Some(place) = held.place {
            self.give_up(place);
        }
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

    /// Claims a name.
    ///
    /// # Errors
    /// The gateway that has it.
    fn claim(&mut self, key: u64) -> Result<(), usize> {
        let own = self.tables.as_ref().map_or(0, |(_, own)| *own);
        if self.held.contains_key(&key) {
            return Err(own);
        }
        // First our own, then a look at the others': of two that come at once one
        // sees the other, or both do.
        let claim = self.insert(key, CLAIMING);
        if let Some(whose) = self.is_anothers(key, own) {
            self.take(key);
            return Err(whose);
        }
        let held = Held { number: 1, ..claim };
        self.held.insert(key, held);
        self.set(held);
        Ok(())
    }

    /// Who has a name that we claim. Of two that claim it the one with the lower
    /// number gets it, and waits until the other has seen that.
    fn is_anothers(&self, key: u64, own: usize) -> Option<usize> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut others = self.others(key).filter(|(_, number)| *number != 0);
            let (whose, number) = others.next()?;
            if number != CLAIMING || whose < own || Instant::now() >= until {
                return Some(whose);
            }
            drop(others);
            std::thread::yield_now();
        }
    }
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
        self.tallies.0.borrow_mut().take(self.key);
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
        self.0.borrow_mut().add(key);
        Tally { tallies: self.clone(), key }
    }

    /// How many of this there are, over all gateways.
    pub fn sum(&self, of: impl Hash) -> u64 {
        let (key, own) = (self.key(of), self.0.borrow());
        let here = own.held.get(&key).map_or(0, |held| held.number);
        own.others(key).map(|(_, number)| number & !CLAIMING).sum::<u64>() + here
    }

    /// Which gateway has the only one of this; `None`: nobody has it.
    pub fn whose(&self, of: impl Hash) -> Option<usize> {
        let (key, own) = (self.key(of), self.0.borrow());
        if own.held.contains_key(&key) {
            return Some(own.tables.as_ref().map_or(0, |(_, own)| *own));
        }
        own.others(key).find(|(_, number)| *number != 0).map(|(whose, _)| whose)
    }

    /// The only one of this: of two gateways that want it at once one gets it.
    ///
    /// # Errors
    /// Which gateway has it, or gets it; it may be our own.
    pub fn claim(&self, of: impl Hash) -> Result<Tally, usize> {
        let key = self.key(of);
        self.0.borrow_mut().claim(key)?;
        Ok(Tally { tallies: self.clone(), key })
    }

    /// What a gateway that was here before had, and we have not taken up, is over.
    pub fn free_rest(&self) {
        let mut own = self.0.borrow_mut();
        for (_, place) in std::mem::take(&mut own.before) {
            own.give_up(place);
        }
        own.restores = false;
        own.held.values().for_each(|held| own.set(*held));
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
        let held = all[1].claim("name").expect("nobody has it");
        assert_eq!(all[2].whose("name"), Some(1));
        for (other, tallies) in all.iter().enumerate() {
            assert_eq!(tallies.claim("name").err(), Some(1), "{other}");
        }
        drop(held);
        let again = all[0].claim("name").expect("it is free");
        assert_eq!(all[1].claim("name").err(), Some(0));
        let more: Vec<_> = [0, 1, 1, 2].map(|of| all[of].hold(("left", 7))).into();
        assert_eq!((all[0].sum(("left", 7)), all[2].sum(("left", 8))), (4, 0));
        drop((more, again));
        assert_eq!((all[0].sum(("left", 7)), all[2].whose("name")), (0, None));
    }

    #[test]
    fn the_next_gateway_takes_up_what_goes_on() {
        let tables = tables(2);
        let all = gateways(&tables);
        let (kept, lost) = (all[0].claim("kept"), all[0].claim("lost"));
        let counted = [all[0].hold("left"), all[0].hold("left")];
        // It is killed.
        std::mem::forget((kept, lost, counted));
        let next = Tallies::over(Some(tables), 0, [7; 4]);
        assert_eq!(all[1].claim("kept").err(), Some(0), "before it is taken up");
        let (kept, counted) = (next.claim("kept"), next.hold("left"));
        assert!(kept.is_ok());
        // Of two, as long as it is not known how many go on.
        assert_eq!((all[1].claim("lost").err(), all[1].sum("left")), (Some(0), 2));
        assert!(!next.are_complete());
        next.free_rest();
        assert!(all[1].claim("lost").is_ok() && !next.are_complete());
        all[1].free_rest();
        assert!(next.are_complete() && all[1].are_complete());
        assert_eq!((all[1].whose("kept"), all[1].sum("left")), (Some(0), 1));
        drop(counted);
    }

    #[test]
    fn without_memory_it_is_as_with_one_gateway() {
        let alone = Tallies::over(None, 0, [7; 4]);
        let held = alone.claim("name");
        assert_eq!((alone.claim("name").err(), alone.whose("name")), (Some(0), Some(0)));
        drop(held);
        let more = [alone.hold("left"), alone.hold("left")];
        assert_eq!((alone.whose("name"), alone.sum("left")), (None, 2));
        drop(more);
    }

    /// At once, again and again: one of them gets it, each time.
    #[test]
    fn of_several_that_want_a_name_one_gets_it() {
        const ROUNDS: usize = 300;
        let tables = tables(4);
        let barrier = std::sync::Barrier::new(tables.len());
        let got: Vec<AtomicU64> = (0..ROUNDS).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for ordinal in 0..tables.len() {
                let (tables, barrier, got) = (tables.clone(), &barrier, &got);
                scope.spawn(move || {
                    let tallies = Tallies::over(Some(tables), ordinal, [7; 4]);
                    for (round, got) in got.iter().enumerate() {
                        barrier.wait();
                        let held = tallies.claim(round);
                        got.fetch_add(held.is_ok().into(), Ordering::SeqCst);
                        barrier.wait();
                    }
                });
            }
        });
        let got: Vec<u64> = got.iter().map(|got| got.load(Ordering::SeqCst)).collect();
        // None does, rarely, where the processors have other things to do.
        let sum: u64 = got.iter().sum();
        assert!(got.iter().all(|got| *got <= 1) && sum > ROUNDS as u64 / 2, "{got:?}");
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
                    true => { own.add(key); *number += 1; }
                    false => { own.take(key); *number = number.saturating_sub(1); }
                }
                for (key, number) in &map {
                    prop_assert_eq!(all[1].0.borrow().others(*key).next(), Some((0, *number)));
                }
            }
            map.into_iter().for_each(|(key, number)| {
                (0..number).for_each(|_| all[0].0.borrow_mut().take(key));
            });
            let own = all[0].0.borrow();
            let table = own.own().expect("a table");
            prop_assert!((0..PLACES).all(|place| table.key(place) == EMPTY), "nothing is left");
        }
    }
}
