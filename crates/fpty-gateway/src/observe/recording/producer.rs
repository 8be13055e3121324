//! The gateway's end of the queue to the recorder. Putting something in waits for nothing:
//! no system call, and where there is no room it is counted as missing.

use std::collections::{HashMap, VecDeque};

use super::recorder_protocol::{Kind, header};
use fpty::sys::shm_queue::{CAPACITY, NOTES, Producer};
use fpty::sys::socket::Stream;

/// Room that is reserved for messages other than output and input, in bytes.
pub(crate) const RESERVE: usize = 128 * 1024;

/// Room below which terminals are throttled, in bytes.
pub(crate) const LOW_ROOM: usize = 512 * 1024;

/// Bytes in the queue from which on the recorder is woken up at once.
const URGENT_BYTES: usize = 128 * 1024;

/// The producer of the queue to the recorder, for all sessions.
#[derive(Default)]
pub struct RecorderProducer {
    link: Option<RecorderLink>,
    /// Something was put in for which the recorder was not woken up.
    has_unflushed: bool,
    /// Messages that found no room, and must not be lost.
    pub backlog: VecDeque<Vec<u8>>,
    /// Sessions whose terminals are throttled, until there is room.
    pub throttled: Vec<u32>,
    /// The recorder is stalled: terminals are not throttled for it.
    pub stalled: bool,
    /// Slots of sessions whose missing bytes are noted.
    note_slots: HashMap<u32, usize>,
}

/// The link to a recorder.
pub struct RecorderLink {
    /// The queue.
    pub queue: Producer,
    /// The channel: it wakes the recorder up, and carries answers.
    pub channel: Stream,
}

impl RecorderProducer {
    /// Connects to a recorder, or to none.
    pub fn connect(&mut self, link: Option<RecorderLink>) {
        *self = Self { link, ..Self::default() };
    }

    /// Connects to the next recorder, which has the same queue.
    pub fn reconnect(&mut self, link: RecorderLink) {
        (self.link, self.stalled, self.has_unflushed) = (Some(link), false, true);
        // The one before may have taken note of that, and said nothing.
        if !self.throttled.is_empty() {
            self.wait_for_room();
        }
    }

    /// Disconnects. Returns the queue, with what the recorder was not done with.
    pub fn disconnect(&mut self) -> Option<Producer> {
        self.link.take().map(|link| link.queue)
    }

    /// The channel, where connected.
    pub fn channel(&self) -> Option<&Stream> {
        self.link.as_ref().map(|link| &link.channel)
    }

    /// Whether terminals are to be throttled.
    pub fn is_low_on_room(&self) -> bool {
        !self.stalled && self.link.as_ref().is_some_and(|link| link.queue.room() < LOW_ROOM)
    }

    /// Bytes that the recorder has taken, ever.
    pub fn taken(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.queue.taken())
    }

    /// Whether a flush is needed: soon, or (`true`) at once.
    pub fn flush_is_urgent(&self) -> Option<bool> {
        let many = || self.link.as_ref().is_some_and(|link| link.queue.used() >= URGENT_BYTES);
        self.has_unflushed.then(many)
    }

    /// Wakes the recorder up, where it sleeps. The backlog goes first.
    pub fn flush(&mut self) {
        while let Some(word) = self.backlog.pop_front() {
            if !self.try_put([&word, &[]], 0) {
                self.backlog.push_front(word);
                break;
            }
        }
        self.has_unflushed = false;
        if let Some(link) = &self.link {
            if link.queue.must_wake() {
                let _ = link.channel.write(b"!");
            }
        }
    }

    /// Requests an answer when there is room again.
    pub fn wait_for_room(&mut self) {
        if let Some(link) = &self.link {
            link.queue.wait_for_room();
        }
        self.flush();
    }

    /// Notes the missing bytes of a session in the queue's memory: the recorder finds them
    /// there if this gateway is killed before it can report them.
    pub fn note(&mut self, session: u32, missing: u64) {
        let Some(link) = &self.link else {
            return;
        };
        let place = match (self.note_slots.get(&session).copied(), missing) {
            (None, 0) => return,
            (Some(place), _) => place,
            (None, _) => {
                let is_free = |place: &usize| !self.note_slots.values().any(|used| used == place);
                let Some(place) = (0..NOTES).find(is_free) else {
                    return;
                };
                self.note_slots.insert(session, place);
                place
            }
        };
        if missing == 0 {
            self.note_slots.remove(&session);
        }
        link.queue.note(place, session, missing);
    }

    /// Puts a message in, which leaves `reserve` bytes of room. Returns whether there was
    /// room.
    pub fn put(&mut self, kind: Kind, session: u32, at: u64, body: &[u8], reserve: usize) -> bool {
        // What comes later comes after that.
        self.backlog.is_empty()
            && self.try_put([&header(kind, session, at, body.len()), body], reserve)
    }

    /// Puts an encoded message in, before the backlog.
    pub fn try_put(&mut self, parts: [&[u8]; 2], reserve: usize) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let length = parts[0].len() + parts[1].len();
        if link.queue.room() < length + reserve {
            return false;
        }
        // After that the recorder is there again, if it was not.
        self.stalled &= link.queue.used() > CAPACITY / 2;
        self.has_unflushed = true;
        link.queue.put(parts)
    }

    /// Puts a message in, or into the backlog.
    pub fn put_reliable(&mut self, kind: Kind, session: u32, at: u64, body: &[u8]) {
        if self.link.is_some() && !self.put(kind, session, at, body, 0) {
            let mut word = header(kind, session, at, body.len()).to_vec();
            word.extend_from_slice(body);
            self.backlog.push_back(word);
        }
    }
}
