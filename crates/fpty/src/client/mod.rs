//! Connects the terminal that a person sits at, or a script's pipes, to a pty
//! server: the command `fpty`, and `--pty-connect` and `--pty-uconnect` of the
//! pty plugin.
//!
//! | file | subject |
//! | --- | --- |
//! | `bracketed_paste.rs` | bracketed pastes in the input (`ESC [200~`) |
//! | `buffered_output.rs` | an output with a queue, and where the last line of it ended |
//! | `command.rs` | a command without a terminal: three streams |
//! | `config.rs` | the client's configuration: the server, the session, the exec request |
//! | `connect.rs` | the connection: the hello, what waits to be sent, the variables that the client sends |
//! | `control.rs` | listing sessions and ending one |
//! | `decoder.rs` | the server's bytes decoded: plain or extended mode |
//! | `detachable.rs` | detach and reattach: the scrollback kept, the screen restored, reset of the person's terminal |
//! | `escape.rs` | escape characters in the input (`~.`), as in ssh(1) |
//! | `server_events.rs` | events from the server and the terminal, handled |
//! | `handover.rs` | the terminal's master, handed over by the server |
//! | `input.rs` | standard input: keys, pipes, end of input |
//! | `outcome.rs` | the end of a session: exit status, line, JSON; the refusal line of plain mode |
//! | `output_streams.rs` | standard output and error of a command |
//! | `reconnect.rs` | reconnect after a broken connection: key, backoff, attempt |
//! | `replay.rs` | the last output shown again, without a terminal emulator |
//! | `restore_screen.rs` | the screen restored by a terminal emulator |
//! | `session.rs` | the loop of a session, and of its reconnects: the wait, timeouts |
//! | `signals.rs` | signals of the client: forwarded, suspend, exit |
//! | `state.rs` | the state of a session, and its output |

pub(crate) mod bracketed_paste;
pub(crate) mod buffered_output;
mod command;
pub mod config;
mod connect;
pub mod control;
pub mod decoder;
pub(crate) mod detachable;
pub mod escape;
pub(crate) mod handover;
pub(crate) mod input;
mod outcome;
pub(crate) mod output_streams;
mod reconnect;
#[cfg(any(test, not(feature = "paint")))]
mod replay;
#[cfg(feature = "paint")]
#[doc(hidden)]
pub mod restore_screen;
pub(crate) mod server_events;
mod session;
pub(crate) mod signals;
mod state;

use nix::sys::signal::Signal;

use crate::error::{Context, Error, Result};
use crate::proto::Protocol;
use crate::sys::signal;
use crate::sys::stdio::{self, Output};
use crate::sys::termios::{self, KeySignals, RawMode};

use crate::client::buffered_output::BufferedOutput;
pub use crate::client::config::{ClientConfig, SessionChoice};
use crate::client::connect::{Connection, read_signals};
use crate::client::outcome::End;
use crate::client::state::Session;

/// How often a server is asked that speaks plainly, where only the extended
/// mode will do.
const ATTEMPTS: usize = 3;

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

/// Runs a session and returns the status to exit with.
pub fn run(config: &ClientConfig) -> i32 {
    let mut typed = Vec::new();
    run_attempts(config, || attach(config, &mut typed))
}

/// Does something to its end, says how it ended, and returns the status to
/// exit with.
fn run_attempts(config: &ClientConfig, mut attempt: impl FnMut() -> Result<End>) -> i32 {
    stdio::fill_closed();
    let mut end = End::NotExtended;
    // On a machine that is too busy, or over a slow line, a gateway may have
    // given us up before our first word reached it. Once it has heard that it
    // waits longer for the next one.
    for _ in 0..ATTEMPTS {
        end = attempt().unwrap_or_else(|error| End::NoSession(error.to_string()));
        if !matches!(end, End::NotExtended | End::HelloTooLate { can_retry: true }) {
            break;
        }
    }
    outcome::report(config, &end)
}

/// Attaches once, with what was typed into a session that came to nothing.
fn attach(config: &ClientConfig, typed: &mut Vec<u8>) -> Result<End> {
    if config.protocol == Protocol::Raw && (config.needs_extended() || !config.wants_terminal()) {
        return Err(Error::new("raw mode has only the configured program: use uwsgi mode"));
    }
    if config.wants_terminal() {
        // Not between two words to a server, which does not wait for long.
        termios::wait_for_foreground();
    }
    let connection = Connection::open(config)?;
    if !config.wants_terminal() {
        return command::run(config, connection);
    }
    // A file that must not grow is an error to tell (SIGXFSZ).
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPIPE, Signal::SIGXFSZ] {
        signal::ignore(signal);
    }
    // Before the terminal changes, so that nothing can end us in between.
    let signals = read_signals(config, &SIGNALS)?;
    let output = Output::of(stdio::stdout()).context("cannot write to standard output")?;
    let terminal = match stdio::stdin_is_a_terminal() {
        true => {
            // The signals of keys reach the whole job, or somebody else's: a
            // pipeline's other commands, a script that waits for us, su(1).
            // Only where they are meant for this end the terminal raises them.
            let here = config.isig && config.protocol == Protocol::Raw;
            let raises = match here && stdio::is_controlling_terminal() {
                true => KeySignals::Interrupts,
                false => KeySignals::Nothing,
            };
            Some(RawMode::enter(raises).context("cannot set the terminal's mode")?)
        }
        false => None,
    };
    let mut session =
        Session::new(config, connection, signals, BufferedOutput::new(output), terminal);
    if config.protocol == Protocol::Uwsgi {
        session.greet();
        session.held = std::mem::take(typed);
    }
    let end;
    (end, *typed) = session.run_to_its_end();
    Ok(end)
}
