//! Messages between processes of the daemon, as JSON, one a packet: between gateways, and
//! with the supervisor and the recorder. (Recorded bytes go another way, see
//! `observe/recording/recorder_protocol.rs`.)

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::gateway_token::{self, Token};

/// Encodes a message.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    // There is nothing in it that JSON has no words for.
    serde_json::to_vec(message).unwrap_or_default()
}

/// Decodes a message; `None`: it is malformed.
pub fn decode<T: DeserializeOwned>(message: &[u8]) -> Option<T> {
    serde_json::from_slice(message).ok()
}

/// The first message of a gateway to a process that outlives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The ordinal of the gateway.
    pub ordinal: usize,
    /// The number of gateways.
    pub count: usize,
    /// The token that proves a gateway.
    pub token: Token,
}

impl Hello {
    /// The hello of this gateway.
    pub fn of(ordinal: usize, count: u32) -> Self {
        let count = usize::try_from(count).unwrap_or(1);
        Self { ordinal, count, token: gateway_token::token().unwrap_or_default() }
    }

    /// Whether the token proves a gateway.
    pub fn is_proved(&self) -> bool {
        gateway_token::is_proved_by(&self.token)
    }

    /// Whether its sender is the successor of the gateway with this ordinal, which has
    /// ended then: the number of gateways may have become smaller.
    pub fn succeeds(&self, before: usize) -> bool {
        before % self.count.max(1) == self.ordinal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_gateway_is_not_proved_and_nonsense_is_none() {
        let message = encode(&Hello { ordinal: 1, count: 2, token: Token::default() });
        let hello: Hello = decode(&message).expect("a hello");
        assert!(!hello.is_proved() && hello.succeeds(3) && !hello.succeeds(2));
        assert_eq!(decode::<Hello>(&message[..message.len() - 1]), None);
        assert_eq!(decode::<Hello>(b""), None);
    }
}
