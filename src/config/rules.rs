//! What holds at a socket: what runs there and as whom, who may come in, how
//! many and how long. The global options are the defaults; a socket may have
//! rules of its own (`forkpty-urouter2 = addr=...,max=20`).

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use super::accept_env::AcceptEnv;
use super::access::{Access, List};
use super::audit::Audit;
use super::detach::Detach;
use super::options::{self, list};
use super::pairs::{self, Value};
use super::record::Record;
use super::value;
use fpty::error::{Error, Result};
use fpty::proto::Protocol;
use fpty::proto::variables::{Variables, is_environment_name};
use fpty::sys::bind::Ownership;
use fpty::sys::socket::Transport;
use fpty::sys::{Size, accounts};

/// What holds at a socket.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The program of each session, as typed.
    pub command: CString,
    /// As whom it runs; `None`: as the gateway.
    pub identity: Option<Identity>,
    /// Where; `None`: where the gateway is.
    pub folder: Option<CString>,
    /// More of its environment (`NAME=value`).
    pub environment: Vec<CString>,
    /// The terminal's height before the client says one.
    pub rows: u16,
    /// Its width, likewise.
    pub cols: u16,
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
            identity: None,
            folder: None,
            environment: Vec::new(),
            rows: 24,
            cols: 80,
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
    option: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its address.
    pub address: OsString,
    /// Its mode and owner.
    pub ownership: Ownership,
    pairs: Vec<(String, Value)>,
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
    /// It was bound by somebody else: `fd://N`, `=N`, a zerg server.
    Passed(Transport),
}

/// The keys that mean something at one socket alone, or something else than the
/// option of that name.
const KEYS: &str = "addr, uid, gid, groups, chdir, env, accept_env, chmod, chown, root, record";

impl Own {
    /// Reads the option. What can be told of its values is told at once.
    ///
    /// # Errors
    /// An unknown key, or a value that it cannot have.
    pub fn read(option: &str, protocol: Protocol, typed: &OsStr) -> Result<Self> {
        let pairs = pairs::read(option, typed.as_bytes())?;
        let address = pairs.iter().find(|(key, _)| key == "addr").map(|(_, value)| value.one());
        let address = address.unwrap_or_default();
        if address.trim_ascii().is_empty() {
            return Err(Error::new(format!("option {option}: there is no addr=")));
        }
        let mut own = Self {
            option: option.to_owned(),
            protocol,
            address: OsString::from_vec(address.trim_ascii().to_vec()),
            ownership: Ownership::default(),
            pairs,
        };
        for (key, value) in &own.pairs {
            let what = own.what(key);
            match key.as_str() {
                "chmod" => own.ownership.mode = Some(mode(&what, &value.one())?),
                "chown" => {
                    (own.ownership.uid, own.ownership.gid) = owner(&what, &value.one())?;
                }
                _ => {}
            }
        }
        match own.kind() {
            Some(kind) => own.fits(kind)?,
            // Whether it is TCP is known when it is bound.
            None => {
                let is_owned = |(key, _): &&(String, Value)| key == "chmod" || key == "chown";
                let owned = own.pairs.iter().filter(is_owned).cloned().collect();
                Self { pairs: owned, ..own.clone() }.fits(SocketKind::Passed(Transport::Unix))?;
            }
        }
        own.rules(&Rules::default())?;
        Ok(own)
    }

    /// The option's name.
    pub fn option(&self) -> &str {
        &self.option
    }

    fn what(&self, key: &str) -> String {
        format!("{}: {key}", self.option)
    }

    /// Whether the rules mean something at a socket of this kind: what would
    /// protect nothing is refused.
    ///
    /// # Errors
    /// A key that means nothing there.
    pub fn fits(&self, kind: SocketKind) -> Result<()> {
        for (key, typed) in &self.pairs {
            let why = match (key.as_str(), kind) {
                ("chmod" | "chown", SocketKind::Abstract) => {
                    "an abstract socket has neither mode nor owner: it is for everybody who is not \
                     kept out by allow_user, allow_group"
                }
                ("chmod" | "chown", SocketKind::Passed(_)) => {
                    "whoever has bound the socket gives it its mode and owner"
                }
                ("chmod" | "chown", SocketKind::Tcp) => "only a UNIX socket has users",
                (key, SocketKind::Tcp | SocketKind::Passed(Transport::Tcp))
                    if key == "root" || list(key).is_some_and(|list| !list.is_of_addresses()) =>
                {
                    "only a UNIX socket knows users"
                }
                (
                    key,
                    SocketKind::Path | SocketKind::Abstract | SocketKind::Passed(Transport::Unix),
                ) if list(key).is_some_and(List::is_of_addresses) => {
                    "only a TCP socket knows addresses"
                }
                _ => continue,
            };
            let value = String::from_utf8_lossy(&typed.one()).trim().to_owned();
            return Err(Error::new(format!("option {} = {value}: {why}", self.what(key))));
        }
        Ok(())
    }

    /// What can be told of that by the address.
    fn kind(&self) -> Option<SocketKind> {
        let address = self.address.as_bytes();
        if self.is_tcp() {
            return Some(SocketKind::Tcp);
        }
        if address.starts_with(b"@") || address.starts_with(b"\\0") {
            return Some(SocketKind::Abstract);
        }
        // Of one that was passed on it is known later what it is.
        (!self.is_passed()).then_some(SocketKind::Path)
    }

    fn is_passed(&self) -> bool {
        let address = self.address.as_bytes();
        address.starts_with(b"=") || address.starts_with(b"fd://")
    }

    fn is_tcp(&self) -> bool {
        let address = self.address.as_bytes();
        address.contains(&b':') && !address.starts_with(b"fd://")
    }

    /// Its rules, where these are the global ones, and this is its number.
    ///
    /// # Errors
    /// As of [`Own::read`].
    pub fn numbered_rules(&self, global: &Rules, number: u32) -> Result<Rules> {
        let mut rules = self.rules(global)?;
        let has = |key: &str| self.pairs.iter().any(|(other, _)| other == key);
        rules.max_scope = if has("max") { number } else { 0 };
        rules.max_user_scope = if has("max_user") { number } else { 0 };
        Ok(rules)
    }

    fn rules(&self, global: &Rules) -> Result<Rules> {
        let mut rules = global.clone();
        for (key, typed) in &self.pairs {
            let what = self.what(key);
            if let Some(list) = list(key) {
                rules.access.clear(list);
                rules.access.add(list, &format!("option {what}"), &typed.list())?;
                rules.own_addresses |= list.is_of_addresses();
                continue;
            }
            rules.set(key, &what, typed)?;
        }
        rules.identity = self.identity()?.or(rules.identity);
        Ok(rules)
    }

    /// As whom programs run here.
    fn identity(&self) -> Result<Option<Identity>> {
        let value = |key: &str| {
            let value = self.pairs.iter().find(|(other, _)| other == key)?.1.one();
            Some(String::from_utf8_lossy(value.trim_ascii()).into_owned())
        };
        let unknown = |key: &str, typed: &str, kind: &str| {
            Error::new(format!("option {} = {typed}: no such {kind}", self.what(key)))
        };
        let uid = match value("uid") {
            Some(typed) => {
                Some(accounts::user(&typed).ok_or_else(|| unknown("uid", &typed, "user"))?)
            }
            None => None,
        };
        let gid = match value("gid") {
            Some(typed) => {
                Some(accounts::group(&typed).ok_or_else(|| unknown("gid", &typed, "group"))?)
            }
            None => None,
        };
        let listed = self.pairs.iter().find(|(key, _)| key == "groups");
        let groups = match listed {
            Some((_, list)) => {
                let words = list.list();
                let words = words.iter().map(|word| String::from_utf8_lossy(word.trim_ascii()));
                let id = |word: std::borrow::Cow<'_, str>| {
                    accounts::group(&word).ok_or_else(|| unknown("groups", &word, "group"))
                };
                Some(words.filter(|word| word != "none").map(id).collect::<Result<Vec<u32>>>()?)
            }
            None => None,
        };
        if uid.is_none() && gid.is_none() && groups.is_none() {
            return Ok(None);
        }
        let account = uid.and_then(accounts::account);
        let gid = gid.or(account.as_ref().map(|account| account.gid));
        let Some(gid) = gid.or_else(|| uid.is_none().then(accounts::own_gid)) else {
            let uid = uid.unwrap_or_default();
            let text =
                format!("option {} = {uid}: it has no account: gid= is needed", self.what("uid"));
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

    /// A terminal's size before the client says one.
    pub fn size(&self) -> Size {
        Size { rows: self.rows, cols: self.cols }
    }

    /// Takes a key that is no list of who may.
    fn set(&mut self, key: &str, what: &str, typed: &Value) -> Result<()> {
        let one = OsString::from_vec(typed.one());
        let one = one.as_os_str();
        match key {
            // See Own::read and Own::identity.
            "addr" | "chmod" | "chown" | "uid" | "gid" | "groups" => {}
            "chdir" => self.folder = Some(value::command(what, one)?),
            "env" => self.environment = variables(what, &typed.list())?,
            "accept_env" => self.accept_env = AcceptEnv::of(&typed.list().join(&b' ')),
            "root" => match one.to_string_lossy().trim() {
                "deny" => self.access.deny_root(true),
                "allow" => self.access.deny_root(false),
                other => {
                    return Err(Error::new(format!(
                        "option {what} = {other}: neither allow nor deny"
                    )));
                }
            },
            "record" => self.record.set_here(what, one)?,
            key => match options::rule(key) {
                Some(take) => take(self, what, one)?,
                None => {
                    let keys: Vec<&str> = [KEYS].into_iter().chain(options::keys()).collect();
                    let keys = keys.join(", ");
                    let line = format!("option {what}: no such key (there are {keys})");
                    return Err(Error::new(line));
                }
            },
        }
        Ok(())
    }
}

/// The largest number of sessions that can be asked for.
pub const MOST: u32 = 1_000_000;

fn variables(what: &str, pairs: &[Vec<u8>]) -> Result<Vec<CString>> {
    let pair = |pair: &Vec<u8>| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        let known = is_environment_name(name) && pair.len() > name.len();
        CString::new(pair.clone()).ok().filter(|_| known).ok_or_else(|| {
            let shown = String::from_utf8_lossy(pair).into_owned();
            Error::new(format!("option {what} = {shown}: not NAME=VALUE"))
        })
    };
    pairs.iter().map(pair).collect()
}

fn mode(what: &str, typed: &[u8]) -> Result<u32> {
    let typed = String::from_utf8_lossy(typed.trim_ascii()).into_owned();
    let mode = u32::from_str_radix(&typed, 8).ok().filter(|mode| *mode <= 0o777);
    let digits = typed.bytes().all(|byte| byte.is_ascii_digit());
    mode.filter(|_| digits).ok_or_else(|| {
        Error::new(format!("option {what} = {typed}: not a mode (three octal digits)"))
    })
}

fn owner(what: &str, typed: &[u8]) -> Result<(Option<u32>, Option<u32>)> {
    let typed = String::from_utf8_lossy(typed.trim_ascii()).into_owned();
    let (user, group) = typed.split_once(':').map_or((typed.as_str(), ""), |both| both);
    let unknown = |kind: &str| Error::new(format!("option {what} = {typed}: no such {kind}"));
    let user = match user {
        "" => None,
        user => Some(accounts::user(user).ok_or_else(|| unknown("user"))?),
    };
    let group = match group {
        "" => None,
        group => Some(accounts::group(group).ok_or_else(|| unknown("group"))?),
    };
    match (user, group) {
        (None, None) => Err(Error::new(format!("option {what}: the value is empty"))),
        both => Ok(both),
    }
}

#[cfg(test)]
mod tests;
