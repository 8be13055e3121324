//! The id of a session, or how it begins.

use std::fmt;

use crate::router::ids::LENGTH;

/// A part of an id that may be the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    letters: [u8; LENGTH],
    length: usize,
}

impl Beginning {
    /// Of what was typed; `None`: no id begins like that.
    pub fn of(typed: &[u8]) -> Option<Self> {
        let length = typed.len();
        let is_one = (1..=LENGTH).contains(&length) && typed.iter().all(u8::is_ascii_alphanumeric);
        let mut letters = [0; LENGTH];
        letters.get_mut(..length).filter(|_| is_one)?.copy_from_slice(typed);
        letters.make_ascii_lowercase();
        Some(Self { letters, length })
    }

    /// Its letters.
    pub fn as_bytes(&self) -> &[u8] {
        &self.letters[..self.length]
    }

    /// Whether it is a whole id.
    pub fn is_whole(&self) -> bool {
        self.length == LENGTH
    }

    /// Whether an id begins like that.
    pub fn begins(&self, id: &str) -> bool {
        id.as_bytes().starts_with(self.as_bytes())
    }
}

impl fmt::Display for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_and_what_cannot() {
        let beginning = Beginning::of(b"K3x").expect("one");
        assert!(beginning.begins("k3x01234") && !beginning.begins("k3y01234"));
        assert!(!beginning.is_whole());
        assert_eq!(beginning.to_string(), "k3x");
        assert!(Beginning::of(b"k3x01234").is_some_and(|whole| whole.is_whole()));
        for nonsense in ["", "k3x012345", "k ", "../x", "\u{e9}", "*", "a\0"] {
            assert_eq!(Beginning::of(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
