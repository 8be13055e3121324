//! What gateways ask each other, as bytes.

use std::os::fd::OwnedFd;

use crate::router::beginning::Beginning;
use crate::router::table::Key;
use fpty::sys::clock::BootInstant;

use super::asking::Asking;
use super::sought::Sought;

/// What one is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Its sessions that somebody may know of.
    Piece(Asking),
    /// To end the session in this place that has this id, if this user may.
    End {
        /// The user.
        by: u32,
        /// The place.
        place: u32,
        /// The id.
        id: Beginning,
    },
    /// Which of its sessions is meant.
    Seek(Sought),
    /// To go on with a client; its connection comes along, and what it has said.
    Take(Handed),
}

/// Who asked, and waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client that asks who is there.
    Inquirer(Key),
    /// One that seeks a session: what this gateway knows of it.
    Seeker(Key, usize),
    /// One that another gateway is to go on with.
    Handed(Key),
}

/// A question of another gateway's, which waits for the answer.
#[derive(Debug)]
pub struct Posed {
    pub(super) from: usize,
    pub(super) number: u64,
    /// What it asks.
    pub question: Question,
    /// What came along.
    pub passed: Vec<OwnedFd>,
}

/// A client that another gateway is to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Where it came in.
    pub door: u16,
    /// Later than this it has been told that nobody took it.
    pub until: BootInstant,
    /// How many gateways have had it before.
    pub hops: u8,
    /// It sends no more.
    pub ended: bool,
}

impl Question {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Piece(asking) => asking.encode(),
            Self::End { by, place, id } => {
                [&b"k"[..], &by.to_le_bytes(), &place.to_le_bytes(), id.as_bytes()].concat()
            }
            Self::Seek(sought) => [&b"f"[..], &sought.encode()].concat(),
            Self::Take(Handed { door, until, hops, ended }) => {
                let mut bytes = vec![b't', *hops, (*ended).into()];
                bytes.extend_from_slice(&door.to_le_bytes());
                bytes.extend_from_slice(&until.as_nanos().to_le_bytes());
                bytes
            }
        }
    }

    /// As it is read.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (b'k', rest) => {
                let (by, rest) = rest.split_first_chunk()?;
                let (place, rest) = rest.split_first_chunk()?;
                let (by, place) = (u32::from_le_bytes(*by), u32::from_le_bytes(*place));
                Some(Self::End { by, place, id: Beginning::of(rest)? })
            }
            (b'f', rest) => Sought::decode(rest).map(Self::Seek),
            (b't', rest) => {
                let ([hops, ended], rest) = rest.split_first_chunk()?;
                let (door, rest) = rest.split_first_chunk()?;
                let until = BootInstant::from_nanos(u64::from_le_bytes(rest.try_into().ok()?));
                let (door, ended) = (u16::from_le_bytes(*door), *ended != 0);
                Some(Self::Take(Handed { door, until, hops: *hops, ended }))
            }
            _ => Asking::decode(bytes).map(Self::Piece),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::siblings::asking::Wanted;
    use fpty::proto::key::Secret;

    #[test]
    fn questions_are_read_as_they_were_written() {
        let id = Beginning::of(b"0123abcd").expect("an id");
        let name = Beginning::of(&[b'n'; 64]).expect("a name");
        let until = BootInstant::from_nanos(u64::MAX - 7);
        let secret = Some(Secret::of([7; 16]));
        for question in [
            Question::Piece(Asking { by: 7, from: 70_000, wanted: Wanted::List }),
            Question::Piece(Asking { by: 0, from: 1 << 31, wanted: Wanted::Statistics }),
            Question::Piece(Asking { by: 7, from: 0, wanted: Wanted::Places(id) }),
            Question::End { by: 0, place: 1 << 31, id },
            Question::Seek(Sought { door: 300, uid: 70_000, which: Some(name), secret: None }),
            Question::Seek(Sought { door: 0, uid: u32::MAX, which: Some(id), secret }),
            Question::Seek(Sought { door: 0, uid: 0, which: None, secret: None }),
            Question::Take(Handed { door: 300, until, hops: 3, ended: true }),
            Question::Take(Handed { door: 0, until, hops: 0, ended: false }),
        ] {
            assert_eq!(Question::decode(&question.encode()), Some(question));
        }
        for cut in [
            &b"k1234"[..],
            b"s123",
            b"l01234567x",
            b"p01234567",
            b"x01234567",
            b"",
            b"f123",
            b"t12",
        ] {
            assert_eq!(Question::decode(cut), None);
        }
    }
}
