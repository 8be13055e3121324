//! Who may come in: users and groups on UNIX sockets, addresses on TCP.

use std::net::IpAddr;

use fpty::error::{Error, Result};
use fpty::sys::accounts;
use fpty::sys::credentials::{Credentials, OF_ELSEWHERE};

/// An address and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// One of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Users who may not.
    DenyUser,
    /// Users who may.
    AllowUser,
    /// Groups whose members may not.
    DenyGroup,
    /// Groups whose members may.
    AllowGroup,
    /// Addresses that may not.
    DenyAddress,
    /// Addresses that may.
    AllowAddress,
}

impl List {
    /// Whether it is about addresses.
    pub fn is_of_addresses(self) -> bool {
        matches!(self, List::DenyAddress | List::AllowAddress)
    }
}

/// Who may come in. Each list that is given must permit; a deny wins, and
/// root may in any case, unless it is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    deny_users: Vec<u32>,
    allow_users: Option<Vec<u32>>,
    deny_groups: Vec<u32>,
    allow_groups: Option<Vec<u32>>,
    deny_addresses: Vec<Network>,
    allow_addresses: Option<Vec<Network>>,
    deny_root: bool,
}

impl Network {
    /// Reads an address with or without a prefix length.
    fn of(typed: &str) -> Option<Self> {
        let (address, bits) = match typed.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (typed, None),
        };
        let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { address, bits })
    }

    fn has(&self, address: IpAddr) -> bool {
        let same = |ours: u128, theirs: u128, most: u8| {
            self.bits == 0 || (ours ^ theirs) >> (most - self.bits) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                same(ours.to_bits().into(), theirs.to_bits().into(), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => same(ours.to_bits(), theirs.to_bits(), 128),
            _ => false,
        }
    }
}

impl Access {
    /// Adds to a list.
    ///
    /// # Errors
    /// No such user, group or address; `what` names option and key.
    pub fn add(&mut self, list: List, what: &str, typed: &[Vec<u8>]) -> Result<()> {
        let words = typed.iter().map(|word| String::from_utf8_lossy(word.trim_ascii()));
        let words = words.map(|word| word.into_owned()).filter(|word| !word.is_empty());
        let words: Vec<String> = words.collect();
        if words.is_empty() {
            return Err(Error::new(format!("{what}: the value is empty")));
        }
        let ids = |of: fn(&str) -> Option<u32>, kind: &str| {
            let id = |word: &String| {
                of(word).ok_or_else(|| Error::new(format!("{what} = {word}: no such {kind}")))
            };
            words.iter().map(id).collect::<Result<Vec<u32>>>()
        };
        let networks = || {
            let network = |word: &String| {
                Network::of(word)
                    .ok_or_else(|| Error::new(format!("{what} = {word}: not an address")))
            };
            words.iter().map(network).collect::<Result<Vec<Network>>>()
        };
        match list {
            List::DenyUser => self.deny_users.extend(ids(accounts::user, "user")?),
            List::AllowUser => {
                self.allow_users.get_or_insert_default().extend(ids(accounts::user, "user")?);
            }
            List::DenyGroup => self.deny_groups.extend(ids(accounts::group, "group")?),
            List::AllowGroup => {
                self.allow_groups.get_or_insert_default().extend(ids(accounts::group, "group")?);
            }
            List::DenyAddress => self.deny_addresses.extend(networks()?),
            List::AllowAddress => {
                self.allow_addresses.get_or_insert_default().extend(networks()?);
            }
        }
        Ok(())
    }

    /// Empties a list: a socket's own takes the place of the global one.
    pub fn clear(&mut self, list: List) {
        match list {
            List::DenyUser => self.deny_users.clear(),
            List::AllowUser => self.allow_users = None,
            List::DenyGroup => self.deny_groups.clear(),
            List::AllowGroup => self.allow_groups = None,
            List::DenyAddress => self.deny_addresses.clear(),
            List::AllowAddress => self.allow_addresses = None,
        }
    }

    /// Whether root comes in only where an allow list has him.
    pub fn deny_root(&mut self, deny: bool) {
        self.deny_root = deny;
    }

    /// Whether there is a rule about users or groups.
    pub fn has_users(&self) -> bool {
        !self.deny_users.is_empty()
            || self.allow_users.is_some()
            || !self.deny_groups.is_empty()
            || self.allow_groups.is_some()
            || self.deny_root
    }

    /// Whether there is a rule about addresses.
    pub fn has_addresses(&self) -> bool {
        !self.deny_addresses.is_empty() || self.allow_addresses.is_some()
    }

    /// Whether the groups of a peer are asked for.
    pub fn asks_for_groups(&self) -> bool {
        !self.deny_groups.is_empty() || self.allow_groups.is_some()
    }

    /// Whether a process may, whose groups are all of these; else why not.
    pub fn admits(
        &self,
        peer: Credentials,
        groups: &[u32],
    ) -> std::result::Result<(), &'static str> {
        if peer.uid == 0 {
            if !self.deny_root {
                return Ok(());
            }
            // Like everybody, but that somebody must have named him.
            if self.allow_users.is_none() && self.allow_groups.is_none() {
                return Err("root is denied");
            }
        }
        let known = peer.uid != OF_ELSEWHERE;
        let is_user = |ids: &[u32]| known && ids.contains(&peer.uid);
        let is_member = |ids: &[u32]| {
            known && (ids.contains(&peer.gid) || groups.iter().any(|group| ids.contains(group)))
        };
        if is_user(&self.deny_users) {
            return Err("the user is denied");
        }
        if self.allow_users.as_deref().is_some_and(|ids| !is_user(ids)) {
            return Err("the user is not allowed");
        }
        if is_member(&self.deny_groups) {
            return Err("the group is denied");
        }
        if self.allow_groups.as_deref().is_some_and(|ids| !is_member(ids)) {
            return Err("no group of the user's is allowed");
        }
        Ok(())
    }

    /// Whether an address may; else why not.
    pub fn admits_address(&self, address: IpAddr) -> std::result::Result<(), &'static str> {
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.has(address));
        if is_in(&self.deny_addresses) {
            return Err("the address is denied");
        }
        if self.allow_addresses.as_deref().is_some_and(|networks| !is_in(networks)) {
            return Err("the address is not allowed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32) -> Credentials {
        Credentials { pid: 1, uid, gid }
    }

    fn access(rules: &[(List, &str)]) -> Access {
        let mut access = Access::default();
        for (list, value) in rules {
            access.add(*list, "option x", &[value.as_bytes().to_vec()]).expect(value);
        }
        access
    }

    #[test]
    fn a_deny_wins_and_each_allow_list_must_permit() {
        use List::{AllowGroup, AllowUser, DenyGroup, DenyUser};
        let both = access(&[(AllowUser, "1001"), (AllowGroup, "50")]);
        assert!(both.admits(peer(1001, 50), &[]).is_ok());
        assert!(both.admits(peer(1001, 51), &[60, 50]).is_ok());
        assert!(both.admits(peer(1001, 51), &[60]).is_err());
        assert!(both.admits(peer(1002, 50), &[]).is_err());
        let denied = access(&[(AllowUser, "1001"), (DenyGroup, "50"), (DenyUser, "1002")]);
        assert!(denied.admits(peer(1001, 50), &[]).is_err());
        assert!(denied.admits(peer(1001, 1), &[50]).is_err());
        assert!(denied.admits(peer(1001, 1), &[]).is_ok());
        assert!(access(&[(DenyUser, "1002")]).admits(peer(1002, 1), &[]).is_err());
        assert!(access(&[(DenyUser, "1002")]).admits(peer(1003, 1), &[]).is_ok());
    }

    #[test]
    fn root_may_unless_it_is_denied_and_nobodys_name_is_no_strangers() {
        let mut access = access(&[(List::AllowUser, "1001"), (List::AllowUser, "65534")]);
        assert!(access.admits(peer(0, 0), &[]).is_ok());
        assert!(access.admits(peer(65534, 65534), &[]).is_err());
        access.deny_root(true);
        assert!(access.admits(peer(0, 0), &[]).is_err());
        let mut none = Access::default();
        none.deny_root(true);
        assert!(none.admits(peer(0, 0), &[]).is_err() && none.admits(peer(1, 1), &[]).is_ok());
        access.add(List::AllowUser, "x", &[b"root".to_vec()]).expect("root");
        assert!(access.admits(peer(0, 0), &[]).is_ok());
        access.add(List::DenyGroup, "x", &[b"0".to_vec()]).expect("a group");
        assert!(access.admits(peer(0, 0), &[]).is_err());
    }

    #[test]
    fn addresses_have_prefixes() {
        let access = access(&[
            (List::AllowAddress, "10.0.0.0/8"),
            (List::AllowAddress, "2001:db8::/32"),
            (List::AllowAddress, "192.0.2.1"),
            (List::DenyAddress, "10.1.0.0/16"),
        ]);
        for (address, admitted) in [
            ("10.2.3.4", true),
            ("10.1.3.4", false),
            ("11.0.0.1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(access.admits_address(address).is_ok(), admitted, "{address}");
        }
        assert!(Network::of("0.0.0.0/0").expect("all").has([8, 8, 8, 8].into()));
        for nonsense in ["", "10.0.0.0/33", "10.0.0", "x", "::/129", "10.0.0.0/-1"] {
            assert_eq!(Network::of(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (list, value, part) in [
            (List::AllowUser, "no-such-user-here", "no such user"),
            (List::DenyGroup, "no-such-group-here", "no such group"),
            (List::AllowAddress, "here", "not an address"),
            (List::AllowUser, " ", "empty"),
        ] {
            let value = value.as_bytes().to_vec();
            let error = Access::default().add(list, "option x", &[value]).expect_err(part);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
