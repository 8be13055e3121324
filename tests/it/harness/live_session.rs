//! A client and its session: how it begins in each mode, what it does, what it says at
//! its end.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::client::{Finished, Pipes};
use super::instance::{Mode, Socket};
use super::process::{self, Process};
use super::{Server, Wire, comes_true, servers, wait_until};

/// A session, and its client.
pub struct LiveSession {
    /// The session's description, for messages of a failure.
    pub what: String,
    pub id: String,
    pub mode: Mode,
    /// The program's pid.
    pub pid: i32,
    /// The client has the terminal itself, so that the session outlives its
    /// gateway.
    pub is_handed_over: bool,
    pub client: Client,
}

/// A client.
pub enum Client {
    /// The command; what it is typed where its input is a terminal.
    Fpty { pipes: Pipes, keys: Option<Wire> },
    /// A client without extended mode.
    Plain(Wire),
}

/// Report of a client at its end.
#[derive(Debug, Default)]
pub struct ClientReport {
    /// The client's exit status; `None`: it is no process.
    pub status: Option<i32>,
    /// The object of `--status-json`.
    pub json: Value,
    /// The line for the person before that.
    pub line: String,
    /// The client's output.
    pub output: String,
}

/// A terminal for a client: what is typed there, and the terminal.
fn terminal() -> (Wire, OwnedFd) {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).expect("a terminal");
    for end in [&pty.master, &pty.slave] {
        let flag = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
        nix::fcntl::fcntl(end, flag).expect("close-on-exec");
    }
    (Wire::over(pty.master, "the client's terminal"), pty.slave)
}

impl Client {
    /// A client that connects to a socket, with these words for `fpty`.
    #[track_caller]
    pub(super) fn comes(server: &Server, door: &Socket, words: &[&str]) -> Self {
        if door.mode == Mode::Uwsgi {
            let wire = Wire::connect(&door.address);
            wire.resize(24, 80);
            return Self::Plain(wire);
        }
        let mut fpty = Command::new(servers::fpty());
        fpty.arg("--status-json").args(words).env("TERM", "xterm");
        match door.mode {
            Mode::Raw => fpty.arg("-r"),
            Mode::Relayed => fpty.arg("-t"),
            Mode::Streams | Mode::Passed => fpty.arg("-T"),
            _ => &mut fpty,
        };
        fpty.arg(&door.address);
        if matches!(door.mode, Mode::Relayed | Mode::Passed) {
            fpty.arg(format!("exec {}", server.path("script")));
        }
        if !door.mode.has_terminal() {
            return Self::Fpty { pipes: Pipes::open(fpty), keys: None };
        }
        let (keys, terminal) = terminal();
        let pipes = Pipes::reading(fpty, Stdio::from(terminal));
        Self::Fpty { pipes, keys: Some(keys) }
    }

    /// The client's output.
    pub fn shown(&mut self) -> &mut Wire {
        match self {
            Self::Fpty { pipes, .. } => &mut pipes.stdout,
            Self::Plain(wire) => wire,
        }
    }

    /// Types this.
    #[track_caller]
    pub fn types(&self, keys: &str) {
        match self {
            Self::Fpty { keys: Some(terminal), .. } => terminal.send(keys),
            Self::Fpty { pipes, .. } => pipes.send(keys),
            Self::Plain(wire) => wire.input(keys),
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn told(self, what: &str) -> ClientReport {
        match self {
            Self::Plain(mut wire) => {
                ClientReport { output: wire.text_to_end(), ..ClientReport::default() }
            }
            Self::Fpty { pipes, keys } => {
                let Finished { status, stdout, stderr } = pipes.finish();
                drop(keys);
                let mut lines: Vec<&str> = stderr.lines().collect();
                let json = lines.pop().map(serde_json::from_str);
                let json = json.and_then(Result::ok).unwrap_or_else(|| {
                    assert!(status.code().is_none(), "{what}: no status: {status} {stderr:?}");
                    Value::Null
                });
                let line = lines.pop().unwrap_or_default().to_owned();
                let output = String::from_utf8_lossy(&stdout).into_owned();
                ClientReport {
                    status: Some(super::client::shell_status(status)),
                    json,
                    line,
                    output,
                }
            }
        }
    }
}

impl LiveSession {
    /// Has its program run a line.
    #[track_caller]
    pub fn types(&self, line: &str) {
        self.client.types(&format!("{line}\n"));
    }

    /// The session answers.
    #[track_caller]
    pub fn answers(&mut self) {
        self.runs(":", "alive");
    }

    /// Runs a line in the session, which says this when it has run.
    #[track_caller]
    pub fn runs(&mut self, line: &str, says: &str) {
        self.types(&format!("{line}; echo ''{says}"));
        self.client.shown().read_until(says);
    }

    /// Stops the client until it is told to go on.
    pub fn stops_its_client(&self, stops: bool) {
        if let Some(pid) = self.client() {
            process::signal(pid, if stops { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
    }

    /// The client's process.
    pub fn client(&self) -> Option<i32> {
        match &self.client {
            Client::Fpty { pipes, .. } => Some(pipes.pid()),
            Client::Plain(_) => None,
        }
    }

    /// The client disconnects: by `~.`, by the signal that a command has had already,
    /// or by closing its connection.
    #[track_caller]
    pub(super) fn leaves(&mut self) {
        match &mut self.client {
            Client::Fpty { keys: Some(keys), .. } => keys.send("\r~."),
            Client::Fpty { pipes, .. } => {
                pipes.send("trap '' TERM; echo deaf\n");
                pipes.stdout.read_until("deaf");
                // Two that come at once are one.
                wait_until("the client leaves", || {
                    process::signal(pipes.pid(), Signal::SIGTERM);
                    comes_true(Duration::from_millis(100), || {
                        Process::of(pipes.pid()).is_none_or(|it| it.is_zombie())
                    })
                });
            }
            Client::Plain(wire) => *wire = nothing(),
        }
    }

    /// The client is killed.
    pub(super) fn loses_its_client(&mut self) {
        match &mut self.client {
            Client::Fpty { pipes, .. } => process::signal(pipes.pid(), Signal::SIGKILL),
            Client::Plain(wire) => *wire = nothing(),
        }
    }

    /// Waits for its client's end.
    #[track_caller]
    pub fn told(self) -> ClientReport {
        self.client.told(&self.what)
    }
}

/// A connection that is none any more.
fn nothing() -> Wire {
    let nothing = std::fs::File::open("/dev/null").expect("/dev/null");
    Wire::over(nothing.into(), "no connection")
}
