//! The options of the pty plugin: every name that the C plugin has, and ours.

use std::ffi::{CString, OsString};

use nix::sys::signal::Signal;

use fpty::client::config::{self, ExecRequest, RequestTty};
use fpty::client::control::ControlRequest;
use fpty::client::{ClientConfig, SessionChoice, escape};
use fpty::error::{Error, Result};
use fpty::proto::session_key::parse_argument;
use fpty::proto::{Protocol, is_session_name};
use fpty_gateway::config::option_table::{Implies, OptionRow, assign, option, switch};
use fpty_gateway::config::value::OptionValue;

/// A value that is a session's name, id, or id with the secret.
fn word(typed: &OptionValue<'_>, is_one: impl Fn(&str) -> bool) -> Result<Option<String>> {
    let word = typed.value.to_str().filter(|word| is_one(word));
    let why = "neither a session's id nor its name";
    word.map(|word| Some(word.to_owned())).ok_or_else(|| typed.invalid(why))
}

fn name(typed: &OptionValue<'_>) -> Result<Option<String>> {
    word(typed, |word| is_session_name(word.as_bytes()))
}

fn attach_argument(typed: &OptionValue<'_>) -> Result<Option<String>> {
    word(typed, |word| parse_argument(word).is_some())
}

/// All options of the `pty` plugin.
pub static OPTIONS: [OptionRow<PtyOptions>; 28] = [
    option(&[c"pty-socket"])
        .help(c"bind the pty server on the specified address")
        .implies(Implies::Master)
        .parse_with(|pty, typed| assign(&mut pty.server.socket, typed.bytes().map(Some))),
    option(&[c"pty-readonly-socket"])
        .help(c"bind the pty server on the specified address for clients that only view")
        .implies(Implies::Master)
        .parse_with(|pty, typed| assign(&mut pty.server.readonly_socket, typed.bytes().map(Some))),
    switch(&[c"pty-log"])
        .help(c"send stdout/stderr to the log engine too")
        .parse_with(|pty, typed| assign(&mut pty.server.log, typed.boolean())),
    switch(&[c"pty-input"])
        .help(c"read from original stdin in addition to pty")
        .parse_with(|pty, typed| assign(&mut pty.server.input, typed.boolean())),
    option(&[c"pty-connect"])
        .help(c"connect the current terminal to a pty server")
        .implies(Implies::Quiet)
        .parse_with(|pty, typed| assign(&mut pty.client.connect, typed.bytes().map(Some))),
    option(&[c"pty-uconnect"])
        .help(c"connect the current terminal to a pty server (using uwsgi protocol)")
        .implies(Implies::Quiet)
        .parse_with(|pty, typed| assign(&mut pty.client.uconnect, typed.bytes().map(Some))),
    option(&[c"pty-command"]).help(c"run the specified command line in client mode").parse_with(
        |pty, typed| assign(&mut pty.client.command, Ok(Some((*typed.value).to_owned()))),
    ),
    switch(&[c"pty-ssh"])
        .help(c"do what sshd was asked for in client mode (for its ForceCommand)")
        .parse_with(|pty, typed| assign(&mut pty.client.ssh, typed.boolean())),
    switch(&[c"pty-no-isig"])
        .help(c"disable ISIG terminal attribute in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.no_isig, typed.boolean())),
    switch(&[c"pty-no-escape"])
        .help(c"pass ~. and the other escapes on in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.no_escape, typed.boolean())),
    option(&[c"pty-escape"]).help(c"begin escapes with this character in client mode").parse_with(
        |pty, typed| {
            let character = escape::character(&typed.value.to_string_lossy());
            let character = character.map_err(|why| typed.invalid(why))?;
            (pty.client.escape, pty.client.no_escape) = (character, character.is_none());
            Ok(())
        },
    ),
    option(&[c"pty-name"])
        .help(c"give the session a name in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.name, name(typed))),
    option(&[c"pty-attach"])
        .help(c"attach to the specified session in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.attach, attach_argument(typed))),
    switch(&[c"pty-attach-last"])
        .help(c"attach to the session that was detached last in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.attach_last, typed.boolean())),
    option(&[c"pty-join"])
        .help(c"attach to the session of the specified name, or begin it, in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.join, name(typed))),
    switch(&[c"pty-steal"])
        .help(c"replace the client that is attached, in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.steal, typed.boolean())),
    switch(&[c"pty-read-only"])
        .help(c"only view the session in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.read_only, typed.boolean())),
    switch(&[c"pty-no-reconnect"])
        .help(c"do not reconnect when the connection breaks, in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.no_reconnect, typed.boolean())),
    switch(&[c"pty-tty"])
        .help(c"with a terminal in any case in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.tty, typed.boolean())),
    switch(&[c"pty-no-tty"])
        .help(c"without a terminal in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.no_tty, typed.boolean())),
    option(&[c"pty-env"])
        .help(c"send the specified variable in client mode (NAME or NAME=VALUE)")
        .parse_with(|pty, typed| {
            let variable = config::variable(&typed.value).map_err(|why| typed.invalid(why))?;
            let (name, value) = variable;
            pty.client.environment.extend(value.map(|value| (name, value)));
            Ok(())
        }),
    switch(&[c"pty-quiet"])
        .help(c"print only errors in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.quiet, typed.boolean())),
    switch(&[c"pty-status-json"])
        .help(c"print how it ended as JSON in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.status_json, typed.boolean())),
    switch(&[c"pty-list"])
        .help(c"list one's own sessions in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.list, typed.boolean())),
    switch(&[c"pty-list-json"])
        .help(c"list them as JSON in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.list_json, typed.boolean())),
    option(&[c"pty-kill"])
        .help(c"end the specified session in client mode")
        .parse_with(|pty, typed| assign(&mut pty.client.kill, name(typed))),
    option(&[c"pty-exec"])
        .help(c"run the specified command soon after the pty thread is spawned")
        .parse_with(|pty, typed| assign(&mut pty.server.exec, typed.command().map(Some))),
    option(&[c"pty-scrollback"])
        .help(c"show a new client so many bytes of earlier output (default: 65536, 0: none)")
        .parse_with(|pty, typed| {
            assign(&mut pty.server.scrollback, typed.number(0..=MAX_SCROLLBACK).map(Some))
        }),
];

/// The configuration of the shared terminal.
#[derive(Clone, Debug, Default)]
pub struct PtyServerOptions {
    /// The address for clients.
    pub socket: Option<OsString>,
    /// The address for clients that only view.
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

impl PtyServerOptions {
    /// How much output a new client is shown, in bytes.
    pub fn scrollback(&self) -> usize {
        self.scrollback.unwrap_or(64 * 1024) as usize
    }
}

/// The client's options as typed.
#[derive(Clone, Debug, Default)]
struct ClientOptions {
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
pub struct PtyOptions {
    client: ClientOptions,
    /// The shared terminal.
    pub server: PtyServerOptions,
}

/// The largest scrollback, in bytes: more would only make a new client wait.
const MAX_SCROLLBACK: u32 = 64 * 1024 * 1024;

impl PtyOptions {
    /// The client's configuration, where one is asked for. Of both modes
    /// uwsgi mode wins, as with the C plugin.
    ///
    /// # Errors
    /// Two options do not go together: the line for the operator.
    pub fn client(&self) -> Result<Option<ClientConfig>> {
        let options = &self.client;
        let (address, protocol) = match (&options.uconnect, &options.connect) {
            (Some(address), _) => (address, Protocol::Uwsgi),
            (None, Some(address)) => (address, Protocol::Raw),
            (None, None) => return Ok(None),
        };
        let exec_request = match (options.ssh, &options.command) {
            (true, _) => ExecRequest::from_sshd(),
            (false, Some(line)) => ExecRequest::CommandLine(line.clone()),
            (false, None) => ExecRequest::Configured,
        };
        if options.tty && options.no_tty {
            return Err(Error::new("pty-tty and pty-no-tty: one of them, not both"));
        }
        Ok(Some(ClientConfig {
            name: "[pty]",
            session: options.session(exec_request != ExecRequest::Configured)?,
            exec_request,
            request_tty: RequestTty::of_switches(options.tty, options.no_tty, options.ssh),
            address: address.clone(),
            protocol,
            isig: !options.no_isig,
            escape: (!options.no_escape).then_some(options.escape.unwrap_or(b'~')),
            quiet: options.quiet,
            status_json: options.status_json,
            steal: options.steal,
            read_only: options.read_only,
            reconnect: !options.no_reconnect,
            environment: options.environment.clone(),
            // The server ignores both signals when it starts.
            never_ignored: &[Signal::SIGHUP, Signal::SIGTERM],
        }))
    }

    /// Control request to send instead of opening a session; `None`: a session is wanted.
    pub fn control_request(&self) -> Option<ControlRequest> {
        let options = &self.client;
        let list = options.list || options.list_json;
        ControlRequest::of_options(options.kill.as_ref(), list, options.list_json)
    }
}

impl ClientOptions {
    /// The choice of the session.
    fn session(&self, has_command: bool) -> Result<SessionChoice> {
        let last = self.attach_last.then(String::new);
        let attach = self.attach.clone().or(last);
        let session = match (&self.name, attach, &self.join) {
            (None, None, None) => SessionChoice::New,
            (Some(name), None, None) => SessionChoice::NewNamed(name.clone()),
            (None, Some(target), None) => SessionChoice::Attach(target),
            (None, None, Some(name)) => SessionChoice::AttachOrNew(name.clone()),
            _ => return Err(Error::new("pty-name, pty-attach and pty-join: one of them")),
        };
        let attaches = matches!(session, SessionChoice::Attach(_) | SessionChoice::AttachOrNew(_));
        let invalid = [
            (self.steal && !attaches, "pty-steal goes with pty-attach or pty-join"),
            (
                self.read_only && !matches!(session, SessionChoice::Attach(_)),
                "pty-read-only goes with pty-attach",
            ),
            (self.read_only && self.steal, "pty-read-only and pty-steal: one of them, not both"),
            (
                attaches && has_command,
                "pty-attach and pty-join go with no command: the session has one",
            ),
        ];
        match invalid.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, why)) => Err(Error::new(why)),
            None => Ok(session),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty_gateway::config::{option_table, options};
    use std::ffi::CStr;

    fn set(pty: &mut PtyOptions, name: &str, value: &str) -> Result<()> {
        option_table::apply_option(&OPTIONS, pty, name, value.as_ref())
    }

    /// Checks that there is one option for each name and each key, and that each option
    /// has its line in the help.
    fn check<C>(table: &[OptionRow<C>]) {
        let specs = || table.iter().map(|row| &row.spec);
        let all_names: Vec<&CStr> = specs().flat_map(|spec| spec.names).copied().collect();
        let keys: Vec<&str> = specs().filter_map(|spec| spec.key).collect();
        let mut all = all_names.iter().map(|name| name.to_bytes()).collect::<Vec<_>>();
        all.sort_unstable();
        all.dedup();
        assert_eq!(
            (all.len(), option_table::name_count(table)),
            (all_names.len(), all_names.len())
        );
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key}");
        }
        for spec in specs() {
            assert_eq!(spec.names.is_empty(), spec.help.is_empty(), "{spec:?}");
            assert!(spec.key.is_some() || !spec.names.is_empty(), "{spec:?}");
        }
    }

    #[test]
    fn a_row_is_whole_and_there_is_one_of_each() {
        check(&OPTIONS);
        check(&options::OPTIONS);
    }

    #[test]
    fn uwsgi_mode_wins_and_switches_switch() {
        let mut pty = PtyOptions::default();
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
        assert_eq!(
            (pty.server.scrollback(), PtyOptions::default().server.scrollback()),
            (0, 65536)
        );
        assert!(set(&mut pty, "pty-scrollback", "lots").is_err());
        assert!(set(&mut pty, "pty-socket", "").is_err());
    }

    fn of(options: &[(&str, &str)]) -> Result<ClientConfig> {
        let mut pty = PtyOptions::default();
        set(&mut pty, "pty-uconnect", "/u")?;
        for (name, value) in options {
            set(&mut pty, name, value)?;
        }
        pty.client().map(|client| client.expect("a client"))
    }

    #[test]
    fn which_session_it_is_to_be() {
        let session = |options: &[(&str, &str)]| of(options).map(|client| client.session).ok();
        let text = String::from;
        assert_eq!(session(&[]), Some(SessionChoice::New));
        assert_eq!(session(&[("pty-name", "build")]), Some(SessionChoice::NewNamed(text("build"))));
        let word = format!("k3x9q2aa+{}", "0f".repeat(16));
        assert_eq!(session(&[("pty-attach", &word)]), Some(SessionChoice::Attach(word.clone())));
        assert_eq!(session(&[("pty-attach-last", "")]), Some(SessionChoice::Attach(text(""))));
        assert_eq!(
            session(&[("pty-join", "a"), ("pty-steal", "")]),
            Some(SessionChoice::AttachOrNew(text("a")))
        );
        for invalid in [
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
            assert!(of(invalid).is_err(), "{invalid:?}");
        }
        let client = of(&[("pty-escape", "%"), ("pty-env", "A=b"), ("pty-no-reconnect", "")]);
        let client = client.expect("a client");
        assert_eq!((client.escape, client.reconnect), (Some(b'%'), false));
        assert_eq!(client.environment, [(OsString::from("A"), OsString::from("b"))]);
    }
}
