//! Processes: the supervisor, what a killed process leaves, and what runs out.
//!
//! | file | subject |
//! | --- | --- |
//! | `supervisor.rs` | the supervisor is killed or hangs |
//! | `leftovers.rs` | nobody outlives gateway, server or client |
//! | `pid_namespaces.rs` | the same where /proc tells little |
//! | `pid_reuse.rs` | a reused process number is not signalled |
//! | `refused_syscalls.rs` | system calls that the kernel refuses |
//! | `panics.rs` | a panic ends what it was about, and nothing else |
//! | `resources.rs` | zombies, descriptors, processor time |
//! | `exhaustion.rs` | no descriptors, no terminals, no memory |

pub mod exhaustion;
pub mod leftovers;
pub mod panics;
pub mod pid_namespaces;
pub mod pid_reuse;
pub mod refused_syscalls;
pub mod resources;
pub mod supervisor;
