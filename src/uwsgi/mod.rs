//! The server that loads the library, behind functions that are safe to call.
//! No raw pointer of the server leaves this folder.
//!
//! | file | subject |
//! | --- | --- |
//! | `abi.rs`, `fingerprint.rs` | whether it is the server that we were built for |
//! | `guard.rs` | what everything goes through that C calls |
//! | `host.rs` | what a gateway needs of it |
//! | `options.rs` | options as the server takes them |
//! | `sockets.rs`, `passed.rs` | sockets on its list; those that somebody has passed to it |
//! | `gateway.rs` | gateways on its list |
//! | `worker.rs` | its workers |
//! | `server.rs`, `metrics.rs` | facts about it; numbers among its metrics |
//! | `log.rs` | its log |
//! | `inherited.rs` | what only gateways inherit from the master |
//! | `exec_handoff.rs` | descriptors that outlive a reload |
//! | `stopping.rs` | the instance stops |

pub mod abi;
pub mod exec_handoff;
pub mod fingerprint;
pub mod gateway;
pub mod guard;
pub mod host;
pub mod inherited;
pub mod log;
pub mod metrics;
pub mod options;
pub mod passed;
pub mod server;
pub mod sockets;
pub mod stopping;
pub mod worker;
