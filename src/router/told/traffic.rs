//! Bytes of a session, where somebody wants to know of them.

use std::time::Instant;

use super::counters;

/// What went between a session's ends, without the headers of packets.
#[derive(Debug, Default)]
pub struct Traffic {
    input: u64,
    output: u64,
    /// When a byte last went either way.
    last: Option<Instant>,
}

impl Traffic {
    /// So many bytes went to the terminal.
    pub fn took_in(&mut self, bytes: usize) {
        self.input += bytes as u64;
        counters::took_in(bytes);
    }

    /// So many bytes came from the terminal.
    pub fn gave_out(&mut self, bytes: usize) {
        self.output += bytes as u64;
        counters::gave_out(bytes);
    }

    /// Bytes in and out.
    pub fn bytes(&self) -> (u64, u64) {
        (self.input, self.output)
    }

    /// Something went either way.
    pub fn note(&mut self) {
        self.last = Some(Instant::now());
    }

    /// When that was.
    pub fn last(&self) -> Option<Instant> {
        self.last
    }
}
