//! `--pty-socket`: one terminal on the first worker, shared by all clients.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | the sockets, bound by the master; the worker's terminal |
//! | `share.rs` | the thread: everything that happens at that terminal |
//! | `absence.rs` | where there is none |
//! | `client.rs` | somebody at it |
//! | `fanout.rs` | what a new client is shown |
//! | `ending.rs` | when one that sends no more is let go |
//! | `log_copy.rs` | the copy of the output for the log |

pub mod absence;
mod client;
mod ending;
mod fanout;
mod log_copy;
mod share;

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use crate::pty_options::Server;
use crate::uwsgi::sockets::{self, Owner, Role, Socket};
use crate::uwsgi::{server, worker};
use fpty::error::{Context, Result};
use fpty::sys::Size;
use fpty::sys::bind::Ownership;
use fpty::sys::child::Pid;
use fpty::sys::environment;
use fpty::sys::private_fd::Private;
use fpty::sys::pty::{self, Slave};
use fpty::sys::signal::Blocked;
use fpty::sys::socket::{Listener, Stream};
use fpty::sys::spawn::{Program, Spawner, Started, Streams};
use fpty::sys::stdio::{self, Output};
use fpty::sys::termios::{Raises, RawMode};
use fpty_gateway::log::log;

use crate::pty_server::log_copy::LogCopy;
use crate::pty_server::share::{Door, Share};

/// Nobody says how large a shared terminal is; a program that asks gets what
/// programs expect.
const SIZE: Size = Size { rows: 24, cols: 80 };

/// Binds the sockets, in the master: a worker that is respawned finds them
/// as they were, with the clients that wait in them.
///
/// # Errors
/// The line for the operator.
pub fn bind(config: &Server) -> Result<()> {
    if let Some(address) = &config.socket {
        sockets::add(address, Role::Shared, 0)?;
    }
    if let Some(address) = &config.readonly_socket {
        sockets::add(address, Role::Watched, 0)?;
    }
    sockets::bind(Owner::Pty, |_| Ownership::default(), |_, _| Ok(()))
}

/// Gives the first worker its terminal, and the thread that shares it. Where
/// there is none to be had the worker goes on without, and clients are told.
///
/// # Errors
/// Not even that is possible.
pub fn start(config: &Server) -> Result<()> {
    if !sockets::asked_for(Owner::Pty) {
        return Ok(());
    }
    absence::forget();
    if !worker::is_first() {
        sockets::close(Owner::Pty);
        return Ok(());
    }
    let doors = sockets::bound(Owner::Pty)?;
    for door in &doors {
        door.listener.close_on_exec();
    }
    let Err(error) = open(config, &doors) else {
        return Ok(());
    };
    log(&format!("pty: no shared terminal: {error}"));
    in_background("pty-none", move || {
        let doors: Vec<_> = doors.iter().map(|door| Private::of(door.listener)).collect();
        absence::refuse_all(&doors, &error.to_string());
    })
}

fn open(config: &Server, doors: &[Socket]) -> Result<()> {
    let (master, slave) = pty::open(SIZE)?;
    for door in doors {
        log(&format!("pty server {} enabled on {}", door.name, slave.name()));
    }
    let log = config.log.then(Output::stdout).transpose().context("cannot keep the log")?;
    let share = Share::new(
        doors.iter().map(Door::of).collect(),
        Private::of(master),
        config.scrollback(),
        Output::stderr().context("cannot keep the log")?,
        log.map(|log| LogCopy::new(log, server::log_packet())),
        config.input.then(original_input).transpose()?,
    );

    slave.become_standard().context("cannot give the worker its terminal")?;
    let slave = Arc::new(slave);
    match config.exec.as_deref().map(|command| run(command, &slave)) {
        Some(Ok(pid)) => {
            // Somebody must wait for it; the worker's other children are its
            // own business.
            let slave = Arc::clone(&slave);
            in_background("pty-exec", move || {
                pid.reap();
                slave.take_back();
            })?;
        }
        Some(Err(error)) => share.log(&error.to_string()),
        None => {
            let _blocked = Blocked::all();
            slave.take_back();
        }
    }
    in_background("pty", move || share.run(slave))
}

/// Runs a command on the terminal, as the foreground job: keys that are
/// signals are for it, not for the worker, and it is hung up at the worker's
/// end.
fn run(command: &CStr, slave: &Slave) -> Result<Pid> {
    let program = Program::through_shell(command, &server::shell())
        .environment(environment::for_sessions())
        .as_job();
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

impl Door {
    fn of(socket: &Socket) -> Self {
        Self { listener: Private::of(socket.listener), readonly: socket.role == Role::Watched }
    }
}

/// Takes a connection, which what the application forks does not have: it would hold
/// it open.
fn accept(door: &Listener) -> io::Result<Option<Private<Stream>>> {
    Private::open(|| door.accept().map(|accepted| accepted.map(|(stream, _)| stream)))
}

/// The original standard input; a terminal is put into raw mode, since the
/// shared one does the editing and echoing.
fn original_input() -> Result<std::os::fd::OwnedFd> {
    if stdio::stdin_is_a_terminal() {
        server::restore_terminal_at_end();
        if let Ok(raw) = RawMode::enter(Raises::All) {
            raw.keep();
        }
    }
    stdio::stdin_copy().context("cannot keep the original standard input")
}

/// Starts a thread that no signal reaches: those are the worker's. A panic
/// in it ends it and nothing else.
fn in_background(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let _blocked = Blocked::all();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Not to the log of the process: that is the terminal itself.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        })
        .map(|_| ())
        .context("cannot start a thread")
}
