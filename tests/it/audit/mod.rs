//! The audit: one start and one end line for each session.
//!
//! | file | subject |
//! | --- | --- |
//! | `lines.rs` | the fields of each line |
//! | `commands.rs` | lines of commands |
//! | `detached.rs` | lines of detached sessions |
//! | `lost_gateway.rs` | lines of sessions of killed gateways; lost lines |
//! | `routes.rs` | lines in a log of their own |

pub mod commands;
pub mod detached;
pub mod lines;
pub mod lost_gateway;
pub mod routes;
