//! How much of what gateways share each part of it takes.

use super::shared_memory::{Part, Wants};
use super::supervisor::{end_lines, leaders};
use crate::connection::limits;
use crate::connection::shared_counts;
use crate::observe::metrics::counters;

/// How many words a part has; none where nobody wants it.
pub fn words(wants: &Wants, part: Part) -> usize {
    let only = |wanted: bool, words: usize| if wanted { words } else { 0 };
    match part {
        Part::HaveTold => wants.gateways,
        Part::Counters => counters::words(wants.gateways),
        Part::Rates => only(wants.limits, limits::RATES),
        Part::Leaders(_) => leaders::WORDS,
        Part::Lines(_) => only(wants.audit, end_lines::WORDS),
        // One alone has nobody to show them.
        Part::Tallies(_) => {
            only((wants.detach || wants.limits) && wants.gateways > 1, shared_counts::WORDS)
        }
    }
}
