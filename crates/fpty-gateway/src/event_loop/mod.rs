//! The event loop: waits, hands each event to the part that it concerns, and handles what
//! the parts emit. The loop alone knows all parts.
//!
//! | file | subject |
//! | --- | --- |
//! | `gateway_loop.rs` | the gateway process: its parts, and the loop over events, timers and outcomes |
//! | `startup.rs` | the parts at the start, and sessions of the gateway before |
//! | `outcome.rs` | outcomes that parts emit, for the loop to handle |
//! | `context.rs` | what every part is given: poller, timers, buffers, audit, limits |
//! | `core.rs` | context, live sessions and processes together: what each transition takes |
//! | `slab.rs` | slabs with generation keys; tokens of the poller |
//! | `timers.rs` | timers, by the monotonic clock and by that which counts suspend |
//! | `deferred_queue.rs`, `deferred_input.rs` | input that exceeds the budget of a turn |
//! | `fault_domain.rs` | what a panic ends; references to sessions |
//! | `panic_recovery.rs` | recovery from a panic: the rule, and when the gateway gives up |
//! | `fault_injection.rs` | panics on demand, for tests |
//! | `tick_policy.rs` | the scheduler's tick is kept in quick exchanges |

pub(crate) mod context;
pub(crate) mod core;
pub(crate) mod deferred_input;
pub(crate) mod deferred_queue;
pub(crate) mod fault_domain;
pub(crate) mod fault_injection;
pub(crate) mod gateway_loop;
pub(crate) mod outcome;
pub(crate) mod panic_recovery;
pub(crate) mod slab;
pub(crate) mod startup;
pub(crate) mod tick_policy;
pub(crate) mod timers;
