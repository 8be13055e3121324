//! A real server, in a folder of its own, that leaves nothing behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::in_process::{self, Clock};
use super::process::{self, Process};
use super::seccomp::Filter;
use super::servers::{C_BINARY, C_PLUGINS, IN_PROCESS};
use super::{DEADLINE, Flavor, Wire, comes_true, executable, wait_until};

/// The variable that marks everything a server starts, directly or not.
const MARK: &str = "FORKPTY_TEST";

/// The number of an inherited descriptor: higher than any that the test or
/// its child has open.
const INHERITED: i32 = 900;

/// Descriptor of the clock of an instance without uWSGI.
const CLOCK: i32 = 901;

/// A server to be started. `{dir}` in arguments is its own folder.
pub struct Setup {
    title: String,
    command: Command,
    dir: TempDir,
    inherited: Option<OwnedFd>,
    filter: Option<Filter>,
    killed_at_end: bool,
    /// The clock of an instance without uWSGI.
    clock: Option<Clock>,
}

/// A server that runs.
pub struct Server {
    title: String,
    child: Child,
    dir: TempDir,
    mark: String,
    killed_at_end: bool,
    clock: Option<Clock>,
}

/// How a server ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

impl Setup {
    /// With our plugin, found as documented.
    pub fn new(flavor: &Flavor) -> Self {
        let setup = Self::bare(&flavor.name, &flavor.binary);
        match setup.clock.is_some() {
            true => setup,
            false => setup.plugin(&flavor.plugins, "forkptyrouter"),
        }
    }

    /// Debian's server with the C plugin.
    pub fn c_router() -> Self {
        Self::bare("the C router", Path::new(C_BINARY))
            .plugin(Path::new(C_PLUGINS), "corerouter,forkptyrouter")
    }

    /// A server with no plugin yet.
    pub fn bare(title: &str, binary: &Path) -> Self {
        // A socket's path has about a hundred bytes.
        let dir = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").expect("a folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            // The server takes options from its environment, too.
            if name.to_string_lossy().starts_with("UWSGI") {
                command.env_remove(name);
            }
        }
        command
            .env(MARK, dir.path())
            .env_remove("TERM")
            .env("PS1", "$ ")
            .env("LC_ALL", "C")
            .current_dir(dir.path())
            .stdin(Stdio::null());
        // From 2.1 on workers want an application, unless they are told otherwise.
        if title.contains("-2.1") && binary.ends_with("uwsgi") {
            command.arg("--need-app=false");
        }
        Self {
            title: title.to_owned(),
            command,
            dir,
            inherited: None,
            filter: None,
            killed_at_end: false,
            clock: (title == IN_PROCESS).then(Clock::new),
        }
    }

    /// Loads a plugin from a folder.
    pub fn plugin(self, folder: &Path, name: &str) -> Self {
        let folder = folder.display().to_string();
        self.option("plugins-dir", &folder).option("plugin", name)
    }

    /// An argument as it is.
    pub fn argument(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    /// An option with a value.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        let value = value.replace("{dir}", &self.path(""));
        self.command.arg(format!("--{name}")).arg(value);
        self
    }

    /// An option whose value is not UTF-8: what follows the server's folder.
    pub fn bytes_option(mut self, name: &str, value: &[u8]) -> Self {
        let value = self.bytes_path(value);
        self.command.arg(format!("--{name}")).arg(value);
        self
    }

    /// A path in the server's folder whose name is not UTF-8.
    pub fn bytes_path(&self, name: &[u8]) -> PathBuf {
        self.dir.path().join(OsStr::from_bytes(name))
    }

    /// An option without one.
    pub fn switch(mut self, name: &str) -> Self {
        self.command.arg(format!("--{name}"));
        self
    }

    /// The program of the sessions: a shell script.
    pub fn script(self, body: &str) -> Self {
        let setup = self.file("script", &format!("#!/bin/sh\n{body}\n"));
        setup.option("forkptyrouter-command", "{dir}/script")
    }

    /// An ini file, read after the arguments so far.
    pub fn ini(self, lines: &str) -> Self {
        self.file("server.ini", &format!("[uwsgi]\n{lines}\n")).option("ini", "{dir}/server.ini")
    }

    /// A file in the server's folder, executable.
    pub fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        executable::write(path, text.replace("{dir}", &self.path("")));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Kills it when the case is over: the orderly end of one with workers
    /// takes a second.
    pub fn killed_at_end(mut self) -> Self {
        self.killed_at_end = true;
        self
    }

    /// Gives it another standard input than none.
    pub fn stdin(mut self, input: impl Into<Stdio>) -> Self {
        self.command.stdin(input);
        self
    }

    /// Gives it a descriptor under the number [`INHERITED`].
    pub fn inherit(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.inherited = Some(fd.into());
        self
    }

    /// Has system calls refused.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// A path in the server's folder (the folder itself for "").
    pub fn path(&self, name: &str) -> String {
        join(self.dir.path(), name)
    }

    /// Starts it and waits for its first gateway.
    #[track_caller]
    pub fn start(self) -> Server {
        let server = self.launch();
        server.wait_for_log("spawned uWSGI forkptyrouter 1 (pid: ");
        server
    }

    /// Starts it with a socket `s` in raw mode.
    #[track_caller]
    pub fn raw(self) -> Server {
        self.option("forkpty-router", "{dir}/s").start()
    }

    /// Starts it with a socket `u` in uwsgi mode.
    #[track_caller]
    pub fn uwsgi(self) -> Server {
        self.option("forkpty-urouter", "{dir}/u").start()
    }

    /// Starts one that is expected to end by itself.
    #[track_caller]
    pub fn run(self) -> Ended {
        let mut server = self.launch();
        let mut status = None;
        wait_until("the server ends by itself", || {
            status = server.child.try_wait().expect("a child of ours");
            status.is_some()
        });
        Ended { status: status.expect("it has ended"), log: server.log() }
    }

    /// Starts it and waits for nothing.
    pub fn launch(mut self) -> Server {
        let log = File::create(self.dir.path().join("log")).expect("a log");
        let mut command = self.command;
        if self.clock.is_some() {
            command = in_process::command(&command, CLOCK);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        } else {
            command.stdout(log.try_clone().expect("a copy of the log")).stderr(log);
        }
        let inherited = self.inherited.as_ref().map(|fd| fd.as_raw_fd());
        let filter = self.filter.take();
        let clock = self.clock.as_ref().map(|clock| clock.fd.as_raw_fd());
        // SAFETY: setsid, dup2 and prctl are async-signal-safe; the number is that
        // of a descriptor that lives until the spawn returns.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setsid()?;
                if clock.is_some() {
                    // All threads of the master are to have them blocked, or it hears of none.
                    in_process::block_signals()?;
                }
                if clock.is_some_and(|fd| libc::dup2(fd, CLOCK) < 0) {
                    return Err(std::io::Error::last_os_error());
                }
                if inherited.is_some_and(|fd| libc::dup2(fd, INHERITED) < 0) {
                    return Err(std::io::Error::last_os_error());
                }
                filter.as_ref().map_or(Ok(()), Filter::install)
            });
        }
        let child = command.spawn().expect("the server's binary runs");
        let mark = format!("{MARK}={}", self.dir.path().display());
        Server {
            title: self.title,
            child,
            dir: self.dir,
            mark,
            killed_at_end: self.killed_at_end,
            clock: self.clock,
        }
    }
}

impl Server {
    /// A path in its folder.
    pub fn path(&self, name: &str) -> String {
        join(self.dir.path(), name)
    }

    /// Connects to a socket in its folder.
    #[track_caller]
    pub fn connect(&self, socket: &str) -> Wire {
        Wire::connect(&self.path(socket))
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// How many lines of the log hold `text`.
    pub fn count_in_log(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log says {text:?}"), || {
            self.log().contains(text) || !self.is_alive()
        });
        assert!(self.log().contains(text), "the server ended without saying {text:?}");
    }

    fn is_alive(&self) -> bool {
        Process::of(self.master()).is_some_and(|master| !master.is_zombie())
    }

    pub fn master(&self) -> i32 {
        self.child.id() as i32
    }

    /// The first gateway, as last spawned.
    #[track_caller]
    pub fn gateway(&self) -> i32 {
        let log = self.log();
        let pid = log.rsplit_once("spawned uWSGI forkptyrouter 1 (pid: ").and_then(|(_, rest)| {
            let digits = rest.split(')').next()?;
            digits.parse().ok()
        });
        pid.expect("the log names the gateway's pid")
    }

    /// Kills the gateway (`kill`), or reloads the instance, and waits until the
    /// next gateway serves.
    #[track_caller]
    pub fn replace_gateway(&self, way: &str) {
        let gateway = self.gateway();
        let served = self.count_in_log("sessions at once");
        match way {
            "kill" => process::signal(gateway, Signal::SIGKILL),
            _ => process::signal(self.master(), Signal::SIGHUP),
        }
        wait_until("there is another gateway", || self.gateway() != gateway);
        wait_until("it serves", || self.count_in_log("sessions at once") > served);
    }

    /// Lets time pass at once in an instance without uWSGI.
    ///
    /// # Panics
    /// It is another one.
    #[track_caller]
    pub fn advance(&self, time: Duration) {
        self.clock.as_ref().expect("an instance whose time can be moved").advance(time);
        for gateway in process::children(self.master()) {
            process::signal(gateway.pid, Signal::SIGCHLD);
        }
    }

    /// The sessions' processes: the children of the gateway.
    pub fn programs(&self) -> Vec<Process> {
        process::children(self.gateway())
    }

    /// How many descriptors the gateway has open before anybody connects.
    #[track_caller]
    pub fn idle_descriptors(&self) -> usize {
        self.wait_for_log("sessions at once");
        process::descriptors(self.gateway()).len()
    }

    /// Everything that the server started and that still runs.
    pub fn processes(&self) -> Vec<Process> {
        process::marked(&self.mark)
    }

    /// A process that the server started, by its name.
    pub fn process_named(&self, name: &str) -> Option<Process> {
        self.processes().into_iter().find(|one| one.name == name && !one.is_zombie())
    }

    /// The supervisor's pid, if it runs.
    pub fn supervisor(&self) -> Option<i32> {
        self.process_named("fpty-supervisor").map(|supervisor| supervisor.pid)
    }

    /// How many terminals the supervisor has.
    pub fn supervised_terminals(&self) -> usize {
        let open = self.supervisor().map(process::descriptors).unwrap_or_default();
        open.iter().filter(|(_, path)| path.ends_with("ptmx")).count()
    }

    /// Processes of sessions that still run, jobs included.
    pub fn session_processes(&self) -> Vec<Process> {
        let own = Process::of(self.master()).map_or(0, |master| master.session);
        self.processes().into_iter().filter(|process| process.session != own).collect()
    }

    /// Ends it as an operator does (SIGTERM would reload it).
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        process::signal(self.master(), Signal::SIGINT);
        let mut status = None;
        wait_until("the server stops on SIGINT", || {
            status = self.child.try_wait().expect("a child of ours");
            status.is_some()
        });
        status.expect("it has ended")
    }

    fn show(&self) {
        eprintln!("--- {}: {}", self.title, self.dir.path().display());
        for process in self.processes() {
            eprintln!("  {}", process.describe());
        }
        for entry in fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let mode = entry.metadata().map(|data| data.permissions().mode()).unwrap_or_default();
            eprintln!("  {:o} {:?}", mode, entry.file_name());
        }
        eprintln!("--- its log:\n{}--- end of the log", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        if self.killed_at_end {
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else if !ended(&mut self.child) {
            process::signal(self.master(), Signal::SIGINT);
            if !comes_true(DEADLINE.min(Duration::from_secs(5)), || ended(&mut self.child)) {
                eprintln!("{}: does not stop on SIGINT, killing it", self.title);
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        // Only what bears this server's own mark.
        for process in self.processes() {
            process::signal(process.pid, Signal::SIGKILL);
        }
    }
}

fn join(folder: &Path, name: &str) -> String {
    let path = if name.is_empty() { folder.to_path_buf() } else { folder.join(name) };
    path.display().to_string()
}
