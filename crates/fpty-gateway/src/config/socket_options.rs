//! Sockets: the options of each, which of them mean something at which kind of socket, and the
//! rules that come of them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::keyval_syntax;
use super::option_table::{AppliesTo, OptionRow};
use super::options::{GatewayConfig, OPTIONS};
use super::rules::Rules;
use super::value::OptionValue;
use fpty::error::{Error, Result};
use fpty::proto::Protocol;
use fpty::sys::accounts;
use fpty::sys::bind::Ownership;
use fpty::sys::socket::Transport;

/// The options of one socket, as typed.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// The option's name.
    pub option: String,
    /// The address.
    pub address: OsString,
    /// Mode and owner of a UNIX socket.
    pub ownership: Ownership,
    keys: Vec<(&'static OptionRow<GatewayConfig>, OptionValue<'static>)>,
}

/// A request for sockets of the server.
#[derive(Clone, Debug)]
pub enum SocketRequest {
    /// A socket at this address.
    Socket {
        /// The address.
        address: OsString,
        /// The protocol.
        protocol: Protocol,
        /// The index of the socket's rules; 0: the global ones.
        rules: usize,
    },
    /// The sockets of the zerg server at this address.
    Zerg(OsString),
}

/// The kind of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A UNIX socket that has a path.
    Path,
    /// A UNIX socket with an abstract name.
    Abstract,
    /// TCP.
    Tcp,
    /// A socket that was bound by another process: `fd://N`, `=N`, a zerg server. Its
    /// transport is known when it has been looked at.
    Passed(Option<Transport>),
}

impl SocketKind {
    /// The reason why a key that applies to such sockets has no meaning at this kind.
    pub(crate) fn mismatch(self, at: AppliesTo) -> Option<&'static str> {
        use SocketKind::{Abstract, Passed, Path, Tcp};
        match (at, self) {
            (AppliesTo::Path, Abstract) => Some(
                "an abstract socket has neither mode nor owner: it is for everybody who is not \
                 kept out by allow_user, allow_group",
            ),
            (AppliesTo::Path, Passed(_)) => {
                Some("whoever has bound the socket gives it its mode and owner")
            }
            (AppliesTo::Path, Tcp) => Some("only a UNIX socket has users"),
            (AppliesTo::Unix, Tcp | Passed(Some(Transport::Tcp))) => {
                Some("only a UNIX socket knows users")
            }
            (AppliesTo::Tcp, Path | Abstract | Passed(Some(Transport::Unix))) => {
                Some("only a TCP socket knows addresses")
            }
            _ => None,
        }
    }
}

impl GatewayConfig {
    /// Whether a predicate holds for the rules of any socket.
    pub fn any(&self, is_so: impl Fn(&Rules) -> bool) -> bool {
        self.all_rules.iter().any(is_so)
    }

    /// Whether any socket has a limit of sessions or a rate.
    pub fn has_limits(&self) -> bool {
        self.any(|rules| rules.max_sessions.or(rules.max_user_sessions).or(rules.rate).is_some())
    }

    /// The most descriptors of a session with a terminal: client and master; where it can
    /// be detached pidfd and ring, too.
    pub fn descriptors_of_a_session(&self) -> u64 {
        if self.any(|rules| rules.detach.sessions > 0) { 4 } else { 2 }
    }

    /// The rules of all sockets before the server is in its jail: a name may mean another
    /// uid there.
    pub fn rules_before_jail(&self) -> impl Iterator<Item = Rules> {
        let own = (1..).zip(&self.sockets);
        let own = own.filter_map(|(number, own)| own.rules(self, number).ok());
        std::iter::once(self.rules.clone()).chain(own)
    }

    /// The options of the socket with rules of this index.
    pub fn socket_options(&self, number: usize) -> Option<&SocketOptions> {
        number.checked_sub(1).and_then(|number| self.sockets.get(number))
    }

    /// Resolves the rules of all sockets, once, when all options are known: looking names
    /// up may take long.
    ///
    /// # Errors
    /// A name that is not known any more; a program is to run in a folder that
    /// there is not, or as somebody whom this process cannot become.
    pub fn resolve(&mut self) -> Result<()> {
        let mut all = vec![self.rules.clone()];
        for (number, own) in (1..).zip(&self.sockets) {
            let rules = own.rules(self, number)?;
            if let Some(folder) = &rules.working_dir {
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
                fpty::sys::pty::look_up_tty_group();
            }
            let becomes_another = rules.identity.as_ref().is_some_and(|it| !it.is_ours());
            if becomes_another && !accounts::may_change_user() {
                return Err(Error::new(format!(
                    "option {}: uid, gid, groups: the server runs as user {} and cannot become \
                     another: start it as root and leave its own uid and gid out",
                    own.option,
                    accounts::own_uid()
                )));
            }
            all.push(rules);
        }
        self.all_rules = all;
        Ok(())
    }

    /// Adds a socket under the global rules.
    ///
    /// # Errors
    /// The address is empty.
    pub(crate) fn listen(&mut self, protocol: Protocol, typed: &OptionValue<'_>) -> Result<()> {
        let address = typed.bytes()?;
        self.socket_requests.push(SocketRequest::Socket { address, protocol, rules: 0 });
        Ok(())
    }

    /// Adds a socket with options of its own.
    ///
    /// # Errors
    /// A key or a value is invalid, or the address is missing.
    pub(crate) fn listen_with_options(
        &mut self,
        protocol: Protocol,
        typed: &OptionValue<'_>,
    ) -> Result<()> {
        let own = SocketOptions::parse(typed)?;
        let (address, rules) = (own.address.clone(), self.sockets.len() + 1);
        self.sockets.push(own);
        self.socket_requests.push(SocketRequest::Socket { address, protocol, rules });
        Ok(())
    }
}

impl SocketOptions {
    /// Parses the option. Wrong values are errors at once.
    ///
    /// # Errors
    /// An unknown key, or a value that it cannot have.
    pub fn parse(typed: &OptionValue<'_>) -> Result<Self> {
        let option = typed.name.as_str();
        let pairs = keyval_syntax::read(option, typed.value.as_bytes())?;
        let address = pairs.iter().find(|(key, _)| key == "addr").map(|(_, value)| value);
        let address = keyval_syntax::plain(address.map_or(b"", |value| value.as_slice()));
        if address.trim_ascii().is_empty() {
            return Err(typed.invalid_without_value("there is no addr="));
        }
        let key = |(key, value): &(String, Vec<u8>)| {
            Ok((row_of_key(option, key)?, OptionValue::of_key(option, key, value)))
        };
        let mut own = Self {
            option: option.to_owned(),
            address: OsString::from_vec(address.trim_ascii().to_vec()),
            ownership: Ownership::default(),
            keys: pairs.iter().map(key).collect::<Result<_>>()?,
        };
        own.check_kind(own.kind())?;
        own.ownership = own.rules(&GatewayConfig::default(), 0)?.ownership;
        Ok(own)
    }

    /// Checks that every key means something at a socket of this kind: one that would
    /// protect nothing is an error.
    ///
    /// # Errors
    /// A key that means nothing there.
    pub fn check_kind(&self, kind: SocketKind) -> Result<()> {
        let invalid = |(row, typed): &(&OptionRow<GatewayConfig>, OptionValue<'_>)| {
            kind.mismatch(row.spec.applies_to).map(|why| typed.invalid(why))
        };
        self.keys.iter().find_map(invalid).map_or(Ok(()), Err)
    }

    /// The kind, as far as the address tells.
    fn kind(&self) -> SocketKind {
        match self.address.as_bytes() {
            address if address.starts_with(b"fd://") => SocketKind::Passed(None),
            address if address.contains(&b':') => SocketKind::Tcp,
            [b'@', ..] | [b'\\', b'0', ..] => SocketKind::Abstract,
            [b'=', ..] => SocketKind::Passed(None),
            _ => SocketKind::Path,
        }
    }

    /// Applies the options to the global rules of a configuration; `number` is the scope of
    /// limits of its own.
    ///
    /// # Errors
    /// As of [`SocketOptions::parse`].
    pub fn rules(&self, config: &GatewayConfig, number: u32) -> Result<Rules> {
        let mut here = config.clone();
        for (row, typed) in &self.keys {
            (row.apply)(&mut here, typed)?;
        }
        let mut rules = here.rules;
        let has = |key: &str| self.keys.iter().any(|(row, _)| row.spec.key == Some(key));
        rules.max_scope = if has("max") { number } else { 0 };
        rules.max_user_scope = if has("max_user") { number } else { 0 };
        rules.own_addresses =
            self.keys.iter().any(|(row, _)| row.spec.applies_to == AppliesTo::Tcp);
        rules.identity = rules.run_as.identity(&self.option)?;
        Ok(rules)
    }
}

/// The option row of a key at a socket.
///
/// # Errors
/// `option` was given a key that there is not.
fn row_of_key(option: &str, key: &str) -> Result<&'static OptionRow<GatewayConfig>> {
    OPTIONS.iter().find(|row| row.spec.key == Some(key)).ok_or_else(|| {
        let keys = OPTIONS.iter().filter_map(|row| row.spec.key).collect::<Vec<_>>().join(", ");
        Error::new(format!("option {option}: {key}: no such key (there are {keys})"))
    })
}
