//! Processes: the programs of the sessions, the supervisor that outlives a gateway, and
//! what processes of the house share and say to each other.
//!
//! | file | subject |
//! | --- | --- |
//! | `hang_up.rs` | those that lose their client are hung up |
//! | `ipc.rs` | how processes of ours speak to each other |
//! | `kill_after_grace.rs` | who does not end by that is killed |
//! | `memory_layout.rs` | what gateways share; how much of it each part takes |
//! | `proof.rs` | by what a process of the house knows that another one is a gateway |
//! | `shared_memory.rs` | what gateways share; how much of it each part takes |
//! | `supervisor/` | what outlives a gateway, and who sees to it |
//! | `table.rs` | programs: which run, and how they ended |

pub(crate) mod hang_up;
pub(crate) mod ipc;
pub(crate) mod kill_after_grace;
pub mod memory_layout;
pub(crate) mod proof;
pub mod shared_memory;
pub mod supervisor;
pub(crate) mod table;
