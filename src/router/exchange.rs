//! Programs that answer each other through a terminal, much faster than a
//! person types. Most of their time is waking up idle processors, less of it
//! if these keep their tick (see `sys/tick.rs`).

use std::time::{Duration, Instant};

/// How often the tick is kept; one time is good for a few ticks.
const PERIOD: Duration = Duration::from_millis(2);

/// So many turns in a period are no person.
const QUICK: u32 = 8;

/// Counts the turns of the loop.
pub struct Exchange {
    begin: Instant,
    turns: u32,
}

impl Exchange {
    /// Nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { begin: now, turns: 0 }
    }

    /// A turn ends after which processors may pause. Returns whether to keep the
    /// tick: at most once a period, in which there were many turns.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.turns += 1;
        let past = now.saturating_duration_since(self.begin);
        if past < PERIOD {
            return false;
        }
        let quick = self.turns >= QUICK && past < 2 * PERIOD;
        *self = Self::new(now);
        quick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the tick is kept in so many turns, so far apart.
    fn kept(turns: u32, apart: Duration) -> usize {
        let begin = Instant::now();
        let mut exchange = Exchange::new(begin);
        (1..=turns).filter(|turn| exchange.turn(begin + apart * *turn)).count()
    }

    #[test]
    fn a_person_who_types_costs_nothing() {
        assert_eq!(kept(1000, Duration::from_millis(30)), 0);
        assert_eq!(kept(1000, Duration::from_millis(1)), 0);
    }

    #[test]
    fn a_quick_exchange_keeps_the_tick_once_a_period() {
        assert_eq!(kept(1000, Duration::from_micros(50)), 25);
        assert_eq!(kept(1000, Duration::from_micros(10)), 5);
    }

    #[test]
    fn what_comes_after_a_pause_is_no_exchange() {
        let begin = Instant::now();
        let mut exchange = Exchange::new(begin);
        for _ in 0..100 {
            assert!(!exchange.turn(begin));
        }
        assert!(!exchange.turn(begin + Duration::from_secs(1)));
    }
}
