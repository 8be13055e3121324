//! The options of the pty plugin: every name that the C plugin has, and ours.

use std::ffi::{CString, OsStr, OsString};

use nix::sys::signal::Signal;

use super::{OptionSpec, switch, value, with_value};
use fpty::client::request::{Terminal, Wanted};
use fpty::client::{Client, Which};
use fpty::error::Result;
use fpty::proto::Protocol;

/// What an option of the pty plugin sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Client: the address, and what it speaks.
    Connect(Protocol),
    /// Client: the terminal's special characters are bytes like others.
    NoIsig,
    /// Run this command line instead of the configured program.
    Command,
    /// Be what sshd's ForceCommand runs.
    Ssh,
    /// Client: `~.` and its like are bytes like others.
    NoEscape,
    /// Server: the address of the shared terminal.
    Socket,
    /// Server: the address for those who only watch.
    ReadonlySocket,
    /// Server: a copy of the output to the log.
    Log,
    /// Server: input from the original standard input, too.
    Input,
    /// Server: a command on the terminal.
    Exec,
    /// Server: how much output a new client is shown.
    Scrollback,
}

/// All options of the `pty` plugin.
pub static OPTIONS: [OptionSpec<Key>; 12] = [
    with_value(c"pty-socket", Key::Socket, c"bind the pty server on the specified address"),
    with_value(
        c"pty-readonly-socket",
        Key::ReadonlySocket,
        c"bind the pty server on the specified address for clients that only watch",
    ),
    switch(c"pty-log", Key::Log, c"send stdout/stderr to the log engine too"),
    switch(c"pty-input", Key::Input, c"read from original stdin in addition to pty"),
    with_value(
        c"pty-connect",
        Key::Connect(Protocol::Raw),
        c"connect the current terminal to a pty server",
    ),
    with_value(
        c"pty-uconnect",
        Key::Connect(Protocol::Uwsgi),
        c"connect the current terminal to a pty server (using uwsgi protocol)",
    ),
    with_value(c"pty-command", Key::Command, c"run the specified command line in client mode"),
    switch(
        c"pty-ssh",
        Key::Ssh,
        c"do what sshd was asked for in client mode (for its ForceCommand)",
    ),
    switch(c"pty-no-isig", Key::NoIsig, c"disable ISIG terminal attribute in client mode"),
    switch(c"pty-no-escape", Key::NoEscape, c"pass ~. and the other escapes on in client mode"),
    with_value(
        c"pty-exec",
        Key::Exec,
        c"run the specified command soon after the pty thread is spawned",
    ),
    with_value(
        c"pty-scrollback",
        Key::Scrollback,
        c"show a new client so many bytes of earlier output (default: 65536, 0: none)",
    ),
];

/// The configuration of the shared terminal.
#[derive(Clone, Debug)]
pub struct Server {
    /// The address for clients.
    pub socket: Option<OsString>,
    /// The address for those who only watch.
    pub readonly_socket: Option<OsString>,
    /// A copy of the output to the log.
    pub log: bool,
    /// Input from the original standard input, too.
    pub input: bool,
    /// A command on the terminal.
    pub exec: Option<CString>,
    /// How much output a new client is shown, in bytes.
    pub scrollback: usize,
}

/// The pty plugin's options as typed.
#[derive(Clone, Debug)]
pub struct Pty {
    connect: Option<OsString>,
    uconnect: Option<OsString>,
    command: Option<OsString>,
    ssh: bool,
    no_isig: bool,
    no_escape: bool,
    /// The shared terminal.
    pub server: Server,
}

impl Default for Pty {
    fn default() -> Self {
        Self {
            connect: None,
            uconnect: None,
            command: None,
            ssh: false,
            no_isig: false,
            no_escape: false,
            server: Server {
                socket: None,
                readonly_socket: None,
                log: false,
                input: false,
                exec: None,
                scrollback: 64 * 1024,
            },
        }
    }
}

/// More would only make a new client wait.
const MAX_SCROLLBACK: u32 = 64 * 1024 * 1024;

impl Pty {
    /// Takes one option as typed.
    ///
    /// # Errors
    /// A value that the option cannot have: the line for the operator.
    pub fn set(&mut self, key: Key, option: &str, typed: impl AsRef<OsStr>) -> Result<()> {
        let typed = typed.as_ref();
        let address = || value::bytes(option, typed).map(Some);
        match key {
            Key::Connect(Protocol::Raw) => self.connect = address()?,
            Key::Connect(Protocol::Uwsgi) => self.uconnect = address()?,
            Key::Command => self.command = Some(typed.to_owned()),
            Key::Ssh => self.ssh = value::switch(option, typed)?,
            Key::NoIsig => self.no_isig = value::switch(option, typed)?,
            Key::NoEscape => self.no_escape = value::switch(option, typed)?,
            Key::Socket => self.server.socket = address()?,
            Key::ReadonlySocket => self.server.readonly_socket = address()?,
            Key::Log => self.server.log = value::switch(option, typed)?,
            Key::Input => self.server.input = value::switch(option, typed)?,
            Key::Exec => self.server.exec = Some(value::command(option, typed)?),
            Key::Scrollback => {
                self.server.scrollback = value::number(option, typed, 0..=MAX_SCROLLBACK)? as usize;
            }
        }
        Ok(())
    }

    /// The client's configuration, where one is asked for. Of both modes
    /// uwsgi mode wins, as with the C plugin.
    pub fn client(&self) -> Option<Client> {
        let (address, protocol) = match (&self.uconnect, &self.connect) {
            (Some(address), _) => (address, Protocol::Uwsgi),
            (None, Some(address)) => (address, Protocol::Raw),
            (None, None) => return None,
        };
        let (wanted, terminal) = match (self.ssh, &self.command) {
            (true, _) => (Wanted::of_sshd(), Terminal::OfSshd),
            (false, Some(line)) => (Wanted::CommandLine(line.clone()), Terminal::Usual),
            (false, None) => (Wanted::Configured, Terminal::Usual),
        };
        Some(Client {
            name: "[pty]",
            wanted,
            terminal,
            address: address.clone(),
            protocol,
            isig: !self.no_isig,
            escape: (!self.no_escape).then_some(b'~'),
            quiet: false,
            status_json: false,
            which: Which::New,
            steal: false,
            read_only: false,
            reconnects: true,
            environment: Vec::new(),
            // The server ignores these when it starts.
            heeds: &[Signal::SIGHUP, Signal::SIGTERM],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uwsgi_mode_wins_and_switches_switch() {
        let mut pty = Pty::default();
        assert!(pty.client().is_none());
        for (key, value) in [
            (Key::Connect(Protocol::Uwsgi), "/u"),
            (Key::Connect(Protocol::Raw), "/r"),
            (Key::NoIsig, ""),
            (Key::Scrollback, "0"),
        ] {
            pty.set(key, "option", value).expect("a valid value");
        }
        let client = pty.client().expect("a client");
        assert_eq!((client.address.as_os_str(), client.protocol), ("/u".as_ref(), Protocol::Uwsgi));
        assert!(!client.isig && client.escape.is_some());
        assert_eq!(pty.server.scrollback, 0);
        assert!(pty.set(Key::Scrollback, "pty-scrollback", "lots").is_err());
        assert!(pty.set(Key::Socket, "pty-socket", "").is_err());
    }
}
