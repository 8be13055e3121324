//! Shares of what there is only so much of: everybody has one, and whoever
//! takes the most makes room for the next.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::sys::credentials::OF_ELSEWHERE;
use crate::sys::socket::Stream;

/// Who has a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Who {
    /// A user.
    User(u32),
    /// A process of users who have no number here (user_namespaces(7)): nobody
    /// knows which are one.
    Elsewhere(i32),
    /// An address of IPv4.
    Address(u32),
    /// A network of IPv6: a user has 64 bits of it.
    Network(u64),
    /// It has left.
    Nobody,
}

impl Who {
    /// Who has connected.
    pub fn of(client: &Stream) -> Self {
        match (client.credentials(), client.peer_address()) {
            (Some(peer), _) if peer.uid == OF_ELSEWHERE => Self::Elsewhere(peer.pid),
            (Some(peer), _) => Self::User(peer.uid),
            (None, Some((IpAddr::V4(address), _))) => Self::Address(address.to_bits()),
            // The upper half.
            (None, Some((IpAddr::V6(address), _))) => {
                Self::Network((address.to_bits() >> 64) as u64)
            }
            (None, None) => Self::Nobody,
        }
    }

    /// With whom it shares a share: processes cost nothing.
    pub fn together(self) -> Self {
        match self {
            Self::Elsewhere(_) => Self::Elsewhere(0),
            who => who,
        }
    }
}

/// Who has a place, since when.
pub type Place<K> = (K, Who, Instant);

/// Whose place the next one of `who` gets, where nobody may have more than
/// `most` and all together no more than `all`: the oldest of its own, or the
/// oldest of whoever has the most. `None`: there is room.
pub fn in_the_way<K: Copy>(
    places: impl Iterator<Item = Place<K>>,
    who: Who,
    most: usize,
    all: usize,
) -> Option<K> {
    let places: Vec<Place<K>> = places.collect();
    let own = places.iter().filter(|(_, other, _)| *other == who);
    let oldest = |(_, _, since): &&Place<K>| *since;
    if own.clone().count() >= most {
        return own.min_by_key(oldest).map(|(key, ..)| *key);
    }
    if places.len() < all {
        return None;
    }
    let (mut shares, mut parts) = (HashMap::new(), HashMap::new());
    for (_, who, _) in &places {
        *shares.entry(who.together()).or_insert(0_usize) += 1;
        *parts.entry(*who).or_insert(0_usize) += 1;
    }
    let takes = |who: &Who| (shares.get(&who.together()).copied(), parts.get(who).copied());
    let most = places.iter().map(|(_, who, _)| takes(who)).max()?;
    let of_those = places.iter().filter(|(_, who, _)| takes(who) == most);
    of_those.min_by_key(oldest).map(|(key, ..)| *key)
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Elsewhere(pid) => write!(f, "a user of elsewhere (process {pid})"),
            Self::Address(address) => std::net::Ipv4Addr::from_bits(*address).fmt(f),
            Self::Network(upper) => {
                write!(f, "{}/64", std::net::Ipv6Addr::from_bits(u128::from(*upper) << 64))
            }
            Self::Nobody => f.write_str("somebody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Who goes where so many have places, the first of them the oldest.
    fn goes(places: &[(Who, usize)], who: Who, most: usize, all: usize) -> Option<usize> {
        let begin = Instant::now();
        let whos = places.iter().flat_map(|(who, count)| std::iter::repeat_n(*who, *count));
        let places = whos
            .enumerate()
            .map(|(number, who)| (number, who, begin + Duration::from_secs(number as u64)));
        in_the_way(places, who, most, all)
    }

    #[test]
    fn whoever_has_the_most_makes_room() {
        let (one, other) = (Who::User(1), Who::User(2));
        assert_eq!(goes(&[(one, 3), (other, 2)], one, 4, 6), None);
        assert_eq!(goes(&[(other, 1), (one, 4)], one, 4, 6), Some(1));
        assert_eq!(goes(&[(other, 2), (one, 4)], other, 4, 6), Some(2));
        assert_eq!(goes(&[(other, 2), (one, 4)], Who::Address(9), 4, 6), Some(2));
    }

    #[test]
    fn strangers_share_one_and_their_processes_that() {
        let strange = Who::Elsewhere;
        let places = [(Who::User(1), 3), (strange(10), 1), (strange(11), 2), (strange(12), 1)];
        assert_eq!(goes(&places, Who::User(2), 4, 7), Some(4));
        assert_eq!(goes(&places, strange(11), 2, 9), Some(4));
        assert_eq!(goes(&places, strange(10), 2, 9), None);
    }
}
