//! TODO ('R', 'gateway', 'event_loop')

pub(crate) mod assemble;
pub(crate) mod context;
pub(crate) mod deferred;
pub(crate) mod deferred_input;
pub(crate) mod fault_injection;
pub(crate) mod outcome;
pub(crate) mod panic_recovery;
pub(crate) mod run;
pub(crate) mod slab;
pub(crate) mod subject;
pub(crate) mod tick_policy;
pub(crate) mod timers;
