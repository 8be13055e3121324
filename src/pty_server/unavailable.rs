//! Rejection of clients while there is no shared terminal: a bound socket takes connections,
//! and would leave them without an answer.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use once_cell::sync::Lazy;

use super::terminal_client::accept;
use crate::uwsgi::guard::locked;
use crate::uwsgi::sockets::{self, Owner};
use crate::uwsgi::worker::{self, FirstWorker};
use fpty::sys::ReadOutcome;
use fpty::sys::private_fd::Private;
use fpty::sys::socket::{ListeningSocket, Stream};
use fpty::text::shown;
use fpty_gateway::host::Socket;
use fpty_gateway::log::log;

/// The most rejected clients in one turn, and the most of them that may take their time
/// to close.
const BATCH: usize = 64;

/// How long a rejected connection may take to close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of looking after rejected connections, in milliseconds.
const CHECK_INTERVAL_MS: u16 = 500;

/// Reads of what one sends at once.
const MAX_READS: usize = 16;

/// Time to wait before the next client where there is no descriptor for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Rejects the connections that wait while the first worker does not run: the master's
/// part.
pub fn reject_waiting() {
    static LISTENERS: Lazy<Vec<Socket>> =
        Lazy::new(|| sockets::bound(Owner::Pty).unwrap_or_default());
    static BEFORE: Mutex<Option<FirstWorker>> = Mutex::new(None);
    static REJECTED: Mutex<RejectedClients> = Mutex::new(RejectedClients::new());
    if !sockets::is_requested(Owner::Pty) {
        return;
    }
    let now = worker::first_worker();
    let before = locked(&BEFORE).replace(now);
    if before != Some(now) {
        tell(before, now);
    }
    let mut rejected = locked(&REJECTED);
    rejected.expire();
    let why = match now {
        FirstWorker::Runs => return,
        FirstWorker::Cheaped => {
            "the worker that has this terminal does not run, for want of requests"
        }
        FirstWorker::Never => "there are no workers, and no terminal of one",
    };
    for listener in LISTENERS.iter() {
        for _ in 0..BATCH {
            match accept(&listener.listener) {
                Ok(Some(client)) => rejected.reject(client, why),
                Ok(None) | Err(_) => break,
            }
        }
    }
}

fn tell(before: Option<FirstWorker>, now: FirstWorker) {
    match (before, now) {
        (_, FirstWorker::Never) => log(
            "pty: there are no workers, since the server has no socket for requests: clients of \
             the shared terminal are refused",
        ),
        (_, FirstWorker::Cheaped) => {
            log("pty: the first worker does not run, for want of requests (cheap, cheaper, idle): \
             clients of the shared terminal are refused until it does")
        }
        (None, FirstWorker::Runs) => {
            if let Some(option) = worker::may_be_cheaped() {
                log(&format!(
                    "pty: {option} may stop the first worker, which has the shared terminal: its \
                     clients are let go then, and refused until it runs again"
                ));
            }
        }
        (Some(_), FirstWorker::Runs) => {}
    }
}

/// Rejects each connection for as long as the process lives: the part of a worker whose
/// terminal could not be opened.
pub fn reject_all(listeners: &[Private<ListeningSocket>], why: &str) {
    let mut rejected = RejectedClients::new();
    loop {
        let lingering = rejected.0.iter().map(|(_, client)| client.as_fd());
        let fds = listeners.iter().map(|listener| listener.as_fd()).chain(lingering);
        let mut polled: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = match rejected.0.is_empty() {
            true => PollTimeout::NONE,
            false => PollTimeout::from(CHECK_INTERVAL_MS),
        };
        let _ = nix::poll::poll(&mut polled, timeout);
        rejected.expire();
        for listener in listeners {
            match accept(listener) {
                Ok(Some(client)) => rejected.reject(client, why),
                Ok(None) => {}
                Err(_) => std::thread::sleep(ACCEPT_PAUSE),
            }
        }
    }
}

/// Clients that were told why, the latest last. They are closed when they have
/// closed, or have had time to: what they still send would be answered by a
/// reset, and that takes the line along which they have not read (tcp(7)).
pub struct RejectedClients(VecDeque<(Instant, Private<Stream>)>);

impl RejectedClients {
    /// No clients.
    pub const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Writes the reason to a client, and closes the connection.
    pub fn reject(&mut self, client: Private<Stream>, why: &str) {
        client.write(format!("pty: refused: {}\r\n", shown(why)).as_bytes());
        self.close_lingering(client);
    }

    /// Closes the connection of a client that has the reason.
    pub fn close_lingering(&mut self, client: Private<Stream>) {
        client.end();
        if discard_input(&client) {
            return;
        }
        if self.0.len() >= BATCH {
            self.0.pop_front();
        }
        self.0.push_back((Instant::now() + LINGER_TIMEOUT, client));
    }

    /// Closes connections that the client has closed, or whose time is over.
    pub fn expire(&mut self) {
        let now = Instant::now();
        self.0.retain(|(until, client)| now < *until && !discard_input(client));
    }
}

/// Discards input of a client, some of it at a time; true where the client sends no more.
fn discard_input(client: &Stream) -> bool {
    let mut buffer = [0; 4096];
    for _ in 0..MAX_READS {
        match client.read(&mut buffer) {
            ReadOutcome::Bytes(_) => {}
            ReadOutcome::WouldBlock => return false,
            ReadOutcome::Eof | ReadOutcome::Closed => return true,
        }
    }
    false
}
