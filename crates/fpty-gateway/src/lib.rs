//! The daemon of a pseudo-terminal server: a gateway gives every client that connects
//! a terminal of its own with a program of the instance behind it. What it needs of the
//! server that it runs in is [`host::Host`].
//!
//! | file | subject |
//! | --- | --- |
//! | `command/` | commands without a terminal |
//! | `config/` | options as typed, and the validated configuration that comes of them |
//! | `connection/` | listeners, access, limits, handshake: from accept(2) to a session |
//! | `control/` | control requests: list, kill, statistics; requests between gateways |
//! | `detach/` | detached sessions, attach, viewers, restore |
//! | `event_loop/` | the event loop, its context, timers, recovery from panics |
//! | `fuzzing.rs` | what other processes and clients say, taken apart |
//! | `host.rs` | the server that a gateway runs in |
//! | `instance.rs` | what the master does for its gateways |
//! | `log.rs`, `log_queue.rs` | lines for the server's log, and those that wait for it |
//! | `observe/` | observers of sessions: audit, metrics, recordings |
//! | `process/` | programs, hang-up and grace, the supervisor, shared memory |
//! | `session/` | a terminal and its client, from its opening to its end |

#![forbid(unsafe_code)]

pub(crate) mod command;
pub mod config;
pub(crate) mod connection;
pub(crate) mod control;
pub(crate) mod detach;
pub(crate) mod event_loop;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod host;
pub mod instance;
pub mod log;
mod log_queue;
pub(crate) mod observe;
pub(crate) mod process;
pub(crate) mod session;
