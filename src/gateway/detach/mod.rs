//! Sessions that can be left and found again.
//!
//! Such a session keeps its last output in a ring. While a client is attached
//! it is a session like others; without one it is here: its terminal is read
//! on into the ring, so that the program never waits. Its descriptors are also
//! with a process that outlives the gateway, so that the next one takes it up.
//!
//! | file | subject |
//! | --- | --- |
//! | `entry.rs` | one of them |
//! | `sessions.rs` | all of them, and whose |
//! | `state.rs` | attaching and leaving, as a state machine |
//! | `index.rs` | where they are |
//! | `due.rs` | when something is due |
//! | `events.rs` | what happens, and what is due |
//! | `begin.rs` | one begins |
//! | `leaving.rs` | a client leaves, or is lost |
//! | `coming.rs` | a client comes back, or has another one go |
//! | `alone.rs` | a terminal without a client; a program that has ended |
//! | `watcher.rs` | a client that only watches |
//! | `watch.rs` | clients that only watch, and those that see the last of an ended session |
//! | `adopt.rs` | sessions of a gateway that was here before us |
//! | `bound.rs` | sessions that end with their client, and outlive the gateway all the same |
//! | `supervised.rs` | what the supervisor is told of them |
//! | `list.rs` | what is told of them |
//!
//! What is waited for here has an epoll of its own, which the loop waits for as
//! for one thing: a flood of output of a hundred such terminals costs the others
//! no more than one does.

pub(crate) mod attach;
pub(crate) mod deadlines;
pub(crate) mod detach;
pub(crate) mod detached;
pub(crate) mod entry;
pub(crate) mod events;
pub(crate) mod index;
pub mod no_detach;
pub(crate) mod register;
pub(crate) mod registry;
pub mod restore;
pub(crate) mod session_view;
pub(crate) mod state;
pub(crate) mod supervised;
pub(crate) mod viewer;
pub mod viewers;

pub use super::detach::attach::{Came, comes_back};
pub use super::detach::detach::{NOT_ALLOWED, Parting, Why};
pub use super::detach::registry::{Left, SOON};
pub use super::detach::session_view::Listed;
