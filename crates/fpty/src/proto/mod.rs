//! The packets of uwsgi mode and of its extended mode. Nothing here does
//! input or output.
//!
//! | file | subject |
//! | --- | --- |
//! | `packet.rs` | what each end can say, by number |
//! | `codec.rs` | packets from and to bytes, in any fragmentation |
//! | `message.rs` | payloads of the router |
//! | `request.rs` | what a client asks for beside a terminal |
//! | `window.rs` | how much of a relayed stream may be on its way |
//! | `variables.rs` | payloads of the client: its environment, what it can do |

mod codec;
mod message;
mod packet;
pub mod request;
pub mod variables;
pub mod window;

pub use codec::{
    AnswerDecoder, Decoder, encode_bare, encode_input, encode_packet, encode_rows_and_cols,
    encode_signal,
};
pub use message::{Ended, Ending, LONGEST_TEXT, OFFER_MASTER, OFFER_PIDFD, OFFER_RING, printable};
pub use packet::{
    Answer, DETACH, END_OF_STREAM, ENDED, ERROR_OUTPUT, FOR_GOOD, GO, HEADER, HELLO, INPUT, NOTICE,
    OFFER, PING, PONG, Packet, REQUEST, TAKEN, TOO_LATE, VARIABLES, VERSION, WINDOW,
};

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
