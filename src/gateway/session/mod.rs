//! TODO ('R', 'gateway', 'session')

pub(crate) mod byte_counts;
pub(crate) mod handover;
pub(crate) mod ids;
pub(crate) mod lifecycle;
pub(crate) mod open;
pub(crate) mod probes;
pub(crate) mod relay;
pub(crate) mod requested_command;
pub(crate) mod selector;
pub mod state;
pub(crate) mod teardown;
pub(crate) mod timeouts;
pub(crate) mod transitions;
