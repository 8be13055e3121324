//! References to sessions, whatever state they are in.

use crate::event_loop::slab::Key;

/// A reference to a session, for audit and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionRef {
    /// A session with a terminal and an attached client.
    Session(Key),
    /// A detached session, by its entry in the registry.
    Detached(Key),
    /// A command without a terminal.
    Command(Key),
}
