//! Commands without a terminal: three streams, passed to the program where
//! they can be, and else relayed through pipes.
//!
//! | file | subject |
//! | --- | --- |
//! | `command_state.rs` | a command and its client, as a state machine |
//! | `commands.rs` | all commands, from the execution of a program to its end, also in lists |
//! | `start.rs` | a command is started |
//! | `stdio.rs` | the three streams: passed descriptors and pipes |

pub(crate) mod command_state;
pub(crate) mod commands;
pub(crate) mod start;
pub(crate) mod stdio;
