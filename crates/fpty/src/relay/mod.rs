//! What waits between two ends, one of which is slower.

mod backlog;

pub use backlog::{Backlog, is_free};
