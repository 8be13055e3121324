//! When a client that sends no more has got what it came for: what is piped
//! into the client is the input of programs that take their time, and what
//! they say comes later.
//!
//! The terminal itself is no pipe: it has no end for all because one has
//! nothing more to say. So the program is not told of one, as the router's
//! is, but watched until it reads again.

use std::time::{Duration, Instant};

use fpty::sys::pty::Slave;
use fpty::sys::tty_waiters::{self, Reader};

/// The first and the longest wait before looking again.
const FIRST: Duration = Duration::from_millis(20);
const LAST: Duration = Duration::from_millis(250);

/// How long the terminal must be silent where nobody can tell whether
/// anything more is to come.
const SILENCE: Duration = Duration::from_secs(10);

/// Some client sends no more.
pub struct Ending {
    wait: Duration,
    next: Instant,
    last_output: Instant,
}

impl Ending {
    /// One that has just sent its last.
    pub fn new() -> Self {
        let now = Instant::now();
        Self { wait: FIRST, next: now + FIRST, last_output: now }
    }

    /// When to look again.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// The terminal said something.
    pub fn note_output(&mut self) {
        self.last_output = Instant::now();
    }

    /// Looks whether everything that was sent has been read, and whoever
    /// read it wants more; else when to look again. `delivered`: the terminal has
    /// it all.
    pub fn look(&mut self, slave: &Slave, delivered: bool) -> bool {
        let now = Instant::now();
        self.wait = (self.wait * 2).min(LAST);
        self.next = now + self.wait;
        if !delivered {
            return false;
        }
        // In this order: who waits while there is nothing to read has read
        // everything before.
        let reader = if slave.has_input() { Reader::Busy } else { tty_waiters::of(slave) };
        match reader {
            Reader::Waits => true,
            // A program takes what time it needs. Of the worker itself nobody
            // knows whether it ever reads.
            Reader::Busy if !slave.is_ours() => false,
            Reader::Busy | Reader::Unknown => now - self.last_output >= SILENCE,
        }
    }
}
