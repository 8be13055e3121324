//! What gateways ask each other.

use serde::{Deserialize, Serialize};

use std::os::fd::OwnedFd;

use crate::event_loop::slab::Key;
use crate::session::selector::SessionSelector;

use super::attach_request::Sought;
use super::session_request::Asking;

/// What one is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        id: SessionSelector,
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
    pub(crate) from: usize,
    pub(crate) number: u64,
    /// What it asks.
    pub question: Question,
    /// What came along.
    pub passed: Vec<OwnedFd>,
}

/// A client that another gateway is to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Where it came in.
    pub door: u16,
    /// Later than this (nanoseconds since the machine's start) it has been told that
    /// nobody took it.
    pub until: u64,
    /// How many gateways have had it before.
    pub hops: u8,
    /// It sends no more.
    pub ended: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::peers::session_request::Wanted;
    use crate::process::ipc::{decode, encode};
    use fpty::proto::session_key::Secret;

    #[test]
    fn questions_are_read_as_they_were_written() {
        let id = SessionSelector::of(b"0123abcd").expect("an id");
        let name = SessionSelector::of(&[b'n'; 64]).expect("a name");
        let until = u64::MAX - 7;
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
            assert_eq!(decode(&encode(&question)), Some(question));
        }
        let no_id = &br#"{"End":{"by":0,"place":1,"id":"../x"}}"#[..];
        for nonsense in [no_id, br#"{"End":{"by":0,"place":1}}"#, br#""Piece""#, b""] {
            assert_eq!(decode::<Question>(nonsense), None);
        }
    }
}
