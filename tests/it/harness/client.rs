//! The client under test (`--pty-connect`, `--pty-uconnect`): in a pipe, or
//! in front of a person.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;

use super::process::{self, Process};
use super::servers::{self, C_BINARY, C_PLUGINS};
use super::terminal::{Settings, Terminal};
use super::{Flavor, Server, Setup, Wire, wait_until};

/// Mode of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Raw,
    Uwsgi,
}

pub const MODES: [Mode; 2] = [Mode::Raw, Mode::Uwsgi];

impl Mode {
    fn option(self) -> &'static str {
        match self {
            Mode::Raw => "--pty-connect",
            Mode::Uwsgi => "--pty-uconnect",
        }
    }

    /// The gateway's socket for it, in the server's folder.
    pub fn socket(self) -> &'static str {
        match self {
            Mode::Raw => "s",
            Mode::Uwsgi => "u",
        }
    }
}

/// Gives a server a socket for each mode.
pub fn both(setup: Setup) -> Setup {
    setup.option("forkpty-router", "{dir}/s").option("forkpty-urouter", "{dir}/u")
}

/// The C router with a socket for each mode, where the machine has it.
pub fn c_router() -> Option<Setup> {
    let there = Path::new(C_BINARY).exists()
        && Path::new(C_PLUGINS).join("forkptyrouter_plugin.so").exists();
    if !there {
        eprintln!("skipped: there is no C router");
    }
    there.then(|| both(Setup::c_router().switch("master")))
}

/// Our client, to be started.
pub fn client(flavor: &Flavor, mode: Mode, address: &(impl AsRef<OsStr> + ?Sized)) -> Command {
    let mut command = Command::new(&flavor.binary);
    for (name, _) in std::env::vars_os() {
        // It takes options from its environment, too.
        if name.to_string_lossy().starts_with("UWSGI") {
            command.env_remove(name);
        }
    }
    command
        .arg("--plugins-dir")
        .arg(&flavor.plugins)
        .args(["--plugin", "pty", mode.option()])
        .arg(address)
        .env("TERM", "xterm");
    command
}

/// Our client for a server's socket.
pub fn client_of(flavor: &Flavor, server: &Server, mode: Mode) -> Command {
    client(flavor, mode, &server.path(mode.socket()))
}

/// The command `fpty`, to be started.
pub fn fpty(mode: Mode, address: &str) -> Command {
    let mut fpty = Command::new(servers::fpty());
    fpty.env("TERM", "xterm");
    if mode == Mode::Raw {
        fpty.arg("-r");
    }
    fpty.arg(address);
    fpty
}

/// Every client of ours in every mode, for a server that has both sockets.
pub fn clients_of(flavor: &Flavor, server: &Server) -> Vec<(Mode, Command)> {
    let pair = |mode: Mode| {
        let address = server.path(mode.socket());
        [(mode, client(flavor, mode, &address)), (mode, fpty(mode, &address))]
    };
    MODES.into_iter().flat_map(pair).collect()
}

/// A shell that does something with a client, which is `"$@"` in `script`.
pub fn wrapped(script: &str, client: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script, "sh"]).arg(client.get_program()).args(client.get_args());
    for (name, value) in client.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Lines of the client itself, without those of the server that it is a part of, which it
/// writes when it starts.
pub fn own_lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("[pty]") || line.starts_with("fpty: ")).collect()
}

/// The client with a pipe or a file at each end.
pub struct Pipes {
    /// `None` once it has ended.
    pub stdin: Option<Wire>,
    pub stdout: Wire,
    stderr: File,
    child: Child,
}

/// How a client in a pipe ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Pipes {
    /// With a pipe for its input.
    pub fn open(command: Command) -> Self {
        Self::start(command, Stdio::piped())
    }

    /// With something else for its input.
    pub fn reading(command: Command, stdin: impl Into<Stdio>) -> Self {
        Self::start(command, stdin.into())
    }

    fn start(mut command: Command, stdin: Stdio) -> Self {
        let stderr = tempfile::tempfile().expect("a file");
        command.stdin(stdin).stdout(Stdio::piped()).stderr(stderr.try_clone().expect("a copy"));
        let mut child = command.spawn().expect("the client starts");
        let stdin = child.stdin.take().map(|pipe| Wire::over(pipe.into(), "the client's input"));
        let stdout = child.stdout.take().expect("a pipe");
        let stdout = Wire::over(stdout.into(), "the client's output");
        Self { stdin, stdout, stderr, child }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends all of its input.
    #[track_caller]
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.stdin.as_ref().expect("its input is open").send(bytes);
    }

    /// Reads its output to the end and waits for its own.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let stdout = self.stdout.read_to_end();
        let mut status = None;
        wait_until("the client ends after its output", || {
            status = self.child.try_wait().expect("a child of ours");
            status.is_some()
        });
        let mut stderr = String::new();
        self.stderr.seek(SeekFrom::Start(0)).expect("a file");
        self.stderr.read_to_string(&mut stderr).expect("text");
        Finished { status: status.expect("it has ended"), stdout, stderr }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// The client's output as text, and that it ended well without a message of its
    /// own.
    #[track_caller]
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.stdout).into_owned();
        assert_eq!(
            (self.status.code(), own_lines(&self.stderr)),
            (Some(0), Vec::new()),
            "{self:?} {text:?}"
        );
        text
    }
}

/// The shell of a person: it evaluates a line at a time and says how that
/// went. With job control, so that Ctrl-Z means something; and dash, which
/// leaves the terminal's settings alone, where bash would put them right.
const SHELL: &str = r#"set -m
echo seated
while read -r line; do
    eval "$line"
    echo "status=$?."
done"#;

/// A person at a terminal, who starts the client from a shell.
pub struct Seat {
    pub terminal: Terminal,
    /// The terminal's settings before the client started.
    pub before: Settings,
}

impl Seat {
    /// Sits down at the shell, and types a line that prepares the terminal.
    #[track_caller]
    pub fn prepared(client: &Command, prepare: &str) -> Self {
        let mut seat = Self::sits(client, prepare);
        seat.terminal.wire.send("\"$@\"\n");
        seat.terminal.wire.read_until("\"$@\"");
        seat
    }

    /// Sits down and starts nothing.
    #[track_caller]
    pub fn idle(client: &Command) -> Self {
        Self::sits(client, ":")
    }

    #[track_caller]
    fn sits(client: &Command, prepare: &str) -> Self {
        let shell = wrapped(SHELL, client);
        let mut terminal = Terminal::run(shell, 33, 111);
        terminal.wire.read_until("seated\r\n");
        terminal.wire.send(format!("{prepare}\n"));
        terminal.wire.read_until("status=0.");
        terminal.wire.read_until("\n");
        let before = terminal.settings();
        Self { terminal, before }
    }

    /// Sits down and starts the client; returns when it is attached, as far
    /// as the terminal tells.
    #[track_caller]
    pub fn attached(client: &Command) -> Self {
        let seat = Self::prepared(client, ":");
        seat.wait_for_raw();
        seat
    }

    #[track_caller]
    pub fn wait_for_raw(&self) {
        wait_until("the client's terminal is raw", || self.terminal.is_raw());
    }

    /// The client's process.
    #[track_caller]
    pub fn client(&self) -> i32 {
        let mut children = Vec::new();
        wait_until("the client runs", || {
            children = process::children(self.terminal.leader());
            children.len() == 1
        });
        children[0].pid
    }

    /// Whether the client is stopped.
    pub fn is_stopped(&self) -> bool {
        Process::of(self.client()).is_some_and(|client| client.state == 'T')
    }

    /// Sends the client a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        process::signal(self.client(), signal);
    }

    /// Waits until the shell has its turn again; returns the status that it
    /// saw, and what came before. The terminal must be as it was.
    #[track_caller]
    pub fn back_at_the_shell(&mut self) -> (i32, String) {
        let before = self.terminal.wire.read_until("status=");
        let status = self.terminal.wire.read_until(".");
        assert_eq!(self.terminal.settings(), self.before, "settings; last output: {before:?}");
        (status.trim_end_matches('.').parse().expect("a number"), before)
    }
}

/// The exit status as a shell has it.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
