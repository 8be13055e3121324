//! Counters of the gateway, and the format in which they are read.
//!
//! | file | subject |
//! | --- | --- |
//! | `counters.rs` | what happened since the start, of all gateways |
//! | `prometheus.rs` | the metrics |

pub mod counters;
pub(crate) mod prometheus;
