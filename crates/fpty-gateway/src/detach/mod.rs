//! Sessions that can be left and found again.
//!
//! Such a session keeps its last output in a ring. While a client is attached
//! it is a session like others; without one it is here: its terminal is read
//! on into the ring, so that the program never waits. Its descriptors are also
//! with a process that outlives the gateway, so that the next one takes it up.
//!
//! | file | subject |
//! | --- | --- |
//! | `attach_client.rs` | a client comes back to a session, or has the one go that is attached |
//! | `deadlines.rs` | when something is due |
//! | `detach_client.rs` | a client leaves a session, or is lost |
//! | `detached.rs` | a terminal without a client; a program that has ended |
//! | `entry.rs` | one of them |
//! | `events.rs` | what happens, and what is due |
//! | `index.rs` | where they are |
//! | `no_detach.rs` | sessions that end with their client, and outlive the gateway all the same |
//! | `register.rs` | one begins |
//! | `registry.rs` | all of them, and whose |
//! | `restore.rs` | sessions of a gateway that was here before us |
//! | `session_view.rs` | what is told of them |
//! | `state.rs` | attaching and leaving, as a state machine |
//! | `supervised.rs` | what the supervisor is told of them |
//! | `viewer.rs` | a client that only watches |
//! | `viewers.rs` | clients that only watch, and those that see the last of an ended session |
//!
//! What is waited for here has an epoll of its own, which the loop waits for as
//! for one thing: a flood of output of a hundred such terminals costs the others
//! no more than one does.

pub(crate) mod attach_client;
pub(crate) mod attach_state;
pub(crate) mod deadlines;
pub(crate) mod detach_client;
pub(crate) mod detached;
pub(crate) mod entry_view;
pub(crate) mod events;
pub(crate) mod index;
pub mod no_detach;
pub(crate) mod register;
pub(crate) mod registry;
pub(crate) mod registry_entry;
pub mod restore;
pub(crate) mod supervisor_sync;
pub(crate) mod viewer;
pub mod viewers;

pub use crate::detach::attach_client::{AttachResult, attach};
pub use crate::detach::detach_client::{DETACH_NOT_ALLOWED, DetachCause, DetachPlan};
pub use crate::detach::entry_view::EntryView;
pub use crate::detach::registry::{DetachRegistry, RETRY_DELAY};
