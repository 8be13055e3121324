//! Who is at the other end: as far as the kernel tells, and what the client
//! says of itself.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::user_names::Names;
use fpty::fair_share::Who;
use fpty::proto::variables::{LOGNAME, SSH_CONNECTION, Variables};
use fpty::sys::credentials::OF_ELSEWHERE;
use fpty::sys::socket::Stream;

/// The other end of a connection. What is not known is `None`: of TCP there
/// are address and port, of a UNIX socket the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// The process that connected.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// The user's name.
    pub user: Option<Arc<str>>,
    /// As whom it has logged in.
    pub login_uid: Option<u32>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
}

impl Peer {
    /// What is known of all that have a share together.
    pub fn in_common(who: Who) -> Self {
        match who {
            Who::User(uid) => Self { uid: Some(uid), ..Self::default() },
            Who::Elsewhere(pid) => Self {
                pid: u32::try_from(pid).ok().filter(|pid| *pid > 0),
                uid: Some(OF_ELSEWHERE),
                ..Self::default()
            },
            Who::Address(address) => {
                Self { address: Some(IpAddr::V4(address.into())), ..Self::default() }
            }
            Who::Network(upper) => {
                let address = (u128::from(upper) << 64).into();
                Self { address: Some(IpAddr::V6(address)), ..Self::default() }
            }
            Who::Nobody => Self::default(),
        }
    }

    /// A user of this machine; nothing more is known of the connection.
    pub fn user(uid: u32, names: &mut Names) -> Self {
        Self { uid: Some(uid), user: names.of(uid), ..Self::default() }
    }

    /// The peer of a connection; as whom it has logged in only where that is
    /// asked for.
    pub fn of(client: &Stream, names: &mut Names, with_login: bool) -> Self {
        let Some(credentials) = client.credentials() else {
            let (address, port) = client.peer_address().unzip();
            return Self { address, port, ..Self::default() };
        };
        Self {
            pid: u32::try_from(credentials.pid).ok().filter(|pid| *pid > 0),
            uid: Some(credentials.uid),
            gid: Some(credentials.gid),
            user: names.of(credentials.uid),
            login_uid: with_login.then(|| names.login_of(client, credentials)).flatten(),
            ..Self::default()
        }
    }
}

/// What a client says of itself: nobody has to believe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// Where it was logged in from.
    pub ssh_connection: Option<Box<str>>,
    /// As whom.
    pub logname: Option<Box<str>>,
    /// The kind of its terminal.
    pub term: Option<Box<str>>,
}

impl Said {
    /// Of the variables of the extended mode.
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
        let said = Said::of(&variables);
        assert_eq!(said.ssh_connection.map(|text| text.len()), Some(1024));
        assert_eq!(said.logname.as_deref(), Some("\u{fffd}\n"));
        assert_eq!(said.term, None);
    }
}
