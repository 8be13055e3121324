//! Pastes in what is typed: a terminal brackets them where the program has asked
//! for it, and a program that has seen the beginning takes everything for
//! pasted until it sees the end.

/// What a terminal says after a paste.
pub const END: &[u8] = b"\x1b[201~";

/// Follows what is typed, in pieces of any size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pastes {
    /// So many bytes of a bracket have come.
    matched: u8,
    /// It is the one at the end.
    ends: bool,
}

impl Pastes {
    /// Whether a paste is under way after this; `None`: nothing has changed.
    pub fn follow(&mut self, input: &[u8]) -> Option<bool> {
        let mut pastes = None;
        for byte in input {
            let at = usize::from(self.matched);
            self.matched = match (at, *byte) {
                (_, 0x1b) => 1,
                // What differs between the two.
                (4, b'0' | b'1') => {
                    self.ends = *byte == b'1';
                    5
                }
                (5, b'~') => {
                    pastes = Some(!self.ends);
                    0
                }
                (1..=3, byte) if byte == END[at] => self.matched + 1,
                _ => 0,
            };
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
        assert_eq!(Pastes::default().follow(keys), Some(true));
        assert_eq!(Pastes::default().follow(b"a\x1b[200~b\x1b[201~c"), Some(false));
        assert_eq!(Pastes::default().follow(b"[200~\x1b[2000~\x1b[20~"), None);
        let (mut pastes, mut found) = (Pastes::default(), Vec::new());
        for byte in b"\x1b[200~text\x1b[201~" {
            found.extend(pastes.follow(&[*byte]));
        }
        assert_eq!(found, [true, false]);
    }
}
