//! A storm of refusals is no storm of lines: of one user at one socket the
//! audit has so many a second, what is beyond that is counted, and one line
//! says how many it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::end_reason::Refusal;
use super::origin::Origin;
use super::peer::Peer;
use super::session_info::Refused;
use fpty::fair_share::Who;

/// Lines in a second: of one user, for one reason, at one socket; and of all.
const OF_ONE: u32 = 50;
const OF_ALL: u32 = 400;

/// Shares that are told apart in a second; what comes then is one more.
const SHARES: usize = 64;

const SECOND: Duration = Duration::from_secs(1);

/// What of one share was written in this second, and what was not: so many, and what
/// the first of them was.
#[derive(Default)]
struct Share {
    written: u32,
    left_out: Option<Refused>,
}

/// What was written of refusals of late.
pub struct Refusals {
    since: Instant,
    written: u32,
    shares: HashMap<(Who, Refusal, Arc<str>), Share>,
    /// Some were counted.
    counts: bool,
}

impl Refusals {
    /// Nothing.
    pub fn new() -> Self {
        Self { since: Instant::now(), written: 0, shares: HashMap::new(), counts: false }
    }

    /// Whether a line of a number is still to be written.
    pub fn count(&self) -> bool {
        self.counts
    }

    /// What the second that is over has left out; nothing while it is not.
    pub fn over(&mut self, now: Instant) -> Vec<Refused> {
        if now.saturating_duration_since(self.since) < SECOND {
            return Vec::new();
        }
        let before = std::mem::replace(self, Self::new());
        self.since = now;
        before.shares.into_values().filter_map(|share| share.left_out).collect()
    }

    /// Gives one back that is to have a line of its own; else it is counted.
    pub fn note(&mut self, who: Who, refused: Refused) -> Option<Refused> {
        let mut whose = (who, refused.reason, Arc::clone(&refused.origin.socket.name));
        if self.shares.len() >= SHARES && !self.shares.contains_key(&whose) {
            whose.0 = Who::Nobody;
        }
        let peer = Peer::in_common(whose.0);
        let share = self.shares.entry(whose).or_default();
        if share.written < OF_ONE && self.written < OF_ALL {
            share.written += 1;
            self.written += 1;
            return Some(refused);
        }
        self.counts = true;
        let left_out = share.left_out.get_or_insert_with(|| {
            let Origin { socket, mode, .. } = refused.origin;
            let origin = Origin { socket, mode, ..Origin::default() };
            Refused { origin, peer, ..refused }
        });
        left_out.count = Some(left_out.count.unwrap_or(0) + 1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Refusal) -> Refused {
        let (origin, peer) = (Origin::default(), Peer::default());
        Refused { origin, peer, reason, why: "no".into(), count: None }
    }

    #[test]
    fn what_is_beyond_a_users_lines_is_counted() {
        let mut refusals = Refusals::new();
        let told = |refusals: &mut Refusals, who, count: u32| {
            let is_told = |_: &u32| refusals.note(who, refused(Refusal::Denied)).is_some();
            (0..count).filter(is_told).count() as u32
        };
        assert_eq!(told(&mut refusals, Who::User(1), 5000), OF_ONE);
        assert!(refusals.count() && refusals.over(Instant::now()).is_empty());
        // Others still have theirs.
        assert_eq!(told(&mut refusals, Who::User(2), 3), 3);
        let later = Instant::now() + SECOND;
        let left_out = refusals.over(later);
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].count, Some(u64::from(5000 - OF_ONE)));
        assert_eq!((left_out[0].peer.uid, left_out[0].peer.pid), (Some(1), None));
        assert!(!refusals.count() && refusals.over(later + SECOND).is_empty());
        assert_eq!(told(&mut refusals, Who::User(1), 5), 5);
    }

    #[test]
    fn many_users_are_bounded_and_each_is_counted() {
        let mut refusals = Refusals::new();
        let told = (0..10_000)
            .filter(|uid| refusals.note(Who::User(*uid), refused(Refusal::Limit)).is_some())
            .count();
        assert!(told <= OF_ALL as usize && refusals.shares.len() <= SHARES + 1);
        let left_out = refusals.over(Instant::now() + SECOND);
        let counted: u64 = left_out.iter().filter_map(|left_out| left_out.count).sum();
        assert_eq!(counted, 10_000 - told as u64);
    }
}
