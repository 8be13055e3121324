//! What is asked of a gateway about its sessions.

use crate::router::beginning::Beginning;

/// What is wanted of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The list of those that whoever asks may know of.
    List,
    /// What the statistics have.
    Statistics,
    /// Where those are that are meant by this.
    Places(Beginning),
}

/// What is asked of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, rest) = match &self.wanted {
            Wanted::List => (b'l', &b""[..]),
            Wanted::Statistics => (b's', &b""[..]),
            Wanted::Places(beginning) => (b'p', beginning.as_bytes()),
        };
        [&[kind][..], &self.by.to_le_bytes(), &self.from.to_le_bytes(), rest].concat()
    }

    /// As it is read.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (by, rest) = rest.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let wanted = match (kind, rest) {
            (b'l', []) => Wanted::List,
            (b's', []) => Wanted::Statistics,
            (b'p', rest) => Wanted::Places(Beginning::of(rest)?),
            _ => return None,
        };
        Some(Self { by: u32::from_le_bytes(*by), from: u32::from_le_bytes(*from), wanted })
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
