//! Detachable sessions: detach, attach, steal, view, restore.
//!
//! A detachable session keeps its last output in a scrollback ring. While a client is attached it
//! is a live session like others. While it is detached it is here: its terminal is read on into the
//! ring, so that the program never blocks. Its descriptors are also with the supervisor, which
//! outlives the gateway, so that the next gateway restores the session.
//!
//! | file | subject |
//! | --- | --- |
//! | `attach_client.rs` | a client attaches: target, steal, offer of the terminal |
//! | `attach_state.rs` | attached, detached, exited: a state machine without descriptors |
//! | `detach_client.rs` | a client detaches or is lost: quota, END, what the session keeps |
//! | `detached_terminal.rs` | a terminal without a client; its program's end |
//! | `entry_view.rs` | what lists show of a detachable session |
//! | `registry_events.rs` | events of the registry's own epoll, and deadlines by one timer of the loop |
//! | `index.rs` | lookup by client, process, id, name and user |
//! | `registration.rs` | a new session becomes detachable |
//! | `registry.rs` | all detachable sessions |
//! | `detachable_session.rs` | one detachable session: identity, state, descriptors |
//! | `restore_sessions.rs` | sessions of an earlier gateway go on |
//! | `supervisor_sync.rs` | the state of each session is stored at the supervisor; handed-over sessions are, too |
//! | `viewers.rs` | viewers of a session, and clients that read the end of an exited one |
//!
//! The registry has an epoll of its own, which is one token of the loop's: a flood of output of a
//! hundred detached terminals costs the live sessions no more than one does.

pub(crate) mod attach_client;
pub(crate) mod attach_state;
pub(crate) mod detach_client;
pub(crate) mod detachable_session;
pub(crate) mod detached_terminal;
pub(crate) mod entry_view;
pub(crate) mod index;
pub(crate) mod registration;
pub(crate) mod registry;
pub(crate) mod registry_events;
pub mod restore_sessions;
pub(crate) mod supervisor_sync;
pub mod viewers;

pub use crate::detach::attach_client::attach;
pub use crate::detach::detach_client::{DETACH_NOT_ALLOWED, DetachCause};
pub use crate::detach::entry_view::EntryView;
pub use crate::detach::registry::{DetachRegistry, RETRY_DELAY};
