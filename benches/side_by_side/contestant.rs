//! The servers, and the sessions that one opens with them.

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::openpty;

use super::{Result, agent, handed};

/// Contestant of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// uWSGI's own plugin.
    C,
    /// This one.
    Ours,
    /// `socat UNIX-LISTEN:,fork EXEC:,pty`.
    Socat,
    /// No server: the terminal itself.
    Bare,
    /// This one, which has handed the terminal over to the client.
    Handed,
}

/// The wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Raw,
    Uwsgi,
}

/// Program that a server runs for its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// See `agent.rs`.
    Agent,
    /// See `line.c`.
    Line,
    /// See `silent.c`.
    Silent,
}

/// Additional feature of our server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extra {
    None,
    /// Each session is recorded.
    Records,
    /// Sessions can be detached.
    Detaches,
}

/// Output of `line.c`, as a terminal shows it.
pub const LINE: &[u8] = b"the quick brown fox jumps over the lazy dog\r\n";

/// Where recordings are.
const RECORDINGS: &str = "recordings";

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where everything is.
pub struct World {
    folder: tempfile::TempDir,
    server: PathBuf,
    c_plugins: PathBuf,
    plugin: PathBuf,
    /// Another build of ours, in the C plugin's place.
    against: Option<PathBuf>,
    has_socat: bool,
}

impl World {
    /// Looks for all of it, and builds the little programs.
    pub fn new(against: Option<PathBuf>) -> Result<Self> {
        let path = |name: &str, default: &str| {
            PathBuf::from(env::var_os(name).unwrap_or_else(|| default.into()))
        };
        let world = Self {
            folder: tempfile::Builder::new().prefix("side-by-side").tempdir()?,
            server: path("UWSGI", "/usr/bin/uwsgi-core"),
            c_plugins: path("UWSGI_C_PLUGINS", "/usr/lib/uwsgi/plugins"),
            plugin: path(
                "FORKPTY_PLUGIN",
                concat!(env!("CARGO_MANIFEST_DIR"), "/forkptyrouter_plugin.so"),
            ),
            against,
            has_socat: Command::new("socat")
                .arg("-V")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
        };
        let theirs = world.c_plugins.join("forkptyrouter_plugin.so");
        for (what, path) in [
            ("uWSGI", world.server.clone()),
            ("the plugin to compare with", world.against.clone().unwrap_or(theirs)),
            ("our plugin", world.plugin.clone()),
        ] {
            if !path.is_file() {
                return Err(format!("{what}: there is no {}", path.display()).into());
            }
        }
        std::os::unix::fs::symlink(env::current_exe()?, world.file(agent::NAME))?;
        let bare: &[&str] =
            if cfg!(target_arch = "x86_64") { &["-nostdlib", "-static"] } else { &[] };
        world.compile("line", include_str!("line.c"), bare)?;
        world.compile("silent", include_str!("silent.c"), bare)?;
        world.compile("ballast.so", include_str!("ballast.c"), &["-shared", "-fPIC"])?;
        Ok(world)
    }

    /// Whether a contestant can take part.
    pub fn has(&self, kind: Kind) -> bool {
        kind != Kind::Socat || self.has_socat
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn compile(&self, name: &str, source: &str, flags: &[&str]) -> Result<()> {
        let input = self.file(&format!("{name}.c"));
        std::fs::write(&input, source)?;
        let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
        let done = Command::new(&compiler)
            .args(["-O2", "-fno-stack-protector"])
            .args(flags)
            .arg("-o")
            .arg(self.file(name))
            .arg(&input)
            .status()
            .map_err(|error| format!("{}: {error}", compiler.to_string_lossy()))?;
        if !done.success() {
            return Err(format!("cannot compile {name}.c").into());
        }
        Ok(())
    }

    /// Starts a contestant's server.
    pub fn start(&self, kind: Kind, program: Program) -> Result<Server<'_>> {
        self.start_with(kind, program, None, Extra::None)
    }

    /// Starts ours with each session recorded.
    pub fn start_recorded(&self, program: Program) -> Result<Server<'_>> {
        self.start_with(Kind::Ours, program, None, Extra::Records)
    }

    /// Starts one whose sessions can be left, thousands of them.
    pub fn start_detachable(&self, kind: Kind, program: Program) -> Result<Server<'_>> {
        self.start_with(kind, program, None, Extra::Detaches)
    }

    /// Starts a server that has so many megabytes of memory of its own.
    pub fn start_large(&self, kind: Kind, program: Program, size: u32) -> Result<Server<'_>> {
        self.start_with(kind, program, Some(size), Extra::None)
    }

    fn start_with(
        &self,
        kind: Kind,
        program: Program,
        ballast: Option<u32>,
        extra: Extra,
    ) -> Result<Server<'_>> {
        let name = match program {
            Program::Agent => agent::NAME,
            Program::Line => "line",
            Program::Silent => "silent",
        };
        let program = self.file(name);
        let mut server = Server { world: self, kind, program, extra, child: None };
        let Some(mut command) = server.command() else {
            return Ok(server);
        };
        for mode in [Mode::Raw, Mode::Uwsgi] {
            let _ = std::fs::remove_file(self.socket(mode));
        }
        let log = File::create(self.file("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        if let Some(size) = ballast {
            command.env("LD_PRELOAD", self.file("ballast.so"));
            command.env("BALLAST_MEGABYTES", size.to_string());
        }
        // SAFETY: prctl(2) with a number; no memory is involved, and it may be
        // called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        server.child = Some(command.spawn()?);
        server.wait_until_it_listens()?;
        Ok(server)
    }

    fn socket(&self, mode: Mode) -> PathBuf {
        self.file(match mode {
            Mode::Raw => "raw.socket",
            Mode::Uwsgi => "uwsgi.socket",
        })
    }
}

/// A server that runs, and is killed when this is dropped.
pub struct Server<'a> {
    world: &'a World,
    kind: Kind,
    program: PathBuf,
    extra: Extra,
    child: Option<Child>,
}

impl Server<'_> {
    fn command(&self) -> Option<Command> {
        let world = self.world;
        let (raw, uwsgi) = (world.socket(Mode::Raw), world.socket(Mode::Uwsgi));
        let mut command = match self.kind {
            Kind::Bare => return None,
            Kind::Socat => {
                let mut command = Command::new("socat");
                command.arg(format!("UNIX-LISTEN:{},fork,backlog=1024", raw.display()));
                command.arg(format!("EXEC:{},pty,setsid,ctty,stderr", self.program.display()));
                return Some(command);
            }
            Kind::C | Kind::Ours | Kind::Handed => Command::new(&world.server),
        };
        // Not what the environment says to the server that built us.
        for (name, _) in env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("UWSGI_")) {
            command.env_remove(name);
        }
        match (self.kind, &world.against) {
            (Kind::C, None) => {
                command.arg("--plugins-dir").arg(&world.c_plugins);
                command.args(["--plugin", "corerouter,forkptyrouter"]);
            }
            (Kind::C, Some(plugin)) => _ = command.arg("--plugin").arg(plugin),
            _ => _ = command.arg("--plugin").arg(&world.plugin),
        }
        command.arg("--master").arg("--listen").arg("100");
        command.arg("--forkptyrouter").arg(raw).arg("--forkptyurouter").arg(uwsgi);
        command.arg("--forkptyrouter-command").arg(&self.program);
        match self.extra {
            Extra::None => {}
            Extra::Records => {
                command.arg("--forkptyrouter-record").arg(world.file(RECORDINGS));
            }
            Extra::Detaches => {
                for option in ["detach", "detach-user", "detach-buffer"] {
                    let value = if option == "detach-buffer" { "16384" } else { "9000" };
                    command.arg(format!("--forkptyrouter-{option}")).arg(value);
                }
            }
        }
        Some(command)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let since = Instant::now();
        let wants_both = self.kind != Kind::Socat;
        loop {
            let there = |mode| self.world.socket(mode).exists();
            if there(Mode::Raw) && (!wants_both || there(Mode::Uwsgi)) {
                return Ok(());
            }
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || since.elapsed() > 3 * PATIENCE {
                return Err(format!("{:?}: no server: {}", self.kind, self.log()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.world.file("log")).unwrap_or_default();
        log.lines().last().unwrap_or("nothing in its log").to_owned()
    }

    /// Connects, without waiting for anything to arrive.
    pub fn connect(&self, mode: Mode) -> Result<Session> {
        if self.kind == Kind::Bare {
            return bare(&self.program);
        }
        let path = self.world.socket(mode);
        let stream = connect(&path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let wire = File::from(OwnedFd::from(stream));
        let framed = mode == Mode::Uwsgi;
        Ok(Session { wire, framed, gateway: 0, child: None, _connection: None, said: Vec::new() })
    }

    /// Connects to the socket in uwsgi mode.
    pub fn connect_stream(&self) -> Result<UnixStream> {
        let stream = connect(&self.world.socket(Mode::Uwsgi))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Connects, and waits until the agent is there.
    pub fn open(&self, mode: Mode) -> Result<Session> {
        let mut session = match self.kind {
            Kind::Handed => handed::take(connect(&self.world.socket(Mode::Uwsgi))?)?,
            _ => self.connect(mode)?,
        };
        let mut greeting = session.said.clone();
        while !greeting.ends_with(b"\n") {
            let mut byte = [0];
            if session.wire.read(&mut byte).map_err(|error| format!("no session: {error}"))? == 0 {
                return Err("a session ended before it began".into());
            }
            greeting.push(byte[0]);
        }
        let pid = String::from_utf8_lossy(&greeting);
        session.gateway = pid.trim().trim_start_matches('R').parse()?;
        Ok(session)
    }
}

/// A socket that was bound may not listen yet.
fn connect(path: &Path) -> Result<UnixStream> {
    let since = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if since.elapsed() > PATIENCE => {
                return Err(format!("cannot connect: {error}").into());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // The group is the server's own, and its leader is not reaped yet.
        // Sessions end with their terminals, whose masters close here.
        if let Ok(group) = i32::try_from(child.id()) {
            let group = nix::unistd::Pid::from_raw(group);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = child.wait();
        if self.extra == Extra::Records {
            let _ = std::fs::remove_dir_all(self.world.file(RECORDINGS));
        }
    }
}

/// A session with a contestant.
pub struct Session {
    /// The session's connection or terminal.
    pub wire: File,
    /// Whether what goes is packets.
    pub framed: bool,
    /// The process whose child the program is.
    pub gateway: i32,
    child: Option<Child>,
    /// The connection that keeps the session of a terminal that was handed over.
    _connection: Option<UnixStream>,
    /// Output of the program before that.
    said: Vec<u8>,
}

impl Session {
    /// A terminal that was handed over on this connection, and what its program
    /// said until then.
    pub fn handed(master: File, connection: UnixStream, said: Vec<u8>) -> Self {
        Self {
            wire: master,
            framed: false,
            gateway: 0,
            child: None,
            _connection: Some(connection),
            said,
        }
    }

    /// Tells the agent what to do.
    pub fn tell(&mut self, what: char, amount: u64) -> Result<()> {
        let line = format!("{what}{amount}\n");
        let mut bytes = Vec::new();
        if self.framed {
            // A line is a few bytes.
            bytes.extend_from_slice(&[0, line.len() as u8, 0, 0]);
        }
        bytes.extend_from_slice(line.as_bytes());
        Ok(self.wire.write_all(&bytes)?)
    }

    /// Waits for exactly these bytes.
    pub fn expect(&mut self, expected: &[u8]) -> Result<()> {
        let mut got = vec![0; expected.len()];
        self.wire.read_exact(&mut got).map_err(|error| format!("no answer: {error}"))?;
        if got != expected {
            return Err("a wrong answer: input was lost".into());
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program on a terminal whose master is the client's own.
fn bare(program: &Path) -> Result<Session> {
    let pair = openpty(None, None)?;
    // openpty(3) leaves it open across an exec; the program then held its own
    // master, and would never see it hung up.
    nix::fcntl::fcntl(&pair.master, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    let slave = File::from(pair.slave);
    let mut command = Command::new(program);
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    // SAFETY: two system calls that may be made between fork and exec, and
    // touch no memory.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn()?;
    let wire = File::from(pair.master);
    let child = Some(child);
    Ok(Session { wire, framed: false, gateway: 0, child, _connection: None, said: Vec::new() })
}

impl AsRawFd for Session {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.wire.as_raw_fd()
    }
}
