//! What a part of the gateway has come to, and others are concerned by: the loop
//! does it when the part has finished, so that no part calls one above it.

use super::listing::view::One;
use super::recovery::Whose;
use super::siblings::{Asker, Posed};
use super::table::Key;

/// Something for the loop to do.
#[derive(Debug)]
pub enum Outcome {
    /// Look what a session needs now.
    Settle(Key),
    /// Look what a command needs now.
    SettleCommand(Key),
    /// Somebody asks who is there, or for the statistics.
    Inquires(Key),
    /// A session is to end at somebody's wish.
    End(One),
    /// Another gateway asks something.
    Asked(Posed),
    /// Another gateway has answered; `None`: it has not.
    Answered(Asker, Option<Vec<u8>>),
}

impl Outcome {
    /// Whom it is about: who ends where it panics.
    pub fn whose(&self) -> Whose {
        match self {
            Self::Settle(key) => Whose::Session(*key),
            Self::SettleCommand(key) => Whose::Command(*key),
            Self::Inquires(key) => Whose::Inquirer(*key),
            Self::End(one) => (*one).into(),
            // Whoever asks does without.
            Self::Asked(_) => Whose::Past,
            Self::Answered(Asker::Inquirer(key), _) => Whose::Inquirer(*key),
        }
    }
}
