//! What a gateway and the recorder say to each other.
//!
//! The gateway puts messages into the queue: a header, then so many bytes. The
//! recorder checks everything: it may have more privileges. What it answers is
//! JSON, a packet each.

use serde::{Deserialize, Serialize};

use super::asciicast::Head;
use crate::observe::audit::Recorded;

/// Bytes of a header: what it is, 3 unused, the session's number, how many
/// bytes follow, 4 unused, the time.
pub const HEADER: usize = 24;

/// More than a gateway ever sends at once.
pub const LONGEST: usize = 1 << 20;

/// What a message in the queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A session begins: a [`Begin`] as JSON.
    Begin,
    /// Its program wrote this.
    Output,
    /// Its program was given this.
    Input,
    /// Rows and columns, two bytes each.
    Resize,
    /// So many bytes of it are missing here, in eight bytes.
    Missing,
    /// It is over; with its exit status in four bytes, where that is known.
    End,
    /// It goes on, after the end of its gateway or its recorder: a [`Resume`] as
    /// JSON.
    Resume,
    /// A gateway has taken up what it will: what else those before it had is
    /// over.
    Rest,
    /// Sessions of gateways before are over: their ids, as JSON.
    Over,
}

const KINDS: [Kind; 9] = [
    Kind::Begin,
    Kind::Output,
    Kind::Input,
    Kind::Resize,
    Kind::Missing,
    Kind::End,
    Kind::Resume,
    Kind::Rest,
    Kind::Over,
];

/// A session that begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Of the folders, by its index.
    pub folder: usize,
    /// The file's name, without what tells its parts from each other.
    pub name: String,
    /// In which of its files it is; most have one.
    pub part: u32,
    /// How long the file may become.
    pub limit: Option<u64>,
    /// What stands in it.
    pub head: Head,
}

impl Begin {
    /// The session's id: what comes last in the name.
    pub fn id(&self) -> &str {
        id_of(&self.name)
    }

    /// The file's name, without its ending.
    pub fn stem(&self) -> String {
        match self.part {
            1 => self.name.clone(),
            part => format!("{}-part{part}", self.name),
        }
    }

    /// The file's name.
    pub fn file(&self) -> String {
        format!("{}.cast", self.stem())
    }
}

/// The id of the session whose files have this name.
pub fn id_of(name: &str) -> &str {
    name.rsplit('-').next().unwrap_or_default()
}

#[cfg(test)]
impl Begin {
    /// One of this name, in the first folder.
    pub fn named(name: &str) -> Self {
        let head = Head {
            format: super::asciicast::Format::V3,
            rows: 24,
            cols: 80,
            timestamp: 1,
            command: String::from("/bin/sh"),
            title: String::from("x"),
            term: None,
        };
        Self { folder: 0, name: name.to_owned(), part: 1, limit: None, head }
    }
}

/// A session that goes on: in the file that it had, where the recorder has that,
/// or in its next part. That is made when there is something to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// As it began. Its size is what it is now.
    pub begin: Begin,
    /// How many bytes are missing so far.
    pub dropped: u64,
    /// Its end alone is worth a file.
    pub ends: bool,
}

/// What the recorder answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is there, and whose files it makes.
    Here {
        /// The user.
        uid: u32,
    },
    /// There is room in the queue again.
    Room,
    /// A session goes on.
    Resumed {
        /// Its number.
        session: u32,
        /// In which of its files.
        part: u32,
        /// That is another one than before.
        moved: bool,
        /// How many of its bytes are missing so far.
        dropped: u64,
    },
    /// A session is not recorded any more.
    Failed {
        /// Its number.
        session: u32,
        /// Why.
        why: Failure,
    },
    /// The recording of a session is complete.
    Done {
        /// Its number.
        session: u32,
        /// What is in the file of this name; an empty one: there is none.
        recorded: Recorded,
    },
    /// The same of one of a gateway before.
    Over {
        /// Its id.
        id: String,
        /// The folder of its file, by its number.
        folder: usize,
        /// What is in that; `None`: there is no such session.
        recorded: Option<Recorded>,
    },
}

/// Why nothing more is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The file is as long as it may become.
    Full,
    /// The system's words, or ours.
    Error(String),
}

impl Failure {
    /// The same in words.
    pub fn text(&self) -> &str {
        match self {
            Self::Full => "the recording is as long as it may become",
            Self::Error(why) => why,
        }
    }
}

/// A message as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub session: u32,
    /// When, in microseconds since the session began.
    pub at: u64,
    /// What follows.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// How many bytes of the session are missing if it is written nowhere.
    pub fn lost(&self) -> u64 {
        match self.kind {
            Kind::Output | Kind::Input => self.body.len() as u64,
            Kind::Missing => self.body.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            Kind::Begin | Kind::Resize | Kind::End | Kind::Resume | Kind::Rest | Kind::Over => 0,
        }
    }
}

/// The header of a message.
pub fn header(kind: Kind, session: u32, at: u64, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = kind as u8;
    header[4..8].copy_from_slice(&session.to_le_bytes());
    // A read, or less.
    header[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    header[16..24].copy_from_slice(&at.to_le_bytes());
    header
}

/// Nonsense was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense;

/// Takes a message off the front; `None` where it is not complete.
pub fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Message<'a>>, Nonsense> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let kind = KINDS.get(usize::from(header[0])).copied().ok_or(Nonsense)?;
    let length = number(8) as usize;
    if length > LONGEST {
        return Err(Nonsense);
    }
    let Some((body, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    *bytes = rest;
    let at = u64::from(number(16)) | u64::from(number(20)) << 32;
    Ok(Some(Message { kind, session: number(4), at, body }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let mut bytes = Vec::new();
        for (number, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            bytes.extend(header(kind, number as u32, 1 << 40, number));
            bytes.extend(std::iter::repeat_n(b'x', number));
        }
        let mut rest = bytes.as_slice();
        for (number, kind) in KINDS.into_iter().enumerate() {
            let body = &b"xxxxxxxxx"[..number];
            let wanted = Message { kind, session: number as u32, at: 1 << 40, body };
            assert_eq!(next(&mut rest), Ok(Some(wanted)));
        }
        assert_eq!(next(&mut rest), Ok(None));
        let mut cut = &bytes[..bytes.len() - 1];
        while let Ok(Some(_)) = next(&mut cut) {}
        assert_eq!(cut.len(), HEADER + 7);
    }

    proptest! {
        #[test]
        fn nonsense_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Ok(Some(message)) = next(&mut rest) {
                prop_assert!(message.body.len() <= bytes.len());
            }
        }
    }
}
