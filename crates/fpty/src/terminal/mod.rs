//! A terminal's output: escape sequences, the modes that they set, and the queries that
//! a terminal answers.
//!
//! | file | subject |
//! | --- | --- |
//! | `escape_parser.rs` | the state machine of escape sequences (ECMA-48) |
//! | `modes.rs` | modes of a terminal, followed through its output |
//! | `modes/encoding.rs` | modes as bytes of a fixed number, for the scrollback's checkpoints |
//! | `modes/parser.rs` | sequences in output that change modes |
//! | `modes/rendition.rs` | graphic rendition (SGR): attributes and colours |
//! | `modes/set_and_reset.rs` | escape sequences that set modes in a terminal, or reset them |
//! | `query_filter.rs` | output without the queries that a terminal answers |

pub(crate) mod escape_parser;
pub mod modes;
mod query_filter;

pub use crate::terminal::query_filter::QueryFilter;
