//! The options of the router: every name that the C plugin has.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::accept_env::AcceptEnv;
use super::audit::{self, Audit};
use super::record::{Part, Record};
use super::{OptionSpec, switch, value, with_value};
use fpty::error::Result;
use fpty::proto::Protocol;

/// What an option of the router sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// One more socket, speaking this protocol.
    Listen(Protocol),
    /// The program of each session.
    Command,
    /// The terminal's height before the client says one.
    Rows,
    /// The terminal's width before the client says one.
    Cols,
    /// How many gateways share the sockets.
    Processes,
    /// Sockets from a zerg server.
    Zerg,
    /// Of a corerouter; without meaning here.
    Fallback,
    /// How many events one turn of the loop takes.
    Events,
    /// Of a corerouter; without meaning here.
    Cheap,
    /// Ends a session after so many idle seconds.
    Timeout,
    /// The address of the statistics.
    Stats,
    /// The master kills a gateway whose turn takes longer than this.
    Harakiri,
    /// How long a program may outlive its client.
    HangupGrace,
    /// Variables of the client that the program may get.
    AcceptEnv,
    /// Whether clients that can take the terminal itself get it.
    Handover,
    /// Lines of an audit in the log.
    Audit,
    /// What is recorded of sessions.
    Record(Part),
    /// Whether clients may say which command is run.
    AllowCommand,
    /// Whether a command without a terminal gets the client's descriptors.
    PassStdio,
    /// The SFTP server.
    SftpServer,
}

const LISTEN: &CStr = c"run the forkptyrouter on the specified address (raw mode: bytes both ways)";
const ULISTEN: &CStr =
    c"run the forkptyrouter on the specified address (uwsgi mode: input, window size, signals)";
const COMMAND: &CStr = c"run the specified command on every connection (default: /bin/sh)";
const PROCESSES: &CStr = c"prefork the specified number of forkptyrouter processes";
const STATS: &CStr = c"run the forkptyrouter stats server on the specified address";

/// All options of the `forkptyrouter` plugin.
pub static OPTIONS: [OptionSpec<Key>; 33] = [
    with_value(c"forkptyrouter", Key::Listen(Protocol::Raw), LISTEN),
    with_value(c"forkpty-router", Key::Listen(Protocol::Raw), LISTEN),
    with_value(c"forkptyurouter", Key::Listen(Protocol::Uwsgi), ULISTEN),
    with_value(c"forkpty-urouter", Key::Listen(Protocol::Uwsgi), ULISTEN),
    with_value(c"forkptyrouter-command", Key::Command, COMMAND),
    with_value(c"forkpty-router-command", Key::Command, COMMAND),
    with_value(c"forkptyrouter-cmd", Key::Command, COMMAND),
    with_value(c"forkpty-router-cmd", Key::Command, COMMAND),
    with_value(
        c"forkptyrouter-rows",
        Key::Rows,
        c"set forkptyrouter default pty window rows (default: 24)",
    ),
    with_value(
        c"forkptyrouter-cols",
        Key::Cols,
        c"set forkptyrouter default pty window cols (default: 80)",
    ),
    with_value(c"forkptyrouter-processes", Key::Processes, PROCESSES),
    with_value(c"forkptyrouter-workers", Key::Processes, PROCESSES),
    with_value(c"forkptyrouter-zerg", Key::Zerg, c"attach the forkptyrouter to a zerg server"),
    with_value(
        c"forkptyrouter-fallback",
        Key::Fallback,
        c"accepted for compatibility, without effect: there are no nodes",
    ),
    with_value(
        c"forkptyrouter-events",
        Key::Events,
        c"set the maximum number of events of one turn (default: 64)",
    ),
    switch(
        c"forkptyrouter-cheap",
        Key::Cheap,
        c"accepted for compatibility, without effect: there are no nodes",
    ),
    with_value(
        c"forkptyrouter-timeout",
        Key::Timeout,
        c"end a session after the specified seconds without traffic (default: never)",
    ),
    with_value(c"forkptyrouter-stats", Key::Stats, STATS),
    with_value(c"forkptyrouter-stats-server", Key::Stats, STATS),
    with_value(c"forkptyrouter-ss", Key::Stats, STATS),
    with_value(
        c"forkptyrouter-harakiri",
        Key::Harakiri,
        c"let the master kill a forkptyrouter that hangs for the specified seconds",
    ),
    with_value(
        c"forkptyrouter-accept-env",
        Key::AcceptEnv,
        c"let clients set these variables, names with * (default: TERM COLORTERM LANG LANGUAGE LC_* TZ; none)",
    ),
    with_value(
        c"forkptyrouter-handover",
        Key::Handover,
        c"hand terminals over to clients that can take them (default: true)",
    ),
    with_value(
        c"forkptyrouter-audit",
        Key::Audit,
        c"log who came, when, and what became of it: json, keyval or off (default: off)",
    ),
    with_value(
        c"forkptyrouter-record",
        Key::Record(Part::Folder),
        c"record each session's terminal in a file of its own in the specified folder (default: off)",
    ),
    with_value(
        c"forkptyrouter-record-format",
        Key::Record(Part::Format),
        c"write recordings as asciicast v2 or v3 (default: v3)",
    ),
    with_value(
        c"forkptyrouter-record-input",
        Key::Record(Part::Input),
        c"record what is typed, too, with every password (default: false)",
    ),
    with_value(
        c"forkptyrouter-record-limit",
        Key::Record(Part::Limit),
        c"let a recording have at most the specified bytes (default: 0, no limit)",
    ),
    with_value(
        c"forkptyrouter-record-on-error",
        Key::Record(Part::OnError),
        c"close or continue a session that cannot be recorded (default: continue)",
    ),
    with_value(
        c"forkptyrouter-allow-command",
        Key::AllowCommand,
        c"let clients run commands of their own, and the SFTP server (default: false)",
    ),
    with_value(
        c"forkptyrouter-pass-stdio",
        Key::PassStdio,
        c"pass the client's pipes and sockets to a command without a terminal (default: true)",
    ),
    with_value(
        c"forkptyrouter-sftp-server",
        Key::SftpServer,
        c"run the specified program for sftp (else OpenSSH's, where it usually is)",
    ),
    with_value(
        c"forkptyrouter-hangup-grace",
        Key::HangupGrace,
        c"kill a session that outlives its client by the specified seconds (default: 10, 0: never)",
    ),
];

/// The router's configuration.
#[derive(Clone, Debug)]
pub struct Router {
    /// The program of each session, as typed.
    pub command: CString,
    /// The terminal's height before the client says one.
    pub rows: u16,
    /// The terminal's width before the client says one.
    pub cols: u16,
    /// How many gateways share the sockets, at least 1.
    pub processes: u32,
    /// How many events one turn of the loop takes, at least 1.
    pub events: u32,
    /// Ends a session after so long without traffic.
    pub timeout: Option<Duration>,
    /// The address of the statistics.
    pub stats: Option<OsString>,
    /// The longest turn of the loop, in seconds.
    pub harakiri: Option<u32>,
    /// How long a session leader may outlive its client.
    pub hangup_grace: Option<Duration>,
    /// Which variables clients may set.
    pub accept_env: AcceptEnv,
    /// Whether clients that can take the terminal itself get it.
    pub handover: bool,
    /// How the lines of an audit look; `None`: there are none.
    pub audit: Option<Audit>,
    /// What is recorded.
    pub record: Record,
    /// Whether clients may say which command is run.
    pub allow_command: bool,
    /// Whether a command without a terminal gets the client's descriptors.
    pub pass_stdio: bool,
    /// The SFTP server; `None`: the first of [`SFTP_SERVERS`] that there is.
    pub sftp_server: Option<CString>,
    /// Whether the option was given: the next one adds to it.
    accept_env_given: bool,
    /// What to tell the operator about options that can have no meaning.
    pub remarks: Vec<String>,
}

/// Where OpenSSH's SFTP server is, by distribution.
pub const SFTP_SERVERS: [&CStr; 4] = [
    c"/usr/lib/openssh/sftp-server",
    c"/usr/libexec/openssh/sftp-server",
    c"/usr/libexec/sftp-server",
    c"/usr/lib/ssh/sftp-server",
];

impl Default for Router {
    fn default() -> Self {
        Self {
            command: c"/bin/sh".to_owned(),
            rows: 24,
            cols: 80,
            processes: 1,
            events: 64,
            timeout: None,
            stats: None,
            harakiri: None,
            hangup_grace: Some(Duration::from_secs(10)),
            accept_env: AcceptEnv::default(),
            handover: true,
            audit: None,
            record: Record::default(),
            allow_command: false,
            pass_stdio: true,
            sftp_server: None,
            accept_env_given: false,
            remarks: Vec::new(),
        }
    }
}

/// More would not fit the server's table of gateways (MAX_GATEWAYS).
const MAX_PROCESSES: u32 = 64;
const MAX_EVENTS: u32 = 65_536;
const MAX_SECONDS: u32 = i32::MAX.unsigned_abs();

impl Router {
    /// Whether it is to be known when a byte last went.
    pub fn keeps_time(&self) -> bool {
        self.timeout.is_some() || self.stats.is_some()
    }

    /// Takes one option as typed. A number of 0 means the default, as with
    /// the C plugin.
    ///
    /// # Errors
    /// A value that the option cannot have: the line for the operator.
    pub fn set(&mut self, key: Key, option: &str, typed: impl AsRef<OsStr>) -> Result<()> {
        let typed = typed.as_ref();
        let number = |max| value::number(option, typed, 0..=max);
        let seconds = || {
            let seconds = value::number(option, typed, 0..=MAX_SECONDS)?;
            Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
        };
        match key {
            // These two become sockets of the server at once.
            Key::Listen(_) | Key::Zerg => {
                value::bytes(option, typed)?;
            }
            Key::Command => self.command = value::command(option, typed)?,
            Key::Rows => self.rows = or_default(number(u16::MAX.into())?, 24),
            Key::Cols => self.cols = or_default(number(u16::MAX.into())?, 80),
            Key::Processes => self.processes = number(MAX_PROCESSES)?.max(1),
            Key::Events => {
                self.events = match number(MAX_EVENTS)? {
                    0 => 64,
                    events => events,
                };
            }
            Key::Timeout => self.timeout = seconds()?,
            Key::HangupGrace => self.hangup_grace = seconds()?,
            Key::AcceptEnv => {
                let accept = AcceptEnv::of(value::bytes(option, typed)?.as_bytes());
                match std::mem::replace(&mut self.accept_env_given, true) {
                    true => self.accept_env.and(accept),
                    false => self.accept_env = accept,
                }
            }
            Key::Audit => self.audit = audit::of(option, typed)?,
            Key::Record(part) => self.record.set(part, option, typed)?,
            Key::Handover => self.handover = value::switch(option, typed)?,
            Key::AllowCommand => self.allow_command = value::switch(option, typed)?,
            Key::PassStdio => self.pass_stdio = value::switch(option, typed)?,
            Key::SftpServer => self.sftp_server = Some(value::command(option, typed)?),
            Key::Stats => self.stats = Some(value::bytes(option, typed)?),
            Key::Harakiri => {
                let seconds = number(MAX_SECONDS)?;
                self.harakiri = (seconds > 0).then_some(seconds);
            }
            Key::Fallback => self.remarks.push(format!(
                "option {option} = {} has no effect: a terminal is always local, there is no node to \
                 fall back from",
                typed.to_string_lossy()
            )),
            Key::Cheap => {
                if value::switch(option, typed)? {
                    self.remarks.push(format!(
                        "option {option} has no effect: there are no nodes to wait for, \
                         the router serves at once and costs nothing while idle"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn or_default(number: u32, default: u16) -> u16 {
    match u16::try_from(number) {
        Ok(0) | Err(_) => default,
        Ok(number) => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_the_default_as_with_the_c_plugin() {
        let mut router = Router::default();
        for (key, value) in [
            (Key::Rows, "0"),
            (Key::Cols, "132"),
            (Key::Processes, "0"),
            (Key::Events, "0"),
            (Key::Timeout, "0"),
        ] {
            router.set(key, "option", value).expect("a valid value");
        }
        assert_eq!((router.rows, router.cols), (24, 132));
        assert_eq!((router.processes, router.events), (1, 64));
        assert_eq!(router.timeout, None);
    }

    #[test]
    fn nonsense_names_option_and_value() {
        let mut router = Router::default();
        for (key, value) in [
            (Key::Rows, "abc"),
            (Key::Cols, "70000"),
            (Key::Processes, "65"),
            (Key::Timeout, "-1"),
            (Key::Harakiri, "soon"),
            (Key::Cheap, "perhaps"),
            (Key::Audit, "xml"),
        ] {
            let error = router.set(key, "forkptyrouter-x", value).expect_err(value).to_string();
            assert!(error.contains("forkptyrouter-x") && error.contains(value), "{error}");
        }
        assert!(router.set(Key::Command, "forkptyrouter-command", " ").is_err());
        assert_eq!(router.rows, 24);
    }

    #[test]
    fn options_without_meaning_say_so() {
        let mut router = Router::default();
        router.set(Key::Cheap, "forkptyrouter-cheap", "").expect("a switch");
        router.set(Key::Fallback, "forkptyrouter-fallback", "127.0.0.1:1").expect("an address");
        assert_eq!(router.remarks.len(), 2);
        router.set(Key::Cheap, "forkptyrouter-cheap", "false").expect("a switch");
        assert_eq!(router.remarks.len(), 2);
    }
}
