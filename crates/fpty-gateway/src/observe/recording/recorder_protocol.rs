//! The protocol between a gateway and the recorder.
//!
//! The gateway puts messages into the queue: a header, then the body. The recorder checks
//! everything, as it may have more privileges. Its answers are JSON, a packet each. What the
//! loop has to do with an answer, or about the recorder's end, is an event.

use serde::{Deserialize, Serialize};

use super::asciicast::CastHeader;
use crate::observe::audit::RecordingResult;

/// Bytes of a header: kind, 3 unused, session, length of the body, 4 unused, time.
pub const HEADER: usize = 24;

/// The most bytes of a body.
pub const MAX_BODY: usize = 1 << 20;

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A session starts: a [`Begin`] as JSON.
    Begin,
    /// Output.
    Output,
    /// Input.
    Input,
    /// A resize: rows and columns, two bytes each.
    Resize,
    /// Missing bytes: their count in eight bytes.
    Missing,
    /// The end, with the exit status in four bytes, where it is known.
    End,
    /// A session is resumed, after the end of its gateway or its recorder: a [`Resume`] as
    /// JSON.
    Resume,
    /// A gateway has claimed its recordings: the other ones of its predecessor end.
    Rest,
    /// Sessions of gateways before have ended: their ids, as JSON.
    Over,
}

/// The kinds, by number.
const KINDS: [Kind; 9] = {
    use Kind::{Begin, End, Input, Missing, Output, Over, Resize, Rest, Resume};
    [Begin, Output, Input, Resize, Missing, End, Resume, Rest, Over]
};

/// The start of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The index of the recording's folder.
    pub folder: usize,
    /// The stem of the recording's files, without the part.
    pub name: String,
    /// The part; most recordings have one.
    pub part: u32,
    /// The limit of the file.
    pub limit: Option<u64>,
    /// The header.
    pub head: CastHeader,
}

impl Begin {
    /// The session id: the last component of the name.
    pub fn id(&self) -> &str {
        id_of(&self.name)
    }

    /// The stem of the file.
    pub fn stem(&self) -> String {
        match self.part {
            1 => self.name.clone(),
            part => format!("{}-part{part}", self.name),
        }
    }

    /// The name of the file.
    pub fn file(&self) -> String {
        format!("{}.cast", self.stem())
    }
}

/// The session id in the name of a recording.
pub fn id_of(name: &str) -> &str {
    name.rsplit('-').next().unwrap_or_default()
}

/// A resumed recording: in its file, where the recorder has that open, or in its next part,
/// which is created when there is something to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The start of the recording, with the size of now.
    pub begin: Begin,
    /// Missing bytes so far.
    pub dropped: u64,
    /// The end alone is worth a file.
    pub ends: bool,
}

/// An answer of the recorder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The recorder is there: its uid.
    Here {
        /// The uid.
        uid: u32,
    },
    /// There is room in the queue again.
    Room,
    /// A session was resumed.
    Resumed {
        /// The number of the session.
        session: u32,
        /// The part.
        part: u32,
        /// The part is another one than before.
        moved: bool,
        /// Missing bytes so far.
        dropped: u64,
    },
    /// A recording has failed.
    Failed {
        /// The number of the session.
        session: u32,
        /// The failure.
        why: Failure,
    },
    /// A recording is complete.
    Done {
        /// The number of the session.
        session: u32,
        /// The result; an empty path: there is no file.
        recorded: RecordingResult,
    },
    /// A recording of a gateway before is complete.
    Over {
        /// The session id.
        id: String,
        /// The index of the recording's folder.
        folder: usize,
        /// The result; `None`: there is no such session.
        recorded: Option<RecordingResult>,
    },
}

/// Reason why a recording has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The limit of the file.
    Full,
    /// The text of errno, or ours.
    Error(String),
}

impl Failure {
    /// The text of the failure.
    pub fn text(&self) -> &str {
        match self {
            Self::Full => "the recording is as long as it may become",
            Self::Error(why) => why,
        }
    }
}

/// An event of the recorder, for one session: it is handled in the fault domain of that.
#[derive(Debug)]
pub enum RecorderEvent {
    /// An answer.
    Answered(Answer),
    /// The recorder was killed.
    Killed,
    /// The recorder was killed, for one of its sessions.
    Lost {
        /// The number of the session.
        session: u32,
        /// The next recorder has it.
        goes_on: bool,
        /// The session's unconsumed messages, which are lost where no recorder has it.
        unconsumed: Unconsumed,
    },
}

/// Unconsumed messages of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unconsumed {
    /// Bytes that are missing if the queue is lost.
    pub lost: u64,
    /// The part of the lost bytes that was missing before.
    pub missing: u64,
    /// The session starts or is resumed in these messages.
    pub begins: bool,
    /// The session ends in these messages.
    pub ends: bool,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The kind.
    pub kind: Kind,
    /// The number of the session.
    pub session: u32,
    /// The time in microseconds since the start of the session.
    pub at: u64,
    /// The body.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Bytes of the session that are missing if the message is lost.
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

/// A malformed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError;

/// Decodes a message off the front; `None`: it is not complete.
///
/// # Errors
/// The kind of the message is not known, or its length is impossible.
pub fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Message<'a>>, ProtocolError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let kind = KINDS.get(usize::from(header[0])).copied().ok_or(ProtocolError)?;
    let length = number(8) as usize;
    if length > MAX_BODY {
        return Err(ProtocolError);
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

    impl Begin {
        /// A recording of this name, in the first folder.
        pub fn named(name: &str) -> Self {
            let head = CastHeader {
                format: crate::observe::recording::asciicast::Format::V3,
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
