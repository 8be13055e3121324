//! Options as typed, and the validated configuration that comes of them.
//!
//! An option is checked when it is read: nonsense ends the start with a line
//! that names the option and the value, instead of a server that runs with
//! something else than what was asked for.
//!
//! | file | subject |
//! | --- | --- |
//! | `accept_env.rs` | which variables of a client's environment a session gets |
//! | `access.rs` | who may come in |
//! | `audit.rs` | audit, sessions that can be left, recordings |
//! | `detach.rs` | audit, sessions that can be left, recordings |
//! | `gateway_config.rs` | the router's configuration |
//! | `keyval.rs` | uWSGI's key-value form |
//! | `option_table.rs` | what a row of a table of options has |
//! | `options.rs` | the options of the router, and the keys of its sockets |
//! | `recording.rs` | audit, sessions that can be left, recordings |
//! | `rules.rs` | what holds at a socket |
//! | `value.rs` | a value as it was typed, and what it may be |

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
pub mod value;
