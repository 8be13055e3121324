//! Extended mode: END packets, the handover of the terminal, and detachable sessions.

use fpty::backlog::Backlog;
use fpty::proto::session_key::SessionKey;
use fpty::proto::{
    ClientPacketDecoder, DETACH, DETACH_AND_END, END_OF_STREAM, EndKind, GO, HEADER, INPUT,
    MAX_TEXT, NOTICE, OFFER, PING, PONG, RING_PIECE, SESSION_KEY, SessionEnd, TAKEN, encode_bare,
    encode_packet,
};
use fpty::scrollback::ScrollbackWriter;
use fpty::sys::Size;
use fpty::text::shown_within;

use super::{Client, Session, SessionEffects, Shutdown};

/// Progress of the handover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OfferProgress {
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
    /// The client accepts a handover.
    pub accepts_handover: bool,
    /// The client has sent the end of its input.
    pub input_ended: bool,
    /// Progress of the handover.
    pub hand_over: OfferProgress,
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

impl Session {
    /// Header of a packet with this many bytes of output.
    pub fn output_header(&self, count: usize) -> Option<[u8; HEADER]> {
        // One read yields less than a packet holds.
        self.extended.as_ref().map(|_| encode_bare(INPUT, count as u16))
    }

    /// Length of the header that output goes behind, in bytes.
    pub fn output_header_length(&self) -> usize {
        if self.extended.is_some() { HEADER } else { 0 }
    }

    /// Sends a notice beside the terminal's output; raw mode has no way for it.
    pub fn notice(&mut self, line: &str, effects: &mut impl SessionEffects) {
        if self.extended.is_some() {
            self.send_packet(NOTICE, shown_within(line, MAX_TEXT).as_bytes(), effects);
        }
    }

    /// Whether the terminal can be offered now: the offer must not overtake anything.
    pub fn can_be_offered(&self) -> bool {
        self.may_be_offered_later() && self.terminal_open && self.output.is_empty()
    }

    /// Whether the terminal may be offered at some time.
    pub fn may_be_offered_later(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| {
            // A client that has attached gets GO after the offer alone.
            let may_be_relayed =
                extended.detach_state.as_ref().is_some_and(|detach_state| detach_state.awaiting_go);
            extended.hand_over == OfferProgress::NotOffered
                && (!extended.input_ended || may_be_relayed)
                && !extended.end_sent
        }) && self.program_runs
            && self.client <= Client::Deferred
    }

    /// Whether the client accepts a handover.
    pub fn accepts_handover(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| extended.accepts_handover)
    }

    /// The terminal was offered.
    pub fn set_offered(&mut self) {
        if let Some(extended) = &mut self.extended {
            extended.hand_over = OfferProgress::Offered;
        }
    }

    /// Offers the scrollback to a client on TCP, which no descriptor can reach: its answer says so,
    /// and the scrollback goes in packets.
    pub fn offer_in_pieces(&mut self, offer: &[u8], effects: &mut impl SessionEffects) {
        self.send_output(offer, effects);
        self.set_offered();
    }

    /// Whether the client has the terminal, and bytes do not pass through the gateway.
    pub fn is_handed_over(&self) -> bool {
        self.extended
            .as_ref()
            .is_some_and(|extended| extended.hand_over == OfferProgress::Completed)
    }

    /// Whether the session is in extended mode.
    pub fn is_extended(&self) -> bool {
        self.extended.is_some()
    }

    /// Handles a packet of the extended mode.
    pub(crate) fn extended_packet(
        &mut self,
        kind: u8,
        part: &[u8],
        last: bool,
        effects: &mut impl SessionEffects,
    ) {
        let Some(extended) = &mut self.extended else {
            return;
        };
        match kind {
            END_OF_STREAM if part.is_empty() && last => {
                extended.input_ended = true;
                // The gateway types EOF: that needs the relay.
                if let Some(detach_state) =
                    extended.detach_state.as_mut().filter(|detach_state| detach_state.awaiting_go)
                {
                    detach_state.relay_only |= extended.hand_over == OfferProgress::NotOffered;
                }
            }
            TAKEN if last && extended.hand_over == OfferProgress::Offered => {
                extended.hand_over = OfferProgress::Taken;
            }
            // A proxy in between passes bytes alone.
            OFFER if part.is_empty() && last && extended.hand_over == OfferProgress::Offered => {
                extended.in_pieces = true;
                extended.hand_over = match &mut extended.detach_state {
                    Some(detach_state) => {
                        detach_state.relay_only = true;
                        OfferProgress::Taken
                    }
                    None => OfferProgress::RelayOnly,
                };
            }
            // A payload may be split; one of its parts has the byte.
            DETACH if part == DETACH_AND_END => {
                extended.ended_by_client = true;
                self.client_disconnected();
            }
            DETACH if part.is_empty() && last && self.client == Client::Open => {
                self.client = Client::Detaching;
            }
            // A flood of pings from a client that does not read is not answered.
            PING if last && self.output.is_empty() => {
                self.send_output(&encode_bare(PONG, 0), effects);
            }
            _ => {}
        }
    }

    /// Completes the handover: the client has the descriptors, and the terminal has all earlier
    /// input. Output that the gateway has read goes before GO.
    pub(crate) fn complete_handover(&mut self, effects: &mut impl SessionEffects) {
        let Some(extended) = &mut self.extended else {
            return;
        };
        if extended.hand_over == OfferProgress::Taken && self.input.is_empty() {
            match extended.detach_state.as_mut().filter(|detach_state| detach_state.relay_only) {
                Some(detach_state) => {
                    extended.hand_over = OfferProgress::RelayOnly;
                    let mut packets = Vec::new();
                    let total = detach_state.remains.total();
                    if extended.in_pieces {
                        let detach_state =
                            detach_state.remains.reader().and_then(|seen| seen.to_pieces(total));
                        for piece in detach_state.unwrap_or_default().chunks(u16::MAX.into()) {
                            encode_packet(RING_PIECE, piece, &mut packets);
                        }
                    }
                    encode_packet(GO, &total.to_le_bytes(), &mut packets);
                    self.send_output(&packets, effects);
                }
                None => {
                    extended.hand_over = OfferProgress::Completed;
                    // The supervisor, which outlives the gateway, is told before the client.
                    if extended.detach_state.is_some() {
                        extended.go_pending = true;
                        return;
                    }
                    self.send_output(&encode_bare(GO, 0), effects);
                }
            }
            self.confirm_attach(effects);
        }
    }

    /// Sends END once, when all output is on its way and the program was reaped.
    pub(crate) fn send_end(&mut self, effects: &mut impl SessionEffects) {
        if self.terminal_open || self.program_runs || self.is_awaiting_go() {
            return;
        }
        let Some(extended) = self.extended.as_mut().filter(|extended| !extended.end_sent) else {
            return;
        };
        extended.end_sent = true;
        let ended = extended.ended.take();
        let packet = ended.as_ref().map_or_else(
            || SessionEnd::new(EndKind::Lost, "its status is not known").packet(),
            SessionEnd::packet,
        );
        self.send_output(&packet, effects);
        // The client is gone: another one may attach and read it.
        if let Some(extended) = self.extended.as_mut().filter(|_| self.client == Client::Gone) {
            (extended.end_sent, extended.ended) = (false, ended);
        }
    }
}

/// Detachable sessions: the scrollback is kept, and a client that attaches sees no output before GO.
impl Session {
    /// A session of an earlier gateway, whose client has the terminal.
    pub fn restored(size: Size, detach_state: Option<DetachState>) -> Self {
        let mut session = Self::raw(size);
        session.accept_first_bytes();
        let mut decoder = ClientPacketDecoder::default();
        decoder.set_extended();
        session.decoder = Some(decoder);
        session.extended = Some(Box::new(Extended {
            hand_over: OfferProgress::Completed,
            detach_state: detach_state.map(Box::new),
            ..Extended::default()
        }));
        session
    }

    /// Makes the session detachable.
    pub fn make_detachable(&mut self, detach_state: DetachState) {
        if let Some(extended) = &mut self.extended {
            extended.detach_state = Some(Box::new(detach_state));
        }
    }

    /// Sends the session's id and secret, by which the client attaches again.
    pub fn send_key(&mut self, key: &SessionKey, effects: &mut impl SessionEffects) {
        self.send_packet(SESSION_KEY, &key.payload(), effects);
    }

    /// State of a detachable session.
    pub fn detach_state(&self) -> Option<&DetachState> {
        self.extended.as_ref()?.detach_state.as_deref()
    }

    /// State of a detachable session, mutable.
    pub fn detach_state_mut(&mut self) -> Option<&mut DetachState> {
        self.extended.as_mut()?.detach_state.as_deref_mut()
    }

    /// Takes the state of a detachable session, which is kept elsewhere from now on.
    pub fn take_detach_state(&mut self) -> Option<Box<DetachState>> {
        self.extended.as_mut()?.detach_state.take()
    }

    /// Whether the client has attached and waits for GO.
    pub fn is_awaiting_go(&self) -> bool {
        self.detach_state().is_some_and(|detach_state| detach_state.awaiting_go)
    }

    /// Whether the session may outlive its client: neither the client nor the gateway has ended it,
    /// and the program runs.
    pub fn may_outlive_client(&self) -> bool {
        let extended = self.extended.as_ref();
        extended.is_some_and(|extended| !extended.ended_by_client && !extended.end_sent)
            && self.program_runs
    }

    /// The program's end, where the client was not sent it and another client may attach to read
    /// it, or waits for it: a client that was detached `for_another` has read that alone.
    pub fn take_unsent_end(&mut self, for_another: bool) -> Option<SessionEnd> {
        let is_terminated = self.shutdown != Shutdown::Running;
        let extended = self.extended.as_mut()?;
        let is_told = is_terminated || (extended.end_sent && !for_another);
        if is_told || extended.ended_by_client || extended.detach_state.is_none() {
            return None;
        }
        extended.ended.take()
    }

    /// Refuses to detach: the client gets the reason, and goes on. Deferred input that it sent
    /// after the request is still to be decoded.
    pub fn refuse_detach(&mut self, why: &str, behind: bool, effects: &mut impl SessionEffects) {
        if self.client == Client::Detaching {
            self.client = if behind { Client::Deferred } else { Client::Open };
        }
        self.notice(&format!("cannot detach: {why}"), effects);
    }

    /// Detaches the client: it gets the reason, behind all pending output.
    pub fn detach_client(&mut self, why: &SessionEnd, effects: &mut impl SessionEffects) {
        if let Some(extended) = &mut self.extended {
            extended.end_sent = true;
        }
        self.send_output(&why.packet(), effects);
    }

    /// Takes output that the client has not read, for the lingering close of its connection.
    pub fn take_output(&mut self) -> Backlog {
        std::mem::take(&mut self.output)
    }

    /// Whether GO is to be sent yet for a terminal that is the client's.
    pub fn go_pending(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| extended.go_pending)
    }

    /// Sends GO; once more where an earlier gateway may have sent it, or not.
    pub fn send_go(&mut self, effects: &mut impl SessionEffects) {
        if let Some(extended) = &mut self.extended {
            extended.go_pending = false;
            self.send_output(&encode_bare(GO, 0), effects);
            self.confirm_attach(effects);
        }
    }

    /// A client that has attached was sent GO.
    pub(crate) fn confirm_attach(&mut self, effects: &mut impl SessionEffects) {
        let Some(detach_state) = self.detach_state_mut() else {
            return;
        };
        if std::mem::take(&mut detach_state.awaiting_go) && !self.program_runs {
            // The rest of a handed-over terminal's output is the client's to read.
            self.terminal_open &= !self.is_handed_over();
            self.send_end(effects);
        }
    }

    /// Keeps output, behind its header, in the scrollback. Whether the client gets it as well.
    #[inline]
    pub(crate) fn retain_output(&mut self, packet: &[u8]) -> bool {
        let Some(detach_state) = self.detach_state_mut() else {
            return true;
        };
        if let Some(output) = packet.get(fpty::proto::HEADER..) {
            detach_state.remains.write(output);
        }
        !detach_state.awaiting_go
    }

    /// Sets the size that the client has sent; not before GO, while the client waits for a screen
    /// of another size.
    pub(crate) fn resize(&mut self, effects: &mut impl SessionEffects) {
        let (size, is_handed_over) = (self.size, self.is_handed_over());
        if let Some(detach_state) = self.detach_state_mut() {
            if detach_state.awaiting_go {
                return;
            }
            if !is_handed_over {
                detach_state.remains.resized(size);
            }
        }
        effects.resize(size);
    }
}
