//! Options as typed, and the validated configuration that comes of them.
//!
//! An option is checked when it is read: nonsense ends the start with a line
//! that names the option and the value, instead of a server that runs with
//! something else than what was asked for.
//!
//! | file | subject |
//! | --- | --- |
//! | `row.rs` | what a row of a table of options has |
//! | `options.rs` | the options of the router, and the keys of its sockets |
//! | `pty.rs` | those of the pty plugin, and its configuration |
//! | `value.rs` | a value as it was typed, and what it may be |
//! | `pairs.rs` | uWSGI's key-value form |
//! | `router.rs` | the router's configuration |
//! | `rules.rs` | what holds at a socket |
//! | `access.rs` | who may come in |
//! | `accept_env.rs` | which variables of a client's environment a session gets |
//! | `audit.rs`, `detach.rs`, `record.rs` | audit, sessions that can be left, recordings |

pub mod accept_env;
pub mod access;
pub mod audit;
pub mod detach;
pub mod gateway_config;
pub(crate) mod keyval;
pub mod option_table;
pub mod options;
pub mod recording;
pub mod rules;
pub(crate) mod value;
