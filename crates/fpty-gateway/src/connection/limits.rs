//! Limits: how many sessions there may be, and how fast they may start. Sessions under a
//! limit are a shared count (`shared_counts.rs`), so that a limit holds over all gateways,
//! and costs the same however many sessions there are; where nothing is limited nothing is
//! counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};

use super::shared_counts::{SharedCount, SharedCounts};
use crate::config::rules::Rules;
use crate::event_loop::fault_domain::SessionRef;
use crate::observe::audit::session_info::SessionInfo;
use crate::observe::event::{Event, Observer};
use crate::process::shared_memory::{self, Region};
use fpty::fair_share::Principal;
use fpty::sys::shm::halves;
use fpty::sys::socket::Stream;

/// Words of the listeners' rates: for 4096 listeners.
pub const RATE_WORDS: usize = 4096 / 2;

/// A permit: it counts under the limits of all sessions and of a user's as long as it
/// lives.
#[expect(dead_code, reason = "they count by being there")]
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

    /// The permit of a restored session, even above the limit; `None`: nothing is limited.
    pub fn restore(&self, rules: &Rules, principal: Principal) -> Option<Permit> {
        let all = rules
            .max_sessions
            .map(|_| self.shared_counts.increment(LimitKey::AllSessions(rules.max_scope)));
        let user =
            rules.max_user_sessions.map(|_| self.shared_counts.increment(user(rules, principal)));
        (all.is_some() || user.is_some()).then_some(Permit { all, user })
    }

    /// Acquires a permit for a connection before its request is known: under the user's
    /// limit alone, so that silent connections do not keep others out. `None`: nothing is
    /// limited.
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

    /// Acquires the limit of all sessions for a permit: its client starts a session.
    ///
    /// # Errors
    /// The limit is reached; the permit is gone.
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

    /// Whether a session with this permit would be rejected now.
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

    /// Assigns a permit to a session.
    pub fn assign(&mut self, permit: Option<Permit>, session_ref: SessionRef) {
        if let Some(permit) = permit {
            self.permits.insert(session_ref, permit);
        }
    }

    /// Transfers a permit when a session is detached or attached.
    fn transfer(&mut self, from: SessionRef, to: SessionRef) {
        if !self.permits.is_empty() {
            if let Some(permit) = self.permits.remove(&from) {
                self.permits.insert(to, permit);
            }
        }
    }

    /// After a panic: drops permits of sessions that do not exist.
    pub fn retain(&mut self, exists: impl Fn(SessionRef) -> bool) {
        self.permits.retain(|session_ref, _| exists(*session_ref));
    }

    /// Releases the permit of a session.
    fn release(&mut self, session_ref: SessionRef) {
        if !self.permits.is_empty() {
            self.permits.remove(&session_ref);
        }
    }
}

impl Observer for Limits {
    fn on_event(&mut self, event: &Event<'_>, _: Option<&SessionInfo>) {
        match *event {
            Event::Attached { from, to, .. } | Event::Detached { from, to, .. } => {
                self.transfer(from, to);
            }
            Event::Closed { session, .. } | Event::Aborted(session) => self.release(session),
            _ => {}
        }
    }
}

/// The key of a user's sessions; over TCP of an address, or of 64 bits of an IPv6 address.
fn user(rules: &Rules, principal: Principal) -> LimitKey {
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
