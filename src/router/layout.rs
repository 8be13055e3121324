//! How much of what gateways share each part of it takes.

use super::memory::{Part, Wants};
use super::seats;
use super::supervisor::{leaders, lines};
use super::tallies;
use super::told::counters;

/// How many words a part has; none where nobody wants it.
pub fn words(wants: &Wants, part: Part) -> usize {
    let only = |wanted: bool, words: usize| if wanted { words } else { 0 };
    match part {
        Part::HaveTold => wants.gateways,
        Part::Counters => counters::words(wants.gateways),
        Part::Rates => only(wants.limits, seats::RATES),
        Part::Leaders(_) => leaders::WORDS,
        Part::Lines(_) => only(wants.audit, lines::WORDS),
        // One alone has nobody to show them.
        Part::Tallies(_) => {
            only((wants.detach || wants.limits) && wants.gateways > 1, tallies::WORDS)
        }
    }
}
