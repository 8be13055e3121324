//! Byte counts of a session or command: kept where audit, statistics, an idle timeout or a
//! recording need them.

use std::rc::Rc;

use crate::observe::metrics::counters;
use crate::observe::recording::tap::Recording;
use fpty::sys::clock::BootInstant;

/// Bytes relayed between client and program, without packet headers.
#[derive(Default)]
pub struct ByteCounts {
    input: u64,
    output: u64,
    /// Time of the last byte either way, or of the first interest in it.
    last_activity: Option<BootInstant>,
    /// The session's recording, which gets every byte.
    pub recording: Option<Rc<Recording>>,
}

impl ByteCounts {
    /// Input that the terminal or program has taken.
    pub fn count_input(&mut self, bytes: &[u8]) {
        self.input += bytes.len() as u64;
        self.touch();
        counters::took_in(bytes.len());
        if let Some(recording) = &self.recording {
            recording.input(bytes);
        }
    }

    /// Output, in bytes, that the terminal or program has yielded.
    pub fn count_output(&mut self, bytes: usize) {
        self.output += bytes as u64;
        self.touch();
        counters::gave_out(bytes);
    }

    /// Bytes of input and of output.
    pub fn bytes(&self) -> (u64, u64) {
        (self.input, self.output)
    }

    /// Sets the last activity to now.
    pub fn touch(&mut self) {
        self.last_activity = Some(BootInstant::now());
    }

    /// Time of the last activity.
    pub fn last_activity(&self) -> Option<BootInstant> {
        self.last_activity
    }
}
