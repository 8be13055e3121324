//! What processes of ours say to each other, as JSON: gateways to gateways, to the
//! supervisor and to the recorder, and these to them; a message a packet. (What is
//! recorded goes another way: see `record/message.rs`.)

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::proof::{self, Token};

/// As it is sent.
pub fn encode(said: &impl Serialize) -> Vec<u8> {
    // There is nothing in it that JSON has no words for.
    serde_json::to_vec(said).unwrap_or_default()
}

/// As it is read; `None`: nonsense.
pub fn decode<T: DeserializeOwned>(said: &[u8]) -> Option<T> {
    serde_json::from_slice(said).ok()
}

/// What a gateway says first to a process that outlives it: which one it is, of how
/// many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its number.
    pub ordinal: usize,
    /// Of so many.
    pub count: usize,
    /// By what it is known to be one.
    pub token: Token,
}

impl Hello {
    /// That of the gateway of this number, of so many.
    pub fn of(ordinal: usize, count: u32) -> Self {
        let count = usize::try_from(count).unwrap_or(1);
        Self { ordinal, count, token: proof::token().unwrap_or_default() }
    }

    /// Whether a gateway has said it.
    pub fn is_proved(&self) -> bool {
        proof::is_proved_by(&self.token)
    }

    /// Whether whoever says it has the place of the gateway of this number, which has
    /// ended then: there were more of them, perhaps.
    pub fn has_place_of(&self, before: usize) -> bool {
        before % self.count.max(1) == self.ordinal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_gateway_is_not_proved_and_nonsense_is_none() {
        let said = encode(&Hello { ordinal: 1, count: 2, token: Token::default() });
        let hello: Hello = decode(&said).expect("a hello");
        assert!(!hello.is_proved() && hello.has_place_of(3) && !hello.has_place_of(2));
        assert_eq!(decode::<Hello>(&said[..said.len() - 1]), None);
        assert_eq!(decode::<Hello>(b""), None);
    }
}
