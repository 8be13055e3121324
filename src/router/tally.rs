//! Counts by key, in memory that one process writes and several read: each is found
//! at once, however many there are.
//!
//! A table of words with open addressing (Knuth, TAOCP 6.4): a key stands at its
//! place or behind it, and nothing between is empty. What is there is never moved,
//! so whoever reads meanwhile misses nothing. What counts nothing any more makes
//! room for others, and is emptied where nothing can be behind it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted, in 44 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

/// A count has so many bits of a word, and the key the rest.
const COUNT: u32 = 20;

/// The largest count, and the bits of one.
const MOST: u64 = (1 << COUNT) - 1;

/// Keys of numbers that are exact have the highest of their bits.
const EXACT: u64 = 1 << (63 - COUNT);

/// Keys that there is room for: half a megabyte, used as far as there are any.
const SLOTS: usize = 1 << 16;

/// A bit for each so many of them says whether that part was ever used: what was
/// not is not looked at, as that alone would use memory.
const PART: usize = 512;

/// Words of a tally.
pub const WORDS: usize = SLOTS + SLOTS / PART / 64;

impl Key {
    /// A small number's, and no other's.
    pub const fn exact(number: u32) -> Self {
        Self(EXACT | number as u64)
    }

    /// That of something known by two numbers; others share it by a rare chance.
    pub fn of(kind: u64, number: u64) -> Self {
        // The bits above.
        Self((mixed(mixed(kind) ^ number) >> (COUNT + 1)).max(1))
    }

    fn place(self) -> usize {
        (mixed(self.0) >> 32) as usize % SLOTS
    }
}

/// Multiplying mixes upwards (Knuth, TAOCP 6.4).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (number ^ (number >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Such a table.
#[derive(Clone, Copy)]
pub struct Tally(&'static [AtomicU64]);

impl Tally {
    /// In so many words as [`WORDS`], all zero at first; `None`: they are too few.
    pub fn of(words: &'static [AtomicU64]) -> Option<Self> {
        (words.len() >= WORDS).then_some(Self(words))
    }

    /// How many count for a key.
    pub fn count(self, key: Key) -> u64 {
        self.find(key).map_or(0, |(_, count)| count)
    }

    /// One more counts for it; whether there was room. For the one who writes.
    #[must_use]
    pub fn add(self, key: Key, count: u64) -> bool {
        let known = self.find(key);
        let slot = known.map(|(slot, _)| slot).or_else(|| self.room_for(key));
        let count = known.map_or(0, |(_, count)| count) + count;
        match slot.filter(|_| count <= MOST) {
            Some(slot) => {
                let (word, bit) = self.part(slot);
                word.fetch_or(bit, Ordering::SeqCst);
                self.0[slot].store(key.0 << COUNT | count, Ordering::SeqCst);
                true
            }
            None => false,
        }
    }

    /// One less. For the one who writes.
    pub fn take(self, key: Key) {
        if let Some((slot, count)) = self.find(key) {
            self.set(slot, key, count.saturating_sub(1));
        }
    }

    /// Only these count, each so often. For the one who writes.
    pub fn become_like(self, mut counts: HashMap<Key, u64>) {
        let is_used = |part: &usize| {
            let (word, bit) = self.part(part * PART);
            word.load(Ordering::SeqCst) & bit != 0
        };
        // From the last one on, so that what counts nothing is emptied.
        let parts = (0..SLOTS / PART).rev().filter(is_used);
        for slot in parts.flat_map(|part| (part * PART..(part + 1) * PART).rev()) {
            if let Some((key, _)) = read(self.word(slot)) {
                self.set(slot, key, counts.remove(&key).unwrap_or(0).min(MOST));
            }
        }
        for (key, count) in counts {
            let _ = self.add(key, count);
        }
    }

    /// A key's own places, from the first to where nothing is behind it any more.
    fn chain(self, key: Key) -> impl Iterator<Item = (usize, Option<(Key, u64)>)> {
        let slots = (0..SLOTS).map(move |step| (key.place() + step) % SLOTS);
        let mut is_over = false;
        slots
            .map(move |slot| (slot, read(self.word(slot))))
            .take_while(move |(_, found)| !std::mem::replace(&mut is_over, found.is_none()))
    }

    fn find(self, key: Key) -> Option<(usize, u64)> {
        self.chain(key).find_map(|(slot, found)| {
            found.filter(|(other, _)| *other == key).map(|(_, count)| (slot, count))
        })
    }

    fn room_for(self, key: Key) -> Option<usize> {
        let counts_nothing = |found: Option<(Key, u64)>| found.is_none_or(|(_, count)| count == 0);
        self.chain(key).find(|(_, found)| counts_nothing(*found)).map(|(slot, _)| slot)
    }

    fn set(self, slot: usize, key: Key, count: u64) {
        self.0[slot].store(key.0 << COUNT | count, Ordering::SeqCst);
        let mut last = slot;
        while self.word((last + 1) % SLOTS) == 0
            && read(self.word(last)).is_some_and(|(_, count)| count == 0)
        {
            self.0[last].store(0, Ordering::SeqCst);
            last = (last + SLOTS - 1) % SLOTS;
        }
    }

    fn word(self, slot: usize) -> u64 {
        let (word, bit) = self.part(slot);
        match word.load(Ordering::SeqCst) & bit {
            0 => 0,
            _ => self.0[slot].load(Ordering::SeqCst),
        }
    }

    /// Where it stands whether the part of a slot was ever used.
    fn part(self, slot: usize) -> (&'static AtomicU64, u64) {
        let part = slot / PART;
        (&self.0[SLOTS + part / 64], 1 << (part % 64))
    }
}

/// Key and count of a word; `None`: it is empty.
fn read(word: u64) -> Option<(Key, u64)> {
    (word != 0).then_some((Key(word >> COUNT), word & MOST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;

    fn tally() -> Tally {
        let words = (0..WORDS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        Tally::of(Vec::leak(words)).expect("room")
    }

    /// All keys begin in a few places: chains are long, and cross the end.
    fn crowded() -> Vec<Key> {
        let near = |key: &Key| (key.place() + 4) % SLOTS < 8;
        (0..).map(|number| Key::of(1, number)).filter(near).take(40).collect()
    }

    fn is_empty(tally: Tally) -> bool {
        tally.0[..SLOTS].iter().all(|word| word.load(Ordering::SeqCst) == 0)
    }

    #[test]
    fn small_numbers_have_keys_of_their_own() {
        assert_ne!(Key::exact(0), Key::exact(1));
        for number in 0..100_000 {
            let key = Key::of(number % 7, number);
            assert!(key.0 != 0 && key.0 < EXACT);
        }
        assert!(Key::exact(u32::MAX).0 << COUNT >> COUNT == Key::exact(u32::MAX).0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn it_counts_like_a_map(steps in prop::collection::vec((0..40_usize, 0..5_u8), 0..600)) {
            let (tally, keys) = (tally(), crowded());
            let mut counts: HashMap<Key, u64> = HashMap::new();
            for (at, what) in steps {
                let key = keys[at];
                match what {
                    0..=1 => {
                        prop_assert!(tally.add(key, 1));
                        *counts.entry(key).or_default() += 1;
                    }
                    2..=3 => {
                        tally.take(key);
                        counts.entry(key).and_modify(|count| *count = count.saturating_sub(1));
                    }
                    // Another one writes, and knows what there is.
                    _ => {
                        counts.retain(|other, _| *other != key);
                        tally.become_like(counts.clone());
                    }
                }
                for key in &keys {
                    prop_assert_eq!(tally.count(*key), counts.get(key).copied().unwrap_or(0));
                }
            }
            tally.become_like(HashMap::new());
            prop_assert!(is_empty(tally));
        }
    }

    /// Whoever reads while it is written finds what counts all the time.
    #[test]
    fn what_counts_is_always_found() {
        let (tally, keys) = (tally(), crowded());
        let (steady, others) = keys.split_at(8);
        for (key, other) in steady.iter().zip(others) {
            assert!(tally.add(*other, 1) && tally.add(*key, 1));
        }
        let done = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..40_000 {
                    let key = others[turn * 7 % others.len()];
                    match tally.count(key) {
                        0 => assert!(tally.add(key, 1)),
                        _ => tally.take(key),
                    }
                }
                done.store(1, Ordering::SeqCst);
            });
            while done.load(Ordering::SeqCst) == 0 {
                assert!(steady.iter().all(|key| tally.count(*key) == 1));
            }
        });
    }

    #[test]
    fn many_cost_no_more_than_few() {
        let tally = tally();
        let round = || {
            let begin = Instant::now();
            for number in 0..10_000 {
                let key = Key::of(3, number % 100);
                assert!(tally.add(key, 1));
                tally.take(key);
            }
            begin.elapsed()
        };
        let few = (0..5).map(|_| round()).min();
        for number in 0..30_000 {
            assert!(tally.add(Key::of(2, number), 1));
        }
        let many = (0..5).map(|_| round()).min();
        assert!(many < few.map(|few| few * 10), "{many:?} instead of {few:?}");
        (0..30_000).for_each(|number| tally.take(Key::of(2, number)));
        assert!(is_empty(tally), "what counts nothing is not kept");
    }

    #[test]
    fn where_it_is_full_that_is_told() {
        let tally = tally();
        let all: Vec<Key> = (0..=SLOTS as u32).map(Key::exact).collect();
        let (last, rest) = all.split_last().expect("some");
        assert!(rest.iter().all(|key| tally.add(*key, 1)));
        assert!(!tally.add(*last, 1));
        tally.take(rest[7]);
        assert!(tally.add(*last, 1));
        assert_eq!((tally.count(*last), tally.count(rest[7])), (1, 0));
        assert!(!tally.add(*last, MOST));
    }
}
