//! What becomes of clients while there is no shared terminal: a socket that is
//! bound takes them, and nobody would ever answer.

use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use once_cell::sync::Lazy;

use crate::uwsgi::guard::locked;
use crate::uwsgi::sockets::{self, Owner, Socket};
use crate::uwsgi::worker::{self, First};
use fpty::sys::Read;
use fpty::sys::private_fd::Private;
use fpty::sys::socket::{Listener, Stream};
use fpty::text::shown;
use fpty_gateway::log::log;

/// How many are refused in one turn, and how many of them may take their time
/// to close.
const AT_ONCE: usize = 64;

/// How long one may take, and how often that is looked after, in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: u16 = 500;

/// Reads of what one sends at once.
const READS: usize = 16;

/// How long to wait before the next one where there is no descriptor for it.
const PAUSE: Duration = Duration::from_millis(200);

/// Those whom the master has refused.
static OF_THE_MASTER: Mutex<Refused<Box<Stream>>> = Mutex::new(Refused::new());

/// A worker has been forked: what the master still has to do is not its own.
pub fn forget() {
    locked(&OF_THE_MASTER).0.clear();
}

/// The master's part: it refuses who comes while the first worker does not
/// run.
pub fn look() {
    static DOORS: Lazy<Vec<Socket>> = Lazy::new(|| sockets::bound(Owner::Pty).unwrap_or_default());
    static BEFORE: Mutex<Option<First>> = Mutex::new(None);
    if !sockets::asked_for(Owner::Pty) {
        return;
    }
    let now = worker::first();
    let before = locked(&BEFORE).replace(now);
    if before != Some(now) {
        tell(before, now);
    }
    let mut refused = locked(&OF_THE_MASTER);
    refused.look();
    let why = match now {
        First::Runs => return,
        First::Rests => "the worker that has this terminal does not run, for want of requests",
        First::Never => "there are no workers, and no terminal of one",
    };
    for door in DOORS.iter() {
        for _ in 0..AT_ONCE {
            match door.listener.accept() {
                Ok(Some((client, _))) => refused.refuse(Box::new(client), why),
                Ok(None) | Err(_) => break,
            }
        }
    }
}

fn tell(before: Option<First>, now: First) {
    match (before, now) {
        (_, First::Never) => log(
            "pty: there are no workers, since the server has no socket for requests: clients of \
             the shared terminal are refused",
        ),
        (_, First::Rests) => {
            log("pty: the first worker does not run, for want of requests (cheap, cheaper, idle): \
             clients of the shared terminal are refused until it does")
        }
        (None, First::Runs) => {
            if let Some(option) = worker::may_rest() {
                log(&format!(
                    "pty: {option} may stop the first worker, which has the shared terminal: its \
                     clients are let go then, and refused until it runs again"
                ));
            }
        }
        (Some(_), First::Runs) => {}
    }
}

/// The part of a worker that could have no terminal: refuses everybody, for
/// as long as the process lives.
pub fn refuse_all(doors: &[Private<Listener>], why: &str) {
    let mut refused: Refused<Private<Stream>> = Refused::new();
    loop {
        let fds = doors.iter().map(|door| door.as_fd()).chain(refused.fds());
        let mut polled: Vec<PollFd<'_>> =
            fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = match refused.is_empty() {
            true => PollTimeout::NONE,
            false => PollTimeout::from(LOOK),
        };
        let _ = nix::poll::poll(&mut polled, timeout);
        refused.look();
        for door in doors {
            match super::accept(door) {
                Ok(Some(client)) => refused.refuse(client, why),
                Ok(None) => {}
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Clients that were told why, the latest last. They are closed when they have
/// closed, or have had time to: what they still send would be answered by a
/// reset, and that takes the line along which they have not read (tcp(7)).
pub struct Refused<C: Deref<Target = Stream>>(VecDeque<(Instant, C)>);

impl<C: Deref<Target = Stream>> Refused<C> {
    /// Nobody.
    pub const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Tells a client why it gets no terminal.
    pub fn refuse(&mut self, client: C, why: &str) {
        client.write(format!("pty: refused: {}\r\n", shown(why)).as_bytes());
        self.close_when_read(client);
    }

    /// Closes one that has been told its last.
    pub fn close_when_read(&mut self, client: C) {
        client.end();
        if is_closed(&client) {
            return;
        }
        if self.0.len() >= AT_ONCE {
            self.0.pop_front();
        }
        self.0.push_back((Instant::now() + PATIENCE, client));
    }

    /// Closes those that have closed, or had their time.
    pub fn look(&mut self) {
        let now = Instant::now();
        self.0.retain(|(until, client)| now < *until && !is_closed(client));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(_, client)| client.as_fd())
    }
}

/// Whether a client sends no more; what it has sent is thrown away, some of it
/// at a time.
fn is_closed(client: &Stream) -> bool {
    let mut buffer = [0; 4096];
    for _ in 0..READS {
        match client.read(&mut buffer) {
            Read::Bytes(_) => {}
            Read::Blocked => return false,
            Read::End | Read::Gone => return true,
        }
    }
    false
}
