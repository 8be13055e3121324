//! The master of an instance without uWSGI: it takes the options of the
//! gateway, binds its sockets, and forks and respawns gateways, as uWSGI's does. The
//! process that calls [`master`] becomes it: a test's own program, executed once more.
//!
//! Time can be moved (`fpty::sys::clock`): whoever has the word of the clock adds to it,
//! and wakes the gateways by SIGCHLD.

use std::ffi::{CString, OsStr, OsString};
use std::net::TcpListener;
use std::os::fd::{AsFd, IntoRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use fpty::error::{Context, Error, Result};
use fpty::proto::Protocol;
use fpty::sys::bind;
use fpty::sys::child::{self, Pid};
use fpty::sys::daemonize;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::signal::Signals;
use fpty::sys::socket::ListeningSocket;
use fpty_gateway::config::option_table;
use fpty_gateway::config::options::{self, GatewayConfig};
use fpty_gateway::config::socket_options::SocketRequest;
use fpty_gateway::host::{self, Host, Socket, SocketRole};
use fpty_gateway::instance;
use fpty_gateway::log::log;

/// How the log announces a gateway, and one in the place of another, as uWSGI does.
const SPAWNED: &str = "spawned";
const RESPAWNED: &str = "respawned";

/// How long the gateways of an instance that stops may take to tell their clients.
const STOP: Duration = Duration::from_millis(300);

/// The server that a test is.
#[derive(Default)]
struct TestHost {
    instance: Option<String>,
    statistics_by_http: bool,
    shell: Option<CString>,
    socket_mode: Option<u32>,
    sockets: Vec<Bound>,
}

/// A socket that is bound.
#[derive(Clone)]
struct Bound {
    fd: RawFd,
    role: SocketRole,
    name: String,
    rules: usize,
}

impl Host for TestHost {
    fn version(&self) -> &str {
        "test"
    }

    fn instance(&self) -> Option<String> {
        self.instance.clone()
    }

    fn shell(&self) -> CString {
        self.shell.clone().unwrap_or_else(|| c"/bin/sh".to_owned())
    }

    fn statistics_by_http(&self) -> bool {
        self.statistics_by_http
    }

    fn sockets(&self) -> Result<Vec<Socket>> {
        let socket = |Bound { fd, role, name, rules }| {
            Ok(Socket { listener: ListeningSocket::of_the_server(fd)?, role, name, rules })
        };
        self.sockets.iter().cloned().map(socket).collect()
    }

    fn exit(&self, status: i32) -> ! {
        daemonize::exit(status)
    }
}

/// Becomes the master of an instance with these options; returns the exit status, at
/// the instance's end. SIGINT, SIGQUIT and SIGTERM stop it.
pub fn master(asked: &[(String, OsString)]) -> i32 {
    match serve(asked) {
        Ok(()) => 0,
        Err(error) => {
            log(&format!("forkptyrouter: {error}"));
            1
        }
    }
}

fn serve(asked: &[(String, OsString)]) -> Result<()> {
    let (mut config, mut server) = (GatewayConfig::default(), TestHost::default());
    let mut wanted = Vec::new();
    for (name, value) in asked {
        server.set(&mut config, name, value)?;
        wanted.extend(std::mem::take(&mut config.socket_requests));
    }
    instance::before_jail(Some(&config))?;
    for remark in &config.remarks {
        log(&format!("forkptyrouter: {remark}"));
    }
    config.resolve()?;
    for asked in wanted {
        match asked {
            SocketRequest::Socket { address, protocol, rules } => {
                server.bind(&config, &address, SocketRole::Terminal(protocol), rules)?;
            }
            SocketRequest::Zerg(_) => return Err(Error::new("this server has no zerg mode")),
        }
    }
    if let Some(address) = config.stats.clone() {
        server.bind(&config, &address, SocketRole::Statistics, 0)?;
    }
    host::set(Box::leak(Box::new(server)));
    instance::before_gateways(&config);
    Master::begin(config)?.run()
}

impl TestHost {
    /// Takes an option of the gateway, or one of the few of uWSGI's that mean something here.
    fn set(&mut self, config: &mut GatewayConfig, name: &str, value: &OsStr) -> Result<()> {
        let text = || value.to_string_lossy().into_owned();
        match name {
            "plugin" | "plugins-dir" | "master" | "need-app" => {}
            "procname" => self.instance = Some(text()),
            "stats-http" => self.statistics_by_http = true,
            "chmod-socket" => {
                // Without a value it means everybody.
                self.socket_mode = Some(u32::from_str_radix(&text(), 8).unwrap_or(0o666));
            }
            "max-fd" => {
                let most = text().parse().map_err(|_| Error::new("option max-fd: not a number"))?;
                let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
                nix::sys::resource::setrlimit(limit, most, most).context("max-fd")?;
            }
            "binsh" => self.shell = CString::new(value.as_bytes()).ok(),
            "ini" => {
                self.instance.get_or_insert_with(text);
                let lines = std::fs::read_to_string(Path::new(value)).context(text())?;
                for line in lines.lines().filter(|line| !line.starts_with(['[', '#', ';'])) {
                    if let Some((name, value)) = line.split_once('=') {
                        self.set(config, name.trim(), OsStr::new(value.trim()))?;
                    }
                }
            }
            _ => option_table::apply_option(&options::OPTIONS, config, name, value)?,
        }
        Ok(())
    }

    fn bind(
        &mut self,
        config: &GatewayConfig,
        at: &OsStr,
        role: SocketRole,
        rules: usize,
    ) -> Result<()> {
        let name = at.to_string_lossy().into_owned();
        let cannot = || format!("cannot bind {name}");
        let fd = if let Some(abstract_name) = at.as_bytes().strip_prefix(b"@") {
            // As uWSGI's, with a NUL at its end.
            let address = SocketAddr::from_abstract_name([abstract_name, b"\0"].concat());
            let address = address.context(cannot())?;
            UnixListener::bind_addr(&address).context(cannot())?.into_raw_fd()
        } else if name.contains(':') {
            TcpListener::bind(&name).context(cannot())?.into_raw_fd()
        } else {
            let ownership =
                config.socket_options(rules).map(|own| own.ownership).unwrap_or_default();
            let mode = ownership.mode.or(self.socket_mode);
            let ownership = bind::Ownership { mode, ..ownership };
            let bound = bind::bind_unix(Path::new(at), ownership, 100);
            bound.map_err(|error| Error::new(format!("{}: {error}", cannot())))?.into_raw_fd()
        };
        match role {
            SocketRole::Statistics => {
                log(&format!("*** forkptyrouter stats server enabled on {name} fd: {fd} ***"));
            }
            SocketRole::Terminal(Protocol::Raw | Protocol::Uwsgi) => {
                log(&format!("uWSGI forkptyrouter bound on {name} fd {fd}"));
            }
        }
        self.sockets.push(Bound { fd, role, name, rules });
        Ok(())
    }
}

/// The process that forks the gateways.
struct Master {
    config: GatewayConfig,
    signals: Signals,
    gateways: Vec<Pid>,
}

impl Master {
    /// # Errors
    /// A gateway cannot be forked.
    fn begin(config: GatewayConfig) -> Result<Self> {
        let heard = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
        let signals = Signals::read_by_signalfd(&heard).context("no signals")?;
        let mut master = Self { config, signals, gateways: Vec::new() };
        for ordinal in 0..master.config.processes as usize {
            let gateway = master.fork(ordinal, SPAWNED)?;
            master.gateways.push(gateway);
        }
        Ok(master)
    }

    fn fork(&self, ordinal: usize, announced: &str) -> Result<Pid> {
        let config = self.config.clone();
        let gateway = daemonize::child(|| {
            if let Err(error) = instance::run_gateway(ordinal, config) {
                log(&format!("forkptyrouter: the gateway ends: {error}"));
            }
        });
        let gateway = gateway.context("cannot fork a gateway")?;
        let number = ordinal + 1;
        log(&format!("{announced} uWSGI forkptyrouter {number} (pid: {})", gateway.as_raw()));
        Ok(gateway)
    }

    /// Respawns gateways until it is told to stop.
    fn run(mut self) -> Result<()> {
        let mut poller = Poller::new(1).context("no epoll")?;
        poller.add(self.signals.as_fd(), 0, Interest::READ).context("no signals")?;
        loop {
            let _ = poller.wait(None);
            while let Some(arrived) = self.signals.next() {
                if arrived.signal != Signal::SIGCHLD {
                    self.stop();
                    return Ok(());
                }
            }
            while let Some((ended, _)) = child::reap_ended(None) {
                if let Some(ordinal) = self.gateways.iter().position(|gateway| *gateway == ended) {
                    self.gateways[ordinal] = self.fork(ordinal, RESPAWNED)?;
                }
            }
        }
    }

    /// Gateways tell their clients first, and are killed when they have, or have had time.
    fn stop(&self) {
        let send = |number| {
            for gateway in &self.gateways {
                // One that has ended meanwhile.
                let _ = gateway.signal(number);
            }
        };
        send(Signal::SIGTERM as i32);
        let words = instance::stop_words().unwrap_or_default();
        let told = |(word, gateway): (&AtomicU64, &Pid)| {
            u64::try_from(gateway.as_raw()) == Ok(word.load(Ordering::Acquire))
        };
        let end = Instant::now() + STOP;
        while !words.iter().zip(&self.gateways).all(told) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        send(Signal::SIGKILL as i32);
        self.gateways.iter().for_each(|gateway| gateway.reap());
        instance::after_gateways(&self.config);
    }
}
