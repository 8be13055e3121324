//! How many sessions there may be, and how fast they may come. Each counts, by
//! limit and by user, among the numbers that all gateways see: so a limit holds
//! over all of them, and costs the same however many there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};

use super::memory::{self, Part};
use super::tallies::{Tallies, Tally};
use super::told::Subject;
use crate::config::rules::Rules;
use crate::shares::Who;
use fpty::sys::shared::halves;
use fpty::sys::socket::Stream;

/// Words of the sockets' rates; those of 4096 can be limited.
pub const RATES: usize = 4096 / 2;

/// A seat: what counts as long as it is there, of all and of a user's.
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

/// What is limited, as it is counted.
#[derive(Clone, Copy, Hash)]
enum Limit {
    /// Sessions at the sockets of this scope.
    Sessions(u32),
    /// Those of a user.
    UserSessions(u32, Who),
}

/// The seats of a gateway.
pub struct Seats {
    tallies: Tallies,
    taken: HashMap<Subject, Seat>,
}

impl Seats {
    /// With these numbers. What a gateway had that was here before stays taken until
    /// [`Tallies::free_rest`].
    pub fn of(tallies: Tallies) -> Self {
        Self { tallies, taken: HashMap::new() }
    }

    /// Takes a seat for a session of a gateway that was here before, be there none
    /// left; `None`: nothing is limited there.
    pub fn keep(&mut self, rules: &Rules, who: Who) -> Option<Seat> {
        let seat = Seat {
            all: rules.max_sessions.map(|_| self.tallies.hold(all(rules))),
            user: rules.max_user_sessions.map(|_| self.tallies.hold(user(rules, who))),
        };
        (seat.all.is_some() || seat.user.is_some()).then_some(seat)
    }

    /// Takes a seat at a socket with these rules for a client that has not said
    /// what it wants: it counts for its user alone, so that connections which
    /// say nothing do not keep others out. `None`: nothing is limited there.
    ///
    /// # Errors
    /// There is none left.
    pub fn take(&mut self, rules: &Rules, client: &Stream) -> Result<Option<Seat>, Full> {
        let user = match rules.max_user_sessions {
            Some(max) => Some(self.one_more(user(rules, Who::of(client)), max).ok_or(Full::User)?),
            None if rules.max_sessions.is_none() => return Ok(None),
            None => None,
        };
        Ok(Some(Seat { all: None, user }))
    }

    /// The same client begins a session: its seat counts for all.
    ///
    /// # Errors
    /// There are as many as there may be; it has lost its seat.
    pub fn sit(&mut self, rules: &Rules, seat: Option<Seat>) -> Result<Option<Seat>, Full> {
        let Some(max) = rules.max_sessions else {
            return Ok(seat);
        };
        let Some(seat) = seat else {
            return Ok(None);
        };
        let all = Some(self.one_more(all(rules), max).ok_or(Full::All)?);
        Ok(Some(Seat { all, ..seat }))
    }

    /// One more counts, where there are no more than so many then.
    fn one_more(&self, limit: Limit, max: u32) -> Option<Tally> {
        // First our own, then the sum: two that come at once may both find
        // that there is none left, and never both that there is one.
        let tally = self.tallies.hold(limit);
        (self.tallies.sum(limit) <= max.into()).then_some(tally)
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

fn all(rules: &Rules) -> Limit {
    Limit::Sessions(rules.max_scope)
}

fn user(rules: &Rules, who: Who) -> Limit {
    Limit::UserSessions(rules.max_user_scope, who.together())
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

    #[test]
    fn a_seat_counts_as_long_as_it_is_there() {
        let (client, _other) = Stream::pair().expect("a pair");
        let who = Who::of(&client);
        let limited = |max, max_user| Rules {
            max_sessions: max,
            max_user_sessions: max_user,
            ..Rules::default()
        };
        let tallies = Tallies::of(0);
        let mut seats = Seats::of(tallies.clone());
        assert!(matches!(seats.take(&limited(None, None), &client), Ok(None)));
        let rules = limited(Some(1), Some(2));
        let counts = || [all(&rules), user(&rules, who)].map(|limit| tallies.sum(limit));
        let first = seats.take(&rules, &client).and_then(|seat| seats.sit(&rules, seat));
        let mut table = Table::new();
        let (session, command) =
            (Subject::Session(table.insert(())), Subject::Command(table.insert(())));
        seats.is_of(first.expect("there are two"), session);
        assert_eq!(counts(), [1, 1]);
        let second = seats.take(&rules, &client).expect("it says nothing yet");
        assert_eq!(seats.take(&rules, &client).err(), Some(Full::User));
        assert_eq!(counts(), [1, 2]);
        // It has no seat any more.
        assert_eq!(seats.sit(&rules, second).err(), Some(Full::All));
        assert_eq!(counts(), [1, 1]);
        // One of a gateway before us, though there is no room.
        let kept = seats.keep(&rules, who);
        seats.is_of(kept, command);
        assert_eq!(counts(), [2, 2]);
        seats.retain(|subject| subject == command);
        assert_eq!(counts(), [1, 1]);
        seats.ended(session);
        seats.ended(command);
        assert_eq!(counts(), [0, 0]);
    }
}
