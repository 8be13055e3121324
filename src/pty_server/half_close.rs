//! Half-close: when a client that has shut its sending side down has got what it came for.
//! What is piped into the client is the input of programs that take their time, and what they
//! write comes later.
//!
//! The terminal itself is no pipe: one client's EOF is not that of all. So the program gets
//! no EOF, as a session's of the gateway does, but is watched until it reads again.

use std::time::{Duration, Instant};

use fpty::sys::pty::Slave;
use fpty::sys::tty_waiters::{self, InputWait};

/// The first and the longest wait before looking again.
const MIN_WAIT: Duration = Duration::from_millis(20);
const MAX_WAIT: Duration = Duration::from_millis(250);

/// How long the terminal must be silent where nobody can tell whether
/// anything more is to come.
const SILENCE: Duration = Duration::from_secs(10);

/// Some client sends no more.
pub struct HalfClose {
    wait: Duration,
    next: Instant,
    last_output: Instant,
}

impl HalfClose {
    /// One that has just sent its last.
    pub fn new() -> Self {
        let now = Instant::now();
        Self { wait: MIN_WAIT, next: now + MIN_WAIT, last_output: now }
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
    pub fn check(&mut self, slave: &Slave, delivered: bool) -> bool {
        let now = Instant::now();
        self.wait = (self.wait * 2).min(MAX_WAIT);
        self.next = now + self.wait;
        if !delivered {
            return false;
        }
        // In this order: who waits while there is nothing to read has read
        // everything before.
        let reader = if slave.has_input() { InputWait::Busy } else { tty_waiters::of(slave) };
        match reader {
            InputWait::Waiting => true,
            // A program takes what time it needs. Of the worker itself nobody
            // knows whether it ever reads.
            InputWait::Busy if !slave.is_ours() => false,
            InputWait::Busy | InputWait::Unknown => now - self.last_output >= SILENCE,
        }
    }
}
