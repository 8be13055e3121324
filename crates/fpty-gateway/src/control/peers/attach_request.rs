//! A session that somebody wants to come back to, whichever gateway has it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::session::selector::SessionSelector;
use fpty::proto::session_key::Secret;

/// What is sought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sought {
    /// The socket: it is found where it began.
    pub door: u16,
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
    Ok(Option::deserialize(from)?.map(Secret::of))
}

/// A name, as a key of what all gateways see.
pub type Name = (&'static str, u16, u32, SessionSelector);

/// That of this user's at a socket.
pub fn name(door: u16, uid: u32, name: SessionSelector) -> Name {
    ("name", door, uid, name)
}

/// How well a session answers to what is sought: the greater the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fits {
    /// Its id begins like that.
    Begins,
    /// It has that name; or nothing was said, and it was left.
    Is,
    /// That is its id.
    Whole,
}

/// A session that fits, and how near it is: the greater the better.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Found {
    /// How well.
    pub fits: Fits,
    /// How near it is to whoever says no more: what runs, and nobody is attached to,
    /// is nearest.
    pub rank: u8,
    /// Since when it is so, in nanoseconds since the machine's start: the last is
    /// nearest.
    pub since: u64,
}

/// What was found of all gateways.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Best {
    /// The best, and whose it is.
    found: Option<(usize, Found)>,
    /// Several begin like that.
    is_several: bool,
}

impl Best {
    /// Adds what a gateway has.
    pub fn add(&mut self, whose: usize, found: Found) {
        let begins = |found: &Found| found.fits == Fits::Begins;
        self.is_several |=
            begins(&found) && self.found.as_ref().is_some_and(|(_, best)| begins(best));
        if self.found.as_ref().is_none_or(|(_, best)| *best < found) {
            self.found = Some((whose, found));
        }
    }

    /// Whether it cannot get better.
    pub fn is_certain(&self) -> bool {
        self.found.as_ref().is_some_and(|(_, found)| found.fits == Fits::Whole)
    }

    /// Whose the one is that is meant; `None`: there is none.
    pub fn whose(&self) -> Option<usize> {
        let (whose, found) = self.found.as_ref()?;
        (found.fits != Fits::Begins || !self.is_several).then_some(*whose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(fits: Fits, rank: u8, since: u64) -> Found {
        Found { fits, rank, since }
    }

    fn best(all: &[Found]) -> Option<usize> {
        let mut best = Best::default();
        all.iter().enumerate().for_each(|(whose, found)| best.add(whose, found.clone()));
        best.whose()
    }

    #[test]
    fn an_id_comes_before_a_name_and_that_before_a_beginning() {
        use Fits::{Begins, Is, Whole};
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[found(Is, 2, 9), found(Whole, 0, 0), found(Begins, 2, 9)]), Some(1));
        // The one that runs and was left last.
        assert_eq!(best(&[found(Is, 1, 9), found(Is, 2, 3), found(Is, 2, 5)]), Some(2));
        assert_eq!(best(&[found(Begins, 2, 1)]), Some(0));
        assert_eq!(best(&[found(Begins, 2, 1), found(Begins, 1, 2)]), None);
        let all = [found(Begins, 2, 1), found(Begins, 1, 2), found(Is, 0, 0)];
        assert_eq!(best(&all), Some(2));
    }
}
