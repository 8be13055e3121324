//! What waits between two ends, one of which is slower; what of it is shown
//! again; and what it makes of a terminal.

mod backlog;
pub mod modes;
mod queries;
pub mod trail;

pub use backlog::{Backlog, Given, is_free};
pub use queries::Queries;
