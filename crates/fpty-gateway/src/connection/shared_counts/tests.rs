use super::*;
use fpty::sys::shm::SharedMemory;
use proptest::prelude::*;

fn tables(count: usize) -> Vec<&'static [AtomicU64]> {
    let new = |_| SharedMemory::new(WORDS).expect("memory").words();
    (0..count).map(new).collect()
}

fn gateways(tables: &[&'static [AtomicU64]]) -> Vec<SharedCounts> {
    let of = |ordinal| SharedCounts::from_tables(tables, ordinal, [7; 4]);
    (0..tables.len()).map(of).collect()
}

#[test]
fn a_name_is_one_gateways_and_a_number_all_have() {
    let tables = tables(3);
    let all = gateways(&tables);
    let held = all[1].claim("name", 1).expect("nobody has it");
    assert_eq!(all[2].owner("name"), Some(1));
    for (other, shared_counts) in all.iter().enumerate() {
        assert_eq!(shared_counts.claim("name", 1).err(), Some(1), "{other}");
    }
    drop(held);
    let again = all[0].claim("name", 1).expect("it is free");
    assert_eq!(all[1].claim("name", 1).err(), Some(0));
    let more: Vec<_> = [0, 1, 1, 2].map(|of| all[of].increment(("left", 7))).into();
    assert_eq!((all[0].total(("left", 7)), all[2].total(("left", 8))), (4, 0));
    drop((more, again));
    assert_eq!((all[0].total(("left", 7)), all[2].owner("name")), (0, None));
}

#[test]
fn the_next_gateway_takes_up_what_goes_on() {
    let tables = tables(2);
    let all = gateways(&tables);
    let (kept, lost) = (all[0].claim("kept", 1), all[0].claim("lost", 1));
    let counted = [all[0].increment("left"), all[0].increment("left")];
    // It is killed.
    std::mem::forget((kept, lost, counted));
    let next = SharedCounts::from_tables(&tables, 0, [7; 4]);
    assert_eq!(all[1].claim("kept", 1).err(), Some(0), "before it is taken up");
    let (kept, counted) = (next.claim("kept", 1), next.increment("left"));
    assert!(kept.is_ok());
    // Of two, as long as it is not known how many go on.
    assert_eq!((all[1].claim("lost", 1).err(), all[1].total("left")), (Some(0), 2));
    assert!(!next.are_restored());
    next.drop_unrestored();
    assert!(all[1].claim("lost", 1).is_ok() && !next.are_restored());
    all[1].drop_unrestored();
    assert!(next.are_restored() && all[1].are_restored());
    assert_eq!((all[1].owner("kept"), all[1].total("left")), (Some(0), 1));
    drop(counted);
}

#[test]
fn without_memory_it_is_as_with_one_gateway() {
    let alone = SharedCounts::from_tables(&[], 0, [7; 4]);
    let held = alone.claim("name", 1);
    assert_eq!((alone.claim("name", 1).err(), alone.owner("name")), (Some(0), Some(0)));
    drop(held);
    let more = [alone.increment("left"), alone.increment("left")];
    assert_eq!((alone.owner("name"), alone.total("left")), (None, 2));
    drop(more);
}

/// Neither of two clients that come at once is refused, be it the first or the second
/// that goes.
#[test]
fn nobody_is_refused_for_what_is_only_claimed() {
    for (claims, comes) in [(0, 1), (1, 0)] {
        let tables = tables(2);
        let other = &gateways(&tables)[claims];
        let key = other.key("seat");
        other.0.borrow_mut().set(key, 1, CLAIM_BIT);
        std::thread::scope(|scope| {
            let came = scope.spawn(|| {
                let next = SharedCounts::from_tables(&tables, comes, [7; 4]);
                next.claim("seat", 1).is_ok()
            });
            while !CountTable(tables[comes]).has(USED) {
                std::thread::yield_now();
            }
            other.0.borrow_mut().set(key, 0, 0);
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
                    let shared_counts = SharedCounts::from_tables(&tables, ordinal, [7; 4]);
                    for got in got {
                        barrier.wait();
                        let held = shared_counts.claim("seat", most);
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
            let key = which / 4 * SLOTS as u64 + 100 + which % 4;
            let mut own = all[0].0.borrow_mut();
            let number = map.entry(key).or_default();
            match more {
                true => *number += 1,
                false => *number = number.saturating_sub(1),
            }
            own.set(key, *number, 0);
            for (key, number) in &map {
                prop_assert_eq!(all[1].0.borrow().others(*key).next(), Some((0, *number)));
            }
        }
        map.into_keys().for_each(|key| all[0].0.borrow_mut().set(key, 0, 0));
        let own = all[0].0.borrow();
        let table = own.own().expect("a table");
        prop_assert!((0..SLOTS).all(|slot| table.key(slot) == EMPTY), "nothing is left");
    }
}
