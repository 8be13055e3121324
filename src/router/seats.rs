//! How many sessions there may be, and how fast they may come. Each gateway counts
//! its own in memory that all share, by limit and by user, so that a limit holds
//! over all of them and costs the same however many there are; where nothing is
//! limited nothing is counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use super::tally::{self, Key, Tally};
use super::told::Subject;
use crate::config::rules::Rules;
use crate::shares::Who;
use crate::uwsgi::log::log;
use fpty::error::reason;
use fpty::sys::shared::{Shared, SharedWords};
use fpty::sys::socket::Stream;

/// The counts of each gateway, and a word for each socket's rate.
static SHARED: OnceCell<(Vec<Shared<AtomicU64>>, SharedWords)> = OnceCell::new();

/// Sockets whose rate can be limited.
const SOCKETS: usize = 4096;

/// Reserves the memory, in the master, before it forks the gateways.
pub fn reserve(gateways: u32) {
    let counts: std::io::Result<Vec<_>> =
        (0..gateways).map(|_| Shared::new(tally::WORDS)).collect();
    match counts.and_then(|counts| Ok((counts, SharedWords::new(SOCKETS)?))) {
        Ok(shared) => {
            let _ = SHARED.set(shared);
        }
        Err(error) => {
            log(&format!("forkptyrouter: the limits of sessions do not hold: {}", reason(&error)))
        }
    }
}

/// A seat: what it counts for, of all and of a user's.
#[derive(Debug)]
pub struct Seat {
    all: Option<Key>,
    user: Option<Key>,
}

impl Seat {
    fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        self.all.into_iter().chain(self.user)
    }
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

/// The seats of a gateway.
pub struct Seats {
    /// `None`: the limits do not hold.
    tally: Option<Tally>,
    /// What goes on of a gateway that was here before, until all of that is known.
    kept: Option<HashMap<Key, u64>>,
    taken: HashMap<Subject, Seat>,
}

impl Seats {
    /// Those of the gateway of this number. Those of one that was here before stay
    /// taken until [`Seats::free_rest`].
    pub fn of(ordinal: usize) -> Self {
        let tally = lists().get(ordinal).and_then(|words| Tally::of(words.words()));
        Self { tally, kept: Some(HashMap::new()), taken: HashMap::new() }
    }

    /// Takes a seat for a session of a gateway that was here before, be there none
    /// left; `None`: nothing is limited there.
    pub fn keep(&mut self, rules: &Rules, who: Who) -> Option<Seat> {
        let seat = Seat { all: all(rules), user: user(rules, who) };
        seat.keys().for_each(|key| drop(self.add(key)));
        seat.keys().next().is_some().then_some(seat)
    }

    /// All sessions that one had that was here before, and that go on, have their
    /// seats again: the rest is free.
    pub fn free_rest(&mut self) {
        if let (Some(tally), Some(kept)) = (self.tally, self.kept.take()) {
            tally.become_like(kept);
        }
    }

    /// Takes a seat at a socket with these rules for a client that has not said
    /// what it wants: it counts for its user alone, so that connections which
    /// say nothing do not keep others out. `None`: nothing is limited there.
    ///
    /// # Errors
    /// There is none left.
    pub fn take(&mut self, rules: &Rules, client: &Stream) -> Result<Option<Seat>, Full> {
        let max = rules.max_user_sessions;
        if rules.max_sessions.is_none() && max.is_none() {
            return Ok(None);
        }
        let mut seat = Seat { all: None, user: None };
        if let Some((key, max)) = max.and_then(|max| Some((user(rules, Who::of(client))?, max))) {
            self.count(key, max, Full::User)?;
            seat.user = Some(key);
        }
        Ok(Some(seat))
    }

    /// The same client begins a session: its seat counts for all.
    ///
    /// # Errors
    /// There are as many as there may be; it has lost its seat.
    pub fn sit(&mut self, rules: &Rules, seat: Option<Seat>) -> Result<Option<Seat>, Full> {
        let (Some(seat), Some(key), Some(max)) = (&seat, all(rules), rules.max_sessions) else {
            return Ok(seat);
        };
        let user = seat.user;
        match self.count(key, max, Full::All) {
            Ok(()) => Ok(Some(Seat { all: Some(key), user })),
            Err(full) => {
                self.leave(Seat { all: None, user });
                Err(full)
            }
        }
    }

    /// One more counts for a key, where there are no more than so many then.
    fn count(&mut self, key: Key, max: u32, full: Full) -> Result<(), Full> {
        if !self.add(key) {
            return Err(Full::All);
        }
        // First our own, then the count: two that come at once may both find
        // that there is none left, and never both that there is one.
        let tallies = lists().iter().filter_map(|words| Tally::of(words.words()));
        if tallies.map(|tally| tally.count(key)).sum::<u64>() > max.into() {
            self.give_back(key);
            return Err(full);
        }
        Ok(())
    }

    fn add(&mut self, key: Key) -> bool {
        match (&mut self.kept, self.tally) {
            (Some(kept), _) => {
                *kept.entry(key).or_default() += 1;
                true
            }
            (None, Some(tally)) => tally.add(key, 1),
            (None, None) => true,
        }
    }

    fn give_back(&mut self, key: Key) {
        match (&mut self.kept, self.tally) {
            (Some(kept), _) => {
                kept.entry(key).and_modify(|count| *count = count.saturating_sub(1));
            }
            (None, Some(tally)) => tally.take(key),
            (None, None) => {}
        }
    }

    /// Gives a seat back.
    pub fn leave(&mut self, seat: Seat) {
        seat.keys().for_each(|key| self.give_back(key));
    }

    /// A seat is a session's from now on.
    pub fn is_of(&mut self, seat: Option<Seat>, subject: Subject) {
        if let Some(seat) = seat {
            self.taken.insert(subject, seat);
        }
    }

    /// After a panic: only those of sessions that there are, and these, are
    /// taken.
    pub fn retain<'a>(
        &mut self,
        exists: impl Fn(Subject) -> bool,
        others: impl Iterator<Item = &'a Seat>,
    ) {
        self.taken.retain(|subject, _| exists(*subject));
        let mut counts = HashMap::new();
        let keys = self.taken.values().flat_map(Seat::keys);
        for key in keys.chain(others.flat_map(Seat::keys)) {
            *counts.entry(key).or_default() += 1;
        }
        self.kept = Some(counts);
        self.free_rest();
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

fn lists() -> &'static [Shared<AtomicU64>] {
    SHARED.get().map(|(lists, _)| lists.as_slice()).unwrap_or_default()
}

/// What all sessions under the same limit count for.
fn all(rules: &Rules) -> Option<Key> {
    rules.max_sessions.map(|_| Key::exact(rules.max_scope))
}

/// What those of a user do.
fn user(rules: &Rules, who: Who) -> Option<Key> {
    rules.max_user_sessions?;
    let (kind, number) = match who.together() {
        Who::User(uid) => (1, uid.into()),
        Who::Address(address) => (2, address.into()),
        Who::Network(network) => (3, network),
        Who::Elsewhere(_) => (4, 0),
        Who::Nobody => (5, 0),
    };
    Some(Key::of(u64::from(rules.max_user_scope) << 3 | kind, number))
}

const SECOND: i32 = 1_000_000;

/// When a socket with a rate has made up for all that came, in microseconds.
fn due(door: u16) -> Option<&'static AtomicI32> {
    SHARED.get().and_then(|(_, rates)| rates.words().get(usize::from(door)))
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

#[cfg(test)]
mod tests {
    use super::super::table::Table;
    use super::*;

    /// Of one gateway whose counts nobody else sees.
    fn seats() -> (Seats, Tally) {
        let words = (0..tally::WORDS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let tally = Tally::of(Vec::leak(words)).expect("room");
        (Seats { tally: Some(tally), kept: Some(HashMap::new()), taken: HashMap::new() }, tally)
    }

    fn rules() -> Rules {
        let max = Some(10);
        Rules { max_sessions: max, max_user_sessions: max, max_scope: 3, ..Rules::default() }
    }

    #[test]
    fn what_goes_on_is_kept_and_the_rest_of_one_that_was_killed_is_free() {
        let (mut before, tally) = seats();
        before.free_rest();
        let (rules, mut table) = (rules(), Table::new());
        let key = all(&rules).expect("a limit");
        let of = |uid| user(&rules, Who::User(uid)).expect("a limit");
        for uid in [1, 1, 2, 3] {
            let seat = before.keep(&rules, Who::User(uid));
            before.is_of(seat, Subject::Session(table.insert(())));
        }
        assert_eq!((tally.count(key), tally.count(of(1)), tally.count(of(2))), (4, 2, 1));
        // It is killed, and nobody has given anything back.
        let (mut next, _) = seats();
        next.tally = Some(tally);
        let goes_on = [1, 3].map(|uid| next.keep(&rules, Who::User(uid)).expect("a limit"));
        assert_eq!(tally.count(key), 4, "as long as not all is known");
        // One of those ends meanwhile.
        let [first, last] = goes_on;
        next.leave(first);
        next.free_rest();
        let counts = [key, of(1), of(2), of(3)].map(|key| tally.count(key));
        assert_eq!(counts, [1, 0, 0, 1]);
        next.leave(last);
        assert_eq!(tally.count(key), 0);
    }

    #[test]
    fn after_a_panic_only_those_count_that_there_are() {
        let (mut seats, tally) = seats();
        seats.free_rest();
        let (rules, mut table) = (rules(), Table::new());
        let subjects = [(); 3].map(|()| Subject::Session(table.insert(())));
        for subject in subjects {
            let seat = seats.keep(&rules, Who::User(7));
            seats.is_of(seat, subject);
        }
        let waiting = seats.keep(&rules, Who::User(8)).expect("a limit");
        // It was dropped by whoever panicked.
        drop(seats.keep(&rules, Who::User(9)));
        seats.retain(|subject| subject != subjects[1], [&waiting].into_iter());
        let of = |uid| tally.count(user(&rules, Who::User(uid)).expect("a limit"));
        assert_eq!([of(7), of(8), of(9)], [2, 1, 0]);
        assert_eq!(tally.count(all(&rules).expect("a limit")), 3);
        seats.ended(subjects[1]);
        seats.ended(subjects[0]);
        assert_eq!(of(7), 1);
    }
}
