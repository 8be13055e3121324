//! What a session has more where both ends speak the extended mode: the truth
//! about its end, and the hand-over of its terminal.

use fpty::proto::{
    DETACH, DETACH_AND_END, END_OF_STREAM, EndKind, GO, HEADER, INPUT, MAX_TEXT, NOTICE, OFFER,
    PING, PONG, RING_PIECE, SessionEnd, TAKEN, encode_bare, encode_packet,
};

use fpty::text::shown_within;

use super::detach_state::Kept;
use super::{Client, Ends, Session};

/// How far the terminal has been handed over to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandOver {
    /// It is ours: bytes are relayed.
    #[default]
    Ours,
    /// It was offered; bytes are relayed all the same.
    Offered,
    /// The client has it, and sends no more input: what came before is to
    /// reach the terminal first.
    Taken,
    /// The client was told to go on by itself.
    Theirs,
    /// Only what is kept of the output was offered and taken: bytes are
    /// relayed for good.
    Relayed,
}

/// The state of the extended mode.
#[derive(Debug, Default)]
pub struct Extended {
    /// The client has said that it takes terminals.
    pub can_take: bool,
    /// The client has said that its input has ended.
    pub input_ended: bool,
    /// Whose the terminal is.
    pub hand_over: HandOver,
    /// How the program ended.
    pub ended: Option<SessionEnd>,
    /// The client was told how it ended.
    pub told: bool,
    /// What is kept for whoever comes back, where the session can be left.
    pub kept: Option<Box<Kept>>,
    /// What was offered has not arrived: what is kept goes in pieces.
    pub to_pieces: bool,
    /// The word to go on is still to be said.
    pub owes_go: bool,
    /// The client ends the session, be it one that can be left.
    pub for_good: bool,
}

impl Session {
    /// The header to go before so much output.
    pub fn output_header(&self, count: usize) -> Option<[u8; HEADER]> {
        // One read yields less than a packet holds.
        self.extended.as_ref().map(|_| encode_bare(INPUT, count as u16))
    }

    /// How many bytes that is.
    pub fn output_header_length(&self) -> usize {
        if self.extended.is_some() { HEADER } else { 0 }
    }

    /// Tells the client something beside the terminal's output, where there is
    /// a way.
    pub fn notice(&mut self, line: &str, ends: &mut impl Ends) {
        if self.extended.is_some() {
            self.tell(NOTICE, shown_within(line, MAX_TEXT).as_bytes(), ends);
        }
    }

    /// Whether the terminal could be offered to the client now: the offer
    /// must not overtake anything.
    pub fn can_be_offered(&self) -> bool {
        self.may_be_offered_later() && self.terminal_open && self.output.is_empty()
    }

    /// Whether it could be offered at some time.
    pub fn may_be_offered_later(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| {
            // Who comes back is told to go on after the offer alone.
            let may_be_relayed = extended.kept.as_ref().is_some_and(|kept| kept.hidden);
            extended.hand_over == HandOver::Ours
                && (!extended.input_ended || may_be_relayed)
                && !extended.told
        }) && self.program_runs
            && self.client <= Client::Behind
    }

    /// Whether the client takes terminals.
    pub fn can_take(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| extended.can_take)
    }

    /// The terminal was offered.
    pub fn offered(&mut self) {
        if let Some(extended) = &mut self.extended {
            extended.hand_over = HandOver::Offered;
        }
    }

    /// What is kept is offered to a client that no descriptor can come to: it says
    /// that none has, and gets it in pieces.
    pub fn offer_in_pieces(&mut self, offer: &[u8], ends: &mut impl Ends) {
        self.give_output(offer, ends);
        self.offered();
    }

    /// Whether the client has the terminal, and bytes do not come through
    /// here any more.
    pub fn is_handed_over(&self) -> bool {
        self.extended.as_ref().is_some_and(|extended| extended.hand_over == HandOver::Theirs)
    }

    /// Whether both ends speak the extended mode.
    pub fn is_extended(&self) -> bool {
        self.extended.is_some()
    }

    /// A packet that only the extended mode has.
    pub(crate) fn extended_said(
        &mut self,
        kind: u8,
        part: &[u8],
        last: bool,
        ends: &mut impl Ends,
    ) {
        let Some(extended) = &mut self.extended else {
            return;
        };
        match kind {
            END_OF_STREAM if part.is_empty() && last => {
                extended.input_ended = true;
                // It is the router that tells the program.
                if let Some(kept) = extended.kept.as_mut().filter(|kept| kept.hidden) {
                    kept.relays |= extended.hand_over == HandOver::Ours;
                }
            }
            TAKEN if last && extended.hand_over == HandOver::Offered => {
                extended.hand_over = HandOver::Taken;
            }
            // Something in between passes bytes alone.
            OFFER if part.is_empty() && last && extended.hand_over == HandOver::Offered => {
                extended.to_pieces = true;
                extended.hand_over = match &mut extended.kept {
                    Some(kept) => {
                        kept.relays = true;
                        HandOver::Taken
                    }
                    None => HandOver::Relayed,
                };
            }
            // A payload comes in pieces, at least one of which has its byte.
            DETACH if part == DETACH_AND_END => {
                extended.for_good = true;
                self.client_left();
            }
            DETACH if part.is_empty() && last && self.client == Client::Open => {
                self.client = Client::Leaves;
            }
            // A flood of them from a client that does not read is not
            // answered for ever.
            PING if last && self.output.is_empty() => {
                self.give_output(&encode_bare(PONG, 0), ends);
            }
            _ => {}
        }
    }

    /// The client has the terminal, and what it sent before is in there: from
    /// now on it reads and writes by itself. All output that was read here
    /// goes before that word.
    pub(crate) fn hand_over_where_due(&mut self, ends: &mut impl Ends) {
        let Some(extended) = &mut self.extended else {
            return;
        };
        if extended.hand_over == HandOver::Taken && self.input.is_empty() {
            match extended.kept.as_mut().filter(|kept| kept.relays) {
                Some(kept) => {
                    extended.hand_over = HandOver::Relayed;
                    let mut packets = Vec::new();
                    let total = kept.remains.total();
                    if extended.to_pieces {
                        let kept = kept.remains.reader().and_then(|seen| seen.to_pieces(total));
                        for piece in kept.unwrap_or_default().chunks(u16::MAX.into()) {
                            encode_packet(RING_PIECE, piece, &mut packets);
                        }
                    }
                    encode_packet(GO, &total.to_le_bytes(), &mut packets);
                    self.give_output(&packets, ends);
                }
                None => {
                    extended.hand_over = HandOver::Theirs;
                    // First somebody else is told, who outlives us.
                    if extended.kept.is_some() {
                        extended.owes_go = true;
                        return;
                    }
                    self.give_output(&encode_bare(GO, 0), ends);
                }
            }
            self.arrive(ends);
        }
    }

    /// Tells how it ended, once, when all output is on its way and the program
    /// was reaped.
    pub(crate) fn tell_the_end(&mut self, ends: &mut impl Ends) {
        if self.terminal_open || self.program_runs || self.is_hidden() {
            return;
        }
        let Some(extended) = self.extended.as_mut().filter(|extended| !extended.told) else {
            return;
        };
        extended.told = true;
        let ended = extended.ended.take();
        let packet = ended.as_ref().map_or_else(
            || SessionEnd::new(EndKind::Lost, "its status is not known").packet(),
            SessionEnd::packet,
        );
        self.give_output(&packet, ends);
        // It was gone: somebody else may come for it.
        if let Some(extended) = self.extended.as_mut().filter(|_| self.client == Client::Gone) {
            (extended.told, extended.ended) = (false, ended);
        }
    }
}
