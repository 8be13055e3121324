//! Limits: how many sessions there may be, and how fast they may start. Sessions under a
//! limit are a shared count (`shared_counts.rs`), so that a limit holds over all gateways,
//! and costs the same however many sessions there are; where nothing is limited nothing is
//! counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};

use super::shared_counts::{SharedCount, SharedCounts};
use crate::config::rules::Rules;
use crate::observe::audit::session_info::SessionInfo;
use crate::observe::event::{Event, Observer};
use crate::process::shared_memory::{self, Region};
use crate::session::session_ref::SessionRef;
use fpty::fair_share::Principal;
use fpty::sys::shm::halves;
use fpty::sys::socket::Stream;

/// Words of the listeners' rates: for 4096 listeners.
pub const RATE_WORDS: usize = 4096 / 2;

/// A permit: it counts under the limits of all sessions and of a user's as long as it
/// lives. Where nothing is limited it is empty.
#[derive(Default)]
pub struct Permit {
    all: Option<SharedCount>,
    user: Option<SharedCount>,
}

/// The limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// `max-sessions`.
    Sessions,
    /// `max-user-sessions`.
    UserSessions,
}

impl LimitReached {
    /// The text for the client.
    pub fn text(self) -> &'static str {
        match self {
            LimitReached::Sessions => "there are as many sessions as there may be (max-sessions)",
            LimitReached::UserSessions => {
                "you have as many sessions as a user may have (max-user-sessions)"
            }
        }
    }
}

/// The permits of a gateway's sessions.
pub struct Limits {
    shared_counts: SharedCounts,
    permits: HashMap<SessionRef, Permit>,
}

/// The key of a count: all sessions in a scope, or those of a user.
#[derive(Hash)]
enum LimitKey {
    AllSessions(u32),
    UserSessions(u32, Principal),
}

impl Limits {
    /// Limits without a permit.
    pub fn new(shared_counts: SharedCounts) -> Self {
        Self { shared_counts, permits: HashMap::new() }
    }

    /// The permit of a restored session, even above the limit.
    pub fn restore(&self, rules: &Rules, principal: Principal) -> Permit {
        let count = |limit| self.shared_counts.increment(limit);
        Permit {
            all: rules.max_sessions.map(|_| count(all_sessions(rules))),
            user: rules.max_user_sessions.map(|_| count(user_sessions(rules, principal))),
        }
    }

    /// Acquires a permit for a connection before its request is known: under the user's
    /// limit alone, so that silent connections do not keep others out.
    ///
    /// # Errors
    /// No permit is left.
    pub fn acquire_user(&self, rules: &Rules, client: &Stream) -> Result<Permit, LimitReached> {
        let Some(max) = rules.max_user_sessions else { return Ok(Permit::default()) };
        let user = user_sessions(rules, Principal::of(client));
        let user = self.shared_counts.claim(user, max.into());
        Ok(Permit { all: None, user: Some(user.map_err(|_| LimitReached::UserSessions)?) })
    }

    /// Acquires the limit of all sessions for a permit: its client starts a session.
    ///
    /// # Errors
    /// The limit is reached; the permit is gone.
    pub fn acquire_session(&self, rules: &Rules, permit: Permit) -> Result<Permit, LimitReached> {
        let Some(max) = rules.max_sessions else { return Ok(permit) };
        let all = self.shared_counts.claim(all_sessions(rules), max.into());
        Ok(Permit { all: Some(all.map_err(|_| LimitReached::Sessions)?), ..permit })
    }

    /// Whether a session with this permit would be rejected now.
    pub fn would_reject(&self, rules: &Rules, permit: &Result<Permit, LimitReached>) -> bool {
        let sum = || self.shared_counts.total(all_sessions(rules));
        permit.is_err() || rules.max_sessions.is_some_and(|max| sum() >= max.into())
    }

    /// Assigns a permit to a session.
    pub fn assign(&mut self, permit: Permit, session_ref: SessionRef) {
        if permit.all.is_some() || permit.user.is_some() {
            self.permits.insert(session_ref, permit);
        }
    }

    /// After a panic: drops permits of sessions that do not exist.
    pub fn retain(&mut self, exists: impl Fn(SessionRef) -> bool) {
        self.permits.retain(|session_ref, _| exists(*session_ref));
    }
}

impl Observer for Limits {
    fn on_event(&mut self, event: &Event<'_>, _: Option<&SessionInfo>) {
        match *event {
            Event::Attached { from, to, .. } | Event::Detached { from, to, .. } => {
                let permit = self.permits.remove(&from);
                self.assign(permit.unwrap_or_default(), to);
            }
            Event::Closed { session, .. } | Event::Aborted(session) => {
                self.permits.remove(&session);
            }
            _ => {}
        }
    }
}

fn all_sessions(rules: &Rules) -> LimitKey {
    LimitKey::AllSessions(rules.max_scope)
}

/// The key of a user's sessions; over TCP of an address, or of 64 bits of an IPv6 address.
fn user_sessions(rules: &Rules, principal: Principal) -> LimitKey {
    LimitKey::UserSessions(rules.max_user_scope, principal.group())
}

const SECOND: i32 = 1_000_000;

/// The clock of a listener's rate: when it has made up for all connections, in
/// microseconds.
fn rate_clock(listener: u16) -> Option<&'static AtomicI32> {
    shared_memory::region(Region::Rates).and_then(|rates| halves(rates).get(usize::from(listener)))
}

fn interval(rate: u32) -> i32 {
    SECOND / i32::try_from(rate).unwrap_or(i32::MAX).clamp(1, SECOND)
}

/// Gives back one connection of a rate: another gateway has accepted it.
pub fn refund_rate(listener: u16, rate: u32) {
    if let Some(rate_clock) = rate_clock(listener) {
        rate_clock.fetch_sub(interval(rate), Ordering::SeqCst);
    }
}

/// The delay in microseconds until a listener with a rate may accept; 0: now, and that
/// connection is counted. The connections of one second may come at once.
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
