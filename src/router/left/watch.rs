//! Clients that only see what a session shows: those that watch beside the one
//! who is attached, and those that come to one that has ended. They are fed from
//! the ring, whoever writes that.

use std::os::fd::AsFd;
use std::time::Duration;

use super::super::GatewayLoop;
use super::super::closing::LastWord;
use super::super::doors::Newcomer;
use super::super::fault;
use super::super::recovery::Whose;
use super::super::table::{Key, Source};
use super::Place;
use crate::session::greeting::Opening;
use fpty::proto::{
    Decoder, Ended, Ending, GO, HEADER, INPUT, OFFER, OFFER_RING, PING, PONG, Packet, RING_PIECE,
    TAKEN, encode_bare, encode_packet,
};
use fpty::relay::{Backlog, Given};
use fpty::remains::Seen;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::Stream;
use fpty::sys::{Read, Written};

/// How often it is looked for more output, and how much one gets then.
const OFTEN: Duration = Duration::from_millis(30);
const PIECE: u64 = 32 * 1024;

/// Such clients at most, and of one user.
const MOST: usize = 256;
const MOST_OF_ONE: usize = 64;

/// What is read of one at once: each of the few packets that it sends may be
/// worth an answer.
const ONE_READ: usize = 256;

/// Such a client.
pub struct Watcher {
    client: Stream,
    uid: u32,
    decoder: Decoder,
    seen: Seen,
    /// How much of the output it has; `None`: it was not told to go on.
    at: Option<u64>,
    pub(super) entry: Key,
    /// What it has not taken.
    backlog: Backlog,
    /// How the session ended: it is told when it has seen all.
    end: Option<Ended>,
    /// The session waited for it to be told.
    is_last: bool,
}

impl Watcher {
    /// Gives it what there is; whether it is still there.
    fn feed(&mut self) -> bool {
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
            let Some(output) = seen.between(*at, to) else {
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

    fn lost(&mut self, why: &str) -> bool {
        self.say(&Ended::because(Ending::Lost, why).packet());
        false
    }

    fn say(&mut self, bytes: &[u8]) -> bool {
        let given = self.backlog.give(bytes, |bytes| self.client.write(bytes).taken());
        matches!(given, Given::Taken(_))
    }

    /// Takes what it has sent: that it has the ring; whether it is still there.
    fn hear(&mut self, mut bytes: &[u8]) -> bool {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut lives = true;
        while let Some(packet) = decoder.next(&mut bytes) {
            match packet {
                Packet::Part(kind @ (TAKEN | OFFER), part, true)
                    if self.at.is_none() && (kind == TAKEN || part.is_empty()) =>
                {
                    let Some(total) = self.seen.total() else {
                        return self.lost("what is kept of the session's output makes no sense");
                    };
                    self.at = Some(total);
                    let mut go = Vec::new();
                    // It did not arrive.
                    if kind == OFFER {
                        let kept = self.seen.in_pieces(total).unwrap_or_default();
                        for piece in kept.chunks(u16::MAX.into()) {
                            encode_packet(RING_PIECE, piece, &mut go);
                        }
                    }
                    encode_packet(GO, &total.to_le_bytes(), &mut go);
                    lives &= self.say(&go);
                }
                Packet::Part(PING, _, true) if self.backlog.is_empty() => {
                    lives &= self.say(&encode_bare(PONG, 0));
                }
                _ => {}
            }
        }
        self.decoder = decoder;
        lives && self.feed()
    }
}

impl GatewayLoop {
    /// A client sees a session.
    pub(super) fn watch(&mut self, key: Key, newcomer: Newcomer, opening: Opening, uid: u32) {
        let Newcomer { client, seat, origin, .. } = newcomer;
        // It is no session.
        drop(seat);
        let refused = |why: &str| Ended::because(Ending::Refused, why);
        let Some(left) = &mut self.left else {
            return;
        };
        let Some(entry) = left.entries.get_mut(key) else {
            return;
        };
        let (ring, end) = match &entry.place {
            Place::Alone(alone) => (alone.remains.as_fd().try_clone_to_owned().ok(), None),
            Place::Over(over) => (over.ring.try_clone().ok(), Some(over.ended.clone())),
            Place::Attached(taken) => {
                let attached = self.sessions.get_mut(taken.session);
                let kept = attached.and_then(|attached| attached.session.kept());
                (kept.and_then(|kept| kept.remains.as_fd().try_clone_to_owned().ok()), None)
            }
        };
        let seen = ring.and_then(|ring| Some((ring.try_clone().ok()?, Seen::received(ring).ok()?)));
        let Some((ring, seen)) = seen else {
            return self.cx.refuse(
                client,
                origin,
                true,
                &refused("out of descriptors or memory").into(),
            );
        };
        let of_one = left.watchers.iter().filter(|(_, watcher)| watcher.uid == uid).count();
        if left.watchers.len() >= MOST || of_one >= MOST_OF_ONE {
            let why = match of_one >= MOST_OF_ONE {
                true => "too many of yours watch",
                false => "too many watch",
            };
            return self.cx.refuse(client, origin, true, &refused(why).into());
        }
        let mut packet = Vec::new();
        encode_packet(OFFER, &[OFFER_RING], &mut packet);
        if !matches!(client.write_with_descriptors(&packet, &[ring.as_fd()]), Written::Bytes(_)) {
            return;
        }
        let is_last = end.is_some();
        let decoder = opening.decoder;
        let watcher = Watcher {
            client,
            uid,
            decoder,
            seen,
            at: None,
            entry: key,
            backlog: Backlog::default(),
            end,
            is_last,
        };
        let watcher = left.watchers.insert(watcher);
        self.cx.faults.made = Some(Whose::Watcher(watcher));
        let Some(there) = left.watchers.get_mut(watcher) else {
            return;
        };
        let token = Source::Client(watcher).token();
        if left.poller.add(there.client.as_fd(), token, Interest::READ).is_err() {
            left.watchers.remove(watcher);
            return;
        }
        let sent = std::mem::take(&mut self.cx.input);
        self.cx.input.reserve_exact(super::super::context::BUFFER);
        if !there.hear(&sent) {
            return self.end_watcher(watcher);
        }
        self.look_at_left(OFTEN);
    }

    /// It said something, or has left.
    pub(super) fn watcher_ready(&mut self, key: Key, ready: Ready) {
        let Some(watcher) = self.left.as_mut().and_then(|left| left.watchers.get_mut(key)) else {
            return;
        };
        let lives = match watcher.client.read(&mut self.cx.buffer[..ONE_READ]) {
            Read::Bytes(count) => {
                fault::strike("watcher", || &self.cx.buffer[..count]);
                watcher.hear(&self.cx.buffer[..count])
            }
            Read::Blocked => !ready.hang_up,
            Read::End | Read::Gone => false,
        };
        if !lives {
            self.end_watcher(key);
        }
    }

    /// It has seen all, or is gone.
    pub(in crate::router) fn end_watcher(&mut self, key: Key) {
        let Some(left) = &mut self.left else {
            return;
        };
        let Some(watcher) = left.watchers.remove(key) else {
            return;
        };
        // It was told how its session ended: nobody else has to be.
        if watcher.is_last && watcher.at.is_some() && watcher.end.is_none() {
            left.remove(watcher.entry);
        }
        let _ = left.poller.remove(watcher.client.as_fd());
        self.cx.close_when_read(watcher.client, LastWord::Packet { is_answered: false });
    }

    /// Those who watch this session are to be told how it ended.
    pub(in crate::router) fn tell_watchers(&mut self, session: Key, ended: &Ended) {
        let Some(left) = self.left.as_mut().filter(|left| left.has(session)) else {
            return;
        };
        let Some(entry) = left.by_session.get(&session).copied() else {
            return;
        };
        let keys: Vec<Key> = left.watchers.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(watcher) = left.watchers.get_mut(key).filter(|it| it.entry == entry) {
                watcher.end = Some(ended.clone());
            }
        }
    }

    /// Gives all of them what there is; when to look again.
    pub(super) fn feed_watchers(&mut self) -> Option<Duration> {
        let left = self.left.as_mut()?;
        let keys: Vec<Key> = left.watchers.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.guarded(Whose::Watcher(key), |router| router.feed_watcher(key));
        }
        let left = self.left.as_ref()?;
        (left.watchers.len() > 0).then_some(OFTEN)
    }

    fn feed_watcher(&mut self, key: Key) {
        let Some(left) = &mut self.left else {
            return;
        };
        let Some(watcher) = left.watchers.get_mut(key) else {
            return;
        };
        fault::point("watching");
        if watcher.end.is_none() {
            watcher.end = match left.entries.get_mut(watcher.entry).map(|it| &it.place) {
                Some(Place::Over(over)) => Some(over.ended.clone()),
                Some(_) => None,
                None => Some(Ended::because(Ending::Operator, "the session has ended")),
            };
        }
        if !watcher.feed() {
            self.end_watcher(key);
        }
    }
}
