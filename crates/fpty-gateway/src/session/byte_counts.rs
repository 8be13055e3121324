//! Bytes of a session, where somebody wants to know of them.

use std::rc::Rc;

use crate::observe::metrics::counters;
use crate::observe::recording::tap::Recording;
use fpty::sys::clock::BootInstant;

/// What went between a session's ends, without the headers of packets.
#[derive(Default)]
pub struct Traffic {
    input: u64,
    output: u64,
    /// When a byte last went either way, or that was first of interest.
    last: Option<BootInstant>,
    /// Where it is written down.
    pub recording: Option<Rc<Recording>>,
}

impl Traffic {
    /// These bytes went to the terminal.
    pub fn took_in(&mut self, bytes: &[u8]) {
        self.input += bytes.len() as u64;
        self.note();
        counters::took_in(bytes.len());
        if let Some(recording) = &self.recording {
            recording.input(bytes);
        }
    }

    /// So many bytes came from the terminal.
    pub fn gave_out(&mut self, bytes: usize) {
        self.output += bytes as u64;
        self.note();
        counters::gave_out(bytes);
    }

    /// Bytes in and out.
    pub fn bytes(&self) -> (u64, u64) {
        (self.input, self.output)
    }

    /// Something goes either way, or it begins to be of interest.
    pub fn note(&mut self) {
        self.last = Some(BootInstant::now());
    }

    /// When that was.
    pub fn last(&self) -> Option<BootInstant> {
        self.last
    }
}
