//! How many sessions there may be, and how fast they may come. What counts for a
//! limit is a number that all gateways see (`tallies.rs`), so that it holds over all
//! of them, and costs the same however many sessions there are; where nothing is
//! limited nothing is counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};

use super::shared_counts::{SharedCount, SharedCounts};
use crate::config::rules::Rules;
use crate::event_loop::subject::SessionRef;
use crate::process::shared_memory::{self, Region};
use fpty::fair_share::Principal;
use fpty::sys::shm::halves;
use fpty::sys::socket::Stream;

/// Words of the sockets' rates; those of 4096 can be limited.
pub const RATE_WORDS: usize = 4096 / 2;

/// A seat: what it counts for as long as it is there, of all and of a user's.
#[expect(dead_code, reason = "they count by being there")]
pub struct Permit {
    all: Option<SharedCount>,
    user: Option<SharedCount>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// There are as many sessions as there may be.
    Sessions,
    /// The user has as many as a user may have.
    UserSessions,
}

impl LimitReached {
    /// For the client.
    pub fn text(self) -> &'static str {
        match self {
            LimitReached::Sessions => "there are as many sessions as there may be (max-sessions)",
            LimitReached::UserSessions => {
                "you have as many sessions as a user may have (max-user-sessions)"
            }
        }
    }
}

/// The seats of a gateway's sessions.
pub struct Limits {
    shared_counts: SharedCounts,
    permits: HashMap<SessionRef, Permit>,
}

/// What all sessions under the same limit count for, and those of a user.
#[derive(Hash)]
enum LimitKey {
    AllSessions(u32),
    UserSessions(u32, Principal),
}

impl Limits {
    /// None is taken.
    pub fn new(shared_counts: SharedCounts) -> Self {
        Self { shared_counts, permits: HashMap::new() }
    }

    /// Takes a seat for a session of a gateway that was here before, be there none
    /// left; `None`: nothing is limited there.
    pub fn restore(&self, rules: &Rules, principal: Principal) -> Option<Permit> {
        let all = rules
            .max_sessions
            .map(|_| self.shared_counts.increment(LimitKey::AllSessions(rules.max_scope)));
        let user =
            rules.max_user_sessions.map(|_| self.shared_counts.increment(user(rules, principal)));
        (all.is_some() || user.is_some()).then_some(Permit { all, user })
    }

    /// Takes a seat at a socket with these rules for a client that has not said
    /// what it wants: it counts for its user alone, so that connections which
    /// say nothing do not keep others out. `None`: nothing is limited there.
    ///
    /// # Errors
    /// There is none left.
    pub fn acquire_user(
        &self,
        rules: &Rules,
        client: &Stream,
    ) -> Result<Option<Permit>, LimitReached> {
        let max = rules.max_user_sessions;
        if rules.max_sessions.is_none() && max.is_none() {
            return Ok(None);
        }
        let count =
            |max| self.count(user(rules, Principal::of(client)), max, LimitReached::UserSessions);
        Ok(Some(Permit { all: None, user: max.map(count).transpose()? }))
    }

    /// The same client begins a session: its seat counts for all.
    ///
    /// # Errors
    /// There are as many as there may be; it has lost its seat.
    pub fn acquire_session(
        &self,
        rules: &Rules,
        permit: Option<Permit>,
    ) -> Result<Option<Permit>, LimitReached> {
        match (permit, rules.max_sessions) {
            (Some(permit), Some(max)) => {
                let all = self.count(
                    LimitKey::AllSessions(rules.max_scope),
                    max,
                    LimitReached::Sessions,
                )?;
                Ok(Some(Permit { all: Some(all), ..permit }))
            }
            (permit, _) => Ok(permit),
        }
    }

    /// Whether a client at a socket with these rules, which has this seat for itself, would
    /// be refused a session.
    pub fn would_reject(
        &self,
        rules: &Rules,
        permit: &Result<Option<Permit>, LimitReached>,
    ) -> bool {
        let sum = || self.shared_counts.total(LimitKey::AllSessions(rules.max_scope));
        permit.is_err() || rules.max_sessions.is_some_and(|max| sum() >= max.into())
    }

    fn count(
        &self,
        limit: LimitKey,
        max: u32,
        full: LimitReached,
    ) -> Result<SharedCount, LimitReached> {
        self.shared_counts.claim(limit, max.into()).map_err(|_| full)
    }

    /// A seat is a session's from now on.
    pub fn assign(&mut self, permit: Option<Permit>, session_ref: SessionRef) {
        if let Some(permit) = permit {
            self.permits.insert(session_ref, permit);
        }
    }

    /// A session keeps its seat when its client leaves, or comes back.
    pub fn transfer(&mut self, from: SessionRef, to: SessionRef) {
        if !self.permits.is_empty() {
            if let Some(permit) = self.permits.remove(&from) {
                self.permits.insert(to, permit);
            }
        }
    }

    /// After a panic: only those of sessions that there are are taken.
    pub fn retain(&mut self, exists: impl Fn(SessionRef) -> bool) {
        self.permits.retain(|session_ref, _| exists(*session_ref));
    }

    /// A session is over.
    pub fn release(&mut self, session_ref: SessionRef) {
        if !self.permits.is_empty() {
            self.permits.remove(&session_ref);
        }
    }
}

/// What the sessions of a user count for: over TCP those of an address, of which
/// IPv6 users have 64 bits.
fn user(rules: &Rules, principal: Principal) -> LimitKey {
    LimitKey::UserSessions(rules.max_user_scope, principal.group())
}

const SECOND: i32 = 1_000_000;

/// When a socket with a rate has made up for all that came, in microseconds.
fn rate_clock(listener: u16) -> Option<&'static AtomicI32> {
    shared_memory::region(Region::Rates).and_then(|rates| halves(rates).get(usize::from(listener)))
}

fn interval(rate: u32) -> i32 {
    SECOND / i32::try_from(rate).unwrap_or(i32::MAX).clamp(1, SECOND)
}

/// Another gateway was faster: nobody came here.
pub fn refund_rate(listener: u16, rate: u32) {
    if let Some(rate_clock) = rate_clock(listener) {
        rate_clock.fetch_sub(interval(rate), Ordering::SeqCst);
    }
}

/// How soon a socket with a rate takes the next one, in microseconds; 0: now,
/// and it is counted. As many as come in a second may come at once.
pub fn rate_delay(listener: u16, rate: u32) -> u32 {
    let Some(rate_clock) = rate_clock(listener) else {
        return 0;
    };
    let interval = interval(rate);
    // It comes round every 71 minutes: only differences mean anything.
    let now = fpty::sys::monotonic_microseconds() as i32;
    loop {
        let before = rate_clock.load(Ordering::SeqCst);
        let ahead = before.wrapping_sub(now);
        // In the past, or of long ago.
        let ahead = if (0..=2 * SECOND).contains(&ahead) { ahead } else { 0 };
        if ahead > SECOND - interval {
            return (ahead - (SECOND - interval)).unsigned_abs();
        }
        let after = now.wrapping_add(ahead + interval);
        if rate_clock.compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return 0;
        }
    }
}
