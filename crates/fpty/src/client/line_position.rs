//! Whether the cursor stands within a line: what we say ourselves is to stand on
//! a line of its own, whatever the output ended with.

use crate::terminal::escape_parser::{Escapes, Step};

/// So many bytes are kept of the output.
const KEPT: usize = 256;

/// The last of the output.
#[derive(Debug, Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    /// This was shown.
    pub fn shown(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let room = KEPT - bytes.len();
        if self.0.len() > room {
            self.0.drain(..self.0.len() - room);
        }
        self.0.extend_from_slice(bytes);
    }

    /// Whether something stands on the line that the cursor is in: for a person
    /// something that is seen, for a program any byte.
    pub fn is_in_a_line(&self, for_a_person: bool) -> bool {
        let start = self.0.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if !for_a_person {
            return start < self.0.len();
        }
        let mut escapes = Escapes::default();
        let is_seen = |byte: &u8| {
            escapes.step(*byte) == Step::Text && matches!(byte, 0x20..) && *byte != 0x7f
        };
        self.0[start..].iter().any(is_seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_in_a_line(pieces: &[&[u8]]) -> bool {
        let mut tail = Tail::default();
        pieces.iter().for_each(|piece| tail.shown(piece));
        assert!(tail.0.len() <= KEPT);
        tail.is_in_a_line(true)
    }

    #[test]
    fn what_is_not_seen_is_not_on_a_line() {
        assert!(!is_in_a_line(&[]) && !is_in_a_line(&[b"$ exit\r\n"]));
        assert!(!is_in_a_line(&[
            b"x\r\n",
            b"\x1b[?2004l\r\x1b]0;title\x07\x1b]2;t\x1b\\\x1b(B\x1b[m"
        ]));
        assert!(is_in_a_line(&[b"x\n", b"$ "]) && is_in_a_line(&[b"50 %\r"]));
        assert!(is_in_a_line(&[&[b'x'; 1000], &[0; 255]]) && !is_in_a_line(&[b"x", &[0; 256]]));
        let mut tail = Tail::default();
        tail.shown(b"x\n\x1b[m");
        assert!(tail.is_in_a_line(false) && !tail.is_in_a_line(true));
        tail.shown(b"\n");
        assert!(!tail.is_in_a_line(false));
        assert!(is_in_a_line(&[b"\n\x1b[1mb"]) && is_in_a_line(&["\n\u{e9}".as_bytes()]));
    }
}
