//! Listeners: the sockets that clients connect to, with their rules.

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
use fpty::sys::clock;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::socket::{ListeningSocket, Stream, Transport};
use fpty::sys::spawn::Program;

/// Pause of accept(2) after EMFILE, ENFILE or ENOMEM.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Interval of checks whether all gateways have restored their sessions.
pub const RESTORE_CHECK: Duration = Duration::from_millis(2);

/// Rejections that are logged in one second; the rest is counted.
const LOGGED_PER_SECOND: u32 = 5;

/// A listener: a listening socket, with its rules.
#[derive(Clone)]
pub struct Listener {
    /// The listening socket.
    pub socket: ListeningSocket,
    /// The protocol of its clients.
    pub protocol: Protocol,
    /// The address, as the server names it.
    pub name: String,
    /// The rules of its sessions.
    pub rules: Rc<Rules>,
    /// The program of its sessions.
    pub program: Arc<Program>,
    /// Paused: its rate is exceeded.
    pub paused: bool,
}

/// All listeners of a gateway.
pub struct Listeners {
    listeners: Vec<Listener>,
    statistics: Option<ListeningSocket>,
    open: bool,
    /// A reserve descriptor: with none left a connection is accepted by it and told so, instead
    /// of being left to wait.
    reserve: Option<File>,
    rejection_log: RejectionLog,
}

/// An accepted connection.
pub struct Connection {
    /// The client's connection.
    pub client: Stream,
    /// UNIX or TCP.
    pub transport: Transport,
    /// The listener that accepted the connection.
    pub listener: u16,
    /// The permit under the user's limit, or why there is none.
    pub permit: Result<Permit, LimitReached>,
    /// The origin, for the audit.
    pub origin: Origin,
}

/// An accept(2) that failed for want of descriptors or memory.
pub struct AcceptError {
    /// The connection.
    pub client: Option<Stream>,
    /// The error's text, for the client.
    pub why: String,
}

impl Listeners {
    /// Listeners that do not accept yet, see [`Listeners::open`].
    pub fn new(listeners: Vec<Listener>, statistics: Option<ListeningSocket>) -> Self {
        Self {
            listeners,
            statistics,
            open: false,
            reserve: reserve_fd(),
            rejection_log: RejectionLog::new(),
        }
    }

    /// The rules of a listener.
    pub fn rules(&self, listener: u16) -> Option<&Rules> {
        self.get(listener).map(|listener| &*listener.rules)
    }

    /// All listeners at this address, in the order of the options: a path may be bound once
    /// more, and several sockets may share a port.
    fn at(&self, address: &str) -> impl Iterator<Item = u16> {
        let listeners =
            (0..).zip(&self.listeners).filter(move |(_, listener)| listener.name == address);
        listeners.map(|(place, _)| place)
    }

    /// The key of a listener for the next gateway: the address, and the ordinal of the
    /// listener there.
    pub fn address(&self, listener: u16) -> Option<(&str, usize)> {
        let name = &self.get(listener)?.name;
        Some((name, self.at(name).position(|other| other == listener)?))
    }

    /// The listener with this address and ordinal; the last one there, where there are
    /// fewer by now.
    pub fn by_address(&self, address: &str, nth: usize) -> Option<u16> {
        self.at(address).take(nth + 1).last()
    }

    /// A listener by its index.
    pub fn get(&self, listener: u16) -> Option<&Listener> {
        self.listeners.get(usize::from(listener))
    }

    /// Accepts connections from now on.
    pub fn open(&mut self, poller: &Poller) {
        if self.open {
            return;
        }
        self.open = true;
        self.reserve = self.reserve.take().or_else(reserve_fd);
        let watch = |listener: &ListeningSocket, token: Token, address: &str| {
            if let Err(error) = poller.add(listener.as_fd(), token.token(), Interest::READ) {
                log(&format!("forkptyrouter: cannot wait for clients on {address}: {error}"));
            }
        };
        // Sockets are counted in dozens.
        for (listener, index) in self.listeners.iter().zip(0..).filter(|(it, _)| !it.paused) {
            watch(&listener.socket, Token::Listener(index), &listener.name);
        }
        if let Some(listener) = &self.statistics {
            watch(listener, Token::StatsListener, "the socket of the statistics");
        }
    }

    /// Pauses one listener.
    pub fn pause(&mut self, listener: u16, poller: &Poller) {
        if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
            if !std::mem::replace(&mut listener.paused, true) && self.open {
                let _ = poller.remove(listener.socket.as_fd());
            }
        }
    }

    /// Resumes a paused listener.
    pub fn resume(&mut self, listener: u16, poller: &Poller) {
        if let Some(it) = self.listeners.get_mut(usize::from(listener)) {
            if std::mem::replace(&mut it.paused, false) && self.open {
                let token = Token::Listener(listener).token();
                let _ = poller.add(it.socket.as_fd(), token, Interest::READ);
            }
        }
    }

    /// Accepts no more connections. Returns whether it did before.
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

    /// Accepts a waiting connection; `None`: there is none.
    ///
    /// # Errors
    /// No descriptor or memory: the waiting client is to get the reason, if it could be
    /// accepted with the reserve.
    pub fn accept(&mut self, listener: u16) -> Result<Option<(Stream, Transport)>, AcceptError> {
        let Some(listener) = self.listeners.get(usize::from(listener)) else {
            return Ok(None);
        };
        listener.socket.accept().map_err(|error| {
            drop(self.reserve.take());
            let client = listener.socket.accept().ok().flatten().map(|(client, _)| client);
            self.reserve = reserve_fd();
            AcceptError { client, why: format!("cannot take the connection: {}", reason(&error)) }
        })
    }

    /// Accepts a connection of the statistics' socket.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn accept_statistics(&self) -> std::io::Result<Option<Stream>> {
        match self.statistics {
            Some(listener) => Ok(listener.accept()?.map(|(stream, _)| stream)),
            None => Ok(None),
        }
    }

    /// Logs a rejection, or counts it where too many were logged.
    pub fn log_rejection(&mut self, line: &str) {
        self.rejection_log.log(line);
    }

    /// The addresses of all listeners.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(|listener| listener.name.as_str())
    }
}

fn reserve_fd() -> Option<File> {
    File::open("/").ok()
}

/// The rate limit of rejections in the log.
struct RejectionLog {
    second: Instant,
    logged: u32,
    suppressed: u32,
}

impl RejectionLog {
    fn new() -> Self {
        Self { second: clock::now(), logged: 0, suppressed: 0 }
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
