//! Observers of the events of sessions.
//!
//! | file | subject |
//! | --- | --- |
//! | `audit/` | what is told of sessions: audit, counters |
//! | `metrics/` | counters of the gateway, and the format in which they are read |
//! | `recording/` | recordings, and the process that writes them |

pub mod audit;
pub(crate) mod metrics;
pub mod recording;
