//! The request for a page of a gateway's sessions.

use serde::{Deserialize, Serialize};

use crate::session::selector::SessionSelector;

/// What a page has of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageKind {
    /// Entries of a list.
    List,
    /// Entries of the statistics.
    Statistics,
    /// Indexes and ids of matches.
    Matches(SessionSelector),
}

/// The request for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// The user of the request.
    pub by: u32,
    /// The index of the first session.
    pub from: u32,
    /// What the page has.
    pub kind: PageKind,
}

impl PageRequest {
    /// Whether the requesting user may see a session of this user.
    pub fn may_see(&self, uid: Option<u32>) -> bool {
        self.by == 0 || uid == Some(self.by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_knows_all_and_others_their_own() {
        let by = |by| PageRequest { by, from: 0, kind: PageKind::List };
        assert!(by(0).may_see(None) && by(0).may_see(Some(7)));
        assert!(by(7).may_see(Some(7)) && !by(7).may_see(Some(8)) && !by(7).may_see(None));
    }
}
