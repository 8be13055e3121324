//! The one type of table of options. A row has all that there is to an option: its names, its
//! line in `uwsgi --help`, the key that stands for it at a socket, and how its value is
//! parsed.

use std::ffi::{CStr, OsStr};

use super::value::OptionValue;
use fpty::error::Result;

/// A row: an option, a key of a socket, or both.
#[derive(Debug)]
pub struct OptionRow<C: 'static> {
    /// The specification.
    pub spec: OptionSpec,
    /// Parses the option's value, and assigns it; the error is the line for the operator.
    pub apply: Apply<C>,
}

/// See [`OptionRow::apply`].
pub type Apply<C> = fn(&mut C, &OptionValue<'_>) -> Result<()>;

/// The specification of an option.
#[derive(Debug)]
pub struct OptionSpec {
    /// The option's names, without dashes; none: a key alone.
    pub names: &'static [&'static CStr],
    /// One line for `uwsgi --help`.
    pub help: &'static CStr,
    /// Whether the option takes a value, or is on when it is named.
    pub takes_value: bool,
    /// The effect of the option on the server.
    pub implies: Implies,
    /// The key among the options of a socket (`addr=...,max=20`).
    pub key: Option<&'static str>,
    /// The sockets at which the key means something.
    pub applies_to: AppliesTo,
}

/// Effect of an option on the server's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implies {
    /// Nothing.
    Nothing,
    /// A master process: without one the server forks the gateway and exits.
    Master,
    /// A quiet start: the terminal is for somebody's output.
    Quiet,
}

/// The sockets at which a key means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppliesTo {
    /// Any socket.
    Any,
    /// UNIX sockets that the server binds to a path.
    Path,
    /// UNIX sockets: the kernel knows users.
    Unix,
    /// TCP sockets: there are addresses.
    Tcp,
}

/// An option with a value.
pub const fn option(names: &'static [&'static CStr]) -> OptionSpec {
    let (takes_value, implies, key, applies_to) = (true, Implies::Nothing, None, AppliesTo::Any);
    OptionSpec { names, help: c"", takes_value, implies, key, applies_to }
}

/// A switch.
pub const fn switch(names: &'static [&'static CStr]) -> OptionSpec {
    OptionSpec { takes_value: false, ..option(names) }
}

/// A key without an option of that meaning.
pub const fn key(key: &'static str) -> OptionSpec {
    option(&[]).key(key)
}

impl OptionSpec {
    /// The line of `uwsgi --help`.
    pub const fn help(self, help: &'static CStr) -> Self {
        Self { help, ..self }
    }

    /// The key that stands for the option at a socket with rules of its own.
    pub const fn key(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Sets the sockets at which the key has a meaning.
    pub const fn applies_to(self, applies_to: AppliesTo) -> Self {
        Self { applies_to, ..self }
    }

    /// Sets the effect of the option on the server.
    pub const fn implies(self, implies: Implies) -> Self {
        Self { implies, ..self }
    }

    /// Sets the function that applies a value.
    pub const fn parse_with<C>(self, apply: Apply<C>) -> OptionRow<C> {
        OptionRow { spec: self, apply }
    }
}

/// The number of names in a table.
pub const fn name_count<C>(table: &[OptionRow<C>]) -> usize {
    let (mut row, mut count) = (0, 0);
    while row < table.len() {
        count += table[row].spec.names.len();
        row += 1;
    }
    count
}

/// Applies an option as typed.
///
/// # Errors
/// A value that the option cannot have: the line for the operator.
pub fn apply_option<C>(
    table: &[OptionRow<C>],
    config: &mut C,
    name: &str,
    value: &OsStr,
) -> Result<()> {
    let is_it = |known: &&CStr| known.to_bytes() == name.as_bytes();
    let row = table.iter().find(|row| row.spec.names.iter().any(is_it));
    let typed = OptionValue::of_option(name, value);
    let row = row.ok_or_else(|| typed.invalid_without_value("there is none of that name"))?;
    (row.apply)(config, &typed)
}

/// Assigns a parsed value.
///
/// # Errors
/// The value is invalid: the error that was passed.
pub fn assign<T>(place: &mut T, value: Result<T>) -> Result<()> {
    *place = value?;
    Ok(())
}
