//! Connections, from accept(2) to a session: listeners, access, limits, handshake.
//!
//! | file | subject |
//! | --- | --- |
//! | `listeners.rs` | listening sockets with their rules |
//! | `access_check.rs` | access rules applied to a peer; rate |
//! | `limits.rs` | limits of sessions, and permits under them |
//! | `shared_counts.rs` | counts and names that all gateways see |
//! | `handshake.rs` | pending connections, until the client has said what it wants |
//! | `client_hello.rs` | what a client sends before its program starts |
//! | `late_hello.rs` | peers whose hello comes late get a longer timeout |
//! | `exec_request.rs` | the requested command: authorization (RFC 4254) |
//! | `http_probe.rs` | web pages are rejected by their first bytes |
//! | `session_access.rs` | who may attach to a session; its secrets |
//! | `lingering_close.rs` | lingering close of connections whose last byte is written |

pub(crate) mod access_check;
pub mod client_hello;
pub(crate) mod exec_request;
pub(crate) mod handshake;
pub(crate) mod http_probe;
pub(crate) mod late_hello;
pub mod limits;
pub(crate) mod lingering_close;
pub(crate) mod listeners;
pub(crate) mod session_access;
pub(crate) mod shared_counts;
