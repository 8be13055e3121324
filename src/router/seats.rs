//! How many sessions there may be, and how fast they may come. Each session
//! has a seat in memory that all gateways share, so that a limit holds over all
//! of them; where nothing is limited there are no seats.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI32, Ordering};

use super::memory::{self, Part};
use super::secrets::NOBODY;
use super::told::Subject;
use crate::config::rules::Rules;
use fpty::sys::shared::halves;
use fpty::sys::socket::Stream;

/// Seats of one gateway; memory is used only for as many as were taken at
/// once.
const MOST: usize = 1 << 17;

/// Halves of words that a seat has: which limit of all it counts for, and which of
/// a user's.
const OF_ONE: usize = 2;

/// Words of a gateway's seats, and of the sockets' rates; those of 4096 can be
/// limited.
pub const WORDS: usize = MOST * OF_ONE / 2;
pub const RATES: usize = 4096 / 2;

/// A seat.
#[derive(Debug)]
pub struct Seat(usize);

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many sessions as there may be.
    All,
    /// The user has as many as a user may have.
    User,
}

impl Full {
    /// For the client.
    pub fn text(self) -> &'static str {
        match self {
            Full::All => "there are as many sessions as there may be (max-sessions)",
            Full::User => "you have as many sessions as a user may have (max-user-sessions)",
        }
    }
}

/// The seats of a gateway.
pub struct Seats {
    ordinal: usize,
    free: Vec<usize>,
    used: usize,
    taken: HashMap<Subject, Seat>,
}

impl Seats {
    /// Those of the gateway of this number. Those of one that was here before stay
    /// taken until [`Seats::free_rest`].
    pub fn of(ordinal: usize) -> Self {
        Self { ordinal, free: Vec::new(), used: 0, taken: HashMap::new() }
    }

    /// Takes a seat for a session of a gateway that was here before, be there none
    /// left; `None`: nothing is limited there.
    pub fn keep(&mut self, rules: &Rules, client: &Stream) -> Option<Seat> {
        self.keep_of(rules, |scope| user_of(client, scope))
    }

    /// The same, of one that has no client. Where it is not known whose it is, nor is
    /// any more where that one came from, it is one of all.
    pub fn keep_for(&mut self, rules: &Rules, uid: u32) -> Option<Seat> {
        self.keep_of(rules, |scope| match uid {
            NOBODY => FREE,
            _ => mixed(USER, uid.into(), scope),
        })
    }

    fn keep_of(&mut self, rules: &Rules, user: impl FnOnce(u32) -> i32) -> Option<Seat> {
        if rules.max_sessions.is_none() && rules.max_user_sessions.is_none() {
            return None;
        }
        let user = match rules.max_user_sessions {
            Some(_) => user(rules.max_user_scope),
            None => FREE,
        };
        let all = match rules.max_sessions {
            Some(_) => i32::try_from(rules.max_scope).unwrap_or(0) + 1,
            None => FREE,
        };
        let place = self.place()?;
        let words = words(self.ordinal).and_then(|words| words.get(place * OF_ONE..))?;
        words[1].store(user, Ordering::SeqCst);
        words[0].store(all, Ordering::SeqCst);
        Some(Seat(place))
    }

    /// All sessions that one had that was here before, and that go on, have their
    /// seats again: the rest is free.
    pub fn free_rest(&mut self) {
        let Some(words) = words(self.ordinal) else {
            return;
        };
        // Behind the first place that was never used there is nothing.
        let rest = words.chunks(OF_ONE).skip(self.used);
        for seat in rest.take_while(|seat| word(&seat[0]) != NEVER_USED) {
            seat.iter().for_each(|word| word.store(NEVER_USED, Ordering::Release));
        }
    }

    /// Takes a seat at a socket with these rules for a client that has not said
    /// what it wants: it counts for its user alone, so that connections which
    /// say nothing do not keep others out. `None`: nothing is limited there.
    ///
    /// # Errors
    /// There is none left.
    pub fn take(&mut self, rules: &Rules, client: &Stream) -> Result<Option<Seat>, Full> {
        let max_user = rules.max_user_sessions;
        if rules.max_sessions.is_none() && max_user.is_none() {
            return Ok(None);
        }
        let user = match max_user {
            Some(_) => user_of(client, rules.max_user_scope),
            None => FREE,
        };
        let Some(place) = self.place() else {
            return Err(Full::All);
        };
        let Some(words) = words(self.ordinal).and_then(|words| words.get(place * OF_ONE..)) else {
            return Ok(None);
        };
        // First our own, then the count: two that come at once may both find
        // that there is none left, and never both that there is one.
        words[1].store(user, Ordering::SeqCst);
        words[0].store(FREE, Ordering::SeqCst);
        let seat = Seat(place);
        if max_user.is_some_and(|max| count(FREE, user).1 > max) {
            self.leave(seat);
            return Err(Full::User);
        }
        Ok(Some(seat))
    }

    /// The same client begins a session: its seat counts for all.
    ///
    /// # Errors
    /// There are as many as there may be; it has lost its seat.
    pub fn sit(&mut self, rules: &Rules, seat: Option<Seat>) -> Result<Option<Seat>, Full> {
        let (Some(Seat(place)), Some(max)) = (&seat, rules.max_sessions) else {
            return Ok(seat);
        };
        // Counted from 1: 0 is a place that was never used.
        let all = i32::try_from(rules.max_scope).unwrap_or(0) + 1;
        if let Some(word) = words(self.ordinal).and_then(|words| words.get(place * OF_ONE)) {
            // As above.
            word.store(all, Ordering::SeqCst);
            if count(all, FREE).0 > max {
                seat.into_iter().for_each(|seat| self.leave(seat));
                return Err(Full::All);
            }
        }
        Ok(seat)
    }

    fn place(&mut self) -> Option<usize> {
        self.free.pop().or_else(|| {
            let place = self.used;
            (place < MOST).then(|| self.used += 1).map(|()| place)
        })
    }

    /// Gives a seat back.
    pub fn leave(&mut self, Seat(place): Seat) {
        if let Some(words) = words(self.ordinal) {
            words[place * OF_ONE].store(FREE, Ordering::Release);
            words[place * OF_ONE + 1].store(FREE, Ordering::Release);
        }
        self.free.push(place);
    }

    /// A seat is a session's from now on.
    pub fn is_of(&mut self, seat: Option<Seat>, subject: Subject) {
        if let Some(seat) = seat {
            self.taken.insert(subject, seat);
        }
    }

    /// A session keeps its seat when its client leaves, or comes back.
    pub fn moves(&mut self, from: Subject, to: Subject) {
        if !self.taken.is_empty() {
            if let Some(seat) = self.taken.remove(&from) {
                self.taken.insert(to, seat);
            }
        }
    }

    /// After a panic: only those of sessions that there are, and these, are
    /// taken.
    pub fn retain<'a>(
        &mut self,
        exists: impl Fn(Subject) -> bool,
        others: impl Iterator<Item = &'a Seat>,
    ) {
        let gone: Vec<Subject> =
            self.taken.keys().copied().filter(|subject| !exists(*subject)).collect();
        gone.into_iter().for_each(|subject| self.ended(subject));
        let others = others.map(|seat| seat.0);
        let known: HashSet<usize> = self.taken.values().map(|seat| seat.0).chain(others).collect();
        let free: HashSet<usize> = self.free.iter().copied().collect();
        for place in (0..self.used).filter(|place| !known.contains(place) && !free.contains(place))
        {
            self.leave(Seat(place));
        }
    }

    /// A session is over.
    pub fn ended(&mut self, subject: Subject) {
        if !self.taken.is_empty() {
            if let Some(seat) = self.taken.remove(&subject) {
                self.leave(seat);
            }
        }
    }
}

const NEVER_USED: i32 = 0;
const FREE: i32 = -1;

fn word(word: &AtomicI32) -> i32 {
    word.load(Ordering::SeqCst)
}

fn words(ordinal: usize) -> Option<&'static [AtomicI32]> {
    memory::part(Part::Seats(ordinal)).map(halves)
}

/// How many seats count for both, over all gateways.
fn count(all: i32, user: i32) -> (u32, u32) {
    let lists = (0..memory::gateways()).filter_map(words);
    let seats = lists.flat_map(|list| {
        let seats = list.chunks(OF_ONE);
        seats.map(|seat| (word(&seat[0]), word(&seat[1]))).take_while(|seat| seat.0 != NEVER_USED)
    });
    seats.fold((0, 0), |(of_all, of_user), seat| {
        let counts = |ours: i32, seat: i32| u32::from(ours != FREE && seat == ours);
        (of_all + counts(all, seat.0), of_user + counts(user, seat.1))
    })
}

/// Who comes, as a number: the user on a UNIX socket, and over TCP the address,
/// of which IPv6 users have 64 bits. Strangers share one only by a rare chance.
fn user_of(client: &Stream, scope: u32) -> i32 {
    use std::net::IpAddr;
    let (kind, number) = match (client.credentials(), client.peer_address()) {
        (Some(peer), _) => (USER, u64::from(peer.uid)),
        (None, Some((IpAddr::V4(address), _))) => (2, u64::from(address.to_bits())),
        // The upper half.
        (None, Some((IpAddr::V6(address), _))) => (3, (address.to_bits() >> 64) as u64),
        (None, None) => (4, 0),
    };
    mixed(kind, number, scope)
}

/// A user that the kernel knows.
const USER: u64 = 1;

fn mixed(kind: u64, number: u64, scope: u32) -> i32 {
    // Multiplying mixes upwards (Knuth, TAOCP 6.4).
    let mixed = [kind, u64::from(scope), number].into_iter().fold(0_u64, |mixed, part| {
        (mixed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
    });
    // A positive number: the others mean that there is none.
    ((mixed >> 33) as i32 & i32::MAX).max(1)
}

const SECOND: i32 = 1_000_000;

/// When a socket with a rate has made up for all that came, in microseconds.
fn due(door: u16) -> Option<&'static AtomicI32> {
    memory::part(Part::Rates).and_then(|rates| halves(rates).get(usize::from(door)))
}

fn step(rate: u32) -> i32 {
    SECOND / i32::try_from(rate).unwrap_or(i32::MAX).clamp(1, SECOND)
}

/// Another gateway was faster: nobody came here.
pub fn nobody_came(door: u16, rate: u32) {
    if let Some(due) = due(door) {
        due.fetch_sub(step(rate), Ordering::SeqCst);
    }
}

/// How soon a socket with a rate takes the next one, in microseconds; 0: now,
/// and it is counted. As many as come in a second may come at once.
pub fn wait_for_rate(door: u16, rate: u32) -> u32 {
    let Some(due) = due(door) else {
        return 0;
    };
    let step = step(rate);
    // It comes round every 71 minutes: only differences mean anything.
    let now = fpty::sys::monotonic_microseconds() as i32;
    loop {
        let before = word(due);
        let ahead = before.wrapping_sub(now);
        // In the past, or of long ago.
        let ahead = if (0..=2 * SECOND).contains(&ahead) { ahead } else { 0 };
        if ahead > SECOND - step {
            return (ahead - (SECOND - step)).unsigned_abs();
        }
        let after = now.wrapping_add(ahead + step);
        if due.compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return 0;
        }
    }
}
