//! `--pty-socket`: one terminal on the first worker, shared by all clients.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | bind in the master, start in the first worker |
//! | `terminal.rs` | the thread of the shared terminal: poll, relay, clients |
//! | `terminal_client.rs` | a client of it, and the listening sockets |
//! | `scrollback.rs` | the scrollback that a new client gets |
//! | `half_close.rs` | clients that have shut their sending side down |
//! | `tee.rs` | the copy of the output for the log (`pty-log`) |
//! | `unavailable.rs` | rejection while there is no shared terminal |

mod half_close;
mod scrollback;
mod tee;
mod terminal;
mod terminal_client;
pub mod unavailable;

use std::ffi::CStr;
use std::sync::Arc;

use crate::pty_options::PtyServerOptions;
use crate::uwsgi::host::{Uwsgi, restore_terminal_at_end};
use crate::uwsgi::sockets::{self, Owner};
use crate::uwsgi::worker;
use fpty::error::{Context, Result};
use fpty::sys::Size;
use fpty::sys::bind::Ownership;
use fpty::sys::child::Pid;
use fpty::sys::environment;
use fpty::sys::private_fd::Private;
use fpty::sys::pty::{self, Slave};
use fpty::sys::signal::BlockedSignals;
use fpty::sys::spawn::{ExecEnvironment, Program, Spawner, Started, Streams};
use fpty::sys::stdio::{self, Output};
use fpty::sys::termios::{KeySignals, RawMode};
use fpty_gateway::host::{Host, Socket};
use fpty_gateway::log::log;

use crate::pty_server::tee::LogTee;
use crate::pty_server::terminal::SharedTerminal;
use crate::pty_server::terminal_client::{Listener, READONLY};

/// Size of a shared terminal, which nobody sets; a program that asks gets what programs
/// expect.
const SIZE: Size = Size { rows: 24, cols: 80 };

/// Binds the sockets, in the master: a worker that is respawned finds them
/// as they were, with the clients that wait in them.
///
/// # Errors
/// The line for the operator.
pub fn bind(config: &PtyServerOptions) -> Result<()> {
    for (address, rules) in [(&config.socket, 0), (&config.readonly_socket, READONLY)] {
        if let Some(address) = address {
            sockets::add(address, Owner::Pty, sockets::RAW, rules)?;
        }
    }
    sockets::bind(Owner::Pty, |_| Ownership::default(), |_, _| Ok(()))
}

/// Gives the first worker its terminal, and the thread that shares it. Where
/// there is none to be had the worker goes on without, and clients are told.
///
/// # Errors
/// Not even that is possible.
pub fn start(config: &PtyServerOptions) -> Result<()> {
    if !sockets::is_requested(Owner::Pty) {
        return Ok(());
    }
    if !worker::is_first() {
        sockets::close(Owner::Pty);
        return Ok(());
    }
    let listeners = sockets::bound(Owner::Pty)?;
    for listener in &listeners {
        listener.listener.close_on_exec();
    }
    let Err(error) = open(config, &listeners) else {
        return Ok(());
    };
    log(&format!("pty: no shared terminal: {error}"));
    in_background("pty-none", move || {
        let listeners: Vec<_> =
            listeners.iter().map(|listener| Private::of(listener.listener)).collect();
        unavailable::reject_all(&listeners, &error.to_string());
    })
}

fn open(config: &PtyServerOptions, listeners: &[Socket]) -> Result<()> {
    let (master, slave) = pty::open(SIZE)?;
    for listener in listeners {
        log(&format!("pty server {} enabled on {}", listener.name, slave.name()));
    }
    let log = config.log.then(|| Output::of(stdio::stdout()));
    let log = log.transpose().context("cannot keep the log")?;
    let terminal = SharedTerminal::new(
        listeners.iter().map(Listener::of).collect(),
        Private::of(master),
        config.scrollback(),
        Output::of(stdio::stderr()).context("cannot keep the log")?,
        log.map(|log| LogTee::new(log, Uwsgi.log_packet_size())),
        config.input.then(original_input).transpose()?,
    );

    slave.make_stdio().context("cannot give the worker its terminal")?;
    let slave = Arc::new(slave);
    match config.exec.as_deref().map(|command| run(command, &slave)) {
        Some(Ok(pid)) => {
            // The command is a child of the worker that the worker does not know: a
            // thread waits for it, and for no other child.
            let slave = Arc::clone(&slave);
            in_background("pty-exec", move || {
                pid.reap();
                slave.take_back();
            })?;
        }
        Some(Err(error)) => terminal.log(&error.to_string()),
        None => {
            let _blocked = BlockedSignals::all();
            slave.take_back();
        }
    }
    in_background("pty", move || terminal.run(slave))
}

/// Runs a command on the terminal, as the foreground job: keys that are
/// signals are for it, not for the worker, and it is hung up at the worker's
/// end.
fn run(command: &CStr, slave: &Slave) -> Result<Pid> {
    let environment = environment::for_sessions();
    let surroundings = ExecEnvironment { environment, ..ExecEnvironment::default() };
    let program = Program::through_shell(command, &Uwsgi.shell())
        .within(Arc::new(surroundings))
        .as_foreground_job();
    let program = Arc::new(program);
    let mut spawner = Spawner::new()?;
    match spawner.spawn(&program, Streams::Terminal(slave), Vec::new())? {
        Started::NotExecuted(errno) => Err(program.refusal(errno)),
        Started::Running(pid) => match spawner.wait(pid) {
            Ok(()) => Ok(pid),
            Err(errno) => Err(program.refusal(errno)),
        },
    }
}

/// The original standard input; a terminal is put into raw mode, since the
/// shared one does the editing and echoing.
fn original_input() -> Result<std::os::fd::OwnedFd> {
    if stdio::stdin_is_a_terminal() {
        restore_terminal_at_end();
        if let Ok(raw) = RawMode::enter(KeySignals::All) {
            raw.keep();
        }
    }
    // It stays when standard input becomes something else.
    stdio::stdin().try_clone_to_owned().context("cannot keep the original standard input")
}

/// Starts a thread that no signal reaches: those are the worker's. A panic
/// in it ends it and nothing else.
fn in_background(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let _blocked = BlockedSignals::all();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Not logged: standard error of the worker is the shared terminal itself.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        })
        .map(|_| ())
        .context("cannot start a thread")
}
