//! Session selector: a session as a person types it, by id, by prefix of an id, or by name.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::LENGTH;
use fpty::proto::{MAX_SESSION_NAME, is_session_name};

/// An id, a prefix of one, or a name; of bounded length and letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SessionSelector {
    typed: [u8; MAX_SESSION_NAME],
    length: usize,
}

impl SessionSelector {
    /// The selector of what was typed; `None`: no session can be called so.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let length = bytes.len();
        let mut typed = [0; MAX_SESSION_NAME];
        typed.get_mut(..length).filter(|_| is_session_name(bytes))?.copy_from_slice(bytes);
        Some(Self { typed, length })
    }

    /// The letters as typed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.typed[..self.length]
    }

    /// Whether the selector is as long as an id, and so selects one session at most.
    pub fn is_full_id(&self) -> bool {
        self.length == LENGTH
    }

    /// Whether an id begins so; case is ignored.
    pub fn matches_prefix(&self, id: &str) -> bool {
        let begins = id.as_bytes().get(..self.length);
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(self.as_bytes()))
    }

    /// Whether both select one id; case is ignored.
    pub fn is_same(&self, other: &Self) -> bool {
        self.as_bytes().eq_ignore_ascii_case(other.as_bytes())
    }
}

impl From<SessionSelector> for String {
    fn from(typed: SessionSelector) -> Self {
        typed.to_string()
    }
}

impl TryFrom<String> for SessionSelector {
    type Error = &'static str;

    fn try_from(typed: String) -> Result<Self, Self::Error> {
        Self::of(typed.as_bytes()).ok_or("nothing is called like that")
    }
}

impl fmt::Display for SessionSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_and_what_cannot() {
        let beginning = SessionSelector::of(b"K3x").expect("one");
        assert!(beginning.matches_prefix("k3x01234") && !beginning.matches_prefix("k3y01234"));
        assert!(!beginning.is_full_id());
        assert_eq!(beginning.to_string(), "K3x");
        assert!(SessionSelector::of(b"k3x01234").is_some_and(|whole| whole.is_full_id()));
        assert!(
            SessionSelector::of(b"k3x012345").is_some_and(|long| !long.matches_prefix("k3x01234"))
        );
        for nonsense in ["", "k ", "../x", "\u{e9}", "*", "a\0", &"n".repeat(65)] {
            assert_eq!(SessionSelector::of(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
