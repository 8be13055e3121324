//! Packets of the protocol between client and server.
//!
//! A packet is `modifier1 (u8), size (u16 little-endian), modifier2 (u8)`,
//! the uwsgi header, whose modifier2 says what it is; modifier1 is ignored.
//! In plain uwsgi mode only input has a payload, and the gateway sends none.
//! In extended mode both ends send packets, and those from 103 on have a
//! payload of `size` bytes; unknown ones are skipped.

/// Length of the header, in bytes.
pub const HEADER: usize = 4;

/// The version of the extended mode that this code speaks.
pub const VERSION: u16 = 1;

/// modifier2 of input, and of output; the size is that of the payload.
pub const INPUT: u8 = 0;
/// modifier2 of what a command without a terminal writes to standard error.
pub const ERROR_OUTPUT: u8 = 1;
/// The first and the last modifier2 that is a signal's number.
pub const SIGNALS: std::ops::RangeInclusive<u8> = 1..=99;
/// modifier2 of the number of rows, which is the size.
pub const ROWS: u8 = 100;
/// modifier2 of the number of columns, which is the size.
pub const COLS: u8 = 101;
/// modifier2 of the hello, whose size is a version: either end can do more.
pub const HELLO: u8 = 102;
/// How the text of a refusal begins where the hello came when a program had
/// been started and heard of: the one that a client in plain uwsgi mode knows.
pub const TOO_LATE: &str = "the request came too late";
/// Variables; without a payload: that was all, begin.
pub const VARIABLES: u8 = 103;
/// From the client: the input has ended. From the gateway: the output has.
pub const END_OF_STREAM: u8 = 104;
/// From the client: a request, see [`super::request`].
pub const REQUEST: u8 = 105;
/// Window adjustment: so many bytes of a relayed stream were consumed, and may be sent
/// once more.
pub const WINDOW_ADJUST: u8 = 106;
/// Are you there?
pub const PING: u8 = 107;
/// The answer to a ping has the same number.
pub const PONG: u8 = PING;
/// From the client: the descriptors that were offered have arrived.
pub const TAKEN: u8 = 108;
/// From the client: the session is to go on without it; with the payload
/// [`DETACH_AND_END`]: it is to end, and not to wait for anybody.
pub const DETACH: u8 = 109;
/// The payload of [`DETACH`] that ends the session.
pub const DETACH_AND_END: &[u8] = b".";
/// From the gateway: how the session ended; see [`super::SessionEnd`].
pub const END: u8 = 110;
/// From the gateway: one line of text for the person.
pub const NOTICE: u8 = 111;
/// From the gateway: descriptors come with the first byte of this packet; its
/// payload has a byte for each, see [`OFFER_MASTER`]. From the client:
/// likewise; without a payload: those of the gateway's have not arrived, and it
/// keeps them.
pub const OFFER: u8 = 112;
/// In an offer: the master of the session's terminal.
pub const OFFER_MASTER: u8 = b'm';
/// In an offer: a pidfd of the session's process.
pub const OFFER_PIDFD: u8 = b'p';
/// In an offer: the ring of the last output ([`crate::scrollback`]).
pub const OFFER_RING: u8 = b'r';
/// From the gateway: from now on the descriptors are the client's to use. Where
/// output goes on being relayed the payload says how much there was before
/// (u64, little-endian): the ring has it up to there.
pub const GO: u8 = 113;
/// From the gateway: a piece of what is kept of the output, for who got no ring
/// ([`crate::scrollback::RingPieces`]).
pub const RING_PIECE: u8 = 114;
/// From the gateway: by what the client finds its session again
/// ([`super::session_key::SessionKey`]).
pub const SESSION_KEY: u8 = 115;
/// Reply to a client that asks for a session that does not exist, or that it has no right
/// to.
pub const NO_SUCH_SESSION: &str = "there is no such session";

/// A packet of a client, or a part of one: payloads are passed on as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientPacket<'a> {
    /// Bytes for the terminal; not empty.
    Input(&'a [u8]),
    /// A signal's number, 1 to 99.
    Signal(u8),
    /// The terminal's height.
    Rows(u16),
    /// The terminal's width.
    Cols(u16),
    /// The extended mode's version of the client.
    Hello(u16),
    /// A part of a packet of the extended mode: its modifier2, and whether
    /// that is the last part.
    Part(u8, &'a [u8], bool),
    /// A modifier2 without a meaning, and its size.
    Unknown(u8, u16),
}

/// A packet of a gateway in extended mode, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayPacket<'a> {
    /// Bytes of the terminal, or of standard output; not empty.
    Output(&'a [u8]),
    /// Bytes of standard error; not empty.
    ErrorOutput(&'a [u8]),
    /// The extended mode's version of the gateway.
    Hello(u16),
    /// A part of another packet: its modifier2, and whether that is the last
    /// part.
    Part(u8, &'a [u8], bool),
}

/// Adds a part to a payload, of which no more than so many bytes are of use; with the
/// last part it is whole.
pub fn collect_payload(
    payload: &mut Vec<u8>,
    part: &[u8],
    last: bool,
    most: usize,
) -> Option<Vec<u8>> {
    let room = most.saturating_sub(payload.len()).min(part.len());
    payload.extend_from_slice(&part[..room]);
    last.then(|| std::mem::take(payload))
}
