//! The options of the router: every name that the C plugin has, and ours. Each is a
//! row: its names, its line in `uwsgi --help`, and what it sets and how that is
//! read; what holds at a socket has its key there, too.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::accept_env::AcceptEnv;
use super::access::List;
use super::detach::{BUFFER, DETACH_TIME, MAX_BUFFER, MAX_SESSIONS};
use super::router::{HANDSHAKE_TIMEOUT, MAX_EVENTS, MAX_PROCESSES, Router};
use super::rules::{MOST, Rules};
use super::{audit, record, value};
use fpty::error::Result;
use fpty::proto::Protocol;

/// An option.
pub struct RouterOption {
    /// Its names, without dashes.
    pub names: &'static [&'static CStr],
    /// Whether it takes a value.
    pub takes_value: bool,
    /// One line for `uwsgi --help`.
    pub help: &'static CStr,
    /// What it sets.
    pub sets: Sets,
}

/// Reads a value, which an option or a key was given, and takes it.
pub type Take<T> = fn(&mut T, &str, &OsStr) -> Result<()>;

/// What an option sets.
pub enum Sets {
    /// One more socket, speaking this protocol.
    Listen(Protocol),
    /// A socket with rules of its own, in this mode.
    ListenBy(Protocol),
    /// Sockets from a zerg server.
    Zerg,
    /// What holds at all sockets, and by this key at one.
    Rule(&'static str, Take<Rules>),
    /// Who may come in; by this key at one socket.
    Access(&'static str, List),
    /// What is the router's.
    Router(Take<Router>),
}
use Sets::{Access, Listen, ListenBy, Router as Global, Rule, Zerg};

const fn option(names: &'static [&'static CStr], help: &'static CStr, sets: Sets) -> RouterOption {
    RouterOption { names, takes_value: true, help, sets }
}

/// One that is on when it is named.
const fn switch(names: &'static [&'static CStr], help: &'static CStr, sets: Sets) -> RouterOption {
    RouterOption { names, takes_value: false, help, sets }
}

/// Takes a value that was read.
fn set<T>(place: &mut T, value: Result<T>) -> Result<()> {
    *place = value?;
    Ok(())
}

/// What of the rules an option sets, at one socket by this key, and how it is read.
macro_rules! rule {
    ($key:literal, $($place:ident).+, $read:expr) => {
        Rule($key, |rules, what, typed| {
            let read: fn(&str, &OsStr) -> Result<_> = $read;
            set(&mut rules.$($place).+, read(what, typed))
        })
    };
}

/// The same of what is the router's.
macro_rules! global {
    ($($place:ident).+, $read:expr) => {
        Global(|router, what, typed| {
            let read: fn(&str, &OsStr) -> Result<_> = $read;
            set(&mut router.$($place).+, read(what, typed))
        })
    };
}

/// A number of which 0 means the default.
fn or_default(what: &str, typed: &OsStr, max: u32, default: u32) -> Result<u32> {
    let number = value::number(what, typed, 0..=max)?;
    Ok(if number == 0 { default } else { number })
}

/// A height or a width.
fn size(what: &str, typed: &OsStr, default: u16) -> Result<u16> {
    let number = or_default(what, typed, u16::MAX.into(), default.into())?;
    Ok(u16::try_from(number).unwrap_or(default))
}

/// So many at most; 0: as many as like.
fn most(what: &str, typed: &OsStr, max: u32) -> Result<Option<u32>> {
    let count = value::number(what, typed, 0..=max)?;
    Ok((count > 0).then_some(count))
}

/// The option of this name.
pub fn named(name: &str) -> Option<&'static RouterOption> {
    let is_it = |known: &&CStr| known.to_bytes() == name.as_bytes();
    OPTIONS.iter().find(|option| option.names.iter().any(is_it))
}

/// A time of which 0 means the default.
fn time(what: &str, typed: &OsStr, default: Duration) -> Result<Duration> {
    Ok(value::time(what, typed)?.unwrap_or(default))
}

/// How a key at a socket is read that an option has.
pub fn rule(key: &str) -> Option<Take<Rules>> {
    OPTIONS.iter().find_map(|option| match option.sets {
        Rule(other, take) if other == key => Some(take),
        _ => None,
    })
}

/// The list that a key at a socket is about.
pub fn list(key: &str) -> Option<List> {
    OPTIONS.iter().find_map(|option| match option.sets {
        Access(other, list) if other == key => Some(list),
        _ => None,
    })
}

/// The keys at a socket that options have.
pub fn keys() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().filter_map(|option| match option.sets {
        Rule(key, _) | Access(key, _) => Some(key),
        _ => None,
    })
}

/// How many names there are.
pub const NAMES: usize = {
    let (mut at, mut count) = (0, 0);
    while at < OPTIONS.len() {
        count += OPTIONS[at].names.len();
        at += 1;
    }
    count
};

/// All options of the `forkptyrouter` plugin.
pub static OPTIONS: [RouterOption; 45] = [
    option(
        &[c"forkptyrouter", c"forkpty-router"],
        c"run the forkptyrouter on the specified address (raw mode: bytes both ways)",
        Listen(Protocol::Raw),
    ),
    option(
        &[c"forkptyurouter", c"forkpty-urouter"],
        c"run the forkptyrouter on the specified address (uwsgi mode: input, window size, signals)",
        Listen(Protocol::Uwsgi),
    ),
    option(
        &[c"forkptyrouter2", c"forkpty-router2"],
        c"the same with rules of its own (addr=PATH,cmd=...,allow_group=...)",
        ListenBy(Protocol::Raw),
    ),
    option(
        &[c"forkptyurouter2", c"forkpty-urouter2"],
        c"the same in uwsgi mode with rules of its own (addr=PATH,cmd=...)",
        ListenBy(Protocol::Uwsgi),
    ),
    option(
        &[
            c"forkptyrouter-command",
            c"forkpty-router-command",
            c"forkptyrouter-cmd",
            c"forkpty-router-cmd",
        ],
        c"run the specified command on every connection (default: /bin/sh)",
        rule!("cmd", command, value::command),
    ),
    option(
        &[c"forkptyrouter-rows"],
        c"set forkptyrouter default pty window rows (default: 24)",
        rule!("rows", rows, |what, typed| size(what, typed, 24)),
    ),
    option(
        &[c"forkptyrouter-cols"],
        c"set forkptyrouter default pty window cols (default: 80)",
        rule!("cols", cols, |what, typed| size(what, typed, 80)),
    ),
    option(
        &[c"forkptyrouter-processes", c"forkptyrouter-workers"],
        c"prefork the specified number of forkptyrouter processes",
        global!(processes, |what, typed| or_default(what, typed, MAX_PROCESSES, 1)),
    ),
    option(&[c"forkptyrouter-zerg"], c"attach the forkptyrouter to a zerg server", Zerg),
    option(
        &[c"forkptyrouter-fallback"],
        c"accepted for compatibility, without effect: there are no nodes",
        Global(|router, what, typed| {
            router.remarks.push(format!(
                "option {what} = {} has no effect: a terminal is always local, there is no node to \
                 fall back from",
                typed.to_string_lossy()
            ));
            Ok(())
        }),
    ),
    option(
        &[c"forkptyrouter-events"],
        c"set the maximum number of events of one turn (default: 64)",
        global!(events, |what, typed| or_default(what, typed, MAX_EVENTS, 64)),
    ),
    switch(
        &[c"forkptyrouter-cheap"],
        c"accepted for compatibility, without effect: there are no nodes",
        Global(|router, what, typed| {
            if value::switch(what, typed)? {
                router.remarks.push(format!(
                    "option {what} has no effect: there are no nodes to wait for, \
                     the router serves at once and costs nothing while idle"
                ));
            }
            Ok(())
        }),
    ),
    option(
        &[c"forkptyrouter-timeout"],
        c"end a session after the specified time (15m) without traffic (default: never)",
        rule!("idle", timeout, value::time),
    ),
    option(
        &[c"forkptyrouter-timeout-commands"],
        c"end a command without a terminal after the specified time without traffic, and relay all of its streams (default: never)",
        rule!("idle_commands", command_timeout, value::time),
    ),
    option(
        &[c"forkptyrouter-stats", c"forkptyrouter-stats-server", c"forkptyrouter-ss"],
        c"run the forkptyrouter stats server on the specified address",
        global!(stats, |what, typed| value::bytes(what, typed).map(Some)),
    ),
    option(
        &[c"forkptyrouter-harakiri"],
        c"let the master kill a forkptyrouter that hangs for the specified seconds",
        Global(|router, what, typed| {
            // No more than an int.
            let seconds = |time: Duration| time.as_secs() as u32;
            set(&mut router.harakiri, value::time(what, typed).map(|time| time.map(seconds)))
        }),
    ),
    option(
        &[c"forkptyrouter-accept-env"],
        c"let clients set these variables, names with * (default: TERM COLORTERM LANG LANGUAGE LC_* TZ; none)",
        Global(|router, what, typed| {
            router.accept_env(AcceptEnv::of(value::bytes(what, typed)?.as_bytes()));
            Ok(())
        }),
    ),
    option(
        &[c"forkptyrouter-handover"],
        c"hand terminals over to clients that can take them (default: true)",
        rule!("handover", handover, value::switch),
    ),
    option(
        &[c"forkptyrouter-audit"],
        c"log who came, when, and what became of it: json, keyval or off (default: off)",
        rule!("audit", audit, audit::of),
    ),
    option(
        &[c"forkptyrouter-record"],
        c"record each session's terminal in a file of its own in the specified folder (default: off)",
        global!(rules.record.folder, |what, typed| record::folder(what, typed).map(Some)),
    ),
    option(
        &[c"forkptyrouter-record-format"],
        c"write recordings as asciicast v2 or v3 (default: v3)",
        rule!("record_format", record.format, record::format),
    ),
    option(
        &[c"forkptyrouter-record-input"],
        c"record what is typed, too, with every password (default: false)",
        rule!("record_input", record.input, value::switch),
    ),
    option(
        &[c"forkptyrouter-record-limit"],
        c"let a recording have at most the specified bytes (default: 0, no limit)",
        rule!("record_limit", record.limit, record::limit),
    ),
    option(
        &[c"forkptyrouter-record-on-error"],
        c"close or continue a session that cannot be recorded (default: continue)",
        rule!("record_on_error", record.on_error, record::on_error),
    ),
    option(
        &[c"forkptyrouter-record-commands"],
        c"skip or refuse commands without a terminal, which are not recorded (default: refuse with record-on-error = close or else skip)",
        rule!("record_commands", record.commands, |what, typed| record::commands(what, typed).map(Some)),
    ),
    option(
        &[c"forkptyrouter-allow-command"],
        c"let clients run commands of their own, and the SFTP server (default: false)",
        rule!("allow_command", allow_command, value::switch),
    ),
    option(
        &[c"forkptyrouter-pass-stdio"],
        c"pass the client's pipes and sockets to a command without a terminal (default: true)",
        global!(pass_stdio, value::switch),
    ),
    option(
        &[c"forkptyrouter-sftp-server"],
        c"run the specified program for sftp (else OpenSSH's, where it usually is)",
        rule!("sftp_server", sftp_server, |what, typed| value::command(what, typed).map(Some)),
    ),
    option(
        &[c"forkptyrouter-detach"],
        c"let so many sessions go on without their client, to be found again (default: 0, none)",
        rule!("detach", detach.sessions, |what, typed| value::number(what, typed, 0..=MAX_SESSIONS)),
    ),
    option(
        &[c"forkptyrouter-detach-user"],
        c"let one user have so many of them (default: 0, half of them)",
        rule!("detach_user", detach.user, |what, typed| most(what, typed, MAX_SESSIONS)),
    ),
    option(
        &[c"forkptyrouter-detach-time"],
        c"end a session that is without a client for the specified seconds (default: 604800)",
        rule!("detach_time", detach.time, |what, typed| time(what, typed, DETACH_TIME)),
    ),
    option(
        &[c"forkptyrouter-detach-buffer"],
        c"keep so many bytes of the last output of a session that can be left (default: 262144)",
        rule!("detach_buffer", detach.buffer, |what, typed| or_default(what, typed, MAX_BUFFER, BUFFER)),
    ),
    option(
        &[c"forkptyrouter-detach-answer"],
        c"tell programs that ask what their terminal is while there is no client (default: true)",
        rule!("detach_answer", detach.answer, value::switch),
    ),
    option(
        &[c"forkptyrouter-allow-user"],
        c"let only these users in on UNIX sockets; may be repeated",
        Access("allow_user", List::AllowUser),
    ),
    option(
        &[c"forkptyrouter-deny-user"],
        c"keep these users out on UNIX sockets; may be repeated",
        Access("deny_user", List::DenyUser),
    ),
    option(
        &[c"forkptyrouter-allow-group"],
        c"let only members of these groups in on UNIX sockets; may be repeated",
        Access("allow_group", List::AllowGroup),
    ),
    option(
        &[c"forkptyrouter-deny-group"],
        c"keep members of these groups out on UNIX sockets; may be repeated",
        Access("deny_group", List::DenyGroup),
    ),
    option(
        &[c"forkptyrouter-allow-addr"],
        c"let only these addresses in over TCP (10.0.0.0/8); may be repeated",
        Access("allow_addr", List::AllowAddress),
    ),
    option(
        &[c"forkptyrouter-deny-addr"],
        c"keep these addresses out over TCP; may be repeated",
        Access("deny_addr", List::DenyAddress),
    ),
    option(
        &[c"forkptyrouter-max-sessions"],
        c"let there be at most the specified number of sessions (default: 0, any number)",
        rule!("max", max_sessions, |what, typed| most(what, typed, MOST)),
    ),
    option(
        &[c"forkptyrouter-max-user-sessions"],
        c"let a user, or an address, have at most so many sessions (default: 0, any number)",
        rule!("max_user", max_user_sessions, |what, typed| most(what, typed, MOST)),
    ),
    option(
        &[c"forkptyrouter-rate"],
        c"take at most so many new sessions a second at each socket (default: 0, any number)",
        rule!("rate", rate, |what, typed| most(what, typed, MOST)),
    ),
    option(
        &[c"forkptyrouter-max-time"],
        c"end a session after the specified time, whatever it does (default: never)",
        rule!("max_time", max_time, value::time),
    ),
    option(
        &[c"forkptyrouter-handshake-timeout"],
        c"refuse a client that says hello and then nothing for so many seconds (default: 10)",
        global!(handshake_timeout, |what, typed| time(what, typed, HANDSHAKE_TIMEOUT)),
    ),
    option(
        &[c"forkptyrouter-hangup-grace"],
        c"kill a session that outlives its client by the specified seconds (default: 10, 0: never)",
        global!(hangup_grace, value::time),
    ),
];
