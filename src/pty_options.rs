//! The options of the pty plugin: every name that the C plugin has, and ours.

use std::ffi::{CString, OsString};

use nix::sys::signal::Signal;

use fpty::client::control::Question;
use fpty::client::request::{self, Terminal, Wanted};
use fpty::client::{Client, Which, escape};
use fpty::error::{Error, Result};
use fpty::proto::session_key::of_word;
use fpty::proto::{Protocol, is_name};
use fpty_gateway::config::option_table::{Implies, Row, option, put, switch};
use fpty_gateway::config::value::Typed;

/// What a session is called, or has for a secret, as typed.
fn word(typed: &Typed<'_>, is_one: impl Fn(&str) -> bool) -> Result<Option<String>> {
    let word = typed.value.to_str().filter(|word| is_one(word));
    let why = "neither a session's id nor its name";
    word.map(|word| Some(word.to_owned())).ok_or_else(|| typed.wrong(why))
}

fn name(typed: &Typed<'_>) -> Result<Option<String>> {
    word(typed, |word| is_name(word.as_bytes()))
}

/// All options of the `pty` plugin.
pub static OPTIONS: [Row<Pty>; 28] = [
    option(&[c"pty-socket"])
        .help(c"bind the pty server on the specified address")
        .implies(Implies::Master)
        .takes(|pty, typed| put(&mut pty.server.socket, typed.bytes().map(Some))),
    option(&[c"pty-readonly-socket"])
        .help(c"bind the pty server on the specified address for clients that only watch")
        .implies(Implies::Master)
        .takes(|pty, typed| put(&mut pty.server.readonly_socket, typed.bytes().map(Some))),
    switch(&[c"pty-log"])
        .help(c"send stdout/stderr to the log engine too")
        .takes(|pty, typed| put(&mut pty.server.log, typed.switch())),
    switch(&[c"pty-input"])
        .help(c"read from original stdin in addition to pty")
        .takes(|pty, typed| put(&mut pty.server.input, typed.switch())),
    option(&[c"pty-connect"])
        .help(c"connect the current terminal to a pty server")
        .implies(Implies::Quiet)
        .takes(|pty, typed| put(&mut pty.asked.connect, typed.bytes().map(Some))),
    option(&[c"pty-uconnect"])
        .help(c"connect the current terminal to a pty server (using uwsgi protocol)")
        .implies(Implies::Quiet)
        .takes(|pty, typed| put(&mut pty.asked.uconnect, typed.bytes().map(Some))),
    option(&[c"pty-command"])
        .help(c"run the specified command line in client mode")
        .takes(|pty, typed| put(&mut pty.asked.command, Ok(Some((*typed.value).to_owned())))),
    switch(&[c"pty-ssh"])
        .help(c"do what sshd was asked for in client mode (for its ForceCommand)")
        .takes(|pty, typed| put(&mut pty.asked.ssh, typed.switch())),
    switch(&[c"pty-no-isig"])
        .help(c"disable ISIG terminal attribute in client mode")
        .takes(|pty, typed| put(&mut pty.asked.no_isig, typed.switch())),
    switch(&[c"pty-no-escape"])
        .help(c"pass ~. and the other escapes on in client mode")
        .takes(|pty, typed| put(&mut pty.asked.no_escape, typed.switch())),
    option(&[c"pty-escape"]).help(c"begin escapes with this character in client mode").takes(
        |pty, typed| {
            let character = escape::character(&typed.value.to_string_lossy());
            let character = character.map_err(|why| typed.wrong(why))?;
            (pty.asked.escape, pty.asked.no_escape) = (character, character.is_none());
            Ok(())
        },
    ),
    option(&[c"pty-name"])
        .help(c"give the session a name in client mode")
        .takes(|pty, typed| put(&mut pty.asked.name, name(typed))),
    option(&[c"pty-attach"]).help(c"come back to the specified session in client mode").takes(
        |pty, typed| put(&mut pty.asked.attach, word(typed, |word| of_word(word).is_some())),
    ),
    switch(&[c"pty-attach-last"])
        .help(c"come back to the session that was left last in client mode")
        .takes(|pty, typed| put(&mut pty.asked.attach_last, typed.switch())),
    option(&[c"pty-join"])
        .help(c"come back to the session of the specified name, or begin it, in client mode")
        .takes(|pty, typed| put(&mut pty.asked.join, name(typed))),
    switch(&[c"pty-steal"])
        .help(c"coming back, have whoever is attached go in client mode")
        .takes(|pty, typed| put(&mut pty.asked.steal, typed.switch())),
    switch(&[c"pty-read-only"])
        .help(c"coming back, only watch in client mode")
        .takes(|pty, typed| put(&mut pty.asked.read_only, typed.switch())),
    switch(&[c"pty-no-reconnect"])
        .help(c"do not take up a connection again that breaks in client mode")
        .takes(|pty, typed| put(&mut pty.asked.no_reconnect, typed.switch())),
    switch(&[c"pty-tty"])
        .help(c"with a terminal in any case in client mode")
        .takes(|pty, typed| put(&mut pty.asked.tty, typed.switch())),
    switch(&[c"pty-no-tty"])
        .help(c"without a terminal in client mode")
        .takes(|pty, typed| put(&mut pty.asked.no_tty, typed.switch())),
    option(&[c"pty-env"])
        .help(c"send the specified variable in client mode (NAME or NAME=VALUE)")
        .takes(|pty, typed| {
            let variable = request::variable(&typed.value).map_err(|why| typed.wrong(why))?;
            let (name, value) = variable;
            pty.asked.environment.extend(value.map(|value| (name, value)));
            Ok(())
        }),
    switch(&[c"pty-quiet"])
        .help(c"say only what went wrong in client mode")
        .takes(|pty, typed| put(&mut pty.asked.quiet, typed.switch())),
    switch(&[c"pty-status-json"])
        .help(c"say how it ended as JSON in client mode")
        .takes(|pty, typed| put(&mut pty.asked.status_json, typed.switch())),
    switch(&[c"pty-list"])
        .help(c"list one's own sessions in client mode")
        .takes(|pty, typed| put(&mut pty.asked.list, typed.switch())),
    switch(&[c"pty-list-json"])
        .help(c"list them as JSON in client mode")
        .takes(|pty, typed| put(&mut pty.asked.list_json, typed.switch())),
    option(&[c"pty-kill"])
        .help(c"end the specified session in client mode")
        .takes(|pty, typed| put(&mut pty.asked.kill, name(typed))),
    option(&[c"pty-exec"])
        .help(c"run the specified command soon after the pty thread is spawned")
        .takes(|pty, typed| put(&mut pty.server.exec, typed.command().map(Some))),
    option(&[c"pty-scrollback"])
        .help(c"show a new client so many bytes of earlier output (default: 65536, 0: none)")
        .takes(|pty, typed| {
            put(&mut pty.server.scrollback, typed.number(0..=MAX_SCROLLBACK).map(Some))
        }),
];

/// The configuration of the shared terminal.
#[derive(Clone, Debug, Default)]
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
    /// How much output a new client is shown, in bytes, where that was said.
    scrollback: Option<u32>,
}

impl Server {
    /// How much output a new client is shown, in bytes.
    pub fn scrollback(&self) -> usize {
        self.scrollback.unwrap_or(64 * 1024) as usize
    }
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
#[derive(Clone, Debug, Default)]
pub struct Pty {
    asked: Asked,
    /// The shared terminal.
    pub server: Server,
}

/// More would only make a new client wait.
const MAX_SCROLLBACK: u32 = 64 * 1024 * 1024;

impl Pty {
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
    use fpty_gateway::config::option_table;

    fn set(pty: &mut Pty, name: &str, value: &str) -> Result<()> {
        option_table::set(&OPTIONS, pty, name, value.as_ref())
    }

    #[test]
    fn a_row_is_whole_and_there_is_one_of_each() {
        option_table::check(&OPTIONS);
    }

    #[test]
    fn uwsgi_mode_wins_and_switches_switch() {
        let mut pty = Pty::default();
        assert!(pty.client().is_ok_and(|client| client.is_none()));
        for (name, value) in [
            ("pty-uconnect", "/u"),
            ("pty-connect", "/r"),
            ("pty-no-isig", ""),
            ("pty-scrollback", "0"),
        ] {
            set(&mut pty, name, value).expect("a valid value");
        }
        let client = pty.client().expect("options").expect("a client");
        assert_eq!((client.address.as_os_str(), client.protocol), ("/u".as_ref(), Protocol::Uwsgi));
        assert!(!client.isig && client.escape.is_some());
        assert_eq!((pty.server.scrollback(), Pty::default().server.scrollback()), (0, 65536));
        assert!(set(&mut pty, "pty-scrollback", "lots").is_err());
        assert!(set(&mut pty, "pty-socket", "").is_err());
    }

    fn of(options: &[(&str, &str)]) -> Result<Client> {
        let mut pty = Pty::default();
        set(&mut pty, "pty-uconnect", "/u")?;
        for (name, value) in options {
            set(&mut pty, name, value)?;
        }
        pty.client().map(|client| client.expect("a client"))
    }

    #[test]
    fn which_session_it_is_to_be() {
        let which = |options: &[(&str, &str)]| of(options).map(|client| client.which).ok();
        let text = String::from;
        assert_eq!(which(&[]), Some(Which::New));
        assert_eq!(which(&[("pty-name", "build")]), Some(Which::Named(text("build"))));
        let word = format!("k3x9q2aa+{}", "0f".repeat(16));
        assert_eq!(which(&[("pty-attach", &word)]), Some(Which::Left(word.clone())));
        assert_eq!(which(&[("pty-attach-last", "")]), Some(Which::Left(text(""))));
        assert_eq!(which(&[("pty-join", "a"), ("pty-steal", "")]), Some(Which::Either(text("a"))));
        for wrong in [
            &[("pty-name", "a b")][..],
            &[("pty-name", &word)],
            &[("pty-attach", "")],
            &[("pty-kill", "*")],
            &[("pty-name", "a"), ("pty-join", "b")],
            &[("pty-steal", "")],
            &[("pty-name", "a"), ("pty-read-only", "")],
            &[("pty-attach", "a"), ("pty-read-only", ""), ("pty-steal", "")],
            &[("pty-attach", "a"), ("pty-command", "ls")],
            &[("pty-tty", ""), ("pty-no-tty", "")],
            &[("pty-escape", "xy")],
            &[("pty-env", "1=x")],
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        let client = of(&[("pty-escape", "%"), ("pty-env", "A=b"), ("pty-no-reconnect", "")]);
        let client = client.expect("a client");
        assert_eq!((client.escape, client.reconnects), (Some(b'%'), false));
        assert_eq!(client.environment, [(OsString::from("A"), OsString::from("b"))]);
    }
}
