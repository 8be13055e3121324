//! The rules of a socket: its program and the user it runs as, who may connect, how many and
//! how long. The global options are the defaults; a socket may have rules of its own
//! (`forkpty-urouter2 = addr=...,max=20`).

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::accept_env::AcceptEnv;
use super::access_rules::Access;
use super::audit_format::AuditFormat;
use super::detach_options::DetachOptions;
use super::recording_options::RecordOptions;
use super::value::OptionValue;
use fpty::error::{Error, Result};
use fpty::proto::variables::Variables;
use fpty::sys::bind::Ownership;
use fpty::sys::{Size, accounts};

/// The rules of a socket.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The program of each session, as typed.
    pub command: CString,
    /// The identity of the socket's programs, as typed.
    pub(crate) run_as: RunAs,
    /// The identity of the socket's programs; `None`: the gateway's.
    pub identity: Option<Identity>,
    /// The socket's mode and owner.
    pub(crate) ownership: Ownership,
    /// The working directory; `None`: the gateway's.
    pub working_dir: Option<CString>,
    /// Environment variables (`NAME=value`).
    pub environment: Vec<CString>,
    /// The terminal's size before the client has sent one.
    pub size: Size,
    /// Variables that clients may set.
    pub accept_env: AcceptEnv,
    /// Access rules.
    pub access: Access,
    /// Whether the socket has address rules of its own.
    pub own_addresses: bool,
    /// The limit of sessions.
    pub max_sessions: Option<u32>,
    /// The scope of that limit: sockets with the same number share it.
    pub max_scope: u32,
    /// The limit of sessions of one user.
    pub max_user_sessions: Option<u32>,
    /// The scope of that limit.
    pub max_user_scope: u32,
    /// The limit of new sessions a second.
    pub rate: Option<u32>,
    /// The idle timeout of sessions.
    pub timeout: Option<Duration>,
    /// The idle timeout of commands without a terminal.
    pub command_timeout: Option<Duration>,
    /// The time limit of sessions.
    pub max_time: Option<Duration>,
    /// Whether terminals are handed over.
    pub handover: bool,
    /// Whether clients may request commands.
    pub allow_command: bool,
    /// The SFTP server; `None`: OpenSSH's.
    pub sftp_server: Option<CString>,
    /// The format of audit lines; `None`: no audit.
    pub audit: Option<AuditFormat>,
    /// Options of recordings.
    pub record: RecordOptions,
    /// Options of detached sessions.
    pub detach: DetachOptions,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            command: c"/bin/sh".to_owned(),
            run_as: RunAs::default(),
            identity: None,
            ownership: Ownership::default(),
            working_dir: None,
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
            record: RecordOptions::default(),
            detach: DetachOptions::default(),
        }
    }
}

/// The identity of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The uid.
    pub uid: u32,
    /// The gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Environment variables of the account (`NAME=value`).
    pub environment: Vec<CString>,
}

/// An identity as typed: what is missing comes from the account, or the gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunAs {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    groups: Option<Vec<u32>>,
}

impl Identity {
    /// Supplementary groups without the gid itself, which gives no further right.
    fn supplementary_groups(&self, groups: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
        groups.into_iter().filter(|group| *group != self.gid).collect()
    }

    /// Whether this process has the identity already.
    pub fn is_ours(&self) -> bool {
        self.uid == accounts::own_uid()
            && self.gid == accounts::own_gid()
            && self.supplementary_groups(accounts::own_groups())
                == self.supplementary_groups(self.groups.clone())
    }
}

impl RunAs {
    /// Sets the supplementary groups: a list, or `none`.
    ///
    /// # Errors
    /// There is no such group.
    pub fn set_groups(&mut self, typed: &OptionValue<'_>) -> Result<()> {
        let id = |word: &[u8]| match String::from_utf8_lossy(word).trim() {
            "none" => Some(None),
            word => accounts::gid_of(word).map(Some),
        };
        let groups = typed.parse_words(id, "no such group")?;
        self.groups = Some(groups.into_iter().flatten().collect());
        Ok(())
    }

    /// Resolves the identity; `None`: nothing was typed.
    ///
    /// # Errors
    /// The user has no account, and no group was given.
    pub(crate) fn identity(&self, option: &str) -> Result<Option<Identity>> {
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
        let ours = || (is_ours && !accounts::may_change_user()).then(accounts::own_groups);
        let groups = groups.or_else(|| ours().map(|own| own.into_iter().collect()));
        let groups = groups.or(account.as_ref().map(|account| account.groups.clone()));
        // Without an account it has a number for a name, as in `id`, and no folder:
        // the server's own would be another user's.
        let number = uid.unwrap_or_default().to_string();
        let (home, name, shell): (&OsStr, &OsStr, &OsStr) = match &account {
            Some(account) => (&account.home, account.name.as_ref(), &account.shell),
            None => ("/".as_ref(), number.as_ref(), "/bin/sh".as_ref()),
        };
        let variables = [("HOME", home), ("USER", name), ("LOGNAME", name), ("SHELL", shell)];
        let pair = |(name, value): (&str, &OsStr)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        };
        let variables = variables.into_iter().filter(|_| uid.is_some());
        let environment = variables.filter_map(pair).collect();
        Ok(Some(Identity {
            uid: uid.unwrap_or_else(accounts::own_uid),
            gid,
            groups: groups.unwrap_or_default(),
            environment,
        }))
    }
}

impl Rules {
    /// The client's variables that are accepted for the program's environment.
    pub fn environment_of(&self, variables: &Variables) -> Vec<CString> {
        self.accept_env.accepted_variables(variables, self.identity.is_some())
    }
}

/// The largest number of sessions that can be asked for.
pub const MAX_SESSIONS: u32 = 1_000_000;

#[cfg(test)]
mod tests;
