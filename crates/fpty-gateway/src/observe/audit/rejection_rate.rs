//! The rate limit of audit lines for rejected clients: so many a second for each user and
//! listener; the rest is counted, and one line has the count.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::end_reason::RejectReason;
use super::origin::Origin;
use super::peer::Peer;
use super::session_info::RejectedConnection;
use fpty::fair_share::Principal;
use fpty::sys::clock;

/// The most lines in a second: of one principal, for one reason, at one listener; and of
/// all.
const MAX_PER_PRINCIPAL: u32 = 50;
const MAX_PER_SECOND: u32 = 400;

/// The most keys in a second; further ones share one.
const MAX_PRINCIPALS: usize = 64;

const SECOND: Duration = Duration::from_secs(1);

/// Lines of one key in this second, and the first of those that were suppressed, with their
/// count.
#[derive(Default)]
struct PrincipalRate {
    written: u32,
    suppressed: Option<RejectedConnection>,
}

/// The rate limit of lines for rejections.
pub struct RejectionRate {
    since: Instant,
    written: u32,
    shares: HashMap<(Principal, RejectReason, Arc<str>), PrincipalRate>,
    /// A line with a count is still to be written.
    pub has_suppressed: bool,
}

impl RejectionRate {
    /// No line yet.
    pub fn new() -> Self {
        Self { since: clock::now(), written: 0, shares: HashMap::new(), has_suppressed: false }
    }

    /// Takes the suppressed rejections of the last second, when it is over.
    pub fn over(&mut self, now: Instant) -> Vec<RejectedConnection> {
        if now.saturating_duration_since(self.since) < SECOND {
            return Vec::new();
        }
        let before = std::mem::replace(self, Self::new());
        self.since = now;
        before.shares.into_values().filter_map(|share| share.suppressed).collect()
    }

    /// Returns a rejection that is to have a line of its own; else it is counted.
    pub fn note(
        &mut self,
        principal: Principal,
        rejected: RejectedConnection,
    ) -> Option<RejectedConnection> {
        let mut key = (principal, rejected.reason, Arc::clone(&rejected.origin.socket.name));
        if self.shares.len() >= MAX_PRINCIPALS && !self.shares.contains_key(&key) {
            key.0 = Principal::Unknown;
        }
        let peer = Peer::of_principal(key.0);
        let share = self.shares.entry(key).or_default();
        if share.written < MAX_PER_PRINCIPAL && self.written < MAX_PER_SECOND {
            share.written += 1;
            self.written += 1;
            return Some(rejected);
        }
        self.has_suppressed = true;
        let suppressed = share.suppressed.get_or_insert_with(|| {
            let Origin { socket, mode, .. } = rejected.origin;
            let origin = Origin { socket, mode, ..Origin::default() };
            RejectedConnection { origin, peer, ..rejected }
        });
        suppressed.count = Some(suppressed.count.unwrap_or(0) + 1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(reason: RejectReason) -> RejectedConnection {
        let (origin, peer) = (Origin::default(), Peer::default());
        RejectedConnection { origin, peer, reason, why: "no".into(), count: None }
    }

    #[test]
    fn what_is_beyond_a_users_lines_is_counted() {
        let mut rejection_rate = RejectionRate::new();
        let told = |rejection_rate: &mut RejectionRate, principal, count: u32| {
            let is_told =
                |_: &u32| rejection_rate.note(principal, rejected(RejectReason::Denied)).is_some();
            (0..count).filter(is_told).count() as u32
        };
        assert_eq!(told(&mut rejection_rate, Principal::User(1), 5000), MAX_PER_PRINCIPAL);
        assert!(rejection_rate.has_suppressed && rejection_rate.over(Instant::now()).is_empty());
        // Others still have theirs.
        assert_eq!(told(&mut rejection_rate, Principal::User(2), 3), 3);
        let later = Instant::now() + SECOND;
        let suppressed = rejection_rate.over(later);
        assert_eq!(suppressed.len(), 1);
        assert_eq!(suppressed[0].count, Some(u64::from(5000 - MAX_PER_PRINCIPAL)));
        assert_eq!((suppressed[0].peer.uid, suppressed[0].peer.pid), (Some(1), None));
        assert!(!rejection_rate.has_suppressed && rejection_rate.over(later + SECOND).is_empty());
        assert_eq!(told(&mut rejection_rate, Principal::User(1), 5), 5);
    }

    #[test]
    fn many_users_are_bounded_and_each_is_counted() {
        let mut rejection_rate = RejectionRate::new();
        let told = (0..10_000)
            .filter(|uid| {
                rejection_rate.note(Principal::User(*uid), rejected(RejectReason::Limit)).is_some()
            })
            .count();
        assert!(
            told <= MAX_PER_SECOND as usize && rejection_rate.shares.len() <= MAX_PRINCIPALS + 1
        );
        let suppressed = rejection_rate.over(Instant::now() + SECOND);
        let counted: u64 = suppressed.iter().filter_map(|suppressed| suppressed.count).sum();
        assert_eq!(counted, 10_000 - told as u64);
    }
}
