//! A session that somebody wants to come back to, whichever gateway has it.

use crate::router::beginning::Beginning;
use crate::router::ids::LENGTH;
use fpty::proto::key::Secret;
use fpty::sys::clock::BootInstant;

/// What is sought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    /// The socket: it is found where it began.
    pub door: u16,
    /// Who seeks it.
    pub uid: u32,
    /// Its id, how that begins, or its name; `None`: the one that was left last.
    pub which: Option<Beginning>,
    /// Whoever has that may have it, too.
    pub secret: Option<Secret>,
}

impl Sought {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let which = self.which.as_ref().map(Beginning::as_bytes).unwrap_or_default();
        let secret = self.secret.as_ref().map(|secret| &secret.bytes()[..]).unwrap_or_default();
        let has_one = [u8::from(!secret.is_empty())];
        [&self.door.to_le_bytes()[..], &self.uid.to_le_bytes(), &has_one, secret, which].concat()
    }

    /// As it is read.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (door, rest) = bytes.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (secret, rest) = match rest.split_first()? {
            (0, rest) => (None, rest),
            (_, rest) => {
                let (secret, rest) = rest.split_first_chunk()?;
                (Some(Secret::of(*secret)), rest)
            }
        };
        let which = match rest {
            [] => None,
            which => Some(Beginning::of(which)?),
        };
        let (door, uid) = (u16::from_le_bytes(*door), u32::from_le_bytes(*uid));
        Some(Self { door, uid, which, secret })
    }
}

/// A name, as a key of what all gateways see.
pub type Name = (&'static str, u16, u32, Beginning);

/// That of this user's at a socket.
pub fn name(door: u16, uid: u32, name: Beginning) -> Name {
    ("name", door, uid, name)
}

/// How well a session answers to what is sought: the greater the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fits {
    /// Its id begins like that.
    Begins,
    /// It has that name; or nothing was said, and it was left.
    Is,
    /// That is its id.
    Whole,
}

/// A session that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// How well.
    pub fits: Fits,
    /// How near it is to whoever says no more: what runs, and nobody is attached to,
    /// is nearest.
    pub rank: u8,
    /// Since when it is so: the last is nearest.
    pub since: BootInstant,
    /// Its id.
    pub id: String,
}

/// Bytes of one before its id.
const HEAD: usize = 2 + 8;

impl Found {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.fits as u8, self.rank];
        bytes.extend_from_slice(&self.since.as_nanos().to_le_bytes());
        bytes.extend_from_slice(self.id.as_bytes());
        bytes
    }

    /// As it is read.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, id) = bytes.split_at_checked(HEAD)?;
        let [fits, rank, since @ ..] = head else { return None };
        let all = [Fits::Begins, Fits::Is, Fits::Whole];
        let fits = all.into_iter().find(|one| *one as u8 == *fits)?;
        let since = BootInstant::from_nanos(u64::from_le_bytes(since.try_into().ok()?));
        let id = std::str::from_utf8(id).ok().filter(|id| id.len() == LENGTH)?;
        Some(Self { fits, rank: *rank, since, id: id.to_owned() })
    }

    /// How near it is, among those that fit as well.
    fn nearness(&self) -> (Fits, u8, BootInstant) {
        (self.fits, self.rank, self.since)
    }
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
        if self.found.as_ref().is_none_or(|(_, best)| best.nearness() < found.nearness()) {
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
        Found { fits, rank, since: BootInstant::from_nanos(since), id: String::from("0123abcd") }
    }

    fn best(all: &[Found]) -> Option<usize> {
        let mut best = Best::default();
        all.iter().enumerate().for_each(|(whose, found)| best.add(whose, found.clone()));
        best.whose()
    }

    #[test]
    fn what_was_found_is_read_as_it_was_written() {
        for fits in [Fits::Begins, Fits::Is, Fits::Whole] {
            let found = found(fits, 2, u64::MAX - 5);
            assert_eq!(Found::decode(&found.encode()), Some(found));
        }
        let bytes = found(Fits::Is, 2, 7).encode();
        assert!((0..bytes.len()).all(|cut| Found::decode(&bytes[..cut]).is_none()));
        assert_eq!(Found::decode(&[&[9][..], &bytes[1..]].concat()), None);
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
