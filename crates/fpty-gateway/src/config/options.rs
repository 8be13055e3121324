//! The configuration of the gateway, and the options that set it: every name that the C plugin
//! has, and ours; and the keys of its sockets. A new option is a field and a row here, and what
//! may be set at a socket has its field in the rules (`rules.rs`).

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::accept_env::AcceptEnv;
use super::access_rules::Network;
use super::audit_format::AUDIT_FORMATS;
use super::detach_options::{BUFFER, DETACH_TIME, MAX_BUFFER, MAX_DETACHED};
use super::option_table::{AppliesTo, Implies, OptionRow, assign, key, option, switch};
use super::recording_options::{self, COMMANDS, FORMATS, ON_ERROR};
use super::rules::{MAX_SESSIONS, Rules};
use super::socket_options::{SocketOptions, SocketRequest};
use super::value::OptionValue;
use fpty::error::Result;
use fpty::proto::Protocol;
use fpty::proto::variables::is_environment_name;
use fpty::sys::accounts;

/// The configuration of the gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The rules of sockets without rules of their own.
    pub rules: Rules,
    /// Sockets with rules of their own.
    pub sockets: Vec<SocketOptions>,
    /// The rules of all sockets, the global ones first, then those of `sockets`; none before
    /// [`GatewayConfig::resolve`].
    pub all_rules: Vec<Rules>,
    /// How many gateways share the sockets, at least 1.
    pub processes: u32,
    /// The most events of one turn of the loop, at least 1.
    pub events: u32,
    /// The address of the statistics.
    pub stats: Option<OsString>,
    /// The longest turn of the loop, in seconds.
    pub harakiri: Option<u32>,
    /// The timeout between packets of a request after a hello.
    pub handshake_timeout: Duration,
    /// The grace of a session leader after SIGHUP.
    pub hangup_grace: Option<Duration>,
    /// Whether a command without a terminal gets the client's descriptors.
    pub pass_stdio: bool,
    /// Sockets that the server is to bind.
    pub socket_requests: Vec<SocketRequest>,
    /// Remarks for the operator on options without effect.
    pub remarks: Vec<String>,
}

/// The default of [`GatewayConfig::handshake_timeout`].
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            sockets: Vec::new(),
            all_rules: Vec::new(),
            processes: 1,
            events: 64,
            stats: None,
            harakiri: None,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            hangup_grace: Some(Duration::from_secs(10)),
            pass_stdio: true,
            socket_requests: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

impl GatewayConfig {
    /// Whether an option of the whole gateway needs what is known of each session
    /// (`observe/audit/session_info.rs`), which else is kept for an audit or a recording alone.
    pub fn needs_session_info(&self) -> bool {
        self.stats.is_some()
    }
}

/// The most gateways: more would not fit the server's table (MAX_GATEWAYS).
pub(crate) const MAX_PROCESSES: u32 = 64;
pub(crate) const MAX_EVENTS: u32 = 65_536;

/// A height or a width.
fn size(typed: &OptionValue<'_>, default: u16) -> Result<u16> {
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

/// Parser of a word, and the reason of its error.
type WordParser<T> = (fn(&str) -> Option<T>, &'static str);

const USER: WordParser<u32> = (accounts::uid_of, "no such user");
const GROUP: WordParser<u32> = (accounts::gid_of, "no such group");
const NETWORK: WordParser<Network> = (Network::of, "not an address");

/// All options of the `forkptyrouter` plugin, and all keys of its sockets.
pub static OPTIONS: [OptionRow<GatewayConfig>; 56] = [
    // Own::read has taken it.
    key("addr").parse_with(|_, _| Ok(())),
    key("uid").parse_with(|config, typed| {
        assign(&mut config.rules.run_as.uid, typed.parse(USER).map(Some))
    }),
    key("gid").parse_with(|config, typed| {
        assign(&mut config.rules.run_as.gid, typed.parse(GROUP).map(Some))
    }),
    key("groups").parse_with(|config, typed| config.rules.run_as.set_groups(typed)),
    key("chdir").parse_with(|config, typed| {
        assign(&mut config.rules.working_dir, typed.command().map(Some))
    }),
    key("env").parse_with(|config, typed| {
        assign(&mut config.rules.environment, typed.parse_words(variable, "not NAME=VALUE"))
    }),
    key("accept_env").parse_with(|config, typed| {
        config.rules.accept_env = AcceptEnv::of(&typed.words.join(&b' '));
        Ok(())
    }),
    key("chmod").applies_to(AppliesTo::Path).parse_with(|config, typed| {
        let mode = typed.parse((mode, "not a mode (three octal digits)"));
        assign(&mut config.rules.ownership.mode, mode.map(Some))
    }),
    key("chown").applies_to(AppliesTo::Path).parse_with(|config, typed| {
        let owner = &mut config.rules.ownership;
        let text = typed.text();
        let (user, group) = text.split_once(':').unwrap_or((&text, ""));
        let id = |word: &str, (parse, why): WordParser<u32>| match word {
            "" => Ok(None),
            word => parse(word).map(Some).ok_or_else(|| typed.invalid(why)),
        };
        (owner.uid, owner.gid) = (id(user, USER)?, id(group, GROUP)?);
        match (owner.uid, owner.gid) {
            (None, None) => Err(typed.invalid_without_value("the value is empty")),
            _ => Ok(()),
        }
    }),
    key("root").applies_to(AppliesTo::Unix).parse_with(|config, typed| {
        let words = [("allow", false), ("deny", true)];
        assign(&mut config.rules.access.deny_root, typed.one_of(&words))
    }),
    key("record").parse_with(|config, typed| config.rules.record.set_at_socket(typed)),
    option(&[c"forkptyrouter", c"forkpty-router"])
        .help(c"run the forkptyrouter on the specified address (raw mode: bytes both ways)")
        .implies(Implies::Master)
        .parse_with(|config, typed| config.listen(Protocol::Raw, typed)),
    option(&[c"forkptyurouter", c"forkpty-urouter"])
        .help(
            c"run the forkptyrouter on the specified address (uwsgi mode: input, window \
              size, signals)",
        )
        .implies(Implies::Master)
        .parse_with(|config, typed| config.listen(Protocol::Uwsgi, typed)),
    option(&[c"forkptyrouter2", c"forkpty-router2"])
        .help(c"the same with rules of its own (addr=PATH,cmd=...,allow_group=...)")
        .implies(Implies::Master)
        .parse_with(|config, typed| config.listen_with_options(Protocol::Raw, typed)),
    option(&[c"forkptyurouter2", c"forkpty-urouter2"])
        .help(c"the same in uwsgi mode with rules of its own (addr=PATH,cmd=...)")
        .implies(Implies::Master)
        .parse_with(|config, typed| config.listen_with_options(Protocol::Uwsgi, typed)),
    option(&[
        c"forkptyrouter-command",
        c"forkpty-router-command",
        c"forkptyrouter-cmd",
        c"forkpty-router-cmd",
    ])
    .key("cmd")
    .help(c"run the specified command on every connection (default: /bin/sh)")
    .parse_with(|config, typed| assign(&mut config.rules.command, typed.command())),
    option(&[c"forkptyrouter-rows"])
        .key("rows")
        .help(c"set forkptyrouter default pty window rows (default: 24)")
        .parse_with(|config, typed| assign(&mut config.rules.size.rows, size(typed, 24))),
    option(&[c"forkptyrouter-cols"])
        .key("cols")
        .help(c"set forkptyrouter default pty window cols (default: 80)")
        .parse_with(|config, typed| assign(&mut config.rules.size.cols, size(typed, 80))),
    option(&[c"forkptyrouter-processes", c"forkptyrouter-workers"])
        .help(c"prefork the specified number of forkptyrouter processes")
        .parse_with(|config, typed| {
            assign(&mut config.processes, typed.number_or(1, MAX_PROCESSES))
        }),
    option(&[c"forkptyrouter-zerg"])
        .help(c"attach the forkptyrouter to a zerg server")
        .implies(Implies::Master)
        .parse_with(|config, typed| {
            config.socket_requests.push(SocketRequest::Zerg(typed.bytes()?));
            Ok(())
        }),
    option(&[c"forkptyrouter-fallback"])
        .help(c"accepted for compatibility, without effect: there are no nodes")
        .parse_with(|config, typed| {
            config.remarks.push(format!(
                "option {} = {} has no effect: a terminal is always local, there is no node to \
                 fall back from",
                typed.name,
                typed.value.to_string_lossy()
            ));
            Ok(())
        }),
    option(&[c"forkptyrouter-events"])
        .help(c"set the maximum number of events of one turn (default: 64)")
        .parse_with(|config, typed| assign(&mut config.events, typed.number_or(64, MAX_EVENTS))),
    switch(&[c"forkptyrouter-cheap"])
        .help(c"accepted for compatibility, without effect: there are no nodes")
        .parse_with(|config, typed| {
            if typed.boolean()? {
                config.remarks.push(format!(
                    "option {} has no effect: there are no nodes to wait for, \
                     the gateway serves at once and costs nothing while idle",
                    typed.name
                ));
            }
            Ok(())
        }),
    option(&[c"forkptyrouter-timeout"])
        .key("idle")
        .help(c"end a session after the specified time (15m) without traffic (default: never)")
        .parse_with(|config, typed| assign(&mut config.rules.timeout, typed.time())),
    option(&[c"forkptyrouter-timeout-commands"])
        .key("idle_commands")
        .help(
            c"end a command without a terminal after the specified time without traffic, and \
              relay all of its streams (default: never)",
        )
        .parse_with(|config, typed| assign(&mut config.rules.command_timeout, typed.time())),
    option(&[c"forkptyrouter-stats", c"forkptyrouter-stats-server", c"forkptyrouter-ss"])
        .help(c"run the forkptyrouter stats server on the specified address")
        .parse_with(|config, typed| assign(&mut config.stats, typed.bytes().map(Some))),
    option(&[c"forkptyrouter-harakiri"])
        .help(c"let the master kill a forkptyrouter that hangs for the specified seconds")
        .parse_with(|config, typed| {
            // No more than an int.
            let seconds = typed.time().map(|time| time.map(|time| time.as_secs() as u32));
            assign(&mut config.harakiri, seconds)
        }),
    option(&[c"forkptyrouter-accept-env"])
        .help(
            c"let clients set these variables, names with * (default: TERM COLORTERM LANG \
              LANGUAGE LC_* TZ; none)",
        )
        .parse_with(|config, typed| {
            config.rules.accept_env.add(typed.bytes()?.as_bytes());
            Ok(())
        }),
    option(&[c"forkptyrouter-handover"])
        .key("handover")
        .help(c"hand terminals over to clients that can take them (default: true)")
        .parse_with(|config, typed| assign(&mut config.rules.handover, typed.boolean())),
    option(&[c"forkptyrouter-audit"])
        .key("audit")
        .help(c"log who came, when, and what became of it: json, keyval or off (default: off)")
        .parse_with(|config, typed| assign(&mut config.rules.audit, typed.one_of(&AUDIT_FORMATS))),
    option(&[c"forkptyrouter-record"])
        .help(
            c"record each session's terminal in a file of its own in the specified folder \
              (default: off)",
        )
        .parse_with(|config, typed| config.rules.record.set_dir(typed)),
    option(&[c"forkptyrouter-record-format"])
        .key("record_format")
        .help(c"write recordings as asciicast v2 or v3 (default: v3)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.record.format, typed.one_of(&FORMATS))
        }),
    option(&[c"forkptyrouter-record-input"])
        .key("record_input")
        .help(c"record what is typed, too, with every password (default: false)")
        .parse_with(|config, typed| assign(&mut config.rules.record.input, typed.boolean())),
    option(&[c"forkptyrouter-record-limit"])
        .key("record_limit")
        .help(c"let a recording have at most the specified bytes (default: 0, no limit)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.record.limit, recording_options::limit(typed))
        }),
    option(&[c"forkptyrouter-record-on-error"])
        .key("record_on_error")
        .help(c"close or continue a session that cannot be recorded (default: continue)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.record.on_error, typed.one_of(&ON_ERROR))
        }),
    option(&[c"forkptyrouter-record-commands"])
        .key("record_commands")
        .help(
            c"skip or refuse commands without a terminal, which are not recorded (default: \
              refuse with record-on-error = close or else skip)",
        )
        .parse_with(|config, typed| {
            assign(&mut config.rules.record.refuse_commands, typed.one_of(&COMMANDS))
        }),
    option(&[c"forkptyrouter-allow-command"])
        .key("allow_command")
        .help(c"let clients run commands of their own, and the SFTP server (default: false)")
        .parse_with(|config, typed| assign(&mut config.rules.allow_command, typed.boolean())),
    option(&[c"forkptyrouter-pass-stdio"])
        .help(
            c"pass the client's pipes and sockets to a command without a terminal (default: true)",
        )
        .parse_with(|config, typed| assign(&mut config.pass_stdio, typed.boolean())),
    option(&[c"forkptyrouter-sftp-server"])
        .key("sftp_server")
        .help(c"run the specified program for sftp (else OpenSSH's, where it usually is)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.sftp_server, typed.command().map(Some))
        }),
    option(&[c"forkptyrouter-detach"])
        .key("detach")
        .help(c"let so many sessions be detached at once (default: 0, none)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.detach.sessions, typed.number(0..=MAX_DETACHED))
        }),
    option(&[c"forkptyrouter-detach-user"])
        .key("detach_user")
        .help(c"let one user have so many detached sessions (default: 0, half of them)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.detach.user, typed.limit(MAX_DETACHED))
        }),
    option(&[c"forkptyrouter-detach-time"])
        .key("detach_time")
        .help(c"end a session that has been detached for the specified seconds (default: 604800)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.detach.time, typed.time_or(DETACH_TIME))
        }),
    option(&[c"forkptyrouter-detach-buffer"])
        .key("detach_buffer")
        .help(
            c"keep so many bytes of the last output of a session that can be detached (default: \
              262144)",
        )
        .parse_with(|config, typed| {
            assign(&mut config.rules.detach.buffer, typed.number_or(BUFFER, MAX_BUFFER))
        }),
    option(&[c"forkptyrouter-detach-answer"])
        .key("detach_answer")
        .help(
            c"tell programs that ask what their terminal is while there is no client \
              (default: true)",
        )
        .parse_with(|config, typed| assign(&mut config.rules.detach.answer, typed.boolean())),
    option(&[c"forkptyrouter-allow-user"])
        .key("allow_user")
        .help(c"let only these users in on UNIX sockets; may be repeated")
        .applies_to(AppliesTo::Unix)
        .parse_with(|config, typed| typed.extend(config.rules.access.users.allow(), USER)),
    option(&[c"forkptyrouter-deny-user"])
        .key("deny_user")
        .help(c"keep these users out on UNIX sockets; may be repeated")
        .applies_to(AppliesTo::Unix)
        .parse_with(|config, typed| typed.extend(config.rules.access.users.deny(), USER)),
    option(&[c"forkptyrouter-allow-group"])
        .key("allow_group")
        .help(c"let only members of these groups in on UNIX sockets; may be repeated")
        .applies_to(AppliesTo::Unix)
        .parse_with(|config, typed| typed.extend(config.rules.access.groups.allow(), GROUP)),
    option(&[c"forkptyrouter-deny-group"])
        .key("deny_group")
        .help(c"keep members of these groups out on UNIX sockets; may be repeated")
        .applies_to(AppliesTo::Unix)
        .parse_with(|config, typed| typed.extend(config.rules.access.groups.deny(), GROUP)),
    option(&[c"forkptyrouter-allow-addr"])
        .key("allow_addr")
        .help(c"let only these addresses in over TCP (10.0.0.0/8); may be repeated")
        .applies_to(AppliesTo::Tcp)
        .parse_with(|config, typed| typed.extend(config.rules.access.addresses.allow(), NETWORK)),
    option(&[c"forkptyrouter-deny-addr"])
        .key("deny_addr")
        .help(c"keep these addresses out over TCP; may be repeated")
        .applies_to(AppliesTo::Tcp)
        .parse_with(|config, typed| typed.extend(config.rules.access.addresses.deny(), NETWORK)),
    option(&[c"forkptyrouter-max-sessions"])
        .key("max")
        .help(c"let there be at most the specified number of sessions (default: 0, any number)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.max_sessions, typed.limit(MAX_SESSIONS))
        }),
    option(&[c"forkptyrouter-max-user-sessions"])
        .key("max_user")
        .help(c"let a user, or an address, have at most so many sessions (default: 0, any number)")
        .parse_with(|config, typed| {
            assign(&mut config.rules.max_user_sessions, typed.limit(MAX_SESSIONS))
        }),
    option(&[c"forkptyrouter-rate"])
        .key("rate")
        .help(c"take at most so many new sessions a second at each socket (default: 0, any number)")
        .parse_with(|config, typed| assign(&mut config.rules.rate, typed.limit(MAX_SESSIONS))),
    option(&[c"forkptyrouter-max-time"])
        .key("max_time")
        .help(c"end a session after the specified time, whatever it does (default: never)")
        .parse_with(|config, typed| assign(&mut config.rules.max_time, typed.time())),
    option(&[c"forkptyrouter-handshake-timeout"])
        .help(c"refuse a client that says hello and then nothing for so many seconds (default: 10)")
        .parse_with(|config, typed| {
            assign(&mut config.handshake_timeout, typed.time_or(HANDSHAKE_TIMEOUT))
        }),
    option(&[c"forkptyrouter-hangup-grace"])
        .help(
            c"kill a session that outlives its client by the specified seconds (default: 10, \
              0: never)",
        )
        .parse_with(|config, typed| assign(&mut config.hangup_grace, typed.time())),
];

#[cfg(test)]
mod tests;
