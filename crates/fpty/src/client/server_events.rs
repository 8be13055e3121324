//! Events from the server and from the terminal that it handed over: each is read and
//! handled here, and the session's end found.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::{Duration, Instant};

use super::buffered_output::keep_end;
use super::connect::{Connection, client_variables};
use super::decoder::ServerEvent;
use super::detachable::{EarlierOutput, add_variables};
use super::handover::{Handover, OfferOutcome};
use super::outcome::{
    self, End, MAX_REFUSAL, REFUSAL_PREFIX, is_refusal, is_too_late, may_be_refusal, refused,
};
use super::reconnect::attach_target;
use super::state::{InputState, Session};
use crate::error::Result;
use crate::proto::request::RequestKind;
use crate::proto::{self, EndKind, Protocol};
use crate::scrollback::RingPieces;
use crate::sys::ReadOutcome;
use crate::sys::socket::Transport;

/// No offer has more descriptors.
const MAX_OFFERED: usize = 8;

/// Time that a possible refusal waits for the connection's end: a gateway sends nothing
/// after a refusal.
const WITHHOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// How many of the last bytes are kept, in bytes.
const LAST_BYTES: usize = 512;

impl Session<'_> {
    /// Reads from the server, and handles what it has sent.
    pub(super) fn read_server(&mut self) -> ControlFlow<End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let Connection { stream, peer, .. } = &mut self.connection;
        let read = match self.decoder.is_extended() && self.handover.terminal().is_none() {
            true => stream.read_from_with_descriptors(&mut buffer, &mut self.received, peer),
            false => stream.read_from(&mut buffer, peer),
        };
        let end = match read {
            ReadOutcome::Bytes(count) => self.handle_server_bytes(&buffer[..count]),
            ReadOutcome::WouldBlock => Continue(()),
            ReadOutcome::Eof | ReadOutcome::Closed => {
                self.server_closed();
                Continue(())
            }
        };
        self.buffer = buffer;
        end
    }

    /// Handles the end of the server's output.
    pub(super) fn server_closed(&mut self) {
        self.connection.note_end();
        let rest = self.decoder.take_rest();
        if !self.needs_extended() && !is_refusal(&self.first_bytes) {
            self.show_withheld();
        }
        self.show(&rest);
        // Who has not had the word to go on never will.
        if self.handover.is_accepted() {
            self.handover = Handover::default();
        }
    }

    fn handle_server_bytes(&mut self, mut bytes: &[u8]) -> ControlFlow<End> {
        if let InputState::Ended(_, heard) = &mut self.input {
            *heard = Instant::now();
        }
        let mut output = std::mem::take(&mut self.shown);
        let mut end = None;
        loop {
            output.clear();
            let said = self.decoder.next(&mut bytes, &mut output);
            if !self.decoder.is_extended() && self.first_bytes.len() <= MAX_REFUSAL {
                self.first_bytes.extend(output.iter().take(MAX_REFUSAL + 1));
            }
            if self.config.protocol == Protocol::Uwsgi && !self.decoder.is_extended() {
                keep_end(&mut self.last_bytes, &output, LAST_BYTES);
            }
            self.detachable.track_output(&output);
            let is_plain = !self.decoder.is_extended() && !self.decoder.is_undecided();
            if self.needs_extended() && is_plain && !may_be_refusal(&self.first_bytes) {
                end = Some(End::NotExtended);
                break;
            }
            // A refusal is told when it is whole: as a line, and beside the output.
            if is_plain && self.may_be_refused(&output) {
                self.withhold(&output);
            } else {
                self.show_withheld();
                self.show(&output);
            }
            let Some(said) = said else {
                break;
            };
            if let Err(why) = self.handle_event(said) {
                end = Some(End::Lost(why.to_string()));
                break;
            }
        }
        self.shown = output;
        if !self.decoder.is_undecided() && self.held_until.take().is_some() {
            self.release_input();
        }
        let unasked = !self.received.descriptors.is_empty() || self.received.truncated;
        if end.is_none() && unasked && !self.decoder.may_be_in_offer() {
            end = Some(End::Lost(String::from("the gateway sent descriptors without an offer")));
        }
        // More in each piece of an offer that has no end.
        if end.is_none() && self.received.descriptors.len() > MAX_OFFERED {
            end = Some(End::Lost(String::from("the gateway sent too many descriptors")));
        }
        end.map_or(Continue(()), Break)
    }

    /// Whether all that a server has said may be a refusal. Where others may be its
    /// words, too, its beginning has to have come at once.
    fn may_be_refused(&self, output: &[u8]) -> bool {
        let is_begun = output.starts_with(REFUSAL_PREFIX) || self.withheld.is_some();
        (is_begun || self.needs_extended()) && may_be_refusal(&self.first_bytes)
    }

    fn withhold(&mut self, output: &[u8]) {
        let until = Instant::now() + WITHHOLD_TIMEOUT;
        let (withheld, _) = self.withheld.get_or_insert_with(|| (Vec::new(), until));
        withheld.extend_from_slice(output);
    }

    /// Shows output that was withheld: it is no refusal.
    pub(super) fn show_withheld(&mut self) {
        if let Some((output, _)) = self.withheld.take() {
            self.show(&output);
        }
    }

    fn handle_event(&mut self, said: ServerEvent) -> Result<()> {
        match said {
            ServerEvent::ExtendedMode => {
                let is_unix = self.connection.transport == Transport::Unix;
                let can_take: &[u8] = if is_unix { b"1" } else { b"0" };
                let can_leave = self.terminal.is_some();
                let mut more = vec![(proto::variables::CAN_TAKE_TERMINAL, can_take)];
                let asked = attach_target(&self.config.session, &self.reconnect);
                let secret = asked.as_ref().and_then(|(_, secret)| secret.as_ref());
                add_variables(self.config, can_leave, self.reconnect.is_reconnecting(), &mut more);
                let secret = secret.map_or(&[][..], |secret| secret.bytes());
                if can_leave || !secret.is_empty() {
                    more.push((proto::variables::SECRET, secret));
                }
                let mut packets = client_variables(self.config, &more);
                match asked {
                    Some((which, _)) => {
                        proto::request::encode(RequestKind::Attach, which.as_bytes(), &mut packets);
                    }
                    None => self.config.exec_request.encode(&mut packets),
                }
                packets.extend(proto::encode_bare(proto::VARIABLES, 0));
                self.connection.send(&packets);
                self.connection.start_pings();
            }
            ServerEvent::SessionEnd(ended) => {
                // The first one counts.
                if self.ended.is_none() {
                    self.ended = Some(ended);
                    if let Some(ours) = self.handover.terminal_mut() {
                        ours.program_ended();
                    }
                }
            }
            ServerEvent::Notice(text) => {
                self.notice(&text);
                // The server does not let the session go on alone.
                self.detachable.detaching = None;
            }
            ServerEvent::Offer(names) => {
                let received = std::mem::take(&mut self.received);
                let answer = match self.handover.accept_offer(&names, received)? {
                    OfferOutcome::Arrived(ring) => {
                        self.detachable.offered = ring.map(EarlierOutput::Ring);
                        proto::TAKEN
                    }
                    OfferOutcome::Lost => {
                        if names.contains(&proto::OFFER_RING) {
                            let pieces = EarlierOutput::RingPieces(RingPieces::default());
                            self.detachable.offered = Some(pieces);
                        }
                        proto::OFFER
                    }
                };
                self.connection.send(&proto::encode_bare(answer, 0));
            }
            ServerEvent::SessionKey(key) => self.reconnect.note_key(key, &self.config.session),
            ServerEvent::RingPiece(piece) => {
                if let Some(EarlierOutput::RingPieces(pieces)) = &mut self.detachable.offered {
                    pieces.push(&piece)?;
                }
            }
            // A gateway that comes after one that was killed says it again.
            ServerEvent::Go(_) if self.handover.terminal().is_some() => {}
            ServerEvent::Go(before) => {
                self.handover.go()?;
                // There is no second offer.
                self.connection.stream.refuse_descriptors();
                let reconnects = self.reconnect.reattached();
                self.resume_after_go(before, reconnects);
                self.release_input();
                // The server was told of it, and has the terminal no more.
                if self.handover.terminal().is_some() && self.input == InputState::EndSent {
                    let now = Instant::now();
                    self.input = InputState::Ended(now, now);
                }
                // It may have changed on the way.
                if self.detachable.shrunk_until.is_none() {
                    self.size_changed();
                }
            }
        }
        Ok(())
    }

    /// The terminal that is ours has something.
    pub(super) fn read_terminal(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(ours) = self.handover.terminal_mut() {
            let count = ours.read(&mut buffer, self.detachable.writer());
            self.show(&buffer[..count]);
        }
        self.buffer = buffer;
    }

    /// Looks whether the session is over, and how it ended; of a program whose end nobody
    /// reports any more the time when that was seen is noted.
    pub(super) fn check_end(&mut self) -> Option<End> {
        if !self.output.is_flushed() {
            return None;
        }
        let server_ended = self.connection.has_ended;
        match (&self.ended, self.handover.terminal_mut()) {
            // Of one that was left somebody else reads what it says now.
            (Some(ended), Some(ours)) if ended.ending != EndKind::Detached => {
                ours.is_drained().then(|| End::Ended(ended.clone()))
            }
            (Some(ended), _) => Some(End::Ended(ended.clone())),
            (None, Some(ours)) if server_ended => ours.end_without_server().map(End::Ended),
            (None, None) if server_ended => Some(self.end_of_server()),
            _ => None,
        }
    }

    /// Whether the session came to its end, or the server to its own, where
    /// the server has not said so.
    fn end_of_server(&self) -> End {
        let is_extended = self.decoder.is_extended();
        let why = self
            .reconnect
            .why()
            .or_else(|| outcome::loss_reason(&self.connection.peer, is_extended));
        if let Some(why) = why {
            return End::Lost(why);
        }
        // What it said in between was the program's.
        if is_too_late(&self.last_bytes) {
            return End::HelloTooLate { can_retry: self.early_input.is_some() };
        }
        // In raw mode, where nobody was asked, a program may have had nothing to
        // say.
        if self.decoder.is_undecided() && self.first_bytes.is_empty() {
            return End::Lost(String::from("it closed before a single byte came"));
        }
        if is_refusal(&self.first_bytes) {
            return refused(&self.first_bytes);
        }
        End::Normal
    }
}
