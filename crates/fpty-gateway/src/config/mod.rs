//! Options as typed, and the validated configuration that comes of them.
//!
//! An option is checked when it is read: nonsense ends the start with a line that names the
//! option and the value, instead of a server that runs with something else.
//!
//! | file | subject |
//! | --- | --- |
//! | `options.rs` | the configuration, all options that set it, and the keys of its sockets |
//! | `option_table.rs` | a row of a table of options |
//! | `value.rs` | the value of an option: numbers, times, lists |
//! | `keyval_syntax.rs` | uWSGI's key-value form |
//! | `socket_options.rs` | sockets: options of each, kinds, the rules that come of them |
//! | `rules.rs` | the rules of a socket: command, identity, limits, timeouts |
//! | `access_rules.rs` | allow and deny lists of users, groups, addresses |
//! | `accept_env.rs` | variables that clients may set, as sshd's AcceptEnv |
//! | `audit_format.rs` | the format of audit lines |
//! | `detach_options.rs` | how sessions go on without a client |
//! | `recording_options.rs` | what is recorded, and where |

pub mod accept_env;
pub mod access_rules;
pub mod audit_format;
pub mod detach_options;
pub(crate) mod keyval_syntax;
pub mod option_table;
pub mod options;
pub mod recording_options;
pub mod rules;
pub mod socket_options;
pub mod value;
