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
        /// Its unconsumed messages, which are lost where no recorder has it.
        unconsumed: Unconsumed,
    },
}

/// Unconsumed messages of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unconsumed {
    /// Bytes that are missing if the queue is lost.
    pub lost: u64,
    /// Those of them that were missing before.
    pub missing: u64,
    /// The session starts or is resumed in there.
    pub begins: bool,
    /// The session ends in there.
    pub ends: bool,
}
