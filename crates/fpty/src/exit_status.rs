//! The exit statuses that the client has of its own, and a process's exit status as the end
//! of a session (packet 110).

use crate::proto::{EndKind, SessionEnd};
use crate::sys::child::Exit;

pub use crate::proto::session_end::{EXIT_LOST, EXIT_NO_SESSION};

/// The end of a session whose program exited.
pub fn session_end(exit: Exit) -> SessionEnd {
    let (ending, value, text) = match exit {
        Exit::Status(status) => (EndKind::Exit, status, ""),
        Exit::Signal { number, core: false } => (EndKind::Signal, number, ""),
        Exit::Signal { number, core: true } => (EndKind::Signal, number, "core dumped"),
    };
    // Of a status there are eight bits, and below 128 signals.
    SessionEnd { ending, value: value as u8, text: text.to_owned() }
}
