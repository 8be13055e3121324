//! Rules of sockets, and what a configuration may not say.
//!
//! | file | subject |
//! | --- | --- |
//! | `socket_rules.rs` | who may come in, how many, how long, as whom |
//! | `user_rules.rs` | users and groups by number, and limits for each |
//! | `useless_rules.rs` | rules that would protect nothing |

pub mod socket_rules;
pub mod useless_rules;
pub mod user_rules;
