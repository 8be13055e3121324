//! Extended mode: END packets, and the hand-over of the terminal.

use fpty::proto::{
    DETACH, DETACH_AND_END, END_OF_STREAM, EndKind, GO, HEADER, INPUT, MAX_TEXT, NOTICE, OFFER,
    PING, PONG, RING_PIECE, SessionEnd, TAKEN, encode_bare, encode_packet,
};

use fpty::text::shown_within;

use super::extended_state::HandOver;
use super::{Client, Session, SessionEffects};

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
            extended.hand_over == HandOver::NotOffered
                && (!extended.input_ended || may_be_relayed)
                && !extended.end_sent
        }) && self.program_runs
            && self.client <= Client::Deferred
    }

    /// Whether the client accepts a hand-over.
    pub fn accepts_handover(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| extended.accepts_handover)
    }

    /// The terminal was offered.
    pub fn set_offered(&mut self) {
        if let Some(extended) = &mut self.extended {
            extended.hand_over = HandOver::Offered;
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
        self.extended.as_ref().is_some_and(|extended| extended.hand_over == HandOver::Completed)
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
                    detach_state.relay_only |= extended.hand_over == HandOver::NotOffered;
                }
            }
            TAKEN if last && extended.hand_over == HandOver::Offered => {
                extended.hand_over = HandOver::Taken;
            }
            // A proxy in between passes bytes alone.
            OFFER if part.is_empty() && last && extended.hand_over == HandOver::Offered => {
                extended.in_pieces = true;
                extended.hand_over = match &mut extended.detach_state {
                    Some(detach_state) => {
                        detach_state.relay_only = true;
                        HandOver::Taken
                    }
                    None => HandOver::RelayOnly,
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

    /// Completes the hand-over: the client has the descriptors, and the terminal has all earlier
    /// input. Output that the gateway has read goes before GO.
    pub(crate) fn complete_handover(&mut self, effects: &mut impl SessionEffects) {
        let Some(extended) = &mut self.extended else {
            return;
        };
        if extended.hand_over == HandOver::Taken && self.input.is_empty() {
            match extended.detach_state.as_mut().filter(|detach_state| detach_state.relay_only) {
                Some(detach_state) => {
                    extended.hand_over = HandOver::RelayOnly;
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
                    extended.hand_over = HandOver::Completed;
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
