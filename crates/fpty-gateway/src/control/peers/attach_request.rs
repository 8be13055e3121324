//! A session that somebody wants to come back to, whichever gateway has it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::session::selector::SessionSelector;
use fpty::proto::session_key::Secret;

/// What is sought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachQuery {
    /// The socket: it is found where it began.
    pub listener: u16,
    /// Who seeks it.
    pub uid: u32,
    /// Its id, how that begins, or its name; `None`: the one that was left last.
    pub which: Option<SessionSelector>,
    /// Whoever has that may have it, too.
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

/// A name, as a key of what all gateways see.
pub type NameKey = (&'static str, u16, u32, SessionSelector);

/// That of this user's at a socket.
pub fn name(listener: u16, uid: u32, name: SessionSelector) -> NameKey {
    ("name", listener, uid, name)
}

/// How well a session answers to what is sought: the greater the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MatchQuality {
    /// Its id begins like that.
    IdPrefix,
    /// It has that name; or nothing was said, and it was left.
    Name,
    /// That is its id.
    FullId,
}

/// A session that fits, and how near it is: the greater the better.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachMatch {
    /// How well.
    pub quality: MatchQuality,
    /// How near it is to whoever says no more: what runs, and nobody is attached to,
    /// is nearest.
    pub rank: u8,
    /// Since when it is so, in nanoseconds since the machine's start: the last is
    /// nearest.
    pub since: u64,
}

/// What was found of all gateways.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BestMatch {
    /// The best, and whose it is.
    found: Option<(usize, AttachMatch)>,
    /// Several begin like that.
    is_ambiguous: bool,
}

impl BestMatch {
    /// Adds what a gateway has.
    pub fn add(&mut self, gateway: usize, found: AttachMatch) {
        let begins = |found: &AttachMatch| found.quality == MatchQuality::IdPrefix;
        self.is_ambiguous |=
            begins(&found) && self.found.as_ref().is_some_and(|(_, best)| begins(best));
        if self.found.as_ref().is_none_or(|(_, best)| *best < found) {
            self.found = Some((gateway, found));
        }
    }

    /// Whether it cannot get better.
    pub fn is_certain(&self) -> bool {
        self.found.as_ref().is_some_and(|(_, found)| found.quality == MatchQuality::FullId)
    }

    /// Whose the one is that is meant; `None`: there is none.
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
