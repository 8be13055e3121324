//! Sessions: a terminal and its client, from opening to teardown.
//!
//! | file | subject |
//! | --- | --- |
//! | `byte_counts.rs` | bytes in and out, last activity, the recording: for audit and idle timeouts |
//! | `handover.rs` | the terminal's master is offered to the client (SCM_RIGHTS) |
//! | `ids.rs` | session ids |
//! | `lifecycle.rs` | the states of a session or command; the only place that emits their events |
//! | `open.rs` | a new session: accept, limits, pty, spawn |
//! | `probes.rs` | polling for what epoll does not report: closed peers, TCP stalls, a reopened slave, EOF |
//! | `relay.rs` | reads and writes between client and terminal; the live session |
//! | `requested_command.rs` | commands that clients requested instead of their socket's own |
//! | `selector.rs` | a session as typed: id, prefix of an id, or name |
//! | `session_ref.rs` | a reference to a session, attached or detached, or to a command |
//! | `state/` | one terminal and its client as a state machine without input or output |
//! | `teardown.rs` | the end of a session: drain, close, hang up, the queue of teardowns |
//! | `timeouts.rs` | idle timeout and maximum time |
//! | `transitions.rs` | open, attach, detach, restore and end, over all parts that take part |

pub(crate) mod byte_counts;
pub(crate) mod handover;
pub(crate) mod ids;
pub(crate) mod lifecycle;
pub(crate) mod open;
pub(crate) mod probes;
pub(crate) mod relay;
pub(crate) mod requested_command;
pub(crate) mod selector;
pub(crate) mod session_ref;
pub mod state;
pub(crate) mod teardown;
pub(crate) mod timeouts;
pub(crate) mod transitions;
