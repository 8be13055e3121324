//! The end of a session, as the gateway sends it (packet 110).

use super::codec::encode_packet;
use super::packet::{END, NO_SUCH_SESSION};
use crate::text::shown_within;

/// The longest text of a person's, in bytes; the rest of it is not shown.
pub const MAX_TEXT: usize = 1024;

/// Exit status of the client when no session was started.
pub const EXIT_NO_SESSION: u8 = 255;

/// Exit status of the client when the end of the session was not the program's own.
pub const EXIT_LOST: u8 = 254;

/// The kind of a session's end, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// The program ended with the exit status that is the value.
    Exit,
    /// The signal whose number is the value ended the program.
    Signal,
    /// The program could not be executed; the value is 126 or 127.
    ExecFailed,
    /// No session came about.
    Refused,
    /// The session was idle for too long.
    Idle,
    /// The session took longer than its time limit.
    Limit,
    /// The instance has stopped.
    Stopped,
    /// An operator ended the session.
    Operator,
    /// The session was lost: how it ended is not known.
    Lost,
    /// The session goes on without this client; the text is its id. A value other than
    /// 0: not at the client's wish, and the text says why.
    Detached,
}

/// All kinds of ends, in their order.
const END_KINDS: [EndKind; 10] = [
    EndKind::Exit,
    EndKind::Signal,
    EndKind::ExecFailed,
    EndKind::Refused,
    EndKind::Idle,
    EndKind::Limit,
    EndKind::Stopped,
    EndKind::Operator,
    EndKind::Lost,
    EndKind::Detached,
];

/// The end of a session: the payload of [`super::END`] is a byte for the
/// ending, a byte for its value, and a text for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// The kind of the end.
    pub ending: EndKind,
    /// A status or a number, where the ending has one.
    pub value: u8,
    /// More about it, in one line; may be empty.
    pub text: String,
}

impl SessionEnd {
    /// An end that is not the program's own.
    pub fn new(ending: EndKind, text: impl Into<String>) -> Self {
        Self { ending, value: 0, text: text.into() }
    }

    /// Whether the client was refused because there is no such session. The wire has the
    /// text alone for that.
    pub fn is_no_such_session(&self) -> bool {
        self.ending == EndKind::Refused && self.text == NO_SUCH_SESSION
    }

    /// The client's exit status: the program's own, 128 and the signal's number, 126 or
    /// 127 for a program that cannot be executed, 255 where no session was started, 254
    /// where the end was not the program's.
    pub fn status(&self) -> u8 {
        match self.ending {
            EndKind::Exit | EndKind::ExecFailed => self.value,
            EndKind::Signal => 128 | (self.value & 127),
            EndKind::Refused => EXIT_NO_SESSION,
            EndKind::Detached if self.value == 0 => 0,
            EndKind::Detached
            | EndKind::Idle
            | EndKind::Limit
            | EndKind::Stopped
            | EndKind::Operator
            | EndKind::Lost => EXIT_LOST,
        }
    }

    /// The whole packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut payload = vec![self.ending as u8, self.value];
        // Who reads it may be an older client, which shows it as it is.
        payload.extend_from_slice(shown_within(&self.text, MAX_TEXT).as_bytes());
        let mut packet = Vec::new();
        encode_packet(END, &payload, &mut packet);
        packet
    }

    /// Reads the payload; an ending that this version does not know is one
    /// that was not the program's own. `None`: there is none.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let [number, value, text @ ..] = payload else {
            return None;
        };
        Some(Self {
            ending: END_KINDS.get(usize::from(*number)).copied().unwrap_or(EndKind::Lost),
            value: *value,
            text: bounded_text(text),
        })
    }
}

/// A text of a peer's, not endless; what a person sees of it is for
/// [`crate::text`].
pub fn bounded_text(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(&payload[..payload.len().min(MAX_TEXT)]);
    // What was cut is longer by that.
    crate::text::cut(&text, MAX_TEXT).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_as_it_was_written() {
        for (number, ending) in END_KINDS.into_iter().enumerate() {
            let ended = SessionEnd { ending, value: 7, text: String::from("why") };
            let packet = ended.packet();
            assert_eq!(usize::from(packet[4]), number);
            assert_eq!(SessionEnd::read(&packet[4..]), Some(ended));
        }
        assert_eq!(SessionEnd::read(&[0]), None);
        assert_eq!(SessionEnd::read(&[200, 0]).map(|ended| ended.status()), Some(254));
    }

    #[test]
    fn statuses_are_a_shells() {
        let status = |ending, value| SessionEnd { ending, value, text: String::new() }.status();
        assert_eq!(status(EndKind::Exit, 7), 7);
        assert_eq!(status(EndKind::Signal, 9), 137);
        assert_eq!(status(EndKind::ExecFailed, 127), 127);
        assert_eq!(status(EndKind::Refused, 0), 255);
        assert_eq!(status(EndKind::Stopped, 0), 254);
    }

    #[test]
    fn a_peers_text_is_not_endless() {
        assert!(bounded_text(&[b'x'; 60_000]).len() <= MAX_TEXT);
        assert!(bounded_text(&[0xff; 60_000]).len() <= MAX_TEXT);
        let text = "\u{e9}".repeat(1500);
        for before in ["", "x"] {
            let text = format!("{before}{text}");
            assert!(bounded_text(text.as_bytes()).len() <= MAX_TEXT);
            let packet = SessionEnd::new(EndKind::Refused, text).packet();
            let read = SessionEnd::read(&packet[4..]).expect("an end");
            assert!(read.text.len() <= MAX_TEXT && read.text.ends_with('\u{2026}'));
        }
        let packet = SessionEnd::new(EndKind::Refused, "a\n\x1b").packet();
        assert_eq!(&packet[6..], b"a\\n\\u001b");
    }
}
