//! Whether the cursor stands within a line: what we say ourselves is to stand on
//! a line of its own, whatever the output ended with.

use crate::terminal::escape_parser::{Action, EscapeParser};

/// Length of the output's end that is kept, in bytes.
const TAIL_LENGTH: usize = 256;

/// The position in a line after the last output.
#[derive(Debug, Default)]
pub struct LinePosition(Vec<u8>);

impl LinePosition {
    /// Records output that was shown.
    pub fn record(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_LENGTH)..];
        let room = TAIL_LENGTH - bytes.len();
        if self.0.len() > room {
            self.0.drain(..self.0.len() - room);
        }
        self.0.extend_from_slice(bytes);
    }

    /// Whether something stands on the line that the cursor is in: for a person
    /// something that is seen, for a program any byte.
    pub fn is_mid_line(&self, for_a_person: bool) -> bool {
        let start = self.0.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if !for_a_person {
            return start < self.0.len();
        }
        let mut escapes = EscapeParser::default();
        let is_seen = |byte: &u8| {
            escapes.step(*byte) == Action::Text && matches!(byte, 0x20..) && *byte != 0x7f
        };
        self.0[start..].iter().any(is_seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_mid_line(pieces: &[&[u8]]) -> bool {
        let mut line_position = LinePosition::default();
        pieces.iter().for_each(|piece| line_position.record(piece));
        assert!(line_position.0.len() <= TAIL_LENGTH);
        line_position.is_mid_line(true)
    }

    #[test]
    fn what_is_not_seen_is_not_on_a_line() {
        assert!(!is_mid_line(&[]) && !is_mid_line(&[b"$ exit\r\n"]));
        assert!(!is_mid_line(&[
            b"x\r\n",
            b"\x1b[?2004l\r\x1b]0;title\x07\x1b]2;t\x1b\\\x1b(B\x1b[m"
        ]));
        assert!(is_mid_line(&[b"x\n", b"$ "]) && is_mid_line(&[b"50 %\r"]));
        assert!(is_mid_line(&[&[b'x'; 1000], &[0; 255]]) && !is_mid_line(&[b"x", &[0; 256]]));
        let mut line_position = LinePosition::default();
        line_position.record(b"x\n\x1b[m");
        assert!(line_position.is_mid_line(false) && !line_position.is_mid_line(true));
        line_position.record(b"\n");
        assert!(!line_position.is_mid_line(false));
        assert!(is_mid_line(&[b"\n\x1b[1mb"]) && is_mid_line(&["\n\u{e9}".as_bytes()]));
    }
}
