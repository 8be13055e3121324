//! The packets of uwsgi mode and of its extended mode. Nothing here does
//! input or output.
//!
//! | file | subject |
//! | --- | --- |
//! | `codec.rs` | packets from and to bytes, in any fragmentation |
//! | `message.rs` | payloads of the router |
//! | `packet.rs` | what each end can say, by number |
//! | `request.rs` | what a client asks for beside a terminal |
//! | `session_key.rs` | by what a client finds its session again |
//! | `variables.rs` | payloads of the client: its environment, what it can do |
//! | `window.rs` | how much of a relayed stream may be on its way |

mod codec;
pub mod http_request;
mod message;
mod packet;
pub mod request;
pub mod session_key;
pub mod variables;
pub mod window;

pub use crate::proto::codec::{
    AnswerDecoder, Decoder, encode_bare, encode_input, encode_packet, encode_rows_and_cols,
    encode_signal,
};
pub use crate::proto::message::{
    Ended, Ending, LONGEST_TEXT, OFFER_MASTER, OFFER_PIDFD, OFFER_RING, text_of,
};
pub use crate::proto::packet::{
    Answer, DETACH, END_OF_STREAM, ENDED, ERROR_OUTPUT, FOR_GOOD, GO, HEADER, HELLO, INPUT, KEY,
    NO_SUCH, NOTICE, OFFER, PING, PONG, Packet, REQUEST, RING_PIECE, TAKEN, TOO_LATE, VARIABLES,
    VERSION, WINDOW, collect,
};

/// The longest name of a session, in bytes.
pub const LONGEST_NAME: usize = 64;

/// Whether it can be the name of a session, or its id: letters, digits, `.`, `_`
/// and `-`.
pub fn is_name(name: &[u8]) -> bool {
    let is_in_one = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.iter().all(is_in_one)
}

/// What a socket of the router speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes both ways, nothing else.
    Raw,
    /// Packets from the client; from the router the bytes of the terminal, or
    /// packets where both ends have agreed on the extended mode.
    Uwsgi,
}

impl Protocol {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Uwsgi => "uwsgi",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_can_be_typed() {
        for name in ["a", "Build_1.2-x", &"n".repeat(64)] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
        for name in ["", "a b", "a/b", "\u{e4}", "a\n", "$(x)", &"n".repeat(65)] {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
    }
}
