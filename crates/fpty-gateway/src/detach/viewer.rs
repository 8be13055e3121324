//! Viewer: a client that reads a session's scrollback, or the end of an exited session.

use std::time::Instant;

use crate::event_loop::slab::Key;
use crate::process::supervisor::end_lines;
use fpty::backlog::{Backlog, Given};
use fpty::fair_share::Who;
use fpty::proto::{
    Decoder, Ended, Ending, GO, HEADER, INPUT, OFFER, PING, PONG, Packet, RING_PIECE, TAKEN,
    encode_bare, encode_packet,
};
use fpty::scrollback::Seen;
use fpty::sys::socket::Stream;

/// Most bytes of output that a viewer gets at once.
const PIECE: u64 = 32 * 1024;

/// One viewer.
pub struct Viewer {
    pub(crate) client: Stream,
    pub(crate) who: Who,
    pub(crate) decoder: Decoder,
    pub(crate) seen: Seen,
    /// Position in the output; `None`: GO was not sent.
    pub(crate) at: Option<u64>,
    pub(crate) entry: Key,
    /// Bytes that the viewer has not taken.
    pub(crate) backlog: Backlog,
    /// The session's end: sent behind all output.
    pub(crate) end: Option<Ended>,
    /// The viewer is the client that an exited session was kept for.
    pub(crate) takes_exit_notice: bool,
    /// Time of the connection.
    pub(crate) since: Instant,
    /// The audit was told that the viewer has come, and not yet that it has gone.
    pub(crate) is_announced: bool,
    /// Line for the audit in case that this gateway is killed.
    pub(crate) prepared_line: Option<end_lines::Place>,
}

impl Viewer {
    /// Sends what there is. Whether the viewer stays.
    pub(crate) fn feed(&mut self) -> bool {
        let Self { client, seen, at, backlog, .. } = self;
        if !backlog.flush(|bytes| client.write(bytes).taken()) {
            return false;
        }
        let Some(at) = at.as_mut().filter(|_| backlog.is_empty()) else {
            return true;
        };
        let total = seen.total().filter(|total| total >= at);
        let Some(total) = total else {
            return self.fail("what is kept of the session's output makes no sense");
        };
        let to = total.min(*at + PIECE);
        if to > *at {
            let Some(output) = seen.between(*at, to) else {
                return self.fail("its output came too fast");
            };
            *at = to;
            let mut packet = Vec::with_capacity(HEADER + output.len());
            encode_packet(INPUT, &output, &mut packet);
            return self.send(&packet);
        }
        match self.end.take() {
            Some(ended) => {
                self.send(&ended.packet());
                false
            }
            None => true,
        }
    }

    pub(crate) fn fail(&mut self, why: &str) -> bool {
        self.send(&Ended::because(Ending::Lost, why).packet());
        false
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        let given = self.backlog.give(bytes, |bytes| self.client.write(bytes).taken());
        matches!(given, Given::Taken(_))
    }

    /// Handles the viewer's packets: that it has the scrollback. Whether the viewer stays.
    pub(crate) fn on_input(&mut self, mut bytes: &[u8]) -> bool {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut lives = true;
        while let Some(packet) = decoder.next(&mut bytes) {
            match packet {
                Packet::Part(kind @ (TAKEN | OFFER), part, true)
                    if self.at.is_none() && (kind == TAKEN || part.is_empty()) =>
                {
                    let Some(total) = self.seen.total() else {
                        return self.fail("what is kept of the session's output makes no sense");
                    };
                    self.at = Some(total);
                    let mut go = Vec::new();
                    // The descriptor did not arrive: the scrollback goes in packets.
                    if kind == OFFER {
                        let kept = self.seen.in_pieces(total).unwrap_or_default();
                        for piece in kept.chunks(u16::MAX.into()) {
                            encode_packet(RING_PIECE, piece, &mut go);
                        }
                    }
                    encode_packet(GO, &total.to_le_bytes(), &mut go);
                    lives &= self.send(&go);
                }
                Packet::Part(PING, _, true) if self.backlog.is_empty() => {
                    lives &= self.send(&encode_bare(PONG, 0));
                }
                _ => {}
            }
        }
        self.decoder = decoder;
        lives && self.feed()
    }
}
