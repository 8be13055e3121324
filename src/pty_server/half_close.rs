//! Half-close: when a client that has shut its sending side down has got what it came for.
//! What is piped into the client is the input of programs that take their time, and what they
//! write comes later.
//!
//! The terminal itself is no pipe: one client's EOF is not that of all. So the program gets
//! no EOF, as a session's of the gateway does, but is watched until it reads again.

use std::time::{Duration, Instant};

use fpty::sys::pty::Slave;
use fpty::sys::tty_readers::{self, InputWait};

/// The first and the longest wait before looking again.
const MIN_WAIT: Duration = Duration::from_millis(20);
const MAX_WAIT: Duration = Duration::from_millis(250);

/// How long the terminal must be silent where nobody can tell whether
/// anything more is to come.
const SILENCE: Duration = Duration::from_secs(10);

/// The wait for the end of the output, while a client is half-closed.
pub struct HalfClose {
    wait: Duration,
    next: Instant,
    last_output: Instant,
}

impl HalfClose {
    /// The wait for a client that has just shut down its sending side.
    pub fn new() -> Self {
        let now = Instant::now();
        Self { wait: MIN_WAIT, next: now + MIN_WAIT, last_output: now }
    }

    /// The time of the next [`HalfClose::check`].
    pub fn due(&self) -> Instant {
        self.next
    }

    /// Records that the terminal had output.
    pub fn note_output(&mut self) {
        self.last_output = Instant::now();
    }

    /// Checks whether the programs on the terminal have read all input and read again.
    /// `delivered`: all input was written to the terminal.
    pub fn check(&mut self, slave: &Slave, delivered: bool) -> bool {
        let now = Instant::now();
        self.wait = (self.wait * 2).min(MAX_WAIT);
        self.next = now + self.wait;
        if !delivered {
            return false;
        }
        // In this order: a program that waits for input after the queue of the terminal
        // was empty has read everything.
        let reader = if slave.has_input() { InputWait::Busy } else { tty_readers::of(slave) };
        match reader {
            InputWait::Waiting => true,
            // A program takes what time it needs. The worker itself may never read.
            InputWait::Busy if !slave.is_ours() => false,
            InputWait::Busy | InputWait::Unknown => now - self.last_output >= SILENCE,
        }
    }
}
