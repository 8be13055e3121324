//! Access rules: users and groups on UNIX sockets, addresses on TCP.

use std::net::IpAddr;

use fpty::sys::credentials::{Credentials, OVERFLOW_UID};

/// A network: an address and its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A deny list and an allow list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList<T> {
    deny: Vec<T>,
    allow: Option<Vec<T>>,
}

impl<T> Default for AccessList<T> {
    fn default() -> Self {
        Self { deny: Vec::new(), allow: None }
    }
}

impl<T> AccessList<T> {
    /// The deny list, to extend.
    pub fn deny(&mut self) -> &mut Vec<T> {
        &mut self.deny
    }

    /// The allow list, to extend.
    pub fn allow(&mut self) -> &mut Vec<T> {
        self.allow.get_or_insert_default()
    }

    /// Whether there is a deny or an allow list.
    pub fn is_set(&self) -> bool {
        !self.deny.is_empty() || self.allow.is_some()
    }

    /// Checks a peer that `is_in` finds in a list. The error is `denied`, or `missing` from
    /// the allow list.
    fn check(
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

/// Access rules. Each list that is given must permit; a deny wins, and root is permitted in
/// any case, unless it is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Users by uid.
    pub users: AccessList<u32>,
    /// Groups by gid, for their members.
    pub groups: AccessList<u32>,
    /// Networks by address.
    pub addresses: AccessList<Network>,
    /// root needs an allow list that has it.
    pub deny_root: bool,
}

impl Network {
    /// Parses an address with or without a prefix length.
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
        // The prefix is first, whichever the length of all.
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let differ = (bits(self.address) ^ bits(address)).checked_shr(128 - u32::from(self.bits));
        self.address.is_ipv4() == address.is_ipv4() && differ.unwrap_or(0) == 0
    }
}

impl Access {
    /// Whether there is a rule about users or groups.
    pub fn has_users(&self) -> bool {
        self.users.is_set() || self.groups.is_set() || self.deny_root
    }

    /// Checks a process with these groups.
    ///
    /// # Errors
    /// The user or all groups are not allowed: the reason.
    pub fn check_user(
        &self,
        peer: Credentials,
        groups: &[u32],
    ) -> std::result::Result<(), &'static str> {
        if peer.uid == 0 {
            if !self.deny_root {
                return Ok(());
            }
            // As for any other user, but root must have been named.
            if self.users.allow.is_none() && self.groups.allow.is_none() {
                return Err("root is denied");
            }
        }
        let known = peer.uid != OVERFLOW_UID;
        let is_user = |ids: &[u32]| known && ids.contains(&peer.uid);
        let is_member = |ids: &[u32]| {
            known && (ids.contains(&peer.gid) || groups.iter().any(|group| ids.contains(group)))
        };
        self.users.check(is_user, "the user is denied", "the user is not allowed")?;
        self.groups.check(is_member, "the group is denied", "no group of the user's is allowed")
    }

    /// Checks an address.
    ///
    /// # Errors
    /// The address is not allowed: the reason.
    pub fn check_address(&self, address: IpAddr) -> std::result::Result<(), &'static str> {
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.has(address));
        self.addresses.check(is_in, "the address is denied", "the address is not allowed")
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
        assert!(both.check_user(peer(1001, 50), &[]).is_ok());
        assert!(both.check_user(peer(1001, 51), &[60, 50]).is_ok());
        assert!(both.check_user(peer(1001, 51), &[60]).is_err());
        assert!(both.check_user(peer(1002, 50), &[]).is_err());
        let mut denied = Access::default();
        denied.users.allow().push(1001);
        denied.users.deny().push(1002);
        denied.groups.deny().push(50);
        assert!(denied.check_user(peer(1001, 50), &[]).is_err());
        assert!(denied.check_user(peer(1001, 1), &[50]).is_err());
        assert!(denied.check_user(peer(1001, 1), &[]).is_ok());
        let mut denied = Access::default();
        denied.users.deny().push(1002);
        assert!(denied.check_user(peer(1002, 1), &[]).is_err());
        assert!(denied.check_user(peer(1003, 1), &[]).is_ok());
    }

    #[test]
    fn root_may_unless_it_is_denied_and_nobodys_name_is_no_strangers() {
        let mut access = Access::default();
        access.users.allow().extend([1001, 65534]);
        assert!(access.check_user(peer(0, 0), &[]).is_ok());
        assert!(access.check_user(peer(65534, 65534), &[]).is_err());
        access.deny_root = true;
        assert!(access.check_user(peer(0, 0), &[]).is_err());
        let none = Access { deny_root: true, ..Access::default() };
        assert!(
            none.check_user(peer(0, 0), &[]).is_err() && none.check_user(peer(1, 1), &[]).is_ok()
        );
        access.users.allow().push(0);
        assert!(access.check_user(peer(0, 0), &[]).is_ok());
        access.groups.deny().push(0);
        assert!(access.check_user(peer(0, 0), &[]).is_err());
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
            assert_eq!(access.check_address(address).is_ok(), admitted, "{address}");
        }
        assert!(Network::of("0.0.0.0/0").expect("all").has([8, 8, 8, 8].into()));
        for nonsense in ["", "10.0.0.0/33", "10.0.0", "x", "::/129", "10.0.0.0/-1"] {
            assert_eq!(Network::of(nonsense), None, "{nonsense}");
        }
    }
}
