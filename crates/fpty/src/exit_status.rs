//! How a process ended, as the other end is told of it.

use crate::proto::{Ended, Ending};
use crate::sys::child::Exit;

/// A program's own end.
pub fn of_exit(exit: Exit) -> Ended {
    let (ending, value, text) = match exit {
        Exit::Status(status) => (Ending::Exit, status, ""),
        Exit::Signal { number, core: false } => (Ending::Signal, number, ""),
        Exit::Signal { number, core: true } => (Ending::Signal, number, "core dumped"),
    };
    // Of a status there are eight bits, and below 128 signals.
    Ended { ending, value: value as u8, text: text.to_owned() }
}
