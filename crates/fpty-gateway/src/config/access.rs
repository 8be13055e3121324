//! Who may come in: users and groups on UNIX sockets, addresses on TCP.

use std::net::IpAddr;

use fpty::sys::credentials::{Credentials, OF_ELSEWHERE};

/// An address and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Who may not, and who alone may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists<T> {
    deny: Vec<T>,
    allow: Option<Vec<T>>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self { deny: Vec::new(), allow: None }
    }
}

impl<T> Lists<T> {
    /// The list of those who may not, to be added to.
    pub fn deny(&mut self) -> &mut Vec<T> {
        &mut self.deny
    }

    /// The list of those who may, to be added to.
    pub fn allow(&mut self) -> &mut Vec<T> {
        self.allow.get_or_insert_default()
    }

    /// Whether there are any.
    pub fn exist(&self) -> bool {
        !self.deny.is_empty() || self.allow.is_some()
    }

    /// Whether whom `is_in` finds in a list may; else `denied`, or `missing` in the
    /// list of those who may.
    fn admit(
        &self,
        is_in: impl Fn(&[T]) -> bool,
        denied: &'static str,
        missing: &'static str,
    ) -> std::result::Result<(), &'static str> {
        match &self.allow {
            _ if is_in(&self.deny) => Err(denied),
            Some(allow) if !is_in(allow) => Err(missing),
            _ => Ok(()),
        }
    }
}

/// Who may come in. Each list that is given must permit; a deny wins, and
/// root may in any case, unless it is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// By user.
    pub users: Lists<u32>,
    /// By group: of members.
    pub groups: Lists<u32>,
    /// By address.
    pub addresses: Lists<Network>,
    /// root comes in only where an allow list has him.
    pub deny_root: bool,
}

impl Network {
    /// Reads an address with or without a prefix length.
    pub fn of(typed: &str) -> Option<Self> {
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
    /// Whether there is a rule about users or groups.
    pub fn has_users(&self) -> bool {
        self.users.exist() || self.groups.exist() || self.deny_root
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
            if self.users.allow.is_none() && self.groups.allow.is_none() {
                return Err("root is denied");
            }
        }
        let known = peer.uid != OF_ELSEWHERE;
        let is_user = |ids: &[u32]| known && ids.contains(&peer.uid);
        let is_member = |ids: &[u32]| {
            known && (ids.contains(&peer.gid) || groups.iter().any(|group| ids.contains(group)))
        };
        self.users.admit(is_user, "the user is denied", "the user is not allowed")?;
        self.groups.admit(is_member, "the group is denied", "no group of the user's is allowed")
    }

    /// Whether an address may; else why not.
    pub fn admits_address(&self, address: IpAddr) -> std::result::Result<(), &'static str> {
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.has(address));
        self.addresses.admit(is_in, "the address is denied", "the address is not allowed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32) -> Credentials {
        Credentials { pid: 1, uid, gid }
    }

    #[test]
    fn a_deny_wins_and_each_allow_list_must_permit() {
        let mut both = Access::default();
        both.users.allow().push(1001);
        both.groups.allow().push(50);
        assert!(both.admits(peer(1001, 50), &[]).is_ok());
        assert!(both.admits(peer(1001, 51), &[60, 50]).is_ok());
        assert!(both.admits(peer(1001, 51), &[60]).is_err());
        assert!(both.admits(peer(1002, 50), &[]).is_err());
        let mut denied = Access::default();
        denied.users.allow().push(1001);
        denied.users.deny().push(1002);
        denied.groups.deny().push(50);
        assert!(denied.admits(peer(1001, 50), &[]).is_err());
        assert!(denied.admits(peer(1001, 1), &[50]).is_err());
        assert!(denied.admits(peer(1001, 1), &[]).is_ok());
        let mut denied = Access::default();
        denied.users.deny().push(1002);
        assert!(denied.admits(peer(1002, 1), &[]).is_err());
        assert!(denied.admits(peer(1003, 1), &[]).is_ok());
    }

    #[test]
    fn root_may_unless_it_is_denied_and_nobodys_name_is_no_strangers() {
        let mut access = Access::default();
        access.users.allow().extend([1001, 65534]);
        assert!(access.admits(peer(0, 0), &[]).is_ok());
        assert!(access.admits(peer(65534, 65534), &[]).is_err());
        access.deny_root = true;
        assert!(access.admits(peer(0, 0), &[]).is_err());
        let none = Access { deny_root: true, ..Access::default() };
        assert!(none.admits(peer(0, 0), &[]).is_err() && none.admits(peer(1, 1), &[]).is_ok());
        access.users.allow().push(0);
        assert!(access.admits(peer(0, 0), &[]).is_ok());
        access.groups.deny().push(0);
        assert!(access.admits(peer(0, 0), &[]).is_err());
    }

    #[test]
    fn addresses_have_prefixes() {
        let mut access = Access::default();
        let allowed = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"];
        access.addresses.allow().extend(allowed.map(|typed| Network::of(typed).expect(typed)));
        access.addresses.deny().extend(Network::of("10.1.0.0/16"));
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
}
