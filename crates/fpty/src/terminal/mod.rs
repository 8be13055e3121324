//! What a terminal makes of output: escape sequences, the modes that they set, and
//! the questions that a terminal answers.
//!
//! | file | subject |
//! | --- | --- |
//! | `escape_parser.rs` | escape sequences in pieces, the only parser of them |
//! | `modes.rs`, `modes/` | the modes, and what changes them |
//! | `query_filter.rs` | output less what a terminal answers |

pub mod escape_parser;
pub mod modes;
mod query_filter;

pub use crate::terminal::query_filter::Queries;
