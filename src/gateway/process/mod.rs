//! TODO ('R', 'gateway', 'process')

pub(crate) mod hang_up;
pub(crate) mod ipc;
pub(crate) mod kill_after_grace;
pub mod memory_layout;
pub mod shared_memory;
pub mod supervisor;
pub(crate) mod table;
