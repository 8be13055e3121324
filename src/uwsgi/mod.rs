//! The server that loads the library, behind functions that are safe to call. No raw pointer
//! of the server leaves this folder.
//!
//! | file | subject |
//! | --- | --- |
//! | `abi.rs`, `fingerprint.rs` | the ABI of the server that we were built for, compared |
//! | `guard.rs` | the guard of every function that C calls: a panic becomes a line |
//! | `host.rs` | the gateway's `Host`, implemented by this server: its log, its metrics, facts about it |
//! | `options.rs` | the table of options, as the server takes it |
//! | `sockets.rs` | the server's list of sockets; sockets that were passed to it (`fd://N`) |
//! | `gateway.rs` | the server's list of gateways |
//! | `worker.rs` | the server's workers |
//! | `inherited.rs` | descriptors and memory that gateways alone inherit from the master |
//! | `exec_handoff.rs` | descriptors that are kept over an exec of the server (a reload) |
//! | `stopping.rs` | the stop of the instance: gateways notify their clients first |

pub mod abi;
pub mod exec_handoff;
pub mod fingerprint;
pub mod gateway;
pub mod guard;
pub mod host;
pub mod inherited;
pub mod options;
pub mod sockets;
pub mod stopping;
pub mod worker;
