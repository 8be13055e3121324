//! The options of the pty plugin: every name that the C plugin has, and ours.

use std::ffi::{CString, OsStr, OsString};

use nix::sys::signal::Signal;

use super::{OptionSpec, switch, value, with_value};
use fpty::client::listing::Question;
use fpty::client::request::{self, Terminal, Wanted};
use fpty::client::{Client, Which, escape};
use fpty::error::{Error, Result};
use fpty::proto::key::of_word;
use fpty::proto::{Protocol, is_name};

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
    /// Client: another character than `~`.
    Escape,
    /// Client: what the session is called.
    Name,
    /// Client: come back to this session.
    Attach,
    /// Client: come back to the one that was left last.
    AttachLast,
    /// Client: come back to the session of this name, or begin it.
    Join,
    /// Client: whoever is attached has to go.
    Steal,
    /// Client: only watch.
    ReadOnly,
    /// Client: a connection that breaks is not taken up again.
    NoReconnect,
    /// Client: with a terminal in any case.
    Tty,
    /// Client: without one.
    NoTty,
    /// Client: one more variable.
    Env,
    /// Client: say only what went wrong.
    Quiet,
    /// Client: say how it ended as JSON.
    StatusJson,
    /// Client: who is there; as JSON.
    List {
        /// As JSON.
        json: bool,
    },
    /// Client: end this session.
    Kill,
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
pub static OPTIONS: [OptionSpec<Key>; 28] = [
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
    with_value(c"pty-escape", Key::Escape, c"begin escapes with this character in client mode"),
    with_value(c"pty-name", Key::Name, c"give the session a name in client mode"),
    with_value(c"pty-attach", Key::Attach, c"come back to the specified session in client mode"),
    switch(
        c"pty-attach-last",
        Key::AttachLast,
        c"come back to the session that was left last in client mode",
    ),
    with_value(
        c"pty-join",
        Key::Join,
        c"come back to the session of the specified name, or begin it, in client mode",
    ),
    switch(c"pty-steal", Key::Steal, c"coming back, have whoever is attached go in client mode"),
    switch(c"pty-read-only", Key::ReadOnly, c"coming back, only watch in client mode"),
    switch(
        c"pty-no-reconnect",
        Key::NoReconnect,
        c"do not take up a connection again that breaks in client mode",
    ),
    switch(c"pty-tty", Key::Tty, c"with a terminal in any case in client mode"),
    switch(c"pty-no-tty", Key::NoTty, c"without a terminal in client mode"),
    with_value(
        c"pty-env",
        Key::Env,
        c"send the specified variable in client mode (NAME or NAME=VALUE)",
    ),
    switch(c"pty-quiet", Key::Quiet, c"say only what went wrong in client mode"),
    switch(c"pty-status-json", Key::StatusJson, c"say how it ended as JSON in client mode"),
    switch(c"pty-list", Key::List { json: false }, c"list one's own sessions in client mode"),
    switch(c"pty-list-json", Key::List { json: true }, c"list them as JSON in client mode"),
    with_value(c"pty-kill", Key::Kill, c"end the specified session in client mode"),
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

/// The client's options as typed.
#[derive(Clone, Debug, Default)]
struct Asked {
    connect: Option<OsString>,
    uconnect: Option<OsString>,
    command: Option<OsString>,
    ssh: bool,
    no_isig: bool,
    no_escape: bool,
    escape: Option<u8>,
    name: Option<String>,
    attach: Option<String>,
    attach_last: bool,
    join: Option<String>,
    steal: bool,
    read_only: bool,
    no_reconnect: bool,
    tty: bool,
    no_tty: bool,
    environment: Vec<(OsString, OsString)>,
    quiet: bool,
    status_json: bool,
    list: bool,
    list_json: bool,
    kill: Option<String>,
}

/// The pty plugin's options as typed.
#[derive(Clone, Debug)]
pub struct Pty {
    asked: Asked,
    /// The shared terminal.
    pub server: Server,
}

impl Default for Pty {
    fn default() -> Self {
        Self {
            asked: Asked::default(),
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
        let on = || value::switch(option, typed);
        let bad =
            |why: &str| Error::new(format!("option {option} = {}: {why}", typed.to_string_lossy()));
        let text = || typed.to_str().map(str::to_owned);
        let name = || {
            let name = text().filter(|name| is_name(name.as_bytes()));
            name.map(Some).ok_or_else(|| bad("neither a session's id nor its name"))
        };
        let asked = &mut self.asked;
        match key {
            Key::Connect(Protocol::Raw) => asked.connect = address()?,
            Key::Connect(Protocol::Uwsgi) => asked.uconnect = address()?,
            Key::Command => asked.command = Some(typed.to_owned()),
            Key::Ssh => asked.ssh = on()?,
            Key::NoIsig => asked.no_isig = on()?,
            Key::NoEscape => asked.no_escape = on()?,
            Key::Escape => {
                let character = escape::character(&typed.to_string_lossy()).map_err(bad)?;
                (asked.escape, asked.no_escape) = (character, character.is_none());
            }
            Key::Name => asked.name = name()?,
            Key::Attach => {
                let word = text().filter(|word| of_word(word).is_some());
                let word = word.ok_or_else(|| bad("neither a session's id nor its name"))?;
                asked.attach = Some(word);
            }
            Key::AttachLast => asked.attach_last = on()?,
            Key::Join => asked.join = name()?,
            Key::Steal => asked.steal = on()?,
            Key::ReadOnly => asked.read_only = on()?,
            Key::NoReconnect => asked.no_reconnect = on()?,
            Key::Tty => asked.tty = on()?,
            Key::NoTty => asked.no_tty = on()?,
            Key::Env => {
                let (name, value) = request::variable(typed).map_err(bad)?;
                asked.environment.extend(value.map(|value| (name, value)));
            }
            Key::Quiet => asked.quiet = on()?,
            Key::StatusJson => asked.status_json = on()?,
            Key::List { json: false } => asked.list = on()?,
            Key::List { json: true } => asked.list_json = on()?,
            Key::Kill => asked.kill = name()?,
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
    ///
    /// # Errors
    /// Two options do not go together: the line for the operator.
    pub fn client(&self) -> Result<Option<Client>> {
        let asked = &self.asked;
        let (address, protocol) = match (&asked.uconnect, &asked.connect) {
            (Some(address), _) => (address, Protocol::Uwsgi),
            (None, Some(address)) => (address, Protocol::Raw),
            (None, None) => return Ok(None),
        };
        let wanted = match (asked.ssh, &asked.command) {
            (true, _) => Wanted::of_sshd(),
            (false, Some(line)) => Wanted::CommandLine(line.clone()),
            (false, None) => Wanted::Configured,
        };
        let terminal = match (asked.tty, asked.no_tty, asked.ssh) {
            (true, true, _) => {
                return Err(Error::new("pty-tty and pty-no-tty: one of them, not both"));
            }
            (true, ..) => Terminal::Always,
            (_, true, _) => Terminal::Never,
            (.., true) => Terminal::OfSshd,
            _ => Terminal::Usual,
        };
        Ok(Some(Client {
            name: "[pty]",
            which: asked.which(wanted != Wanted::Configured)?,
            wanted,
            terminal,
            address: address.clone(),
            protocol,
            isig: !asked.no_isig,
            escape: (!asked.no_escape).then_some(asked.escape.unwrap_or(b'~')),
            quiet: asked.quiet,
            status_json: asked.status_json,
            steal: asked.steal,
            read_only: asked.read_only,
            reconnects: !asked.no_reconnect,
            environment: asked.environment.clone(),
            // The server ignores these when it starts.
            heeds: &[Signal::SIGHUP, Signal::SIGTERM],
        }))
    }

    /// What is asked instead of a session; `None`: a session is wanted.
    pub fn question(&self) -> Option<Question> {
        let asked = &self.asked;
        match &asked.kill {
            Some(id) => Some(Question::Kill(id.clone())),
            None if asked.list_json => Some(Question::List { json: true }),
            None => asked.list.then_some(Question::List { json: false }),
        }
    }
}

impl Asked {
    /// Which session it is to be.
    fn which(&self, has_command: bool) -> Result<Which> {
        let last = self.attach_last.then(String::new);
        let left = self.attach.clone().or(last);
        let which = match (&self.name, left, &self.join) {
            (None, None, None) => Which::New,
            (Some(name), None, None) => Which::Named(name.clone()),
            (None, Some(left), None) => Which::Left(left),
            (None, None, Some(name)) => Which::Either(name.clone()),
            _ => return Err(Error::new("pty-name, pty-attach and pty-join: one of them")),
        };
        let comes_back = matches!(which, Which::Left(_) | Which::Either(_));
        let wrong = [
            (self.steal && !comes_back, "pty-steal goes with pty-attach or pty-join"),
            (
                self.read_only && !matches!(which, Which::Left(_)),
                "pty-read-only goes with pty-attach",
            ),
            (self.read_only && self.steal, "pty-read-only and pty-steal: one of them, not both"),
            (
                comes_back && has_command,
                "pty-attach and pty-join go with no command: the session has one",
            ),
        ];
        match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, why)) => Err(Error::new(why)),
            None => Ok(which),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uwsgi_mode_wins_and_switches_switch() {
        let mut pty = Pty::default();
        assert!(pty.client().is_ok_and(|client| client.is_none()));
        for (key, value) in [
            (Key::Connect(Protocol::Uwsgi), "/u"),
            (Key::Connect(Protocol::Raw), "/r"),
            (Key::NoIsig, ""),
            (Key::Scrollback, "0"),
        ] {
            pty.set(key, "option", value).expect("a valid value");
        }
        let client = pty.client().expect("options").expect("a client");
        assert_eq!((client.address.as_os_str(), client.protocol), ("/u".as_ref(), Protocol::Uwsgi));
        assert!(!client.isig && client.escape.is_some());
        assert_eq!(pty.server.scrollback, 0);
        assert!(pty.set(Key::Scrollback, "pty-scrollback", "lots").is_err());
        assert!(pty.set(Key::Socket, "pty-socket", "").is_err());
    }
    fn of(options: &[(Key, &str)]) -> Result<Client> {
        let mut pty = Pty::default();
        pty.set(Key::Connect(Protocol::Uwsgi), "pty-uconnect", "/u")?;
        for (key, value) in options {
            pty.set(*key, "option", value)?;
        }
        pty.client().map(|client| client.expect("a client"))
    }

    #[test]
    fn which_session_it_is_to_be() {
        let which = |options: &[(Key, &str)]| of(options).map(|client| client.which).ok();
        let text = String::from;
        assert_eq!(which(&[]), Some(Which::New));
        assert_eq!(which(&[(Key::Name, "build")]), Some(Which::Named(text("build"))));
        let word = format!("k3x9q2aa+{}", "0f".repeat(16));
        assert_eq!(which(&[(Key::Attach, &word)]), Some(Which::Left(word.clone())));
        assert_eq!(which(&[(Key::AttachLast, "")]), Some(Which::Left(text(""))));
        assert_eq!(which(&[(Key::Join, "a"), (Key::Steal, "")]), Some(Which::Either(text("a"))));
        for wrong in [
            &[(Key::Name, "a b")][..],
            &[(Key::Name, &word)],
            &[(Key::Attach, "")],
            &[(Key::Kill, "*")],
            &[(Key::Name, "a"), (Key::Join, "b")],
            &[(Key::Steal, "")],
            &[(Key::Name, "a"), (Key::ReadOnly, "")],
            &[(Key::Attach, "a"), (Key::ReadOnly, ""), (Key::Steal, "")],
            &[(Key::Attach, "a"), (Key::Command, "ls")],
            &[(Key::Tty, ""), (Key::NoTty, "")],
            &[(Key::Escape, "xy")],
            &[(Key::Env, "1=x")],
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        let client = of(&[(Key::Escape, "%"), (Key::Env, "A=b"), (Key::NoReconnect, "")]);
        let client = client.expect("a client");
        assert_eq!((client.escape, client.reconnects), (Some(b'%'), false));
        assert_eq!(client.environment, [(OsString::from("A"), OsString::from("b"))]);
    }
}
