//! The search for a session to attach to, over all gateways: the query and its matches.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::session::selector::SessionSelector;
use fpty::proto::session_key::Secret;

/// The query for a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachQuery {
    /// The listener: a session is found where it started.
    pub listener: u16,
    /// The user of the client.
    pub uid: u32,
    /// An id, its prefix, or a name; `None`: the session that was detached last.
    pub which: Option<SessionSelector>,
    /// The secret, which allows the attach, too.
    #[serde(serialize_with = "to_bytes", deserialize_with = "of_bytes")]
    pub secret: Option<Secret>,
}

// The secret is a type of a package that says nothing to other processes.
fn to_bytes<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::bytes).serialize(to)
}

fn of_bytes<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::deserialize(from)?.map(Secret::from_bytes))
}

/// The key of a name among the shared counts.
pub type NameKey = (&'static str, u16, u32, SessionSelector);

/// The key of a user's name at a listener.
pub fn name(listener: u16, uid: u32, name: SessionSelector) -> NameKey {
    ("name", listener, uid, name)
}

/// The quality of a match: the greater the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MatchQuality {
    /// A prefix of the session's id.
    IdPrefix,
    /// The session's name; or an empty query, and a detached session.
    Name,
    /// The session's whole id.
    FullId,
}

/// A match, and its rank: the greater the better.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachMatch {
    /// The quality.
    pub quality: MatchQuality,
    /// The rank for an empty query: a session that runs and is detached is first.
    pub rank: u8,
    /// Time since when the session is in its state, CLOCK_BOOTTIME in nanoseconds: the
    /// last is first.
    pub since: u64,
}

/// The best match over all gateways.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BestMatch {
    /// The best match, and its gateway.
    found: Option<(usize, AttachMatch)>,
    /// Several sessions have the prefix.
    is_ambiguous: bool,
}

impl BestMatch {
    /// Adds a match of a gateway.
    pub fn add(&mut self, gateway: usize, found: AttachMatch) {
        let begins = |found: &AttachMatch| found.quality == MatchQuality::IdPrefix;
        self.is_ambiguous |=
            begins(&found) && self.found.as_ref().is_some_and(|(_, best)| begins(best));
        if self.found.as_ref().is_none_or(|(_, best)| *best < found) {
            self.found = Some((gateway, found));
        }
    }

    /// Whether no better match is possible.
    pub fn is_certain(&self) -> bool {
        self.found.as_ref().is_some_and(|(_, found)| found.quality == MatchQuality::FullId)
    }

    /// The gateway of the only match; `None`: there is none.
    pub fn gateway(&self) -> Option<usize> {
        let (gateway, found) = self.found.as_ref()?;
        (found.quality != MatchQuality::IdPrefix || !self.is_ambiguous).then_some(*gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(quality: MatchQuality, rank: u8, since: u64) -> AttachMatch {
        AttachMatch { quality, rank, since }
    }

    fn best(all: &[AttachMatch]) -> Option<usize> {
        let mut best = BestMatch::default();
        all.iter().enumerate().for_each(|(gateway, found)| best.add(gateway, found.clone()));
        best.gateway()
    }

    #[test]
    fn an_id_comes_before_a_name_and_that_before_a_beginning() {
        use MatchQuality::{FullId, IdPrefix, Name};
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[found(Name, 2, 9), found(FullId, 0, 0), found(IdPrefix, 2, 9)]), Some(1));
        // The one that runs and was left last.
        assert_eq!(best(&[found(Name, 1, 9), found(Name, 2, 3), found(Name, 2, 5)]), Some(2));
        assert_eq!(best(&[found(IdPrefix, 2, 1)]), Some(0));
        assert_eq!(best(&[found(IdPrefix, 2, 1), found(IdPrefix, 1, 2)]), None);
        let all = [found(IdPrefix, 2, 1), found(IdPrefix, 1, 2), found(Name, 0, 0)];
        assert_eq!(best(&all), Some(2));
    }
}
