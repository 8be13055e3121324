//! Sessions that are detached and attached again.
//!
//! | file | subject |
//! | --- | --- |
//! | `attach.rs` | attach, steal, view, refuse: the protocol |
//! | `races.rs` | attaches and ends in rare orders |
//! | `killed_gateway.rs` | detached sessions over killed gateways and reloads |
//! | `restored_identity.rs` | what a restored session counts for, and where it belongs |
//! | `person.rs` | a person who detaches and attaches |
//! | `several_gateways.rs` | sessions that are found from every gateway |
//! | `reconnect.rs` | clients that reconnect when their connection breaks |
//! | `endings.rs` | attached, detached, stolen and viewed sessions with every kind of end |
//! | `endings_by_crash.rs` | the same, with processes killed, and reloads |

pub mod attach;
pub mod endings;
pub mod endings_by_crash;
pub mod killed_gateway;
pub mod person;
pub mod races;
pub mod reconnect;
pub mod restored_identity;
pub mod several_gateways;
