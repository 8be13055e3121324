//! The options of the router: every name that the C plugin has, and ours; and the keys
//! of its sockets.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use super::accept_env::AcceptEnv;
use super::access::Network;
use super::audit;
use super::detach::{BUFFER, DETACH_TIME, MAX_BUFFER, MAX_SESSIONS};
use super::gateway_config::{Asked, HANDSHAKE_TIMEOUT, MAX_EVENTS, MAX_PROCESSES, Router};
use super::option_table::{At, Implies, Row, key, option, put, switch};
use super::recording;
use super::rules;
use super::value::Typed;
use fpty::error::{Error, Result};
use fpty::proto::Protocol;
use fpty::proto::variables::is_environment_name;
use fpty::sys::accounts;

/// What a key at a socket sets.
///
/// # Errors
/// `option` was given a key that there is not.
pub fn keyed(option: &str, key: &str) -> Result<&'static Row<Router>> {
    let keys = || OPTIONS.iter().filter_map(|row| row.spec.key);
    OPTIONS.iter().find(|row| row.spec.key == Some(key)).ok_or_else(|| {
        let keys = keys().collect::<Vec<_>>().join(", ");
        Error::new(format!("option {option}: {key}: no such key (there are {keys})"))
    })
}

/// A height or a width.
fn size(typed: &Typed<'_>, default: u16) -> Result<u16> {
    let number = typed.number_or(default.into(), u16::MAX.into())?;
    Ok(u16::try_from(number).unwrap_or(default))
}

/// `NAME=VALUE`.
fn variable(typed: &[u8]) -> Option<CString> {
    let name = typed.split(|byte| *byte == b'=').next().unwrap_or_default();
    let is_one = is_environment_name(name) && typed.len() > name.len();
    CString::new(typed).ok().filter(|_| is_one)
}

/// Three octal digits.
fn mode(typed: &str) -> Option<u32> {
    let is_number = typed.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(typed, 8).ok().filter(|mode| is_number && *mode <= 0o777)
}

const NO_USER: &str = "no such user";
const NO_GROUP: &str = "no such group";
const NO_ADDRESS: &str = "not an address";

/// All options of the `forkptyrouter` plugin, and all keys of its sockets.
pub static OPTIONS: [Row<Router>; 56] = [
    // Own::read has taken it.
    key("addr").takes(|_, _| Ok(())),
    key("uid").takes(|router, typed| {
        put(&mut router.rules.runs_as.uid, typed.read(accounts::user, NO_USER).map(Some))
    }),
    key("gid").takes(|router, typed| {
        put(&mut router.rules.runs_as.gid, typed.read(accounts::group, NO_GROUP).map(Some))
    }),
    key("groups").takes(|router, typed| router.rules.runs_as.set_groups(typed)),
    key("chdir").takes(|router, typed| put(&mut router.rules.folder, typed.command().map(Some))),
    key("env").takes(|router, typed| {
        put(&mut router.rules.environment, typed.read_words(variable, "not NAME=VALUE"))
    }),
    key("accept_env").takes(|router, typed| {
        router.rules.accept_env = AcceptEnv::of(&typed.words.join(&b' '));
        Ok(())
    }),
    key("chmod").at(At::Path).takes(|router, typed| {
        let mode = typed.read(mode, "not a mode (three octal digits)");
        put(&mut router.rules.ownership.mode, mode.map(Some))
    }),
    key("chown").at(At::Path).takes(|router, typed| {
        let owner = &mut router.rules.ownership;
        let text = typed.text();
        let (user, group) = text.split_once(':').unwrap_or((&text, ""));
        if !user.is_empty() {
            owner.uid = Some(accounts::user(user).ok_or_else(|| typed.wrong(NO_USER))?);
        }
        if !group.is_empty() {
            owner.gid = Some(accounts::group(group).ok_or_else(|| typed.wrong(NO_GROUP))?);
        }
        match (owner.uid, owner.gid) {
            (None, None) => Err(typed.unusable("the value is empty")),
            _ => Ok(()),
        }
    }),
    key("root").at(At::Unix).takes(|router, typed| {
        let words = [("allow", false), ("deny", true)];
        put(&mut router.rules.access.deny_root, typed.one_of(&words))
    }),
    key("record").takes(|router, typed| router.rules.record.set_here(typed)),
    option(&[c"forkptyrouter", c"forkpty-router"])
        .help(c"run the forkptyrouter on the specified address (raw mode: bytes both ways)")
        .implies(Implies::Master)
        .takes(|router, typed| router.listen(Protocol::Raw, typed)),
    option(&[c"forkptyurouter", c"forkpty-urouter"])
        .help(
            c"run the forkptyrouter on the specified address (uwsgi mode: input, window \
              size, signals)",
        )
        .implies(Implies::Master)
        .takes(|router, typed| router.listen(Protocol::Uwsgi, typed)),
    option(&[c"forkptyrouter2", c"forkpty-router2"])
        .help(c"the same with rules of its own (addr=PATH,cmd=...,allow_group=...)")
        .implies(Implies::Master)
        .takes(|router, typed| router.listen_by(Protocol::Raw, typed)),
    option(&[c"forkptyurouter2", c"forkpty-urouter2"])
        .help(c"the same in uwsgi mode with rules of its own (addr=PATH,cmd=...)")
        .implies(Implies::Master)
        .takes(|router, typed| router.listen_by(Protocol::Uwsgi, typed)),
    option(&[
        c"forkptyrouter-command",
        c"forkpty-router-command",
        c"forkptyrouter-cmd",
        c"forkpty-router-cmd",
    ])
    .key("cmd")
    .help(c"run the specified command on every connection (default: /bin/sh)")
    .takes(|router, typed| put(&mut router.rules.command, typed.command())),
    option(&[c"forkptyrouter-rows"])
        .key("rows")
        .help(c"set forkptyrouter default pty window rows (default: 24)")
        .takes(|router, typed| put(&mut router.rules.size.rows, size(typed, 24))),
    option(&[c"forkptyrouter-cols"])
        .key("cols")
        .help(c"set forkptyrouter default pty window cols (default: 80)")
        .takes(|router, typed| put(&mut router.rules.size.cols, size(typed, 80))),
    option(&[c"forkptyrouter-processes", c"forkptyrouter-workers"])
        .help(c"prefork the specified number of forkptyrouter processes")
        .takes(|router, typed| put(&mut router.processes, typed.number_or(1, MAX_PROCESSES))),
    option(&[c"forkptyrouter-zerg"])
        .help(c"attach the forkptyrouter to a zerg server")
        .implies(Implies::Master)
        .takes(|router, typed| {
            router.asked.push(Asked::Zerg(typed.bytes()?));
            Ok(())
        }),
    option(&[c"forkptyrouter-fallback"])
        .help(c"accepted for compatibility, without effect: there are no nodes")
        .takes(|router, typed| {
            router.remarks.push(format!(
                "option {} = {} has no effect: a terminal is always local, there is no node to \
                 fall back from",
                typed.name,
                typed.value.to_string_lossy()
            ));
            Ok(())
        }),
    option(&[c"forkptyrouter-events"])
        .help(c"set the maximum number of events of one turn (default: 64)")
        .takes(|router, typed| put(&mut router.events, typed.number_or(64, MAX_EVENTS))),
    switch(&[c"forkptyrouter-cheap"])
        .help(c"accepted for compatibility, without effect: there are no nodes")
        .takes(|router, typed| {
            if typed.switch()? {
                router.remarks.push(format!(
                    "option {} has no effect: there are no nodes to wait for, \
                     the router serves at once and costs nothing while idle",
                    typed.name
                ));
            }
            Ok(())
        }),
    option(&[c"forkptyrouter-timeout"])
        .key("idle")
        .help(c"end a session after the specified time (15m) without traffic (default: never)")
        .takes(|router, typed| put(&mut router.rules.timeout, typed.time())),
    option(&[c"forkptyrouter-timeout-commands"])
        .key("idle_commands")
        .help(
            c"end a command without a terminal after the specified time without traffic, and \
              relay all of its streams (default: never)",
        )
        .takes(|router, typed| put(&mut router.rules.command_timeout, typed.time())),
    option(&[c"forkptyrouter-stats", c"forkptyrouter-stats-server", c"forkptyrouter-ss"])
        .help(c"run the forkptyrouter stats server on the specified address")
        .takes(|router, typed| put(&mut router.stats, typed.bytes().map(Some))),
    option(&[c"forkptyrouter-harakiri"])
        .help(c"let the master kill a forkptyrouter that hangs for the specified seconds")
        .takes(|router, typed| {
            // No more than an int.
            let seconds = typed.time().map(|time| time.map(|time| time.as_secs() as u32));
            put(&mut router.harakiri, seconds)
        }),
    option(&[c"forkptyrouter-accept-env"])
        .help(
            c"let clients set these variables, names with * (default: TERM COLORTERM LANG \
              LANGUAGE LC_* TZ; none)",
        )
        .takes(|router, typed| {
            router.rules.accept_env.add(typed.bytes()?.as_bytes());
            Ok(())
        }),
    option(&[c"forkptyrouter-handover"])
        .key("handover")
        .help(c"hand terminals over to clients that can take them (default: true)")
        .takes(|router, typed| put(&mut router.rules.handover, typed.switch())),
    option(&[c"forkptyrouter-audit"])
        .key("audit")
        .help(c"log who came, when, and what became of it: json, keyval or off (default: off)")
        .takes(|router, typed| put(&mut router.rules.audit, typed.one_of(&audit::WORDS))),
    option(&[c"forkptyrouter-record"])
        .help(
            c"record each session's terminal in a file of its own in the specified folder \
              (default: off)",
        )
        .takes(|router, typed| router.rules.record.set_folder(typed)),
    option(&[c"forkptyrouter-record-format"])
        .key("record_format")
        .help(c"write recordings as asciicast v2 or v3 (default: v3)")
        .takes(|router, typed| {
            put(&mut router.rules.record.format, typed.one_of(&recording::FORMATS))
        }),
    option(&[c"forkptyrouter-record-input"])
        .key("record_input")
        .help(c"record what is typed, too, with every password (default: false)")
        .takes(|router, typed| put(&mut router.rules.record.input, typed.switch())),
    option(&[c"forkptyrouter-record-limit"])
        .key("record_limit")
        .help(c"let a recording have at most the specified bytes (default: 0, no limit)")
        .takes(|router, typed| put(&mut router.rules.record.limit, recording::limit(typed))),
    option(&[c"forkptyrouter-record-on-error"])
        .key("record_on_error")
        .help(c"close or continue a session that cannot be recorded (default: continue)")
        .takes(|router, typed| {
            put(&mut router.rules.record.on_error, typed.one_of(&recording::ON_ERROR))
        }),
    option(&[c"forkptyrouter-record-commands"])
        .key("record_commands")
        .help(
            c"skip or refuse commands without a terminal, which are not recorded (default: \
              refuse with record-on-error = close or else skip)",
        )
        .takes(|router, typed| {
            put(&mut router.rules.record.refuse_commands, typed.one_of(&recording::COMMANDS))
        }),
    option(&[c"forkptyrouter-allow-command"])
        .key("allow_command")
        .help(c"let clients run commands of their own, and the SFTP server (default: false)")
        .takes(|router, typed| put(&mut router.rules.allow_command, typed.switch())),
    option(&[c"forkptyrouter-pass-stdio"])
        .help(
            c"pass the client's pipes and sockets to a command without a terminal (default: true)",
        )
        .takes(|router, typed| put(&mut router.pass_stdio, typed.switch())),
    option(&[c"forkptyrouter-sftp-server"])
        .key("sftp_server")
        .help(c"run the specified program for sftp (else OpenSSH's, where it usually is)")
        .takes(|router, typed| put(&mut router.rules.sftp_server, typed.command().map(Some))),
    option(&[c"forkptyrouter-detach"])
        .key("detach")
        .help(
            c"let so many sessions go on without their client, to be found again (default: \
              0, none)",
        )
        .takes(|router, typed| {
            put(&mut router.rules.detach.sessions, typed.number(0..=MAX_SESSIONS))
        }),
    option(&[c"forkptyrouter-detach-user"])
        .key("detach_user")
        .help(c"let one user have so many of them (default: 0, half of them)")
        .takes(|router, typed| put(&mut router.rules.detach.user, typed.most(MAX_SESSIONS))),
    option(&[c"forkptyrouter-detach-time"])
        .key("detach_time")
        .help(c"end a session that is without a client for the specified seconds (default: 604800)")
        .takes(|router, typed| put(&mut router.rules.detach.time, typed.time_or(DETACH_TIME))),
    option(&[c"forkptyrouter-detach-buffer"])
        .key("detach_buffer")
        .help(
            c"keep so many bytes of the last output of a session that can be left (default: \
              262144)",
        )
        .takes(|router, typed| {
            put(&mut router.rules.detach.buffer, typed.number_or(BUFFER, MAX_BUFFER))
        }),
    option(&[c"forkptyrouter-detach-answer"])
        .key("detach_answer")
        .help(
            c"tell programs that ask what their terminal is while there is no client \
              (default: true)",
        )
        .takes(|router, typed| put(&mut router.rules.detach.answer, typed.switch())),
    option(&[c"forkptyrouter-allow-user"])
        .key("allow_user")
        .help(c"let only these users in on UNIX sockets; may be repeated")
        .at(At::Unix)
        .takes(|router, typed| {
            typed.add_to(router.rules.access.users.allow(), accounts::user, NO_USER)
        }),
    option(&[c"forkptyrouter-deny-user"])
        .key("deny_user")
        .help(c"keep these users out on UNIX sockets; may be repeated")
        .at(At::Unix)
        .takes(|router, typed| {
            typed.add_to(router.rules.access.users.deny(), accounts::user, NO_USER)
        }),
    option(&[c"forkptyrouter-allow-group"])
        .key("allow_group")
        .help(c"let only members of these groups in on UNIX sockets; may be repeated")
        .at(At::Unix)
        .takes(|router, typed| {
            typed.add_to(router.rules.access.groups.allow(), accounts::group, NO_GROUP)
        }),
    option(&[c"forkptyrouter-deny-group"])
        .key("deny_group")
        .help(c"keep members of these groups out on UNIX sockets; may be repeated")
        .at(At::Unix)
        .takes(|router, typed| {
            typed.add_to(router.rules.access.groups.deny(), accounts::group, NO_GROUP)
        }),
    option(&[c"forkptyrouter-allow-addr"])
        .key("allow_addr")
        .help(c"let only these addresses in over TCP (10.0.0.0/8); may be repeated")
        .at(At::Tcp)
        .takes(|router, typed| {
            typed.add_to(router.rules.access.addresses.allow(), Network::of, NO_ADDRESS)
        }),
    option(&[c"forkptyrouter-deny-addr"])
        .key("deny_addr")
        .help(c"keep these addresses out over TCP; may be repeated")
        .at(At::Tcp)
        .takes(|router, typed| {
            typed.add_to(router.rules.access.addresses.deny(), Network::of, NO_ADDRESS)
        }),
    option(&[c"forkptyrouter-max-sessions"])
        .key("max")
        .help(c"let there be at most the specified number of sessions (default: 0, any number)")
        .takes(|router, typed| put(&mut router.rules.max_sessions, typed.most(rules::MOST))),
    option(&[c"forkptyrouter-max-user-sessions"])
        .key("max_user")
        .help(c"let a user, or an address, have at most so many sessions (default: 0, any number)")
        .takes(|router, typed| put(&mut router.rules.max_user_sessions, typed.most(rules::MOST))),
    option(&[c"forkptyrouter-rate"])
        .key("rate")
        .help(c"take at most so many new sessions a second at each socket (default: 0, any number)")
        .takes(|router, typed| put(&mut router.rules.rate, typed.most(rules::MOST))),
    option(&[c"forkptyrouter-max-time"])
        .key("max_time")
        .help(c"end a session after the specified time, whatever it does (default: never)")
        .takes(|router, typed| put(&mut router.rules.max_time, typed.time())),
    option(&[c"forkptyrouter-handshake-timeout"])
        .help(c"refuse a client that says hello and then nothing for so many seconds (default: 10)")
        .takes(|router, typed| {
            put(&mut router.handshake_timeout, typed.time_or(HANDSHAKE_TIMEOUT))
        }),
    option(&[c"forkptyrouter-hangup-grace"])
        .help(
            c"kill a session that outlives its client by the specified seconds (default: 10, \
              0: never)",
        )
        .takes(|router, typed| put(&mut router.hangup_grace, typed.time())),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::option_table;

    #[test]
    fn a_row_is_whole_and_there_is_one_of_each() {
        option_table::check(&OPTIONS);
    }
}
