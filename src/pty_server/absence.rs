//! What becomes of clients while there is no shared terminal: a socket that is
//! bound takes them, and nobody would ever answer.

use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use once_cell::sync::Lazy;

use crate::uwsgi::log::log;
use crate::uwsgi::sockets::{self, Owner, Socket};
use crate::uwsgi::worker::{self, First};
use fpty::sys::Read;
use fpty::sys::fork::Private;
use fpty::sys::socket::{Listener, Stream};

/// How many are refused in one turn.
const AT_ONCE: usize = 64;

/// How long to wait before the next one where there is no descriptor for it.
const PAUSE: Duration = Duration::from_millis(200);

/// The master's part: it refuses who comes while the first worker does not
/// run.
pub fn look() {
    static DOORS: Lazy<Vec<Socket>> = Lazy::new(|| sockets::bound(Owner::Pty).unwrap_or_default());
    static BEFORE: Mutex<Option<First>> = Mutex::new(None);
    if !sockets::asked_for(Owner::Pty) {
        return;
    }
    let now = worker::first();
    let before = match BEFORE.lock() {
        Ok(mut before) => before.replace(now),
        Err(_) => return,
    };
    if before != Some(now) {
        tell(before, now);
    }
    let why = match now {
        First::Runs => return,
        First::Rests => "the worker that has this terminal does not run, for want of requests",
        First::Never => "there are no workers, and no terminal of one",
    };
    for door in DOORS.iter() {
        for _ in 0..AT_ONCE {
            match door.listener.accept() {
                Ok(Some((client, _))) => refuse(&client, why),
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
    loop {
        let mut polled: Vec<PollFd<'_>> =
            doors.iter().map(|door| PollFd::new(door.as_fd(), PollFlags::POLLIN)).collect();
        let _ = nix::poll::poll(&mut polled, PollTimeout::NONE);
        for door in doors {
            match door.accept() {
                Ok(Some((client, _))) => refuse(&client, why),
                Ok(None) => {}
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Tells a client why it gets no terminal.
pub fn refuse(client: &Stream, why: &str) {
    // What was sent and not read would take the line along (tcp(7)).
    let mut buffer = [0; 4096];
    for _ in 0..AT_ONCE {
        if !matches!(client.read(&mut buffer), Read::Bytes(_)) {
            break;
        }
    }
    client.write(format!("pty: refused: {why}\r\n").as_bytes());
    client.end();
}
