//! Viewer: a client that reads a session's scrollback, or the end of an exited session.

use std::time::Instant;

use crate::event_loop::slab::Key;
use crate::process::supervisor::end_lines;
use fpty::backlog::{Backlog, SendOutcome};
use fpty::fair_share::Principal;
use fpty::proto::{
    ClientPacket, ClientPacketDecoder, EndKind, GO, HEADER, INPUT, OFFER, PING, PONG, RING_PIECE,
    SessionEnd, TAKEN, encode_bare, encode_packet,
};
use fpty::scrollback::ScrollbackReader;
use fpty::sys::socket::Stream;

/// Most bytes of output that a viewer gets at once.
const PIECE: u64 = 32 * 1024;

/// One viewer.
pub struct Viewer {
    pub(crate) client: Stream,
    pub(crate) principal: Principal,
    pub(crate) decoder: ClientPacketDecoder,
    pub(crate) seen: ScrollbackReader,
    /// Position in the output; `None`: GO was not sent.
    pub(crate) at: Option<u64>,
    pub(crate) entry: Key,
    /// Bytes that the viewer has not taken.
    pub(crate) backlog: Backlog,
    /// The session's end: sent behind all output.
    pub(crate) end: Option<SessionEnd>,
    /// The viewer is the client that an exited session was kept for.
    pub(crate) takes_exit_notice: bool,
    /// Time of the connection.
    pub(crate) since: Instant,
    /// The audit was told that the viewer has come, and not yet that it has gone.
    pub(crate) is_announced: bool,
    /// Line for the audit in case that this gateway is killed.
    pub(crate) prepared_line: Option<end_lines::EndLineSlot>,
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
            let Some(output) = seen.range(*at, to) else {
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
        self.send(&SessionEnd::new(EndKind::Lost, why).packet());
        false
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        let given = self.backlog.send(bytes, |bytes| self.client.write(bytes).taken());
        matches!(given, SendOutcome::Sent(_))
    }

    /// Handles the viewer's packets: that it has the scrollback. Whether the viewer stays.
    pub(crate) fn on_input(&mut self, mut bytes: &[u8]) -> bool {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut lives = true;
        while let Some(packet) = decoder.next(&mut bytes) {
            match packet {
                ClientPacket::Part(kind @ (TAKEN | OFFER), part, true)
                    if self.at.is_none() && (kind == TAKEN || part.is_empty()) =>
                {
                    let Some(total) = self.seen.total() else {
                        return self.fail("what is kept of the session's output makes no sense");
                    };
                    self.at = Some(total);
                    let mut go = Vec::new();
                    // The descriptor did not arrive: the scrollback goes in packets.
                    if kind == OFFER {
                        let kept = self.seen.to_pieces(total).unwrap_or_default();
                        for piece in kept.chunks(u16::MAX.into()) {
                            encode_packet(RING_PIECE, piece, &mut go);
                        }
                    }
                    encode_packet(GO, &total.to_le_bytes(), &mut go);
                    lives &= self.send(&go);
                }
                ClientPacket::Part(PING, _, true) if self.backlog.is_empty() => {
                    lives &= self.send(&encode_bare(PONG, 0));
                }
                _ => {}
            }
        }
        self.decoder = decoder;
        lives && self.feed()
    }
}
