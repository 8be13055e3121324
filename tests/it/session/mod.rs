//! A session: its program, its bytes, its end.
//!
//! | file | subject |
//! | --- | --- |
//! | `program.rs` | what a program finds: descriptors, signals, terminal |
//! | `environment.rs` | environment variables of clients and accounts |
//! | `isolation.rs` | what a program cannot reach of the gateway |
//! | `keys.rs` | keys that are signals, as packets |
//! | `relay.rs` | all bytes, in order, to the end |
//! | `backpressure.rs` | ends that do not read |
//! | `load.rs` | many sessions at once and in a row |
//! | `slow_start.rs` | programs that take long to execute |
//! | `hang_up.rs` | clients that close, programs that ignore SIGHUP, the idle timeout |
//! | `time_limits.rs` | time limits, by which clock and when they are told |
//! | `handover.rs` | terminals that are handed over to the client |
//! | `handover_end.rs` | the end of a handed over session |
//! | `handover_hostile_client.rs` | clients that make an offered terminal blocking |
//! | `endings.rs` | every kind of session with every kind of end |
//! | `endings_by_crash.rs` | the same, with processes killed or stopped |
//! | `untrusted_text.rs` | text of clients in terminals, logs and lists |

pub mod backpressure;
pub mod endings;
pub mod endings_by_crash;
pub mod environment;
pub mod handover;
pub mod handover_end;
pub mod handover_hostile_client;
pub mod hang_up;
pub mod isolation;
pub mod keys;
pub mod load;
pub mod program;
pub mod relay;
pub mod slow_start;
pub mod time_limits;
pub mod untrusted_text;
