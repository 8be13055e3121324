//! A storm of refusals is no storm of lines: of one user at one socket the
//! audit has so many a second, what is beyond that is counted, and one line
//! says how many it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::line::Format;
use super::peer::Peer;
use super::reason::Refusal;
use crate::shares::Who;

/// Lines in a second: of one user, for one reason, at one socket; and of all.
const OF_ONE: u32 = 50;
const OF_ALL: u32 = 400;

/// Shares that are told apart in a second; what comes then is one more.
const SHARES: usize = 64;

const SECOND: Duration = Duration::from_secs(1);

/// What has a number of lines of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Whose {
    who: Who,
    reason: Refusal,
    socket: Arc<str>,
}

/// What of that was written in this second, and what was not.
#[derive(Default)]
struct Share {
    written: u32,
    left_out: u64,
    first: Option<First>,
}

/// What a line of a number says beside it, of the first that it stands for.
struct First {
    format: Format,
    mode: &'static str,
    peer: Peer,
    why: Box<str>,
}

/// So many refusals that have no line each.
pub struct LeftOut {
    /// The address that they came to.
    pub socket: Arc<str>,
    /// How that one's lines look.
    pub format: Format,
    /// What the first one spoke.
    pub mode: &'static str,
    /// Who they are: what they have in common.
    pub peer: Peer,
    /// Why, in a word.
    pub reason: Refusal,
    /// Why the first one was.
    pub why: Box<str>,
    /// How many.
    pub count: u64,
}

/// What was written of refusals of late.
pub struct Refusals {
    since: Instant,
    written: u32,
    shares: HashMap<Whose, Share>,
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
    pub fn over(&mut self, now: Instant) -> Vec<LeftOut> {
        if now.saturating_duration_since(self.since) < SECOND {
            return Vec::new();
        }
        let before = std::mem::replace(self, Self::new());
        self.since = now;
        let left_out = before.shares.into_iter().filter_map(|(whose, share)| {
            let First { format, mode, peer, why } = share.first?;
            let Whose { reason, socket, .. } = whose;
            Some(LeftOut { socket, format, mode, peer, reason, why, count: share.left_out })
        });
        left_out.collect()
    }

    /// Whether this one has a line of its own; else it is counted.
    pub fn is_told(
        &mut self,
        who: Who,
        socket: (&Arc<str>, Format, &'static str),
        reason: Refusal,
        why: &str,
    ) -> bool {
        let (socket, format, mode) = socket;
        let mut whose = Whose { who, reason, socket: Arc::clone(socket) };
        if self.shares.len() >= SHARES && !self.shares.contains_key(&whose) {
            whose.who = Who::Nobody;
        }
        let peer = Peer::in_common(whose.who);
        let share = self.shares.entry(whose).or_default();
        if share.written < OF_ONE && self.written < OF_ALL {
            share.written += 1;
            self.written += 1;
            return true;
        }
        self.counts = true;
        share.left_out += 1;
        share.first.get_or_insert_with(|| First { format, mode, peer, why: why.into() });
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_a_users_lines_is_counted() {
        let mut refusals = Refusals::new();
        let socket: Arc<str> = "/s".into();
        let told = |refusals: &mut Refusals, who, count: u32| {
            let at = (&socket, Format::Json, "raw");
            let is_told = |_: &u32| refusals.is_told(who, at, Refusal::Denied, "no");
            (0..count).filter(is_told).count() as u32
        };
        assert_eq!(told(&mut refusals, Who::User(1), 5000), OF_ONE);
        assert!(refusals.count() && refusals.over(Instant::now()).is_empty());
        // Others still have theirs.
        assert_eq!(told(&mut refusals, Who::User(2), 3), 3);
        let later = Instant::now() + SECOND;
        let left_out = refusals.over(later);
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].count, u64::from(5000 - OF_ONE));
        assert_eq!((left_out[0].peer.uid, left_out[0].peer.pid), (Some(1), None));
        assert!(!refusals.count() && refusals.over(later + SECOND).is_empty());
        assert_eq!(told(&mut refusals, Who::User(1), 5), 5);
    }

    #[test]
    fn many_users_are_bounded_and_each_is_counted() {
        let mut refusals = Refusals::new();
        let socket: Arc<str> = "/s".into();
        let at = (&socket, Format::KeyVal, "raw");
        let all = 0..10_000;
        let told =
            all.filter(|uid| refusals.is_told(Who::User(*uid), at, Refusal::Limit, "no")).count();
        assert!(told <= OF_ALL as usize && refusals.shares.len() <= SHARES + 1);
        let left_out = refusals.over(Instant::now() + SECOND);
        let counted: u64 = left_out.iter().map(|left_out| left_out.count).sum();
        assert_eq!(counted, 10_000 - told as u64);
    }
}
