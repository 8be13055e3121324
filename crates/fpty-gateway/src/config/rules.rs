//! What holds at a socket: what runs there and as whom, who may come in, how
//! many and how long. The global options are the defaults; a socket may have
//! rules of its own (`forkpty-urouter2 = addr=...,max=20`).

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use super::accept_env::AcceptEnv;
use super::access::Access;
use super::audit::Audit;
use super::detach::Detach;
use super::gateway_config::Router;
use super::keyval;
use super::option_table::{At, Row};
use super::options::keyed;
use super::recording::Record;
use super::value::Typed;
use fpty::error::{Error, Result};
use fpty::proto::variables::Variables;
use fpty::sys::bind::Ownership;
use fpty::sys::socket::Transport;
use fpty::sys::{Size, accounts};

/// What holds at a socket.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The program of each session, as typed.
    pub command: CString,
    /// As whom it is to run, as typed.
    pub(crate) runs_as: RunsAs,
    /// As whom it runs; `None`: as the gateway.
    pub identity: Option<Identity>,
    /// The socket's mode and owner.
    pub(crate) ownership: Ownership,
    /// Where; `None`: where the gateway is.
    pub folder: Option<CString>,
    /// More of its environment (`NAME=value`).
    pub environment: Vec<CString>,
    /// The terminal's size before the client says one.
    pub size: Size,
    /// Which variables clients may set.
    pub accept_env: AcceptEnv,
    /// Who may come in.
    pub access: Access,
    /// Whether the socket has address rules of its own.
    pub own_addresses: bool,
    /// How many sessions there may be.
    pub max_sessions: Option<u32>,
    /// With which sockets it shares that: those of the same number.
    pub max_scope: u32,
    /// How many of one user.
    pub max_user_sessions: Option<u32>,
    /// With which sockets it shares that.
    pub max_user_scope: u32,
    /// How many new ones a second.
    pub rate: Option<u32>,
    /// Ends a session after so long without traffic.
    pub timeout: Option<Duration>,
    /// Ends a command without a terminal after so long without traffic.
    pub command_timeout: Option<Duration>,
    /// Ends a session after so long.
    pub max_time: Option<Duration>,
    /// Whether clients that can take the terminal itself get it.
    pub handover: bool,
    /// Whether clients may say which command is run.
    pub allow_command: bool,
    /// The SFTP server; `None`: OpenSSH's, where it usually is.
    pub sftp_server: Option<CString>,
    /// How the lines of an audit look; `None`: there are none.
    pub audit: Option<Audit>,
    /// What is recorded of its sessions.
    pub record: Record,
    /// How they go on without a client.
    pub detach: Detach,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            command: c"/bin/sh".to_owned(),
            runs_as: RunsAs::default(),
            identity: None,
            ownership: Ownership::default(),
            folder: None,
            environment: Vec::new(),
            size: Size { rows: 24, cols: 80 },
            accept_env: AcceptEnv::default(),
            access: Access::default(),
            own_addresses: false,
            max_sessions: None,
            max_scope: 0,
            max_user_sessions: None,
            max_user_scope: 0,
            rate: None,
            timeout: None,
            command_timeout: None,
            max_time: None,
            handover: true,
            allow_command: false,
            sftp_server: None,
            audit: None,
            record: Record::default(),
            detach: Detach::default(),
        }
    }
}

/// As whom a program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All other groups.
    pub groups: Vec<u32>,
    /// What its account says of its environment (`NAME=value`).
    pub environment: Vec<CString>,
}

/// The same as typed: what was not is left to the account, or the gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunsAs {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    groups: Option<Vec<u32>>,
}

impl Identity {
    /// Without its own: to have that twice is no right more.
    fn other_groups(&self, groups: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
        groups.into_iter().filter(|group| *group != self.gid).collect()
    }

    /// Whether this process is already what it is.
    pub fn is_ours(&self) -> bool {
        self.uid == accounts::own_uid()
            && self.gid == accounts::own_gid()
            && self.other_groups(accounts::own_groups()) == self.other_groups(self.groups.clone())
    }
}

/// A socket that has rules of its own, as typed.
#[derive(Clone, Debug)]
pub struct Own {
    /// The option's name.
    pub option: String,
    /// Its address.
    pub address: OsString,
    /// Its mode and owner.
    pub ownership: Ownership,
    keys: Vec<(&'static Row<Router>, Typed<'static>)>,
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A UNIX socket that has a path.
    Path,
    /// One that has none.
    Abstract,
    /// TCP.
    Tcp,
    /// It was bound by somebody else: `fd://N`, `=N`, a zerg server. What it is is
    /// known when it has been looked at.
    Passed(Option<Transport>),
}

impl SocketKind {
    /// Why what means something at such sockets alone means nothing here.
    fn lacks(self, at: At) -> Option<&'static str> {
        use SocketKind::{Abstract, Passed, Path, Tcp};
        match (at, self) {
            (At::Path, Abstract) => Some(
                "an abstract socket has neither mode nor owner: it is for everybody who is not \
                 kept out by allow_user, allow_group",
            ),
            (At::Path, Passed(_)) => {
                Some("whoever has bound the socket gives it its mode and owner")
            }
            (At::Path, Tcp) => Some("only a UNIX socket has users"),
            (At::Unix, Tcp | Passed(Some(Transport::Tcp))) => {
                Some("only a UNIX socket knows users")
            }
            (At::Tcp, Path | Abstract | Passed(Some(Transport::Unix))) => {
                Some("only a TCP socket knows addresses")
            }
            _ => None,
        }
    }
}

impl Own {
    /// Reads the option. What can be told of its values is told at once.
    ///
    /// # Errors
    /// An unknown key, or a value that it cannot have.
    pub fn read(typed: &Typed<'_>) -> Result<Self> {
        let option = typed.name.as_str();
        let pairs = keyval::read(option, typed.value.as_bytes())?;
        let address = pairs.iter().find(|(key, _)| key == "addr").map(|(_, value)| value);
        let address = keyval::plain(address.map_or(b"", |value| value.as_slice()));
        if address.trim_ascii().is_empty() {
            return Err(typed.unusable("there is no addr="));
        }
        let key = |(key, value): &(String, Vec<u8>)| {
            Ok((keyed(option, key)?, Typed::of_key(option, key, value)))
        };
        let mut own = Self {
            option: option.to_owned(),
            address: OsString::from_vec(address.trim_ascii().to_vec()),
            ownership: Ownership::default(),
            keys: pairs.iter().map(key).collect::<Result<_>>()?,
        };
        own.fits(own.kind())?;
        own.ownership = own.rules(&Router::default(), 0)?.ownership;
        Ok(own)
    }

    /// Whether the rules mean something at a socket of this kind: what would
    /// protect nothing is refused.
    ///
    /// # Errors
    /// A key that means nothing there.
    pub fn fits(&self, kind: SocketKind) -> Result<()> {
        let wrong = |(row, typed): &(&Row<Router>, Typed<'_>)| {
            kind.lacks(row.spec.at).map(|why| typed.wrong(why))
        };
        self.keys.iter().find_map(wrong).map_or(Ok(()), Err)
    }

    /// What can be told of that by the address.
    fn kind(&self) -> SocketKind {
        match self.address.as_bytes() {
            address if address.starts_with(b"fd://") => SocketKind::Passed(None),
            address if address.contains(&b':') => SocketKind::Tcp,
            [b'@', ..] | [b'\\', b'0', ..] => SocketKind::Abstract,
            [b'=', ..] => SocketKind::Passed(None),
            _ => SocketKind::Path,
        }
    }

    /// Its rules, where the router's are these, and this is its number.
    ///
    /// # Errors
    /// As of [`Own::read`].
    pub fn rules(&self, router: &Router, number: u32) -> Result<Rules> {
        let mut here = router.clone();
        for (row, typed) in &self.keys {
            (row.take)(&mut here, typed)?;
        }
        let mut rules = here.rules;
        let has = |key: &str| self.keys.iter().any(|(row, _)| row.spec.key == Some(key));
        rules.max_scope = if has("max") { number } else { 0 };
        rules.max_user_scope = if has("max_user") { number } else { 0 };
        rules.own_addresses = self.keys.iter().any(|(row, _)| row.spec.at == At::Tcp);
        rules.identity = rules.runs_as.identity(&self.option)?;
        Ok(rules)
    }
}

impl RunsAs {
    /// Takes all groups but the first: a list, or `none`.
    pub fn set_groups(&mut self, typed: &Typed<'_>) -> Result<()> {
        let id = |word: &[u8]| match String::from_utf8_lossy(word).trim() {
            "none" => Some(None),
            word => accounts::group(word).map(Some),
        };
        let groups = typed.read_words(id, "no such group")?;
        self.groups = Some(groups.into_iter().flatten().collect());
        Ok(())
    }

    /// Who that is; `None`: nothing was typed.
    fn identity(&self, option: &str) -> Result<Option<Identity>> {
        let Self { uid, gid, groups } = self.clone();
        if uid.is_none() && gid.is_none() && groups.is_none() {
            return Ok(None);
        }
        let account = uid.and_then(accounts::account);
        let gid = gid.or(account.as_ref().map(|account| account.gid));
        let Some(gid) = gid.or_else(|| uid.is_none().then(accounts::own_gid)) else {
            let uid = uid.unwrap_or_default();
            let text = format!("option {option}: uid = {uid}: it has no account: gid= is needed");
            return Err(Error::new(text));
        };
        // Of the server's own user, where nothing else was asked for, they are the
        // server's, whatever its account says now.
        let is_ours = uid == Some(accounts::own_uid()) && gid == accounts::own_gid();
        let ours = || (is_ours && !accounts::may_change()).then(accounts::own_groups);
        let groups = groups.or_else(|| ours().map(|own| own.into_iter().collect()));
        let groups = groups.or(account.as_ref().map(|account| account.groups.clone()));
        let mut environment = Vec::new();
        // Without an account it has a number for a name, as in `id`, and no folder:
        // the server's own would be another user's.
        let number = uid.unwrap_or_default().to_string();
        let (home, name, shell): (&OsStr, &OsStr, &OsStr) = match &account {
            Some(account) => (&account.home, account.name.as_ref(), &account.shell),
            None => ("/".as_ref(), number.as_ref(), "/bin/sh".as_ref()),
        };
        if uid.is_some() {
            for (name, value) in
                [("HOME", home), ("USER", name), ("LOGNAME", name), ("SHELL", shell)]
            {
                let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
                environment.extend(CString::new(pair).ok());
            }
        }
        Ok(Some(Identity {
            uid: uid.unwrap_or_else(accounts::own_uid),
            gid,
            groups: groups.unwrap_or_default(),
            environment,
        }))
    }
}

impl Rules {
    /// What of a client's variables is for the program's environment.
    pub fn environment_of(&self, variables: &Variables) -> Vec<CString> {
        self.accept_env.of_client(variables, self.identity.is_some())
    }
}

/// The largest number of sessions that can be asked for.
pub const MOST: u32 = 1_000_000;

#[cfg(test)]
mod tests;
