//! The sockets that clients come to, and what is said to those who cannot
//! come in.

use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::limits::{Full, Seat};
use crate::config::rules::Rules;
use crate::event_loop::slab::Source;
use crate::log::log;
use crate::observe::audit::Origin;
use fpty::error::reason;
use fpty::proto::Protocol;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::socket::{Listener, Stream, Transport};
use fpty::sys::spawn::Program;

/// How long nobody is accepted after running out of descriptors or memory.
pub const PAUSE: Duration = Duration::from_millis(100);

/// How soon it is looked again whether clients can be taken.
pub const SOON: Duration = Duration::from_millis(2);

/// Refusals that are logged in one second; the rest is counted.
const LOGGED_PER_SECOND: u32 = 5;

/// A socket of the router.
#[derive(Clone)]
pub struct Door {
    /// Where clients come from.
    pub listener: Listener,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its address, as the server names it.
    pub name: String,
    /// What holds there.
    pub rules: Rc<Rules>,
    /// What runs there.
    pub program: Arc<Program>,
    /// It takes nobody for a moment.
    pub rests: bool,
}

/// All sockets of a gateway.
pub struct Doors {
    doors: Vec<Door>,
    statistics: Option<Listener>,
    open: bool,
    spare: Spare,
    refusals: Refusals,
}

/// Somebody who has come in.
pub struct Newcomer {
    /// The connection.
    pub client: Stream,
    /// What it comes over.
    pub transport: Transport,
    /// Where it came in.
    pub door: u16,
    /// Its seat, where there are any.
    pub seat: Result<Option<Seat>, Full>,
    /// What is told of it.
    pub origin: Origin,
}

/// Somebody who cannot be served, and why.
pub struct Hopeless {
    /// The connection.
    pub client: Option<Stream>,
    /// The reason.
    pub why: String,
}

impl Doors {
    /// Closed at first, see [`Doors::open`].
    pub fn new(doors: Vec<Door>, statistics: Option<Listener>) -> Self {
        Self { doors, statistics, open: false, spare: Spare::take(), refusals: Refusals::new() }
    }

    /// What holds at a socket.
    pub fn rules(&self, door: u16) -> Option<&Rules> {
        self.doors.get(usize::from(door)).map(|door| &*door.rules)
    }

    /// All at this address, in the order of the options: a path that was bound once
    /// more, a port that several share.
    fn at(&self, address: &str) -> impl Iterator<Item = u16> {
        let doors = (0..).zip(&self.doors).filter(move |(_, door)| door.name == address);
        doors.map(|(place, _)| place)
    }

    /// By what the next gateway finds a socket: its address, and the how manyth it is
    /// there.
    pub fn address(&self, door: u16) -> Option<(&str, usize)> {
        let name = &self.door(door)?.name;
        Some((name, self.at(name).position(|other| other == door)?))
    }

    /// The one with this address; where there are not as many any more, the last one
    /// there.
    pub fn with_address(&self, address: &str, nth: usize) -> Option<u16> {
        self.at(address).take(nth + 1).last()
    }

    /// The same, to be kept.
    pub fn door(&self, door: u16) -> Option<&Door> {
        self.doors.get(usize::from(door))
    }

    /// Starts, or starts again, to wait for clients.
    pub fn open(&mut self, poller: &Poller) {
        if self.open {
            return;
        }
        self.open = true;
        self.spare.fill();
        for (index, door) in self.doors.iter().enumerate().filter(|(_, door)| !door.rests) {
            // Sockets are counted in dozens.
            let token = Source::Listener(index as u16).token();
            if let Err(error) = poller.add(door.listener.as_fd(), token, Interest::READ) {
                log(&format!("forkptyrouter: cannot wait for clients on {}: {error}", door.name));
            }
        }
        if let Some(listener) = self.statistics {
            let token = Source::StatsListener.token();
            if let Err(error) = poller.add(listener.as_fd(), token, Interest::READ) {
                log(&format!("forkptyrouter: cannot wait for clients of the statistics: {error}"));
            }
        }
    }

    /// Stops waiting for clients at one socket for a moment.
    pub fn rest(&mut self, door: u16, poller: &Poller) {
        if let Some(door) = self.doors.get_mut(usize::from(door)) {
            if !std::mem::replace(&mut door.rests, true) && self.open {
                let _ = poller.remove(door.listener.as_fd());
            }
        }
    }

    /// Waits for clients there again.
    pub fn wake(&mut self, door: u16, poller: &Poller) {
        if let Some(it) = self.doors.get_mut(usize::from(door)) {
            if std::mem::replace(&mut it.rests, false) && self.open {
                let token = Source::Listener(door).token();
                let _ = poller.add(it.listener.as_fd(), token, Interest::READ);
            }
        }
    }

    /// Stops waiting for clients; returns whether they were waited for.
    pub fn close(&mut self, poller: &Poller) -> bool {
        if !self.open {
            return false;
        }
        self.open = false;
        let open = self.doors.iter().filter(|door| !door.rests);
        for listener in open.map(|door| &door.listener).chain(&self.statistics) {
            let _ = poller.remove(listener.as_fd());
        }
        true
    }

    /// Takes a connection that waits at a socket of the router, if there is one.
    ///
    /// # Errors
    /// There is no descriptor or memory for anybody; who is there is to be told why, if
    /// it could be taken.
    pub fn accept(&mut self, door: u16) -> Result<Option<(Stream, Transport)>, Hopeless> {
        let Some(door) = self.doors.get(usize::from(door)) else {
            return Ok(None);
        };
        door.listener.accept().map_err(|error| {
            self.spare.give();
            let client = door.listener.accept().ok().flatten().map(|(client, _)| client);
            self.spare.fill();
            Hopeless { client, why: format!("cannot take the connection: {}", reason(&error)) }
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
    pub fn log_refusal(&mut self, line: &str) {
        self.refusals.log(line);
    }

    /// The addresses.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.doors.iter().map(|door| door.name.as_str())
    }
}

/// One descriptor kept aside: to take a connection with when there is no
/// other, and tell it so, instead of leaving it to wait for nothing.
struct Spare(Option<File>);

impl Spare {
    fn take() -> Self {
        Self(File::open("/").ok())
    }

    fn give(&mut self) {
        self.0 = None;
    }

    fn fill(&mut self) {
        if self.0.is_none() {
            *self = Self::take();
        }
    }
}

/// What was logged of late: a storm of refusals is no storm of lines.
struct Refusals {
    second: Instant,
    logged: u32,
    silent: u32,
}

impl Refusals {
    fn new() -> Self {
        Self { second: Instant::now(), logged: 0, silent: 0 }
    }

    fn log(&mut self, line: &str) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.silent > 0 {
                log(&format!("forkptyrouter: {} more sessions were refused", self.silent));
            }
            *self = Self::new();
        }
        if self.logged < LOGGED_PER_SECOND {
            self.logged += 1;
            log(line);
        } else {
            self.silent += 1;
        }
    }
}
