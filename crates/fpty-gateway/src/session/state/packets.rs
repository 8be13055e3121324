//! Packets of a client: input as it comes, everything else within the budget of a turn.

use fpty::proto::{ClientPacket, ClientPacketDecoder};

use super::signal_keys::is_key;
use super::{Client, Session, SessionEffects};

/// Input that is decoded and not yet sent.
pub(super) struct PendingInput<'a> {
    /// Input of several packets: it goes to the terminal in one write.
    pub coalesced: &'a mut Vec<u8>,
    /// The rest of the turn's budget.
    budget: &'a mut usize,
    /// Whether the size has changed: rows and columns that come together make one change.
    resized: bool,
    /// A signal key, and how often it was pressed in a row.
    pub pressed: Option<(u8, usize)>,
}

impl Session {
    /// Takes input of the client, as far as this turn's `budget` goes, which is counted down.
    /// `coalesced` is room for input that comes in many packets. The contents of both buffers are of
    /// no use afterwards, but for the end of `sent`: returns how many of the last bytes are for
    /// [`Session::resume_client`] in the next turn.
    pub fn client_sent(
        &mut self,
        sent: &mut Vec<u8>,
        coalesced: &mut Vec<u8>,
        budget: &mut usize,
        effects: &mut impl SessionEffects,
    ) -> usize {
        // All of the input is for the new handshake.
        if self.client == Client::AwaitingHello && self.detect_late_hello(sent) {
            return 0;
        }
        if self.decoder.is_none() {
            self.send_owned_input(sent, effects);
            return 0;
        }
        self.resume_client(sent, coalesced, budget, effects)
    }

    /// Resumes with deferred input of an earlier turn.
    pub fn resume_client(
        &mut self,
        mut bytes: &[u8],
        coalesced: &mut Vec<u8>,
        budget: &mut usize,
        effects: &mut impl SessionEffects,
    ) -> usize {
        let Some(mut decoder) = self.decoder.take() else {
            return 0;
        };
        if self.has_deferred_input() {
            self.client = Client::Open;
        }
        coalesced.clear();
        let mut pending = PendingInput { coalesced, budget, resized: false, pressed: None };
        self.decode(&mut decoder, &mut bytes, &mut pending, effects);
        self.press_key(&mut pending, effects);
        self.send_owned_input(pending.coalesced, effects);
        self.complete_handover(effects);
        if pending.resized {
            self.resize(effects);
        }
        self.decoder = Some(decoder);
        if !bytes.is_empty() && self.client == Client::Open {
            self.client = Client::Deferred;
        }
        bytes.len()
    }

    fn decode(
        &mut self,
        decoder: &mut ClientPacketDecoder,
        bytes: &mut &[u8],
        pending: &mut PendingInput<'_>,
        effects: &mut impl SessionEffects,
    ) {
        while *pending.budget > 0 {
            let Some(packet) = decoder.next(bytes) else {
                return;
            };
            match packet {
                ClientPacket::Input(input) => {
                    if pending.resized || pending.pressed.is_some() {
                        self.press_key(pending, effects);
                        self.apply_resize(pending, effects);
                    }
                    // All input in one packet needs no copy.
                    if pending.coalesced.is_empty() && bytes.is_empty() {
                        self.send_input(input, effects);
                    } else {
                        pending.coalesced.extend_from_slice(input);
                    }
                }
                ClientPacket::Part(kind, part, last) => {
                    self.flush_pending(pending, effects);
                    self.apply_resize(pending, effects);
                    *pending.budget = pending.budget.saturating_sub(1);
                    self.extended_packet(kind, part, last, effects);
                }
                ClientPacket::Rows(rows) => {
                    self.flush_pending(pending, effects);
                    self.size.rows = rows;
                    pending.resized = true;
                }
                ClientPacket::Cols(cols) => {
                    self.flush_pending(pending, effects);
                    self.size.cols = cols;
                    pending.resized = true;
                }
                ClientPacket::Signal(number) => match &mut pending.pressed {
                    Some((pressed, times)) if *pressed == number => *times += 1,
                    _ => {
                        self.flush_pending(pending, effects);
                        self.apply_resize(pending, effects);
                        *pending.budget = pending.budget.saturating_sub(1);
                        match is_key(number) {
                            true => pending.pressed = Some((number, 1)),
                            false => effects.signal(number),
                        }
                    }
                },
                ClientPacket::Hello(_) | ClientPacket::Unknown(..) => {}
            }
        }
    }

    /// Sends what came before, so that the order stays.
    fn flush_pending(&mut self, pending: &mut PendingInput<'_>, effects: &mut impl SessionEffects) {
        self.press_key(pending, effects);
        self.send_input(pending.coalesced, effects);
        pending.coalesced.clear();
    }

    fn apply_resize(&mut self, pending: &mut PendingInput<'_>, effects: &mut impl SessionEffects) {
        if std::mem::take(&mut pending.resized) {
            *pending.budget = pending.budget.saturating_sub(1);
            self.resize(effects);
        }
    }
}
