//! Processes: the programs of sessions, the supervisor, and what processes of the daemon
//! share.
//!
//! | file | subject |
//! | --- | --- |
//! | `process_table.rs` | the table of programs: start, reap |
//! | `hang_up.rs` | programs whose client has left are hung up (SIGHUP) |
//! | `grace_killer.rs` | programs that outlive the grace are killed (SIGKILL) |
//! | `supervisor/` | the supervisor, an fd store that outlives a gateway |
//! | `shared_memory.rs` | memory that the master shares with its gateways |
//! | `memory_layout.rs` | the size of each region in there |
//! | `ipc.rs` | JSON messages between processes of the daemon |
//! | `gateway_token.rs` | the token by which a process proves that it is a gateway |

pub(crate) mod gateway_token;
pub(crate) mod grace_killer;
pub(crate) mod hang_up;
pub(crate) mod ipc;
pub mod memory_layout;
pub(crate) mod process_table;
pub mod shared_memory;
pub mod supervisor;
