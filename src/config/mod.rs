//! Options as typed, and the validated configuration that comes of them.
//!
//! An option is checked when it is read: nonsense ends the start with a line
//! that names the option and the value, instead of a server that runs with
//! something else than what was asked for.

pub mod accept_env;
pub mod access;
pub mod audit;
pub mod detach;
pub mod options;
mod pairs;
pub mod pty;
pub mod record;
pub mod router;
pub mod rules;
mod value;

use std::ffi::CStr;

/// One option, as the server lists it.
pub struct OptionSpec<Key: 'static> {
    /// Its name, without dashes.
    pub name: &'static CStr,
    /// Whether it takes a value.
    pub takes_value: bool,
    /// One line for `uwsgi --help`.
    pub help: &'static CStr,
    /// What it sets; several names may set the same.
    pub key: Key,
}

/// An option that takes a value.
const fn with_value<Key>(name: &'static CStr, key: Key, help: &'static CStr) -> OptionSpec<Key> {
    OptionSpec { name, takes_value: true, help, key }
}

/// An option that is on when it is named.
const fn switch<Key>(name: &'static CStr, key: Key, help: &'static CStr) -> OptionSpec<Key> {
    OptionSpec { name, takes_value: false, help, key }
}
