//! What the loop needs in each of its turns, whatever happens in it.

use std::time::{Duration, Instant};

use super::behind::Behind;
use super::exchange::Exchange;
use super::timers::{Due, Timers};
use fpty::sys::pipe::Pipe;
use fpty::sys::poll::{Poller, Ready};
use fpty::sys::processors::Parallel;
use fpty::sys::tick;

/// Bytes of one read from a client, and of one write to it.
pub const BUFFER: usize = 64 * 1024;

/// Waiting, time, and room for bytes on their way.
pub struct Turn {
    /// What is waited for.
    pub poller: Poller,
    /// What is due when.
    pub timers: Timers,
    /// What comes last in this turn.
    pub bulk: Vec<Ready>,
    /// What can run at the same time as we.
    pub parallel: Parallel,
    exchange: Exchange,
    /// What had to wait of what clients sent.
    pub behind: Behind,
    /// The log is tried again before long.
    pub log_is_due: bool,
    /// What slow programs needed is given back before long.
    pub tidy_is_due: bool,
    /// Room for output.
    pub buffer: Box<[u8; BUFFER]>,
    /// What a client sent, and what of that is input, where that comes in many
    /// packets. Their capacity is BUFFER, so they never grow.
    pub input: Vec<u8>,
    pub gather: Vec<u8>,
    /// For the output of streams; `None` where the kernel has no such thing.
    pub pipe: Option<Pipe>,
}

impl Turn {
    /// The first one.
    pub fn new(poller: Poller) -> Self {
        Self {
            poller,
            timers: Timers::default(),
            bulk: Vec::new(),
            parallel: Parallel::now(),
            exchange: Exchange::new(Instant::now()),
            behind: Behind::new(),
            log_is_due: false,
            tidy_is_due: false,
            buffer: Box::new([0; BUFFER]),
            input: Vec::with_capacity(BUFFER),
            gather: Vec::with_capacity(BUFFER),
            pipe: Pipe::new().ok(),
        }
    }

    /// Something panicked: what may be left in the pipe is not for the next
    /// one, and what was taken out to be put back is missing.
    pub fn clear(&mut self) {
        self.pipe = Pipe::new().ok();
        self.input = Vec::with_capacity(BUFFER);
        self.gather = Vec::with_capacity(BUFFER);
    }

    /// Has this done after a while.
    pub fn after(&mut self, wait: Duration, due: Due) {
        self.timers.after(Instant::now(), wait, due);
    }

    /// The events of a turn were handled, with streams among them or without.
    pub fn ends(&mut self, now: Instant, streams: bool) {
        if self.exchange.turn(now, self.parallel, streams) {
            tick::keep();
        }
    }
}
