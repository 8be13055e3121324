//! Which session is meant: by its id, how that begins, or its name.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::LENGTH;
use fpty::proto::{MAX_SESSION_NAME, is_session_name};

/// What was typed: an id, how one begins, or a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Beginning {
    typed: [u8; MAX_SESSION_NAME],
    length: usize,
}

impl Beginning {
    /// Of what was typed; `None`: nothing is called like that.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let length = bytes.len();
        let mut typed = [0; MAX_SESSION_NAME];
        typed.get_mut(..length).filter(|_| is_session_name(bytes))?.copy_from_slice(bytes);
        Some(Self { typed, length })
    }

    /// What was typed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.typed[..self.length]
    }

    /// Whether no two sessions are meant: it is as long as an id.
    pub fn is_whole(&self) -> bool {
        self.length == LENGTH
    }

    /// Whether an id begins like that, in whatever letters.
    pub fn begins(&self, id: &str) -> bool {
        let begins = id.as_bytes().get(..self.length);
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(self.as_bytes()))
    }

    /// Whether both are one id, in whatever letters.
    pub fn is_same(&self, other: &Self) -> bool {
        self.as_bytes().eq_ignore_ascii_case(other.as_bytes())
    }
}

impl From<Beginning> for String {
    fn from(typed: Beginning) -> Self {
        typed.to_string()
    }
}

impl TryFrom<String> for Beginning {
    type Error = &'static str;

    fn try_from(typed: String) -> Result<Self, Self::Error> {
        Self::of(typed.as_bytes()).ok_or("nothing is called like that")
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
        assert_eq!(beginning.to_string(), "K3x");
        assert!(Beginning::of(b"k3x01234").is_some_and(|whole| whole.is_whole()));
        assert!(Beginning::of(b"k3x012345").is_some_and(|long| !long.begins("k3x01234")));
        for nonsense in ["", "k ", "../x", "\u{e9}", "*", "a\0", &"n".repeat(65)] {
            assert_eq!(Beginning::of(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
