//! Who is at the other end: as far as the kernel tells, and what the client
//! says of itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};

use crate::shares::Who;
use fpty::proto::variables::{LOGNAME, SSH_CONNECTION, Variables};
use fpty::sys::credentials::{Logins, OF_ELSEWHERE};
use fpty::sys::socket::Stream;

/// The other end of a connection. What is not known is `None`: of TCP there
/// are address and port, of a UNIX socket the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
            login_uid: with_login.then(|| names.logins.of(client, credentials)).flatten(),
            ..Self::default()
        }
    }
}

/// What a client says of itself: nobody has to believe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// Names of users, and as whom they have logged in. To ask for a name may take
/// long, where it comes over a network, so that each is asked for once in a
/// while.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<u32, (Instant, Option<Arc<str>>)>,
    logins: Logins,
}

/// How long a name is good for.
const GOOD_FOR: Duration = Duration::from_secs(600);

/// How many are kept.
const MOST: usize = 4096;

impl Names {
    /// The name of a user that was asked for before.
    pub fn known(&self, uid: u32) -> Option<String> {
        let (_, name) = self.known.get(&uid)?;
        name.as_deref().map(str::to_owned)
    }

    /// The name of a user; `None`: there is none.
    pub fn of(&mut self, uid: u32) -> Option<Arc<str>> {
        if uid == OF_ELSEWHERE {
            return None;
        }
        if let Some((asked, name)) = self.known.get(&uid) {
            if asked.elapsed() < GOOD_FOR {
                return name.clone();
            }
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name: Option<Arc<str>> = user.map(|user| user.name.into());
        self.known.insert(uid, (Instant::now(), name.clone()));
        name
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

    #[test]
    fn root_has_a_name_and_nobody_else_has_a_number_as_high() {
        let mut names = Names::default();
        assert_eq!(names.of(0).as_deref(), Some("root"));
        assert_eq!(names.of(3_999_999_999), None);
        assert_eq!(names.of(OF_ELSEWHERE), None);
        assert_eq!(names.known.len(), 2);
        assert_eq!(names.of(0).as_deref(), Some("root"));
    }
}
