//! The packets of uwsgi mode. Nothing here does input or output.

mod codec;
mod packet;

pub use codec::{Decoder, encode_input, encode_rows_and_cols, encode_signal};
pub use packet::Packet;

/// What a socket of the router speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes both ways, nothing else.
    Raw,
    /// Packets from the client; from the router the bytes of the terminal.
    Uwsgi,
}
