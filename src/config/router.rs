//! The options of the router: every name that the C plugin has.

use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::accept_env::AcceptEnv;
use super::access::List;
use super::audit;
use super::detach;
use super::record::Part;
use super::rules::{self, Own, Rules};
use super::{OptionSpec, switch, value, with_value};
use fpty::error::{Error, Result};
use fpty::proto::Protocol;
use fpty::sys::accounts;

/// What an option of the router sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// One more socket, speaking this protocol.
    Listen(Protocol),
    /// A socket with rules of its own, in this mode.
    ListenBy(Protocol),
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
    /// Ends a command without a terminal after so many idle seconds.
    CommandTimeout,
    /// The address of the statistics.
    Stats,
    /// The master kills a gateway whose turn takes longer than this.
    Harakiri,
    /// How long a client may be silent before its request is complete.
    HandshakeTimeout,
    /// How long a program may outlive its client.
    HangupGrace,
    /// Variables of the client that the program may get.
    AcceptEnv,
    /// Whether clients that can take the terminal itself get it.
    Handover,
    /// How sessions go on without a client.
    Detach(detach::Part),
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
    /// Who may come in.
    Access(List),
    /// How many sessions there may be.
    MaxSessions,
    /// How many of one user.
    MaxUserSessions,
    /// How many new ones a second.
    Rate,
    /// Ends a session after so long.
    MaxTime,
}

const LISTEN: &CStr = c"run the forkptyrouter on the specified address (raw mode: bytes both ways)";
const ULISTEN: &CStr =
    c"run the forkptyrouter on the specified address (uwsgi mode: input, window size, signals)";
const LISTEN2: &CStr = c"the same with rules of its own (addr=PATH,cmd=...,allow_group=...)";
const ULISTEN2: &CStr = c"the same in uwsgi mode with rules of its own (addr=PATH,cmd=...)";
const COMMAND: &CStr = c"run the specified command on every connection (default: /bin/sh)";
const PROCESSES: &CStr = c"prefork the specified number of forkptyrouter processes";
const STATS: &CStr = c"run the forkptyrouter stats server on the specified address";

/// All options of the `forkptyrouter` plugin.
pub static OPTIONS: [OptionSpec<Key>; 55] = [
    with_value(c"forkptyrouter", Key::Listen(Protocol::Raw), LISTEN),
    with_value(c"forkpty-router", Key::Listen(Protocol::Raw), LISTEN),
    with_value(c"forkptyurouter", Key::Listen(Protocol::Uwsgi), ULISTEN),
    with_value(c"forkpty-urouter", Key::Listen(Protocol::Uwsgi), ULISTEN),
    with_value(c"forkptyrouter2", Key::ListenBy(Protocol::Raw), LISTEN2),
    with_value(c"forkpty-router2", Key::ListenBy(Protocol::Raw), LISTEN2),
    with_value(c"forkptyurouter2", Key::ListenBy(Protocol::Uwsgi), ULISTEN2),
    with_value(c"forkpty-urouter2", Key::ListenBy(Protocol::Uwsgi), ULISTEN2),
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
        c"end a session after the specified time (15m) without traffic (default: never)",
    ),
    with_value(
        c"forkptyrouter-timeout-commands",
        Key::CommandTimeout,
        c"end a command without a terminal after the specified time without traffic, and relay all of its streams (default: never)",
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
        c"forkptyrouter-record-commands",
        Key::Record(Part::Commands),
        c"skip or refuse commands without a terminal, which are not recorded (default: refuse with record-on-error = close or else skip)",
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
        c"forkptyrouter-detach",
        Key::Detach(detach::Part::Sessions),
        c"let so many sessions go on without their client, to be found again (default: 0, none)",
    ),
    with_value(
        c"forkptyrouter-detach-user",
        Key::Detach(detach::Part::User),
        c"let one user have so many of them (default: 0, half of them)",
    ),
    with_value(
        c"forkptyrouter-detach-time",
        Key::Detach(detach::Part::Time),
        c"end a session that is without a client for the specified seconds (default: 604800)",
    ),
    with_value(
        c"forkptyrouter-detach-buffer",
        Key::Detach(detach::Part::Buffer),
        c"keep so many bytes of the last output of a session that can be left (default: 262144)",
    ),
    with_value(
        c"forkptyrouter-detach-answer",
        Key::Detach(detach::Part::Answer),
        c"tell programs that ask what their terminal is while there is no client (default: true)",
    ),
    with_value(
        c"forkptyrouter-allow-user",
        Key::Access(List::AllowUser),
        c"let only these users in on UNIX sockets; may be repeated",
    ),
    with_value(
        c"forkptyrouter-deny-user",
        Key::Access(List::DenyUser),
        c"keep these users out on UNIX sockets; may be repeated",
    ),
    with_value(
        c"forkptyrouter-allow-group",
        Key::Access(List::AllowGroup),
        c"let only members of these groups in on UNIX sockets; may be repeated",
    ),
    with_value(
        c"forkptyrouter-deny-group",
        Key::Access(List::DenyGroup),
        c"keep members of these groups out on UNIX sockets; may be repeated",
    ),
    with_value(
        c"forkptyrouter-allow-addr",
        Key::Access(List::AllowAddress),
        c"let only these addresses in over TCP (10.0.0.0/8); may be repeated",
    ),
    with_value(
        c"forkptyrouter-deny-addr",
        Key::Access(List::DenyAddress),
        c"keep these addresses out over TCP; may be repeated",
    ),
    with_value(
        c"forkptyrouter-max-sessions",
        Key::MaxSessions,
        c"let there be at most the specified number of sessions (default: 0, any number)",
    ),
    with_value(
        c"forkptyrouter-max-user-sessions",
        Key::MaxUserSessions,
        c"let a user, or an address, have at most so many sessions (default: 0, any number)",
    ),
    with_value(
        c"forkptyrouter-rate",
        Key::Rate,
        c"take at most so many new sessions a second at each socket (default: 0, any number)",
    ),
    with_value(
        c"forkptyrouter-max-time",
        Key::MaxTime,
        c"end a session after the specified time, whatever it does (default: never)",
    ),
    with_value(
        c"forkptyrouter-handshake-timeout",
        Key::HandshakeTimeout,
        c"refuse a client that says hello and then nothing for so many seconds (default: 10)",
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

/// Of [`Router::handshake_timeout`].
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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
            accept_env_given: false,
            remarks: Vec::new(),
        }
    }
}

/// More would not fit the server's table of gateways (MAX_GATEWAYS).
const MAX_PROCESSES: u32 = 64;
const MAX_EVENTS: u32 = 65_536;

impl Router {
    /// Whether anything limits how many there may be, or how fast they come.
    pub fn has_limits(&self) -> bool {
        self.all_rules().iter().any(|rules| {
            rules.max_sessions.is_some()
                || rules.max_user_sessions.is_some()
                || rules.rate.is_some()
        })
    }

    /// How many descriptors a session takes at most that has a terminal: its client
    /// and the terminal; and where it can be left its program and its last output.
    pub fn descriptors_of_a_session(&self) -> u64 {
        match self.all_rules().iter().any(|rules| rules.detach.sessions > 0) {
            true => 4,
            false => 2,
        }
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
        let own = own.filter_map(|(number, own)| own.numbered_rules(&self.rules, number).ok());
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
            let rules = own.numbered_rules(&self.rules, number)?;
            if let Some(folder) = &rules.folder {
                let path = Path::new(OsStr::from_bytes(folder.as_bytes()));
                if !path.is_dir() {
                    return Err(Error::new(format!(
                        "option {}: chdir = {}: there is no such folder",
                        own.option(),
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
                    own.option(),
                    accounts::own_uid()
                )));
            }
            all.push(rules);
        }
        self.all = all;
        Ok(())
    }

    /// Takes one option as typed. A number of 0 means the default, as with
    /// the C plugin.
    ///
    /// # Errors
    /// A value that the option cannot have: the line for the operator.
    pub fn set(&mut self, key: Key, option: &str, typed: impl AsRef<OsStr>) -> Result<()> {
        let typed = typed.as_ref();
        let number = |max| value::number(option, typed, 0..=max);
        let seconds = || value::time(option, typed);
        match key {
            Key::ListenBy(protocol) => self.own.push(Own::read(option, protocol, typed)?),
            // These two become sockets of the server at once.
            Key::Listen(_) | Key::Zerg => {
                value::bytes(option, typed)?;
            }
            Key::Command => self.rules.command = value::command(option, typed)?,
            Key::Rows => self.rules.rows = or_default(number(u16::MAX.into())?, 24),
            Key::Cols => self.rules.cols = or_default(number(u16::MAX.into())?, 80),
            Key::Processes => self.processes = number(MAX_PROCESSES)?.max(1),
            Key::Events => {
                self.events = match number(MAX_EVENTS)? {
                    0 => 64,
                    events => events,
                };
            }
            Key::Timeout => self.rules.timeout = seconds()?,
            Key::CommandTimeout => self.rules.command_timeout = seconds()?,
            Key::HandshakeTimeout => {
                self.handshake_timeout = seconds()?.unwrap_or(HANDSHAKE_TIMEOUT);
            }
            Key::HangupGrace => self.hangup_grace = seconds()?,
            Key::AcceptEnv => {
                let accept = AcceptEnv::of(value::bytes(option, typed)?.as_bytes());
                match std::mem::replace(&mut self.accept_env_given, true) {
                    true => self.rules.accept_env.and(accept),
                    false => self.rules.accept_env = accept,
                }
            }
            Key::Detach(part) => self.rules.detach.set(part, option, typed)?,
            Key::Audit => self.rules.audit = audit::of(option, typed)?,
            Key::Record(part) => self.rules.record.set(part, option, typed)?,
            Key::Handover => self.rules.handover = value::switch(option, typed)?,
            Key::AllowCommand => self.rules.allow_command = value::switch(option, typed)?,
            Key::PassStdio => self.pass_stdio = value::switch(option, typed)?,
            Key::Access(list) => {
                let what = format!("option {option}");
                let words = typed.as_bytes().split(|byte| b";, ".contains(byte));
                let words: Vec<Vec<u8>> = words.map(<[u8]>::to_vec).collect();
                self.rules.access.add(list, &what, &words)?;
            }
            Key::MaxSessions => self.rules.max_sessions = count(option, typed)?,
            Key::MaxUserSessions => self.rules.max_user_sessions = count(option, typed)?,
            Key::Rate => self.rules.rate = count(option, typed)?,
            Key::MaxTime => self.rules.max_time = seconds()?,
            Key::SftpServer => self.rules.sftp_server = Some(value::command(option, typed)?),
            Key::Stats => self.stats = Some(value::bytes(option, typed)?),
            Key::Harakiri => {
                let time = value::time(option, typed)?;
                // No more than an int.
                self.harakiri = time.map(|time| time.as_secs() as u32);
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

/// A number of sessions; 0: as many as like.
fn count(option: &str, typed: &OsStr) -> Result<Option<u32>> {
    let count = value::number(option, typed, 0..=rules::MOST)?;
    Ok((count > 0).then_some(count))
}

fn or_default(number: u32, default: u16) -> u16 {
    match u16::try_from(number) {
        Ok(0) | Err(_) => default,
        Ok(number) => number,
    }
}

#[cfg(test)]
mod tests;
