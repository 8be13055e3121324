//! Commands of a client, with a terminal and without.
//!
//! | file | subject |
//! | --- | --- |
//! | `exec.rs` | status, arguments, streams and signals of a command |
//! | `wire.rs` | commands by the protocol reference, and hostile requests |
//! | `stdio.rs` | standard streams that are passed or relayed |
//! | `ssh.rs` | commands, files and sessions behind sshd |

pub mod exec;
pub mod ssh;
pub mod stdio;
pub mod wire;
