//! The supervisor: a process that outlives gateways, and what it looks after.
//!
//! It keeps the descriptors of sessions that outlive their gateway, as systemd's fd store
//! does: those that can be detached, and those whose terminal was handed over for good. It
//! exists where there is such a session. Every other session has a word in shared memory,
//! and a prepared line where there is an audit; that costs neither a message nor a system
//! call.
//!
//! | file | subject |
//! | --- | --- |
//! | `supervisor_client.rs` | the gateway's end of the connection |
//! | `supervisor_protocol.rs` | messages and descriptors between a gateway and the supervisor |
//! | `supervisor_link.rs` | the socket pair by which gateways reach it, over a reload |
//! | `supervisor_process.rs` | the process itself |
//! | `orphan_sessions.rs` | sessions without a gateway, between a killed one and the next |
//! | `leftovers.rs` | what a gateway that is gone has left: programs, audit lines |
//! | `leaders.rs` | session leaders of each gateway, in shared memory |
//! | `end_lines.rs` | prepared audit lines of each gateway, in shared memory |
//! | `end_record.rs` | the prepared audit line that goes with a session to the supervisor |
//! | `grace.rs` | the one rule of grace: hang up, wait, kill |

pub mod end_lines;
pub mod end_record;
pub mod grace;
pub mod leaders;
pub mod leftovers;
pub mod orphan_sessions;
pub mod supervisor_client;
pub mod supervisor_link;
pub(crate) mod supervisor_process;
pub mod supervisor_protocol;
