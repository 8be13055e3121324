//! What becomes of recordings where the recorder says something, or was killed.

use super::protocol::Answer;

/// What a recorder's word, or its end, means for one session: others do not
/// suffer from what becomes of that.
#[derive(Debug)]
pub enum News {
    /// It was said.
    Said(Answer),
    /// It was killed.
    Gone,
    /// The same, for one session of those that it had.
    Lost {
        /// Its number.
        session: u32,
        /// There is another one, who has it.
        goes_on: bool,
        /// What is lost of it where nobody has it.
        left: Bytes,
    },
}

/// What a queue has of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// How many are missing if the queue is lost.
    pub lost: u64,
    /// How many of them were missing before.
    pub missing: u64,
}
