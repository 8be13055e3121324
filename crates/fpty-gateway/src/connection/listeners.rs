//! The sockets that clients come to, and what is said to those who cannot
//! come in.

use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::limits::{LimitReached, Permit};
use crate::config::rules::Rules;
use crate::event_loop::slab::Token;
use crate::log::log;
use crate::observe::audit::Origin;
use fpty::error::reason;
use fpty::proto::Protocol;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::socket::{ListeningSocket, Stream, Transport};
use fpty::sys::spawn::Program;

/// How long nobody is accepted after running out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How soon it is looked again whether clients can be taken.
pub const RESTORE_CHECK: Duration = Duration::from_millis(2);

/// Refusals that are logged in one second; the rest is counted.
const LOGGED_PER_SECOND: u32 = 5;

/// A socket of the router.
#[derive(Clone)]
pub struct Listener {
    /// Where clients come from.
    pub socket: ListeningSocket,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its address, as the server names it.
    pub name: String,
    /// What holds there.
    pub rules: Rc<Rules>,
    /// What runs there.
    pub program: Arc<Program>,
    /// It takes nobody for a moment.
    pub paused: bool,
}

/// All sockets of a gateway.
pub struct Listeners {
    listeners: Vec<Listener>,
    statistics: Option<ListeningSocket>,
    open: bool,
    reserve: ReserveFd,
    rejection_log: RejectionLog,
}

/// Somebody who has come in.
pub struct Connection {
    /// The connection.
    pub client: Stream,
    /// What it comes over.
    pub transport: Transport,
    /// Where it came in.
    pub listener: u16,
    /// Its seat, where there are any.
    pub permit: Result<Option<Permit>, LimitReached>,
    /// What is told of it.
    pub origin: Origin,
}

/// Somebody who cannot be served, and why.
pub struct AcceptError {
    /// The connection.
    pub client: Option<Stream>,
    /// The reason.
    pub why: String,
}

impl Listeners {
    /// Closed at first, see [`Listeners::open`].
    pub fn new(listeners: Vec<Listener>, statistics: Option<ListeningSocket>) -> Self {
        Self {
            listeners,
            statistics,
            open: false,
            reserve: ReserveFd::take(),
            rejection_log: RejectionLog::new(),
        }
    }

    /// What holds at a socket.
    pub fn rules(&self, listener: u16) -> Option<&Rules> {
        self.listeners.get(usize::from(listener)).map(|listener| &*listener.rules)
    }

    /// All at this address, in the order of the options: a path that was bound once
    /// more, a port that several share.
    fn at(&self, address: &str) -> impl Iterator<Item = u16> {
        let listeners =
            (0..).zip(&self.listeners).filter(move |(_, listener)| listener.name == address);
        listeners.map(|(place, _)| place)
    }

    /// By what the next gateway finds a socket: its address, and the how manyth it is
    /// there.
    pub fn address(&self, listener: u16) -> Option<(&str, usize)> {
        let name = &self.get(listener)?.name;
        Some((name, self.at(name).position(|other| other == listener)?))
    }

    /// The one with this address; where there are not as many any more, the last one
    /// there.
    pub fn by_address(&self, address: &str, nth: usize) -> Option<u16> {
        self.at(address).take(nth + 1).last()
    }

    /// The same, to be kept.
    pub fn get(&self, listener: u16) -> Option<&Listener> {
        self.listeners.get(usize::from(listener))
    }

    /// Starts, or starts again, to wait for clients.
    pub fn open(&mut self, poller: &Poller) {
        if self.open {
            return;
        }
        self.open = true;
        self.reserve.refill();
        for (index, listener) in
            self.listeners.iter().enumerate().filter(|(_, listener)| !listener.paused)
        {
            // Sockets are counted in dozens.
            let token = Token::Listener(index as u16).token();
            if let Err(error) = poller.add(listener.socket.as_fd(), token, Interest::READ) {
                log(&format!(
                    "forkptyrouter: cannot wait for clients on {}: {error}",
                    listener.name
                ));
            }
        }
        if let Some(listener) = self.statistics {
            let token = Token::StatsListener.token();
            if let Err(error) = poller.add(listener.as_fd(), token, Interest::READ) {
                log(&format!("forkptyrouter: cannot wait for clients of the statistics: {error}"));
            }
        }
    }

    /// Stops waiting for clients at one socket for a moment.
    pub fn pause(&mut self, listener: u16, poller: &Poller) {
        if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
            if !std::mem::replace(&mut listener.paused, true) && self.open {
                let _ = poller.remove(listener.socket.as_fd());
            }
        }
    }

    /// Waits for clients there again.
    pub fn resume(&mut self, listener: u16, poller: &Poller) {
        if let Some(it) = self.listeners.get_mut(usize::from(listener)) {
            if std::mem::replace(&mut it.paused, false) && self.open {
                let token = Token::Listener(listener).token();
                let _ = poller.add(it.socket.as_fd(), token, Interest::READ);
            }
        }
    }

    /// Stops waiting for clients; returns whether they were waited for.
    pub fn close(&mut self, poller: &Poller) -> bool {
        if !self.open {
            return false;
        }
        self.open = false;
        let open = self.listeners.iter().filter(|listener| !listener.paused);
        for listener in open.map(|listener| &listener.socket).chain(&self.statistics) {
            let _ = poller.remove(listener.as_fd());
        }
        true
    }

    /// Takes a connection that waits at a socket of the router, if there is one.
    ///
    /// # Errors
    /// There is no descriptor or memory for anybody; who is there is to be told why, if
    /// it could be taken.
    pub fn accept(&mut self, listener: u16) -> Result<Option<(Stream, Transport)>, AcceptError> {
        let Some(listener) = self.listeners.get(usize::from(listener)) else {
            return Ok(None);
        };
        listener.socket.accept().map_err(|error| {
            self.reserve.release();
            let client = listener.socket.accept().ok().flatten().map(|(client, _)| client);
            self.reserve.refill();
            AcceptError { client, why: format!("cannot take the connection: {}", reason(&error)) }
        })
    }

    /// Takes a connection that waits at the statistics' socket.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn accept_statistics(&self) -> std::io::Result<Option<Stream>> {
        match self.statistics {
            Some(listener) => Ok(listener.accept()?.map(|(stream, _)| stream)),
            None => Ok(None),
        }
    }

    /// Logs a refusal, or only counts it.
    pub fn log_rejection(&mut self, line: &str) {
        self.rejection_log.log(line);
    }

    /// The addresses.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(|listener| listener.name.as_str())
    }
}

/// One descriptor kept aside: to take a connection with when there is no
/// other, and tell it so, instead of leaving it to wait for nothing.
struct ReserveFd(Option<File>);

impl ReserveFd {
    fn take() -> Self {
        Self(File::open("/").ok())
    }

    fn release(&mut self) {
        self.0 = None;
    }

    fn refill(&mut self) {
        if self.0.is_none() {
            *self = Self::take();
        }
    }
}

/// What was logged of late: a storm of refusals is no storm of lines.
struct RejectionLog {
    second: Instant,
    logged: u32,
    suppressed: u32,
}

impl RejectionLog {
    fn new() -> Self {
        Self { second: Instant::now(), logged: 0, suppressed: 0 }
    }

    fn log(&mut self, line: &str) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.suppressed > 0 {
                log(&format!("forkptyrouter: {} more sessions were refused", self.suppressed));
            }
            *self = Self::new();
        }
        if self.logged < LOGGED_PER_SECOND {
            self.logged += 1;
            log(line);
        } else {
            self.suppressed += 1;
        }
    }
}
