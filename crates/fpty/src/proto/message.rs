//! The payloads of the extended mode's packets from the router.

use super::codec::encode_packet;
use super::packet::ENDED;
use crate::text::shown_within;

/// In an offer: the master of the session's terminal.
pub const OFFER_MASTER: u8 = b'm';
/// In an offer: a pidfd of the session's process.
pub const OFFER_PIDFD: u8 = b'p';

/// In an offer: the ring of the last output ([`crate::scrollback`]).
pub const OFFER_RING: u8 = b'r';

/// The longest text of a person's, in bytes; the rest of it is not shown.
pub const LONGEST_TEXT: usize = 1024;

/// What ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The program ended with the exit status that is the value.
    Exit,
    /// The signal whose number is the value ended the program.
    Signal,
    /// The program could not be executed; the value is 126 or 127.
    ExecFailed,
    /// No session came about.
    Refused,
    /// Nothing went either way for too long.
    Idle,
    /// It took longer than it may.
    Limit,
    /// The instance has stopped.
    Stopped,
    /// Somebody ended it who may.
    Operator,
    /// What became of it is not known.
    Lost,
    /// It goes on without this client; the text is its id. A value other than
    /// 0: not at the client's wish, and the text says why.
    Detached,
}

/// By their number on the wire.
const ENDINGS: [Ending; 10] = [
    Ending::Exit,
    Ending::Signal,
    Ending::ExecFailed,
    Ending::Refused,
    Ending::Idle,
    Ending::Limit,
    Ending::Stopped,
    Ending::Operator,
    Ending::Lost,
    Ending::Detached,
];

/// How a session ended: the payload of [`super::ENDED`] is a byte for the
/// ending, a byte for its value, and a text for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What ended it.
    pub ending: Ending,
    /// A status or a number, where the ending has one.
    pub value: u8,
    /// More about it, in one line; may be empty.
    pub text: String,
}

impl Ended {
    /// An end that is not the program's own.
    pub fn because(ending: Ending, text: impl Into<String>) -> Self {
        Self { ending, value: 0, text: text.into() }
    }

    /// What the client's exit status tells of it: the program's own, 128 and
    /// the signal's number, 126 or 127 for one that cannot be executed, 255
    /// where no session came about, 254 where the end was not the program's.
    pub fn status(&self) -> u8 {
        match self.ending {
            Ending::Exit | Ending::ExecFailed => self.value,
            Ending::Signal => 128 | (self.value & 127),
            Ending::Refused => 255,
            Ending::Detached if self.value == 0 => 0,
            Ending::Detached => 254,
            Ending::Idle | Ending::Limit | Ending::Stopped | Ending::Operator | Ending::Lost => 254,
        }
    }

    /// The whole packet.
    pub fn packet(&self) -> Vec<u8> {
        let number = ENDINGS.iter().position(|ending| *ending == self.ending).unwrap_or(0);
        // There are ten.
        let mut payload = vec![number as u8, self.value];
        // Who reads it may be an older client, which shows it as it is.
        payload.extend_from_slice(shown_within(&self.text, LONGEST_TEXT).as_bytes());
        let mut packet = Vec::new();
        encode_packet(ENDED, &payload, &mut packet);
        packet
    }

    /// Reads the payload; an ending that this version does not know is one
    /// that was not the program's own. `None`: there is none.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let [number, value, text @ ..] = payload else {
            return None;
        };
        Some(Self {
            ending: ENDINGS.get(usize::from(*number)).copied().unwrap_or(Ending::Lost),
            value: *value,
            text: text_of(text),
        })
    }
}

/// A text of a peer's, not endless; what a person sees of it is for
/// [`crate::text`].
pub fn text_of(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(&payload[..payload.len().min(LONGEST_TEXT)]);
    // What was cut is longer by that.
    crate::text::cut(&text, LONGEST_TEXT).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_as_it_was_written() {
        for (number, ending) in ENDINGS.into_iter().enumerate() {
            let ended = Ended { ending, value: 7, text: String::from("why") };
            let packet = ended.packet();
            assert_eq!(usize::from(packet[4]), number);
            assert_eq!(Ended::read(&packet[4..]), Some(ended));
        }
        assert_eq!(Ended::read(&[0]), None);
        assert_eq!(Ended::read(&[200, 0]).map(|ended| ended.status()), Some(254));
    }

    #[test]
    fn statuses_are_a_shells() {
        let status = |ending, value| Ended { ending, value, text: String::new() }.status();
        assert_eq!(status(Ending::Exit, 7), 7);
        assert_eq!(status(Ending::Signal, 9), 137);
        assert_eq!(status(Ending::ExecFailed, 127), 127);
        assert_eq!(status(Ending::Refused, 0), 255);
        assert_eq!(status(Ending::Stopped, 0), 254);
    }

    #[test]
    fn a_peers_text_is_not_endless() {
        assert!(text_of(&[b'x'; 60_000]).len() <= LONGEST_TEXT);
        assert!(text_of(&[0xff; 60_000]).len() <= LONGEST_TEXT);
        let text = "\u{e9}".repeat(1500);
        for before in ["", "x"] {
            let text = format!("{before}{text}");
            assert!(text_of(text.as_bytes()).len() <= LONGEST_TEXT);
            let packet = Ended::because(Ending::Refused, text).packet();
            let read = Ended::read(&packet[4..]).expect("an end");
            assert!(read.text.len() <= LONGEST_TEXT && read.text.ends_with('\u{2026}'));
        }
        let packet = Ended::because(Ending::Refused, "a\n\x1b").packet();
        assert_eq!(&packet[6..], b"a\\n\\u001b");
    }
}
