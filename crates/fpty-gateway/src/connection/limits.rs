//! How many sessions there may be, and how fast they may come. What counts for a
//! limit is a number that all gateways see (`tallies.rs`), so that it holds over all
//! of them, and costs the same however many sessions there are; where nothing is
//! limited nothing is counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};

use super::shared_counts::{Tallies, Tally};
use crate::config::rules::Rules;
use crate::event_loop::subject::Subject;
use crate::process::shared_memory::{self, Part};
use fpty::fair_share::Who;
use fpty::sys::shm::halves;
use fpty::sys::socket::Stream;

/// Words of the sockets' rates; those of 4096 can be limited.
pub const RATES: usize = 4096 / 2;

/// A seat: what it counts for as long as it is there, of all and of a user's.
#[expect(dead_code, reason = "they count by being there")]
pub struct Seat {
    all: Option<Tally>,
    user: Option<Tally>,
}

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

/// The seats of a gateway's sessions.
pub struct Seats {
    tallies: Tallies,
    taken: HashMap<Subject, Seat>,
}

/// What all sessions under the same limit count for, and those of a user.
#[derive(Hash)]
enum Limit {
    All(u32),
    User(u32, Who),
}

impl Seats {
    /// None is taken.
    pub fn new(tallies: Tallies) -> Self {
        Self { tallies, taken: HashMap::new() }
    }

    /// Takes a seat for a session of a gateway that was here before, be there none
    /// left; `None`: nothing is limited there.
    pub fn keep(&self, rules: &Rules, who: Who) -> Option<Seat> {
        let all = rules.max_sessions.map(|_| self.tallies.hold(Limit::All(rules.max_scope)));
        let user = rules.max_user_sessions.map(|_| self.tallies.hold(user(rules, who)));
        (all.is_some() || user.is_some()).then_some(Seat { all, user })
    }

    /// Takes a seat at a socket with these rules for a client that has not said
    /// what it wants: it counts for its user alone, so that connections which
    /// say nothing do not keep others out. `None`: nothing is limited there.
    ///
    /// # Errors
    /// There is none left.
    pub fn take(&self, rules: &Rules, client: &Stream) -> Result<Option<Seat>, Full> {
        let max = rules.max_user_sessions;
        if rules.max_sessions.is_none() && max.is_none() {
            return Ok(None);
        }
        let count = |max| self.count(user(rules, Who::of(client)), max, Full::User);
        Ok(Some(Seat { all: None, user: max.map(count).transpose()? }))
    }

    /// The same client begins a session: its seat counts for all.
    ///
    /// # Errors
    /// There are as many as there may be; it has lost its seat.
    pub fn sit(&self, rules: &Rules, seat: Option<Seat>) -> Result<Option<Seat>, Full> {
        match (seat, rules.max_sessions) {
            (Some(seat), Some(max)) => {
                let all = self.count(Limit::All(rules.max_scope), max, Full::All)?;
                Ok(Some(Seat { all: Some(all), ..seat }))
            }
            (seat, _) => Ok(seat),
        }
    }

    /// Whether a client at a socket with these rules, which has this seat for itself, would
    /// be refused a session.
    pub fn are_taken(&self, rules: &Rules, seat: &Result<Option<Seat>, Full>) -> bool {
        let sum = || self.tallies.sum(Limit::All(rules.max_scope));
        seat.is_err() || rules.max_sessions.is_some_and(|max| sum() >= max.into())
    }

    fn count(&self, limit: Limit, max: u32, full: Full) -> Result<Tally, Full> {
        self.tallies.claim(limit, max.into()).map_err(|_| full)
    }

    /// A seat is a session's from now on.
    pub fn belongs_to(&mut self, seat: Option<Seat>, subject: Subject) {
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

    /// After a panic: only those of sessions that there are are taken.
    pub fn retain(&mut self, exists: impl Fn(Subject) -> bool) {
        self.taken.retain(|subject, _| exists(*subject));
    }

    /// A session is over.
    pub fn ended(&mut self, subject: Subject) {
        if !self.taken.is_empty() {
            self.taken.remove(&subject);
        }
    }
}

/// What the sessions of a user count for: over TCP those of an address, of which
/// IPv6 users have 64 bits.
fn user(rules: &Rules, who: Who) -> Limit {
    Limit::User(rules.max_user_scope, who.together())
}

const SECOND: i32 = 1_000_000;

/// When a socket with a rate has made up for all that came, in microseconds.
fn due(door: u16) -> Option<&'static AtomicI32> {
    shared_memory::part(Part::Rates).and_then(|rates| halves(rates).get(usize::from(door)))
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
        let before = due.load(Ordering::SeqCst);
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
