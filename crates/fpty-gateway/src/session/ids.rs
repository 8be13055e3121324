//! Session ids: short enough to be typed, and not to be guessed. An id is computed from the
//! session's key, so it costs a session no memory.

use std::hash::{BuildHasher, Hash, RandomState};

/// Crockford's base 32 in small letters: no two letters look alike.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Length of an id, in letters of five bits.
pub const LENGTH: usize = 8;

/// Generator of ids: a keyed hash.
pub struct SessionIds {
    secret: RandomState,
    /// Process id and start time: two gateways may be forked from one process.
    whose: (u32, u128),
}

impl SessionIds {
    /// A generator for this process.
    pub fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let whose = (std::process::id(), now.map_or(0, |since| since.as_nanos()));
        Self { secret: RandomState::new(), whose }
    }

    /// Id of the session with this key, or of anything else that is hashed.
    pub fn of(&self, key: impl Hash) -> String {
        let hash = self.secret.hash_one((self.whose, key));
        let letter = |at: usize| ALPHABET[(hash >> (5 * at)) as usize & 31] as char;
        (0..LENGTH).map(letter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::slab::Table;
    use std::collections::HashSet;

    #[test]
    fn each_session_has_one_of_its_own_and_keeps_it() {
        let (ids, mut table, mut seen) = (SessionIds::new(), Table::new(), HashSet::new());
        for _ in 0..1000 {
            let (one, other) = (table.insert(()), table.insert(()));
            assert_eq!(ids.of(one), ids.of(one));
            assert!(seen.insert(ids.of(one)) && seen.insert(ids.of(other)));
            table.remove(other);
        }
        assert!(
            seen.iter().all(|id| id.len() == LENGTH && id.bytes().all(|b| ALPHABET.contains(&b)))
        );
        assert_ne!(SessionIds::new().of(table.insert(())), ids.of(table.insert(())));
    }
}
