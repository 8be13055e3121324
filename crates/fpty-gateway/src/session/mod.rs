//! A terminal and its client: how a session is opened, relayed, handed over and ended,
//! and the one place that tells of it (`lifecycle.rs`).
//!
//! | file | subject |
//! | --- | --- |
//! | `byte_counts.rs` | what is noted of them, where somebody wants to know |
//! | `handover.rs` | the terminal itself is given to a client |
//! | `ids.rs` | the ids of sessions; which one is meant by what was typed |
//! | `lifecycle.rs` | the life of a session: who hears of its beginning and its end |
//! | `open.rs` | a client connects: its terminal and its program |
//! | `probes.rs` | ends that nothing tells of, and the end of the input |
//! | `relay.rs` | bytes between a client and its terminal |
//! | `requested_command.rs` | what sessions have asked to have run |
//! | `selector.rs` | the ids of sessions; which one is meant by what was typed |
//! | `state/` | one terminal and its client, as a state machine |
//! | `teardown.rs` | a session ends |
//! | `timeouts.rs` | what may take only so long, and be idle only for so long |
//! | `transitions.rs` | how a session begins, is left, found again, and ends |

pub(crate) mod byte_counts;
pub(crate) mod handover;
pub(crate) mod ids;
pub(crate) mod lifecycle;
pub(crate) mod open;
pub(crate) mod probes;
pub(crate) mod relay;
pub(crate) mod requested_command;
pub(crate) mod selector;
pub mod state;
pub(crate) mod teardown;
pub(crate) mod timeouts;
pub(crate) mod transitions;
