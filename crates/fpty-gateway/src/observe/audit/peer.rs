//! The peer of a connection as the kernel knows it, and the identity that the client
//! claims.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::user_names::UserNames;
use fpty::fair_share::Principal;
use fpty::proto::variables::{LOGNAME, SSH_CONNECTION, Variables};
use fpty::sys::credentials::OVERFLOW_UID;
use fpty::sys::socket::Stream;

/// The other end of a connection. What is not known is `None`: of TCP there
/// are address and port, of a UNIX socket the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// The pid of the process that connected.
    pub pid: Option<u32>,
    /// The uid.
    pub uid: Option<u32>,
    /// The gid.
    pub gid: Option<u32>,
    /// The user name.
    pub user: Option<Arc<str>>,
    /// The login uid (audit(7)).
    pub login_uid: Option<u32>,
    /// The IP address.
    pub address: Option<IpAddr>,
    /// The TCP port.
    pub port: Option<u16>,
}

impl Peer {
    /// The peer that stands for a principal.
    pub fn of_principal(principal: Principal) -> Self {
        match principal {
            Principal::User(uid) => Self { uid: Some(uid), ..Self::default() },
            Principal::ForeignUser(pid) => Self {
                pid: u32::try_from(pid).ok().filter(|pid| *pid > 0),
                uid: Some(OVERFLOW_UID),
                ..Self::default()
            },
            Principal::Ipv4(address) => {
                Self { address: Some(IpAddr::V4(address.into())), ..Self::default() }
            }
            Principal::Ipv6Prefix(upper) => {
                let address = (u128::from(upper) << 64).into();
                Self { address: Some(IpAddr::V6(address)), ..Self::default() }
            }
            Principal::Unknown => Self::default(),
        }
    }

    /// The peer of which the uid alone is known.
    pub fn user(uid: u32, names: &mut UserNames) -> Self {
        Self { uid: Some(uid), user: names.of(uid), ..Self::default() }
    }

    /// The peer of a connection; with its login uid where that is asked for.
    pub fn of(client: &Stream, names: &mut UserNames, with_login: bool) -> Self {
        let Some(credentials) = client.credentials() else {
            let (address, port) = client.peer_address().unzip();
            return Self { address, port, ..Self::default() };
        };
        Self {
            pid: u32::try_from(credentials.pid).ok().filter(|pid| *pid > 0),
            uid: Some(credentials.uid),
            gid: Some(credentials.gid),
            user: names.of(credentials.uid),
            login_uid: with_login.then(|| names.logins.of(client, credentials)).flatten(),
            ..Self::default()
        }
    }
}

/// The identity that a client claims; it is not verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimedIdentity {
    /// SSH_CONNECTION.
    pub ssh_connection: Option<Box<str>>,
    /// LOGNAME.
    pub logname: Option<Box<str>>,
    /// TERM.
    pub term: Option<Box<str>>,
}

impl ClaimedIdentity {
    /// The claims among the client's variables.
    pub fn of(variables: &Variables) -> Self {
        let text = |name: &[u8]| {
            let value = variables.get(name).filter(|value| !value.is_empty())?;
            // More than a line has room for.
            let value = &value[..value.len().min(1024)];
            Some(String::from_utf8_lossy(value).into())
        };
        Self { ssh_connection: text(SSH_CONNECTION), logname: text(LOGNAME), term: text(b"TERM") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty::proto::{HEADER, variables};

    #[test]
    fn what_a_client_says_has_bounds_and_may_be_nonsense() {
        let long = "x".repeat(5000);
        let mut packets = Vec::new();
        let pairs = [(SSH_CONNECTION, long.as_bytes()), (LOGNAME, b"\xff\n"), (b"TERM", b"")];
        variables::encode(pairs, &mut packets);
        let mut variables = Variables::default();
        variables.part(&packets[HEADER..], true);
        let claimed = ClaimedIdentity::of(&variables);
        assert_eq!(claimed.ssh_connection.map(|text| text.len()), Some(1024));
        assert_eq!(claimed.logname.as_deref(), Some("\u{fffd}\n"));
        assert_eq!(claimed.term, None);
    }
}
