//! Events of the recorder, as the loop handles them: an answer, or its end.

use super::recorder_protocol::Answer;

/// An event of the recorder, for one session: it is handled in the fault domain of that.
#[derive(Debug)]
pub enum RecorderEvent {
    /// An answer.
    Answered(Answer),
    /// The recorder was killed.
    Killed,
    /// The recorder was killed, for one of its sessions.
    Lost {
        /// The number of the session.
        session: u32,
        /// The next recorder has it.
        goes_on: bool,
        /// Its unconsumed bytes, which are lost where no recorder has it.
        unconsumed: UnconsumedBytes,
    },
}

/// Unconsumed bytes of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnconsumedBytes {
    /// Bytes that are missing if the queue is lost.
    pub lost: u64,
    /// Those of them that were missing before.
    pub missing: u64,
}
