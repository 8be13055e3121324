//! How a process ended, as the other end is told of it.

use crate::proto::{EndKind, SessionEnd};
use crate::sys::child::Exit;

/// A program's own end.
pub fn session_end(exit: Exit) -> SessionEnd {
    let (ending, value, text) = match exit {
        Exit::Status(status) => (EndKind::Exit, status, ""),
        Exit::Signal { number, core: false } => (EndKind::Signal, number, ""),
        Exit::Signal { number, core: true } => (EndKind::Signal, number, "core dumped"),
    };
    // Of a status there are eight bits, and below 128 signals.
    SessionEnd { ending, value: value as u8, text: text.to_owned() }
}
