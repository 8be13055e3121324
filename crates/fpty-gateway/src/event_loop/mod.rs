//! The loop: it waits, hands each event to the part that it concerns, and does what
//! comes of it. It alone knows all parts.
//!
//! | file | subject |
//! | --- | --- |
//! | `assemble.rs` | what there is when it begins |
//! | `context.rs` | what every part is given |
//! | `deferred.rs` | clients that ask for more than one turn has time for; they are heard |
//! | `deferred_input.rs` | clients that ask for more than one turn has time for; they are heard |
//! | `fault_injection.rs` | what a panic ends; panics on demand, for tests |
//! | `outcome.rs` | what parts have the loop do |
//! | `panic_recovery.rs` | what a panic ends; panics on demand, for tests |
//! | `run.rs` | the loop: waits, hands each event to whom it concerns, and does what comes of it |
//! | `slab.rs` | sessions by number, and what is due when |
//! | `subject.rs` | whom something is about |
//! | `tick_policy.rs` | programs that answer each other in quick succession |
//! | `timers.rs` | sessions by number, and what is due when |

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
