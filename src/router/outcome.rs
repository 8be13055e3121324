//! What a part of the gateway has come to, and others are concerned by: the loop
//! does it when the part has finished, so that no part calls one above it.

use super::recovery::Whose;
use super::table::Key;

/// Something for the loop to do.
#[derive(Debug)]
pub enum Outcome {
    /// Look what a session needs now.
    Settle(Key),
    /// Look what a command needs now.
    SettleCommand(Key),
    /// What keeps sessions is to have this one, whose client has its terminal for
    /// good.
    Entrust(Key),
    /// The kernel refuses to tell of this session: it ends.
    NotHeard(Key),
}

impl Outcome {
    /// Whom it is about: who ends where it panics.
    pub fn whose(&self) -> Whose {
        match self {
            Self::Settle(key) | Self::Entrust(key) | Self::NotHeard(key) => Whose::Session(*key),
            Self::SettleCommand(key) => Whose::Command(*key),
        }
    }
}
