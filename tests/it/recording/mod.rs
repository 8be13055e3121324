//! Recordings of sessions.
//!
//! | file | subject |
//! | --- | --- |
//! | `file.rs` | what is in a recording, whose it is, where it is |
//! | `errors.rs` | recorders that are killed or stopped, full disks, limits |
//! | `detached.rs` | recordings of detached sessions |
//! | `detached_errors.rs` | the same, with killed gateways and recorders |
//! | `recorder_crash.rs` | what a killed recorder had not written |

pub mod detached;
pub mod detached_errors;
pub mod errors;
pub mod file;
pub mod recorder_crash;
