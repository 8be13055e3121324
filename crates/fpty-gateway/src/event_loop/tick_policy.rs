//! Programs that answer each other through a terminal, much faster than a
//! person types. Most of their time is waking up idle processors, less of it
//! if these keep their tick (see `sys/tick.rs`).

use std::time::{Duration, Instant};

use fpty::sys::processors::Parallel;

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

    /// A turn of the loop ends, with streams in it or without. Returns whether
    /// to keep the tick: at most once a period, in which there were many turns
    /// after which a processor may have paused.
    pub fn turn(&mut self, now: Instant, parallel: Parallel, streams: bool) -> bool {
        let pauses = match parallel {
            Parallel::Nothing => false,
            // With its tick kept an input stream was a tenth slower.
            Parallel::Everything => !streams,
            Parallel::Workers => true,
        };
        if !pauses {
            return false;
        }
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

    /// How often the tick is kept in a thousand turns, so far apart.
    fn kept(apart: Duration, parallel: Parallel, streams: bool) -> usize {
        let begin = Instant::now();
        let mut exchange = Exchange::new(begin);
        (1..=1000).filter(|turn| exchange.turn(begin + apart * *turn, parallel, streams)).count()
    }

    #[test]
    fn a_person_who_types_costs_nothing() {
        assert_eq!(kept(Duration::from_millis(30), Parallel::Everything, false), 0);
        assert_eq!(kept(Duration::from_millis(1), Parallel::Everything, false), 0);
    }

    #[test]
    fn a_quick_exchange_keeps_the_tick_once_a_period() {
        assert_eq!(kept(Duration::from_micros(50), Parallel::Everything, false), 25);
        assert_eq!(kept(Duration::from_micros(10), Parallel::Everything, false), 5);
    }

    #[test]
    fn a_stream_counts_where_only_the_workers_run_elsewhere() {
        let quick = Duration::from_micros(50);
        assert_eq!(kept(quick, Parallel::Everything, true), 0);
        assert_eq!(kept(quick, Parallel::Workers, true), 25);
        assert_eq!(kept(quick, Parallel::Nothing, false), 0);
    }

    #[test]
    fn what_comes_after_a_pause_is_no_exchange() {
        let begin = Instant::now();
        let mut exchange = Exchange::new(begin);
        for _ in 0..100 {
            assert!(!exchange.turn(begin, Parallel::Everything, false));
        }
        let later = begin + Duration::from_secs(1);
        assert!(!exchange.turn(later, Parallel::Everything, false));
    }
}
