//! Metrics: counters of all gateways, and the text format of Prometheus.
//!
//! | file | subject |
//! | --- | --- |
//! | `counters.rs` | counters in shared memory |
//! | `prometheus.rs` | the text format of Prometheus |

pub mod counters;
pub(crate) mod prometheus;
