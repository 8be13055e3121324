//! The gateway's end of the queue to the recorder. What goes in there waits for
//! nobody: no system call, and where there is no room it is counted.

use std::collections::{HashMap, VecDeque};

use super::protocol::{Kind, header};
use fpty::sys::shm_queue::{CAPACITY, Giver, NOTES};
use fpty::sys::socket::Stream;

/// Room that is kept for what is not output or input.
pub(crate) const RESERVE: usize = 128 * 1024;

/// With less room than this no terminal is read.
pub(crate) const TIGHT: usize = 512 * 1024;

/// With so many bytes in it the recorder is woken up at once.
const MANY: usize = 128 * 1024;

/// The queue, and what concerns all sessions that go through it.
#[derive(Default)]
pub struct Sink {
    link: Option<Link>,
    /// Something was put in that nobody was woken up for.
    fresh: bool,
    /// Words that found no room, and must not be lost.
    later: VecDeque<Vec<u8>>,
    /// Sessions whose terminals are not read, until there is room.
    pub held: Vec<u32>,
    /// The recorder takes nothing: nobody waits for it.
    pub stalled: bool,
    /// Where sessions stand whose missing bytes are noted.
    noted: HashMap<u32, usize>,
}

/// What leads to a recorder.
pub struct Link {
    /// The queue.
    pub queue: Giver,
    /// Wakes it up, and brings its answers.
    pub channel: Stream,
}

impl Sink {
    /// Goes to this recorder from now on, or to none.
    pub fn connect(&mut self, link: Option<Link>) {
        *self = Self { link, ..Self::default() };
    }

    /// Goes to another recorder from now on, which has the same queue.
    pub fn go_on(&mut self, link: Link) {
        (self.link, self.stalled, self.fresh) = (Some(link), false, true);
        // The one before may have taken note of that, and said nothing.
        if !self.held.is_empty() {
            self.wait_for_room();
        }
    }

    /// The recorder is gone: what it was not done with is in the queue.
    pub fn disconnect(&mut self) -> Option<Giver> {
        self.link.take().map(|link| link.queue)
    }

    /// Words that found no room, and wait for some.
    pub fn later(&self) -> impl Iterator<Item = &[u8]> {
        self.later.iter().map(Vec::as_slice)
    }

    /// Whether it goes anywhere.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// The channel, where there is one.
    pub fn channel(&self) -> Option<&Stream> {
        self.link.as_ref().map(|link| &link.channel)
    }

    /// Whether terminals are better not read now.
    pub fn is_tight(&self) -> bool {
        !self.stalled && self.link.as_ref().is_some_and(|link| link.queue.room() < TIGHT)
    }

    /// How many bytes the recorder has taken, ever.
    pub fn taken(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.queue.taken())
    }

    /// Whether something waits for the recorder that it was not woken up for:
    /// in a moment, or (`true`) at once.
    pub fn is_fresh(&self) -> Option<bool> {
        let many = || self.link.as_ref().is_some_and(|link| link.queue.used() >= MANY);
        self.fresh.then(many)
    }

    /// Wakes the recorder up, where it sleeps. Words that found no room may
    /// find some now.
    pub fn flush(&mut self) {
        while let Some(word) = self.later.pop_front() {
            if !self.try_put([&word, &[]], 0) {
                self.later.push_front(word);
                break;
            }
        }
        self.fresh = false;
        if let Some(link) = &self.link {
            if link.queue.must_wake() {
                let _ = link.channel.write(b"!");
            }
        }
    }

    /// Asks for a word when there is room again.
    pub fn wait_for_room(&mut self) {
        if let Some(link) = &self.link {
            link.queue.wait_for_room();
        }
        self.flush();
    }

    /// Notes how many bytes of a session are missing that the recorder was not told of:
    /// it finds that where this gateway is killed before it can say so.
    pub fn note(&mut self, session: u32, missing: u64) {
        let Some(link) = &self.link else {
            return;
        };
        let place = match (self.noted.get(&session).copied(), missing) {
            (None, 0) => return,
            (Some(place), _) => place,
            (None, _) => {
                let is_free = |place: &usize| !self.noted.values().any(|used| used == place);
                let Some(place) = (0..NOTES).find(is_free) else {
                    return;
                };
                self.noted.insert(session, place);
                place
            }
        };
        if missing == 0 {
            self.noted.remove(&session);
        }
        link.queue.note(place, session, missing);
    }

    /// Whether words wait for room.
    pub fn has_more(&self) -> bool {
        !self.later.is_empty()
    }

    /// Puts a word in that leaves room for so much more. Returns whether there was
    /// any.
    pub fn put(&mut self, kind: Kind, session: u32, at: u64, body: &[u8], reserve: usize) -> bool {
        // What comes later comes after that.
        self.later.is_empty()
            && self.try_put([&header(kind, session, at, body.len()), body], reserve)
    }

    /// The same of what was written before; it does not wait for what came before
    /// it.
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
        self.fresh = true;
        link.queue.put(parts)
    }

    /// A word that must not be lost.
    pub fn put_surely(&mut self, kind: Kind, session: u32, at: u64, body: &[u8]) {
        if self.link.is_some() && !self.put(kind, session, at, body, 0) {
            let mut word = header(kind, session, at, body.len()).to_vec();
            word.extend_from_slice(body);
            self.later.push_back(word);
        }
    }
}
