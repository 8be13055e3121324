//! From a connection to a session: who may come in, how many, and what a client says
//! before its program starts.
//!
//! | file | subject |
//! | --- | --- |
//! | `access.rs` | who may come in |
//! | `client_hello.rs` | what a client says before its program starts |
//! | `exec_request.rs` | which program a client asks for |
//! | `fair_share.rs` | shares of what there is only so much of |
//! | `handshake.rs` | what a client says before its program starts |
//! | `http_probe.rs` | web pages that come where a terminal is |
//! | `http_request.rs` | what a web page begins with, that is let in nowhere |
//! | `late_hello.rs` | who is waited for longer before that |
//! | `limits.rs` | how many there may be, and how fast they may come |
//! | `lingering_close.rs` | connections to which the last word was said |
//! | `listeners.rs` | the sockets; what is said to those who cannot come in |
//! | `session_access.rs` | who may come to a session that was left |
//! | `shared_counts.rs` | numbers that all gateways see: who has a name, and how much there is |

pub(crate) mod access;
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
