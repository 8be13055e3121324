//! Shares of what there is only so much of: everybody has one, and whoever
//! takes the most makes room for the next.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::sys::credentials::OVERFLOW_UID;
use crate::sys::socket::Stream;

/// Principal that has a share of a limited resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Principal {
    /// A user.
    User(u32),
    /// A process of users who have no number here (user_namespaces(7)): nobody
    /// knows which are one.
    #[serde(rename = "Elsewhere")]
    ForeignUser(i32),
    /// An address of IPv4.
    #[serde(rename = "Address")]
    Ipv4(u32),
    /// A network of IPv6: a user has 64 bits of it.
    #[serde(rename = "Network")]
    Ipv6Prefix(u64),
    /// A client that disconnected before it was identified.
    #[serde(rename = "Nobody")]
    Unknown,
}

impl Principal {
    /// The principal of a client.
    pub fn of(client: &Stream) -> Self {
        match (client.credentials(), client.peer_address()) {
            (Some(peer), _) if peer.uid == OVERFLOW_UID => Self::ForeignUser(peer.pid),
            (Some(peer), _) => Self::User(peer.uid),
            (None, Some((IpAddr::V4(address), _))) => Self::Ipv4(address.to_bits()),
            // The upper half.
            (None, Some((IpAddr::V6(address), _))) => {
                Self::Ipv6Prefix((address.to_bits() >> 64) as u64)
            }
            (None, None) => Self::Unknown,
        }
    }

    /// The principal with which this one shares a share: processes cost nothing.
    pub fn group(self) -> Self {
        match self {
            Self::ForeignUser(_) => Self::ForeignUser(0),
            principal => principal,
        }
    }
}

/// Place that a principal holds, and since when.
pub type Share<K> = (K, Principal, Instant);

/// The place to evict for the next one of `principal`, where no principal may have more
/// than `most` and all together no more than `all`: the oldest of this principal, or the
/// oldest of the principal with the most. `None`: there is room.
pub fn to_evict<K: Copy>(
    shares_held: impl Iterator<Item = Share<K>>,
    principal: Principal,
    most: usize,
    all: usize,
) -> Option<K> {
    let shares_held: Vec<Share<K>> = shares_held.collect();
    let own = shares_held.iter().filter(|(_, other, _)| *other == principal);
    let oldest = |(_, _, since): &&Share<K>| *since;
    if own.clone().count() >= most {
        return own.min_by_key(oldest).map(|(key, ..)| *key);
    }
    if shares_held.len() < all {
        return None;
    }
    let (mut shares, mut parts) = (HashMap::new(), HashMap::new());
    for (_, principal, _) in &shares_held {
        *shares.entry(principal.group()).or_insert(0_usize) += 1;
        *parts.entry(*principal).or_insert(0_usize) += 1;
    }
    let takes = |principal: &Principal| {
        (shares.get(&principal.group()).copied(), parts.get(principal).copied())
    };
    let most = shares_held.iter().map(|(_, principal, _)| takes(principal)).max()?;
    let of_those = shares_held.iter().filter(|(_, principal, _)| takes(principal) == most);
    of_those.min_by_key(oldest).map(|(key, ..)| *key)
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user {uid}"),
            Self::ForeignUser(pid) => write!(f, "a user of elsewhere (process {pid})"),
            Self::Ipv4(address) => std::net::Ipv4Addr::from_bits(*address).fmt(f),
            Self::Ipv6Prefix(upper) => {
                write!(f, "{}/64", std::net::Ipv6Addr::from_bits(u128::from(*upper) << 64))
            }
            Self::Unknown => f.write_str("somebody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The place that is evicted where so many have places, the first of them the oldest.
    fn goes(
        shares_held: &[(Principal, usize)],
        principal: Principal,
        most: usize,
        all: usize,
    ) -> Option<usize> {
        let begin = Instant::now();
        let whos = shares_held
            .iter()
            .flat_map(|(principal, count)| std::iter::repeat_n(*principal, *count));
        let shares_held = whos.enumerate().map(|(number, principal)| {
            (number, principal, begin + Duration::from_secs(number as u64))
        });
        to_evict(shares_held, principal, most, all)
    }

    #[test]
    fn whoever_has_the_most_makes_room() {
        let (one, other) = (Principal::User(1), Principal::User(2));
        assert_eq!(goes(&[(one, 3), (other, 2)], one, 4, 6), None);
        assert_eq!(goes(&[(other, 1), (one, 4)], one, 4, 6), Some(1));
        assert_eq!(goes(&[(other, 2), (one, 4)], other, 4, 6), Some(2));
        assert_eq!(goes(&[(other, 2), (one, 4)], Principal::Ipv4(9), 4, 6), Some(2));
    }

    #[test]
    fn strangers_share_one_and_their_processes_that() {
        let strange = Principal::ForeignUser;
        let shares_held =
            [(Principal::User(1), 3), (strange(10), 1), (strange(11), 2), (strange(12), 1)];
        assert_eq!(goes(&shares_held, Principal::User(2), 4, 7), Some(4));
        assert_eq!(goes(&shares_held, strange(11), 2, 9), Some(4));
        assert_eq!(goes(&shares_held, strange(10), 2, 9), None);
    }
}
