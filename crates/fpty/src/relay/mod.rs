//! What waits between two ends, one of which is slower; what of it is shown
//! again; and what it makes of a terminal.
//!
//! | file | subject |
//! | --- | --- |
//! | `backlog.rs` | bytes that their receiver has not yet taken |
//! | `escapes.rs` | escape sequences in pieces, the only parser of them |
//! | `modes.rs`, `modes/` | the modes that a program has set in its terminal |
//! | `queries.rs` | output less what a terminal answers |
//! | `trail.rs` | the modes and sizes at places in output that is kept |

mod backlog;
pub mod escapes;
pub mod modes;
mod queries;
pub mod trail;

pub use crate::relay::backlog::{Backlog, Given, is_free};
pub use crate::relay::queries::Queries;
