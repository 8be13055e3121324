//! State of the extended mode and of a detachable session: data alone.

use fpty::proto::SessionEnd;
use fpty::scrollback::ScrollbackWriter;

/// Progress of the hand-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandOver {
    /// The gateway has the terminal: bytes are relayed.
    #[default]
    NotOffered,
    /// The terminal was offered; bytes are relayed all the same.
    Offered,
    /// The client has the descriptors (TAKEN), and sends no more input: what came before is to
    /// reach the terminal first.
    Taken,
    /// The client was sent GO: the terminal is its own.
    Completed,
    /// Only the scrollback was offered and taken: bytes are relayed for good.
    RelayOnly,
}

/// State of the extended mode.
#[derive(Debug, Default)]
pub struct Extended {
    /// The client accepts a hand-over.
    pub accepts_handover: bool,
    /// The client has sent the end of its input.
    pub input_ended: bool,
    /// Progress of the hand-over.
    pub hand_over: HandOver,
    /// The program's end.
    pub ended: Option<SessionEnd>,
    /// END was sent.
    pub end_sent: bool,
    /// State of a detachable session.
    pub detach_state: Option<Box<DetachState>>,
    /// The offered descriptors did not arrive: the scrollback goes in packets.
    pub in_pieces: bool,
    /// GO is still to be sent.
    pub go_pending: bool,
    /// The client ends the session, be it detachable.
    pub ended_by_client: bool,
}

/// State of a detachable session.
#[derive(Debug)]
pub struct DetachState {
    /// The scrollback.
    pub remains: ScrollbackWriter,
    /// The client has attached and was not sent GO: the terminal is not read until then.
    pub awaiting_go: bool,
    /// The terminal is not handed over: only the scrollback is offered.
    pub relay_only: bool,
}
