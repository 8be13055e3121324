//! The server that loads the library, behind functions that are safe to call.
//! No raw pointer of the server leaves this folder.

pub mod abi;
pub mod exec_handoff;
pub mod fingerprint;
pub mod gateway;
pub mod guard;
pub mod inherited;
pub mod log;
pub mod metrics;
pub mod options;
pub mod passed;
pub mod proof;
pub mod queue;
pub mod server;
pub mod sockets;
pub mod stopping;
pub mod worker;
