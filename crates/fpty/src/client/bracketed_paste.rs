//! Pastes in what is typed: a terminal brackets them where the program has asked
//! for it, and a program that has seen the beginning takes everything for
//! pasted until it sees the end.

use crate::terminal::escape_parser::{Action, EscapeParser};

/// Sequence that a terminal sends after a bracketed paste.
pub const PASTE_END: &[u8] = b"\x1b[201~";

/// The tracker of pastes in the input, which comes in pieces of any size.
#[derive(Clone, Copy, Debug, Default)]
pub struct PasteTracker {
    escapes: EscapeParser,
    /// The parameter of the key that is under way.
    number: u16,
}

impl PasteTracker {
    /// Follows input; returns whether a paste is under way after it; `None`: nothing has
    /// changed.
    pub fn follow(&mut self, input: &[u8]) -> Option<bool> {
        let mut pastes = None;
        for byte in input {
            match self.escapes.step(*byte) {
                Action::Csi => self.number = 0,
                Action::Parameter if byte.is_ascii_digit() => {
                    let digit = u16::from(byte - b'0');
                    self.number = self.number.saturating_mul(10).saturating_add(digit);
                }
                // None that brackets a paste has more than one.
                Action::Parameter | Action::Marker | Action::Intermediate => self.number = u16::MAX,
                Action::CsiEnd if *byte == b'~' => match self.number {
                    200 => pastes = Some(true),
                    201 => pastes = Some(false),
                    _ => {}
                },
                _ => {}
            }
        }
        pastes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paste_begins_and_ends() {
        let keys = b"ls\x1b[A\x1b[20\x1b[200~echo\r\x1b[202~x";
        assert_eq!(PasteTracker::default().follow(keys), Some(true));
        assert_eq!(PasteTracker::default().follow(b"a\x1b[200~b\x1b[201~c"), Some(false));
        assert_eq!(PasteTracker::default().follow(b"[200~\x1b[2000~\x1b[20~"), None);
        let (mut pastes, mut found) = (PasteTracker::default(), Vec::new());
        for byte in b"\x1b[200~text\x1b[201~" {
            found.extend(pastes.follow(&[*byte]));
        }
        assert_eq!(found, [true, false]);
    }
}
