//! Numbers: statistics, Prometheus, uWSGI's metrics.
//!
//! | file | subject |
//! | --- | --- |
//! | `statistics.rs` | the statistics server's JSON |
//! | `session_list.rs` | its list of sessions |
//! | `hostile_clients.rs` | its silent, deaf and endless clients |
//! | `counters.rs` | counters, Prometheus' text, uWSGI's metrics |

pub mod counters;
pub mod hostile_clients;
pub mod session_list;
pub mod statistics;
