//! The gateway: gives every client that connects a terminal of its own with
//! a program of the instance behind it.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | the loop: waits, and hands each event to whom it concerns |
//! | `attach.rs` | a client connects: its terminal and its program |
//! | `traffic.rs` | bytes between a client and its terminal |
//! | `depart.rs` | a session ends: programs are hung up and reaped |
//! | `aftercare.rs` | what becomes of sessions when the gateway itself ends |
//! | `stats.rs` | the statistics' clients |
//! | `exchange.rs` | programs that answer each other in quick succession |
//! | `table.rs`, `timers.rs` | sessions by number, and what is due when |

pub mod aftercare;
mod attach;
mod depart;
mod exchange;
#[cfg(feature = "fault-injection")]
mod fault;
mod stats;
mod table;
mod timers;
mod traffic;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::config::router::Router;
use crate::uwsgi::gateway::Gateway;
use crate::uwsgi::sockets::Role;
use crate::uwsgi::{guard, log::log, server};
use fpty::error::{Context, Result};
use fpty::proto::Protocol;
use fpty::sys::child::{Pid, SessionKiller};
use fpty::sys::local_tcp::LocalTcp;
use fpty::sys::pidfd::PidFd;
use fpty::sys::pipe::Pipe;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::processors::Parallel;
use fpty::sys::signal::{Signals, block};
use fpty::sys::socket::Listener;
use fpty::sys::spawn::Program;
use fpty::sys::tick;

use aftercare::{Aftercare, Listed};
use attach::Spare;
use exchange::Exchange;
use stats::StatsClient;
use table::{Key, Source, Table};
use timers::{Due, Timers};
use traffic::Attached;

/// Bytes of one read from a client, and of one write to it.
const BUFFER: usize = 64 * 1024;

/// A socket of the router.
struct Door {
    listener: Listener,
    protocol: Protocol,
    name: String,
}

/// A program that has not been reaped. There is one for each session, so it
/// is kept small.
struct Running {
    /// Whose it is; a key that is no longer valid: its client has left.
    session: Key,
    listed: Option<Listed>,
}

/// Everything that one gateway process knows.
struct GatewayLoop {
    config: Router,
    program: Program,
    poller: Poller,
    doors: Vec<Door>,
    accepting: bool,
    spare: Spare,
    sessions: Table<Attached>,
    /// Our programs that have not been reaped.
    programs: HashMap<Pid, Running>,
    /// Those whose client has left, and when it did.
    left: HashMap<Pid, Instant>,
    /// Leaders whose sessions are to be killed.
    outlived: Vec<Pid>,
    killing: Option<SessionKiller>,
    /// Where the session leaders are listed for whoever comes after us.
    aftercare: Option<Aftercare>,
    /// Session leaders of a gateway that was here before us.
    left_behind: Vec<PidFd>,
    children: Signals,
    timers: Timers,
    local_tcp: LocalTcp,
    stats_listener: Option<Listener>,
    stats_http: bool,
    stats: Table<StatsClient>,
    /// What comes last in this turn.
    bulk: Vec<Ready>,
    parallel: Parallel,
    exchange: Exchange,
    buffer: Box<[u8; BUFFER]>,
    /// What a client sent, and what of that is input, where that comes in many
    /// packets. Their capacity is BUFFER, so they never grow.
    input: Vec<u8>,
    gather: Vec<u8>,
    /// For the output of streams; `None` where the kernel has no such thing.
    pipe: Option<Pipe>,
}

/// Runs a gateway; returns only when it cannot go on.
pub fn run(gateway: Gateway, config: Router) -> Result<()> {
    let mut router = GatewayLoop::new(&gateway, config)?;
    loop {
        let wait = router.timers.wait(Instant::now());
        gateway.rests();
        let count = router.poller.wait(wait).context("cannot wait for events")?;
        gateway.works();
        for index in 0..count {
            let ready = router.poller.ready(index);
            if router.is_bulk(ready) {
                router.bulk.push(ready);
            } else {
                router.dispatch(ready);
            }
        }
        let streams = !router.bulk.is_empty();
        // A key that is typed does not wait for the megabytes of others.
        for index in 0..router.bulk.len() {
            router.dispatch(router.bulk[index]);
        }
        router.bulk.clear();
        // What comes due meanwhile is for the next turn.
        let now = Instant::now();
        if router.exchange.turn(now, router.parallel, streams) {
            tick::keep();
        }
        while let Some(due) = router.timers.next(now) {
            router.fire(due);
        }
    }
}

impl GatewayLoop {
    fn new(gateway: &Gateway, config: Router) -> Result<Self> {
        fpty::sys::forbid_inspection();
        if fpty::sys::has_root_group_only() {
            log("forkptyrouter: sessions have the group root: name a gid, not only a uid");
        }
        // A pipe raises it; what became of a write says it all.
        block(Signal::SIGPIPE);
        let limit = fpty::sys::raise_descriptor_limit().ok();
        let program = Program::from_command(&config.command, &server::shell())
            .environment(fpty::sys::environment::for_sessions())
            .descriptor_limit(limit);
        let poller = Poller::new(config.events as usize).context("cannot create an epoll")?;
        let children = Signals::instead_of_handlers(&[Signal::SIGCHLD])
            .context("cannot be told of ended programs")?;
        poller
            .add(children.as_fd(), Source::Children.token(), Interest::READ)
            .context("cannot wait for ended programs")?;

        let mut doors = Vec::new();
        let mut stats_listener = None;
        for socket in gateway.sockets()? {
            let protocol = match socket.role {
                Role::Raw => Protocol::Raw,
                Role::Uwsgi => Protocol::Uwsgi,
                // One gateway is enough to tell of.
                Role::Stats if gateway.is_first() => {
                    stats_listener = Some(socket.listener);
                    continue;
                }
                Role::Stats | Role::Shared | Role::Watched => continue,
            };
            doors.push(Door { listener: socket.listener, protocol, name: socket.name });
        }
        let mut router = Self {
            config,
            program,
            poller,
            doors,
            accepting: false,
            spare: Spare::new(),
            sessions: Table::new(),
            programs: HashMap::new(),
            left: HashMap::new(),
            outlived: Vec::new(),
            killing: None,
            aftercare: None,
            left_behind: Vec::new(),
            children,
            timers: Timers::default(),
            local_tcp: LocalTcp::default(),
            stats_listener,
            stats_http: server::stats_http(),
            stats: Table::new(),
            bulk: Vec::new(),
            parallel: Parallel::now(),
            exchange: Exchange::new(Instant::now()),
            buffer: Box::new([0; BUFFER]),
            input: Vec::with_capacity(BUFFER),
            gather: Vec::with_capacity(BUFFER),
            pipe: Pipe::new().ok(),
        };
        router.adopt(gateway.ordinal());
        router.accept_again();
        if let Some(limit) = limit {
            // Two descriptors a session, a few dozen for the gateway itself.
            log(&format!(
                "forkptyrouter: up to {} sessions at once ({} descriptors)",
                limit.now.saturating_sub(64) / 2,
                limit.now
            ));
        }
        Ok(router)
    }

    /// Hands an event to whom it concerns. A bug in one session ends that
    /// session, not the others.
    fn dispatch(&mut self, ready: Ready) {
        let source = Source::of(ready.token);
        let outcome = catch_unwind(AssertUnwindSafe(|| match source {
            Source::Listener(index) => self.accept(index),
            Source::StatsListener => self.accept_stats(),
            Source::Stats(key) => self.stats_ready(key, ready),
            Source::Children => self.reap(),
            Source::Client(key) => self.client_ready(key, ready),
            Source::Terminal(key) => self.terminal_ready(key, ready),
        }));
        if let Err(payload) = outcome {
            log(&format!("forkptyrouter: internal error: {}", guard::text(&*payload)));
            // What may be left in it is not for the next one.
            self.pipe = Pipe::new().ok();
            if let Source::Client(key) | Source::Terminal(key) = source {
                self.abandon(key);
            }
        }
    }

    fn fire(&mut self, due: Due) {
        let outcome = catch_unwind(AssertUnwindSafe(|| match due {
            Due::Idle(key) => self.idle(key),
            Due::Drained(key) => self.drained(key),
            Due::EndOfInput(key) => self.end_of_input(key),
            Due::Unheard(key) => self.unheard(key),
            Due::Unanswered(key) => self.unanswered(key),
            Due::Reopened(key) => self.reopened(key),
            Due::Dismissed(key) => self.abandon(key),
            Due::Stats(key) => self.close_stats(key),
            Due::Outlived(pid) => self.outlived(pid),
            Due::Kill => self.kill_outlived(),
            Due::LeftBehind => self.end_left_behind(),
            Due::Accept => self.accept_again(),
        }));
        if let Err(payload) = outcome {
            log(&format!("forkptyrouter: internal error: {}", guard::text(&*payload)));
            self.pipe = Pipe::new().ok();
            if let Some(key) = due.session() {
                self.abandon(key);
            }
        }
    }

    fn after(&mut self, wait: Duration, due: Due) {
        if self.timers.pile_up() {
            let (sessions, programs, stats) = (&self.sessions, &self.programs, &self.stats);
            self.timers.retain(|due| match due {
                Due::Stats(key) => stats.has(key),
                Due::Outlived(pid) => programs.contains_key(&pid),
                _ => due.session().is_none_or(|key| sessions.has(key)),
            });
        }
        self.timers.after(Instant::now(), wait, due);
    }
}
