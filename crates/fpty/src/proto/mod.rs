//! The protocol: packets of uwsgi mode and of the extended mode (docs/protocol.md).
//! Nothing here does input or output.
//!
//! | file | subject |
//! | --- | --- |
//! | `codec.rs` | encoder and incremental decoders of packets |
//! | `http_request.rs` | HTTP requests and TLS handshakes, recognised in a client's first bytes |
//! | `packet.rs` | packet numbers (modifier2), and packets as decoded |
//! | `request.rs` | requests (105): kind and data |
//! | `session_end.rs` | the end of a session (110): kind, value, text |
//! | `session_key.rs` | the key by which a client finds its session again (115) |
//! | `variables.rs` | variables (103): the client's environment and what the client can do |
//! | `window.rs` | window adjustment of relayed streams (106) |

mod codec;
pub mod http_request;
mod packet;
pub mod request;
pub(crate) mod session_end;
pub mod session_key;
pub mod variables;
pub mod window;

pub use crate::proto::codec::*;
pub use crate::proto::packet::*;
pub use crate::proto::session_end::{EndKind, MAX_TEXT, SessionEnd, bounded_text};

/// The longest name of a session, in bytes.
pub const MAX_SESSION_NAME: usize = 64;

/// Whether a name is valid for a session, or as an id: letters, digits, `.`, `_` and `-`.
pub fn is_session_name(name: &[u8]) -> bool {
    let is_in_one = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=MAX_SESSION_NAME).contains(&name.len()) && name.iter().all(is_in_one)
}

/// Protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes both ways, nothing else.
    Raw,
    /// Packets from the client; from the gateway the bytes of the terminal, or
    /// packets where both ends have agreed on the extended mode.
    Uwsgi,
}

impl Protocol {
    /// The protocol's name.
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
