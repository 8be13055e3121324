//! How much of what gateways share each part of it takes.

use super::shared_memory::{MemoryOptions, Region};
use super::supervisor::{end_lines, leaders};
use crate::connection::limits;
use crate::connection::shared_counts;
use crate::observe::metrics::counters;

/// How many words a part has; none where nobody wants it.
pub fn region_words(options: &MemoryOptions, region: Region) -> usize {
    let only = |wanted: bool, region_words: usize| if wanted { region_words } else { 0 };
    match region {
        Region::ClientsNotified => options.gateways,
        Region::Counters => counters::words(options.gateways),
        Region::Rates => only(options.limits, limits::RATE_WORDS),
        Region::Leaders(_) => leaders::WORDS,
        Region::EndLines(_) => only(options.audit, end_lines::WORDS),
        // One alone has nobody to show them.
        Region::SharedCounts(_) => {
            only((options.detach || options.limits) && options.gateways > 1, shared_counts::WORDS)
        }
    }
}
