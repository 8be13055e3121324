//! Observers of a session's events: they are told of each transition and change nothing.
//!
//! | file | subject |
//! | --- | --- |
//! | `audit/` | the audit: a line in the log for each event of a session |
//! | `metrics/` | counters of all gateways, and the format of Prometheus |
//! | `recording/` | recordings (asciicast), and the process that writes them |

pub mod audit;
pub(crate) mod metrics;
pub mod recording;
