//! What is asked of a gateway about its sessions.

use serde::{Deserialize, Serialize};

use crate::session::selector::SessionSelector;

/// What is wanted of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// The list of those that whoever asks may know of.
    List,
    /// What the statistics have.
    Statistics,
    /// Where those are that are meant by this.
    Places(SessionSelector),
}

/// What is asked of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asking {
    /// The user who asks.
    pub by: u32,
    /// From which place on.
    pub from: u32,
    /// What is wanted.
    pub wanted: Wanted,
}

impl Asking {
    /// Whether a session of this user may be known to whoever asks.
    pub fn may_know(&self, uid: Option<u32>) -> bool {
        self.by == 0 || uid == Some(self.by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_knows_all_and_others_their_own() {
        let by = |by| Asking { by, from: 0, wanted: Wanted::List };
        assert!(by(0).may_know(None) && by(0).may_know(Some(7)));
        assert!(by(7).may_know(Some(7)) && !by(7).may_know(Some(8)) && !by(7).may_know(None));
    }
}
