//! The list of sessions, and the end of one of them.
//!
//! | file | subject |
//! | --- | --- |
//! | `list_and_kill.rs` | `--list` and `--kill`, for whom |
//! | `consistency.rs` | the list and the statistics say the same |
//! | `reported_facts.rs` | names, ends and messages are true |

pub mod consistency;
pub mod list_and_kill;
pub mod reported_facts;
