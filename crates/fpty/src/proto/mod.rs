//! The packets of uwsgi mode and of its extended mode. Nothing here does
//! input or output.
//!
//! | file | subject |
//! | --- | --- |
//! | `codec.rs` | packets from and to bytes, in any fragmentation |
//! | `http_request.rs` | the beginning of an HTTP request, or of a TLS handshake |
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
    ClientPacketDecoder, RouterPacketDecoder, encode_bare, encode_input, encode_packet,
    encode_rows_and_cols, encode_signal,
};
pub use crate::proto::message::{
    EndKind, MAX_TEXT, OFFER_MASTER, OFFER_PIDFD, OFFER_RING, SessionEnd, bounded_text,
};
pub use crate::proto::packet::{
    ClientPacket, DETACH, DETACH_AND_END, END, END_OF_STREAM, ERROR_OUTPUT, GO, HEADER, HELLO,
    INPUT, NO_SUCH_SESSION, NOTICE, OFFER, PING, PONG, REQUEST, RING_PIECE, RouterPacket,
    SESSION_KEY, TAKEN, TOO_LATE, VARIABLES, VERSION, WINDOW_ADJUST, collect_payload,
};

/// The longest name of a session, in bytes.
pub const MAX_SESSION_NAME: usize = 64;

/// Whether it can be the name of a session, or its id: letters, digits, `.`, `_`
/// and `-`.
pub fn is_session_name(name: &[u8]) -> bool {
    let is_in_one = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=MAX_SESSION_NAME).contains(&name.len()) && name.iter().all(is_in_one)
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
    use super::is_session_name;

    #[test]
    fn names_can_be_typed() {
        for name in ["a", "Build_1.2-x", &"n".repeat(64)] {
            assert!(is_session_name(name.as_bytes()), "{name}");
        }
        for name in ["", "a b", "a/b", "\u{e4}", "a\n", "$(x)", &"n".repeat(65)] {
            assert!(!is_session_name(name.as_bytes()), "{name}");
        }
    }
}
