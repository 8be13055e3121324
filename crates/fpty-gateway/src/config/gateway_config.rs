//! The router's configuration, as its options have set it.

use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::rules::{Own, Rules};
use super::value::Typed;
use fpty::error::{Error, Result};
use fpty::proto::Protocol;
use fpty::sys::accounts;

/// The router's configuration.
#[derive(Clone, Debug)]
pub struct Router {
    /// What holds at sockets that say nothing else.
    pub rules: Rules,
    /// Sockets with rules of their own.
    pub own: Vec<Own>,
    /// The rules of all sockets, by their number: see [`Router::resolve`].
    all: Vec<Rules>,
    /// How many gateways share the sockets, at least 1.
    pub processes: u32,
    /// How many events one turn of the loop takes, at least 1.
    pub events: u32,
    /// The address of the statistics.
    pub stats: Option<OsString>,
    /// The longest turn of the loop, in seconds.
    pub harakiri: Option<u32>,
    /// How long a client that has said hello may be silent before it has said
    /// all.
    pub handshake_timeout: Duration,
    /// How long a session leader may outlive its client.
    pub hangup_grace: Option<Duration>,
    /// Whether a command without a terminal gets the client's descriptors.
    pub pass_stdio: bool,
    /// What is to become sockets of the server.
    pub(crate) asked: Vec<Asked>,
    /// What to tell the operator about options that can have no meaning.
    pub remarks: Vec<String>,
}

/// What is to become a socket of the server, or several.
#[derive(Clone, Debug)]
pub enum Asked {
    /// One at this address.
    Socket {
        /// The address.
        address: OsString,
        /// What it speaks.
        protocol: Protocol,
        /// The number of its rules; 0: the global ones.
        rules: usize,
    },
    /// Those that a zerg server at this address hands out.
    Zerg(OsString),
}

/// Where OpenSSH's SFTP server is, by distribution.
pub const SFTP_SERVERS: [&CStr; 4] = [
    c"/usr/lib/openssh/sftp-server",
    c"/usr/libexec/openssh/sftp-server",
    c"/usr/libexec/sftp-server",
    c"/usr/lib/ssh/sftp-server",
];

/// Of [`Router::handshake_timeout`].
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl Default for Router {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            own: Vec::new(),
            all: Vec::new(),
            processes: 1,
            events: 64,
            stats: None,
            harakiri: None,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            hangup_grace: Some(Duration::from_secs(10)),
            pass_stdio: true,
            asked: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

/// More would not fit the server's table of gateways (MAX_GATEWAYS).
pub(crate) const MAX_PROCESSES: u32 = 64;
pub(crate) const MAX_EVENTS: u32 = 65_536;

impl Router {
    /// Whether the rules of any socket are so.
    pub fn any(&self, is_so: impl Fn(&Rules) -> bool) -> bool {
        self.all.iter().any(is_so)
    }

    /// Whether anything limits how many there may be, or how fast they come.
    pub fn has_limits(&self) -> bool {
        self.any(|rules| rules.max_sessions.or(rules.max_user_sessions).or(rules.rate).is_some())
    }

    /// How many descriptors a session takes at most that has a terminal: its client
    /// and the terminal; and where it can be left its program and its last output.
    pub fn descriptors_of_a_session(&self) -> u64 {
        if self.any(|rules| rules.detach.sessions > 0) { 4 } else { 2 }
    }

    /// The rules of all sockets: the global ones first, then those of
    /// [`Router::own`]. None before [`Router::resolve`].
    pub fn all_rules(&self) -> &[Rules] {
        &self.all
    }

    /// The same before that: the server is not in its jail yet, and a name may
    /// come to mean another number there.
    pub fn early_rules(&self) -> impl Iterator<Item = Rules> {
        let own = (1..).zip(&self.own);
        let own = own.filter_map(|(number, own)| own.rules(self, number).ok());
        std::iter::once(self.rules.clone()).chain(own)
    }

    /// The socket with this number's rules, where it has some of its own.
    pub fn own_of(&self, number: usize) -> Option<&Own> {
        number.checked_sub(1).and_then(|number| self.own.get(number))
    }

    /// Makes the rules of all sockets, once, when all options are known: to look
    /// names up may take long.
    ///
    /// # Errors
    /// A name that is not known any more; a program is to run in a folder that
    /// there is not, or as somebody whom this process cannot become.
    pub fn resolve(&mut self) -> Result<()> {
        let mut all = vec![self.rules.clone()];
        for (number, own) in (1..).zip(&self.own) {
            let rules = own.rules(self, number)?;
            if let Some(folder) = &rules.folder {
                let path = Path::new(OsStr::from_bytes(folder.as_bytes()));
                if !path.is_dir() {
                    return Err(Error::new(format!(
                        "option {}: chdir = {}: there is no such folder",
                        own.option,
                        path.display()
                    )));
                }
            }
            if rules.identity.is_some() {
                fpty::sys::pty::look_up_group();
            }
            let becomes_another = rules.identity.as_ref().is_some_and(|it| !it.is_ours());
            if becomes_another && !accounts::may_change() {
                return Err(Error::new(format!(
                    "option {}: uid, gid, groups: the server runs as user {} and cannot become \
                     another: start it as root and leave its own uid and gid out",
                    own.option,
                    accounts::own_uid()
                )));
            }
            all.push(rules);
        }
        self.all = all;
        Ok(())
    }

    /// One more socket, under the global rules.
    pub(crate) fn listen(&mut self, protocol: Protocol, typed: &Typed<'_>) -> Result<()> {
        let address = typed.bytes()?;
        self.asked.push(Asked::Socket { address, protocol, rules: 0 });
        Ok(())
    }

    /// One more that has rules of its own.
    pub(crate) fn listen_by(&mut self, protocol: Protocol, typed: &Typed<'_>) -> Result<()> {
        let own = Own::read(typed)?;
        let address = own.address.clone();
        self.own.push(own);
        self.asked.push(Asked::Socket { address, protocol, rules: self.own.len() });
        Ok(())
    }

    /// The sockets that were asked for since the last call.
    pub fn take_asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.asked)
    }
}

#[cfg(test)]
mod tests;
