//! A client that only watches, or sees the last of an ended session.

use std::time::Instant;

use crate::event_loop::slab::Key;
use crate::process::supervisor::end_lines;
use fpty::backlog::{Backlog, SendOutcome};
use fpty::fair_share::Who;
use fpty::proto::{
    ClientPacket, ClientPacketDecoder, EndKind, GO, HEADER, INPUT, OFFER, PING, PONG, RING_PIECE,
    SessionEnd, TAKEN, encode_bare, encode_packet,
};
use fpty::scrollback::ScrollbackReader;
use fpty::sys::socket::Stream;

/// How much of the output one gets at once.
const PIECE: u64 = 32 * 1024;

/// Such a client.
pub struct Watcher {
    pub(crate) client: Stream,
    pub(crate) who: Who,
    pub(crate) decoder: ClientPacketDecoder,
    pub(crate) seen: ScrollbackReader,
    /// How much of the output it has; `None`: it was not told to go on.
    pub(crate) at: Option<u64>,
    pub(crate) entry: Key,
    /// What it has not taken.
    pub(crate) backlog: Backlog,
    /// How the session ended: it is told when it has seen all.
    pub(crate) end: Option<SessionEnd>,
    /// The session waited for it to be told.
    pub(crate) is_last: bool,
    /// Since when it is there.
    pub(crate) since: Instant,
    /// It was told that it looks on, and not yet that it does so no more.
    pub(crate) is_told: bool,
    /// Where that stands, in case that this gateway is killed.
    pub(crate) last_line: Option<end_lines::Place>,
}

impl Watcher {
    /// Gives it what there is; whether it is still there.
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
            return self.lost("what is kept of the session's output makes no sense");
        };
        let to = total.min(*at + PIECE);
        if to > *at {
            let Some(output) = seen.range(*at, to) else {
                return self.lost("its output came too fast");
            };
            *at = to;
            let mut packet = Vec::with_capacity(HEADER + output.len());
            encode_packet(INPUT, &output, &mut packet);
            return self.say(&packet);
        }
        match self.end.take() {
            Some(ended) => {
                self.say(&ended.packet());
                false
            }
            None => true,
        }
    }

    pub(crate) fn lost(&mut self, why: &str) -> bool {
        self.say(&SessionEnd::new(EndKind::Lost, why).packet());
        false
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) -> bool {
        let given = self.backlog.send(bytes, |bytes| self.client.write(bytes).taken());
        matches!(given, SendOutcome::Sent(_))
    }

    /// Takes what it has sent: that it has the ring; whether it is still there.
    pub(crate) fn hear(&mut self, mut bytes: &[u8]) -> bool {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut lives = true;
        while let Some(packet) = decoder.next(&mut bytes) {
            match packet {
                ClientPacket::Part(kind @ (TAKEN | OFFER), part, true)
                    if self.at.is_none() && (kind == TAKEN || part.is_empty()) =>
                {
                    let Some(total) = self.seen.total() else {
                        return self.lost("what is kept of the session's output makes no sense");
                    };
                    self.at = Some(total);
                    let mut go = Vec::new();
                    // It did not arrive.
                    if kind == OFFER {
                        let kept = self.seen.to_pieces(total).unwrap_or_default();
                        for piece in kept.chunks(u16::MAX.into()) {
                            encode_packet(RING_PIECE, piece, &mut go);
                        }
                    }
                    encode_packet(GO, &total.to_le_bytes(), &mut go);
                    lives &= self.say(&go);
                }
                ClientPacket::Part(PING, _, true) if self.backlog.is_empty() => {
                    lives &= self.say(&encode_bare(PONG, 0));
                }
                _ => {}
            }
        }
        self.decoder = decoder;
        lives && self.feed()
    }
}
