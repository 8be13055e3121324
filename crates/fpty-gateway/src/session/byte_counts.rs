//! Bytes of a session, where somebody wants to know of them.

use std::rc::Rc;

use crate::observe::metrics::counters;
use crate::observe::recording::tap::Recording;
use fpty::sys::clock::BootInstant;

/// What went between a session's ends, without the headers of packets.
#[derive(Default)]
pub struct ByteCounts {
    input: u64,
    output: u64,
    /// When a byte last went either way, or that was first of interest.
    last_activity: Option<BootInstant>,
    /// Where it is written down.
    pub recording: Option<Rc<Recording>>,
}

impl ByteCounts {
    /// These bytes went to the terminal.
    pub fn count_input(&mut self, bytes: &[u8]) {
        self.input += bytes.len() as u64;
        self.touch();
        counters::took_in(bytes.len());
        if let Some(recording) = &self.recording {
            recording.input(bytes);
        }
    }

    /// So many bytes came from the terminal.
    pub fn count_output(&mut self, bytes: usize) {
        self.output += bytes as u64;
        self.touch();
        counters::gave_out(bytes);
    }

    /// Bytes in and out.
    pub fn bytes(&self) -> (u64, u64) {
        (self.input, self.output)
    }

    /// Something goes either way, or it begins to be of interest.
    pub fn touch(&mut self) {
        self.last_activity = Some(BootInstant::now());
    }

    /// When that was.
    pub fn last_activity(&self) -> Option<BootInstant> {
        self.last_activity
    }
}
