//! Connects the terminal that a person sits at, or a script's pipes, to a pty
//! server: the command `fpty`, and `--pty-connect` and `--pty-uconnect` of the
//! pty plugin.
//!
//! | file | subject |
//! | --- | --- |
//! | `bracketed_paste.rs` | pastes, which somebody else may have to end |
//! | `command.rs` | a command without a terminal |
//! | `control.rs` | who is there, and the end of one of those |
//! | `decoder.rs` | what the server says, in whatever mode it speaks |
//! | `escape.rs` | `~.` and its like |
//! | `events.rs` | what the server says is done |
//! | `handover.rs` | the terminal itself, where the server hands it over |
//! | `input.rs` | input: keys, pipes, and their end |
//! | `line_position.rs` | whether the output ended within a line |
//! | `outcome.rs` | how it ended: the status, the line, the JSON |
//! | `output_streams.rs` | a command without a terminal |
//! | `poll.rs` | what is waited for |
//! | `reattach.rs` | a session that can be left and found again |
//! | `reconnect.rs` | a connection that broke is taken up again |
//! | `replay.rs` | about that, where no terminal emulator is part of the program |
//! | `request.rs` | what is to run there, with a terminal or without |
//! | `restore_screen.rs` | its screen, as it was |
//! | `session.rs` | the session: one loop, and what is written |
//! | `signals.rs` | signals: forwarded, stopped by, ended by |

pub(crate) mod bracketed_paste;
mod command;
pub mod control;
pub mod decoder;
pub mod escape;
pub(crate) mod events;
pub(crate) mod handover;
pub(crate) mod input;
pub(crate) mod line_position;
mod outcome;
pub(crate) mod output_streams;
pub(crate) mod poll;
pub(crate) mod reattach;
mod reconnect;
#[cfg(any(test, not(feature = "paint")))]
mod replay;
pub mod request;
#[cfg(feature = "paint")]
#[doc(hidden)]
pub mod restore_screen;
mod session;
pub(crate) mod signals;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::{Context, Error, Result};
use crate::proto::{self, Protocol};
use crate::sys::signal::{self, Signals};
use crate::sys::socket::{Stream, Transport, connect};
use crate::sys::stdio::{self, Output};
use crate::sys::termios::{self, Raises, RawMode};

use crate::client::outcome::End;
use crate::client::request::{Terminal, Wanted};
use crate::client::session::Session;

/// Exit status where the end was not the program's own.
pub const LOST: i32 = 254;

/// How long a server may take to answer a TCP connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a server is asked that speaks plainly, where only the extended
/// mode will do.
const ATTEMPTS: usize = 3;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Client {
    /// Who says so, before each of its lines: `[pty]`, `fpty:`.
    pub name: &'static str,
    /// The server's address.
    pub address: OsString,
    /// What it speaks.
    pub protocol: Protocol,
    /// What is to run there.
    pub wanted: Wanted,
    /// Whether with a terminal.
    pub terminal: Terminal,
    /// Whether Ctrl-C, Ctrl-\ and Ctrl-Z are signals here.
    pub isig: bool,
    /// The character that begins an escape; `None`: there are none.
    pub escape: Option<u8>,
    /// Says only what went wrong.
    pub quiet: bool,
    /// Says how it ended as JSON, too, on the last line of standard error.
    pub status_json: bool,
    /// More variables for the program's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Which session it is to be.
    pub which: Which,
    /// Whoever else is attached has to go.
    pub steal: bool,
    /// Only watches: nothing that is typed is for the program.
    pub read_only: bool,
    /// A connection that breaks is taken up again, where the session goes on.
    pub reconnects: bool,
    /// Signals that are ignored at the start by somebody else's doing, and
    /// count all the same.
    pub heeds: &'static [Signal],
}

/// Which session it is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// A new one.
    #[default]
    New,
    /// A new one that has a name.
    Named(String),
    /// One that was left: its id, the beginning of that, or its name; empty:
    /// the one that was left last.
    Left(String),
    /// The one of that name, or a new one.
    Either(String),
}

/// Signals that we take by reading them.
const SIGNALS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// What of our environment goes along, with `*` for the rest of a name; the
/// server has the last word.
const ENVIRONMENT: [&str; 6] = ["TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_*", "TZ"];

/// Runs a session and returns the status to exit with.
pub fn run(config: &Client) -> i32 {
    let mut typed = Vec::new();
    conclude(config, || attach(config, &mut typed))
}

/// Does something to its end, says how it ended, and returns the status to
/// exit with.
fn conclude(config: &Client, mut attempt: impl FnMut() -> Result<End>) -> i32 {
    stdio::fill_closed();
    let mut end = End::SpeaksPlainly;
    // On a machine that is too busy, or over a slow line, a router may have
    // given us up before our first word reached it. Once it has heard that it
    // waits longer for the next one.
    for _ in 0..ATTEMPTS {
        end = attempt().unwrap_or_else(|error| End::NotAttached(error.to_string()));
        if !matches!(end, End::SpeaksPlainly | End::CameTooLate { again: true }) {
            break;
        }
    }
    outcome::tell(config, &end)
}

/// Connects, and says hello to a server that may understand it.
fn call(config: &Client) -> Result<(Stream, Transport)> {
    let (stream, transport) = connect(&config.address, PATIENCE)?;
    if config.protocol == Protocol::Uwsgi {
        // At once: a router waits only so long for the first word. A new
        // connection has room for it.
        let _ = stream.write(&proto::encode_bare(proto::HELLO, proto::VERSION));
    }
    Ok((stream, transport))
}

/// Has these signals read, but for those that are ignored here.
fn read_signals(config: &Client, signals: &[Signal]) -> Result<Signals> {
    let is_taken = |signal: &Signal| config.heeds.contains(signal) || !signal::is_ignored(*signal);
    let taken: Vec<Signal> = signals.iter().copied().filter(is_taken).collect();
    Signals::instead_of_handlers(&taken).context("cannot read signals")
}

/// Attaches once, with what was typed into a session that came to nothing.
fn attach(config: &Client, typed: &mut Vec<u8>) -> Result<End> {
    if config.protocol == Protocol::Raw && (config.needs_more() || !config.wants_terminal()) {
        return Err(Error::new("raw mode has only the configured program: use uwsgi mode"));
    }
    if config.wants_terminal() {
        // Not between two words to a server, which does not wait for long.
        termios::wait_for_foreground();
    }
    let (stream, transport) = call(config)?;
    if !config.wants_terminal() {
        return command::run(config, stream, transport);
    }
    // A file that must not grow is an error to tell (SIGXFSZ).
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPIPE, Signal::SIGXFSZ] {
        signal::ignore(signal);
    }
    // Before the terminal changes, so that nothing can end us in between.
    let signals = read_signals(config, &SIGNALS)?;
    let output = Output::stdout().context("cannot write to standard output")?;
    let terminal = match stdio::stdin_is_a_terminal() {
        true => {
            // The signals of keys reach the whole job, or somebody else's: a
            // pipeline's other commands, a script that waits for us, su(1).
            // Only where they are meant for this end the terminal raises them.
            let here = config.isig && config.protocol == Protocol::Raw;
            let raises = match here && stdio::terminal_is_ours() {
                true => Raises::Interrupts,
                false => Raises::Nothing,
            };
            Some(RawMode::enter(raises).context("cannot set the terminal's mode")?)
        }
        false => None,
    };
    let mut session = Session::new(config, stream, transport, signals, output, terminal);
    if config.protocol == Protocol::Uwsgi {
        session.greet();
        session.holds(std::mem::take(typed));
    }
    let end;
    (end, *typed) = session.run_to_its_end();
    Ok(end)
}

/// The packets with our environment, and what else is to be said.
fn introduction(config: &Client, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let ours = std::env::vars_os().filter(|(name, _)| {
        let name = name.as_encoded_bytes();
        ENVIRONMENT.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix.as_bytes()),
            None => name == pattern.as_bytes(),
        })
    });
    // What is too much is left out at the end, and is to be none of these.
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> =
        more.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let ours = ours.chain(config.environment.iter().cloned());
    pairs.extend(ours.map(|(name, value)| (name.into_vec(), value.into_vec())));
    // Whom the person behind sshd is said to be; nobody has to believe it.
    for (ours, theirs) in [
        ("SSH_CONNECTION", proto::variables::SSH_CONNECTION),
        ("LOGNAME", proto::variables::LOGNAME),
    ] {
        if let Some(value) = std::env::var_os(ours) {
            pairs.push((theirs.to_vec(), value.into_vec()));
        }
    }
    let mut packets = Vec::new();
    let pairs = pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    proto::variables::encode(pairs, &mut packets);
    packets
}
