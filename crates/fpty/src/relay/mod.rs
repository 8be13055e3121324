//! What waits between two ends, one of which is slower, and what of it is shown
//! again.

mod backlog;
mod queries;

pub use backlog::{Backlog, is_free};
pub use queries::Queries;
