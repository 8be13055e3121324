//! The one table type of options. A row has all that there is to an option: its names,
//! its line in `uwsgi --help`, the key that stands for it at a socket with rules of
//! its own, and how its value is read.

use std::ffi::{CStr, OsStr};

use super::value::OptionValue;
use fpty::error::Result;

/// An option, a key, or both.
#[derive(Debug)]
pub struct OptionRow<C: 'static> {
    /// What is told of it.
    pub spec: OptionSpec,
    /// Reads its value, and puts it where it belongs; the error is the line for the
    /// operator.
    pub apply: Apply<C>,
}

/// See [`OptionRow::apply`].
pub type Apply<C> = fn(&mut C, &OptionValue<'_>) -> Result<()>;

/// What is told of an option.
#[derive(Debug)]
pub struct OptionSpec {
    /// Its names, without dashes; none: a key alone.
    pub names: &'static [&'static CStr],
    /// One line for `uwsgi --help`.
    pub help: &'static CStr,
    /// Whether it takes a value, or is on when it is named.
    pub takes_value: bool,
    /// What naming it implies.
    pub implies: Implies,
    /// By what it stands among the rules of a socket (`addr=...,max=20`).
    pub key: Option<&'static str>,
    /// At which sockets that means something.
    pub applies_to: AppliesTo,
}

/// What naming an option implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implies {
    /// Nothing.
    Nothing,
    /// A master process: without one the server forks the gateway and exits.
    Master,
    /// A quiet start: the terminal is for somebody's output.
    Quiet,
}

/// At which sockets a key means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppliesTo {
    /// At any.
    Any,
    /// At those that are bound to a path, here.
    Path,
    /// Where the kernel knows users.
    Unix,
    /// Where there are addresses.
    Tcp,
}

/// One that takes a value.
pub const fn option(names: &'static [&'static CStr]) -> OptionSpec {
    let (takes_value, implies, key, applies_to) = (true, Implies::Nothing, None, AppliesTo::Any);
    OptionSpec { names, help: c"", takes_value, implies, key, applies_to }
}

/// One that is on when it is named.
pub const fn switch(names: &'static [&'static CStr]) -> OptionSpec {
    OptionSpec { takes_value: false, ..option(names) }
}

/// What means something at one socket alone, or something else than the option of
/// that name.
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

    /// At which sockets the key means something.
    pub const fn applies_to(self, applies_to: AppliesTo) -> Self {
        Self { applies_to, ..self }
    }

    /// What naming the option implies for the server.
    pub const fn implies(self, implies: Implies) -> Self {
        Self { implies, ..self }
    }

    /// What is done with a value.
    pub const fn parse_with<C>(self, apply: Apply<C>) -> OptionRow<C> {
        OptionRow { spec: self, apply }
    }
}

/// How many names there are in a table.
pub const fn name_count<C>(table: &[OptionRow<C>]) -> usize {
    let (mut row, mut count) = (0, 0);
    while row < table.len() {
        count += table[row].spec.names.len();
        row += 1;
    }
    count
}

/// Takes an option as typed.
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

/// Takes a value that was read.
pub fn assign<T>(place: &mut T, value: Result<T>) -> Result<()> {
    *place = value?;
    Ok(())
}

/// Checks a table, for a test: of each name and each key there is one, and each option
/// has its line in the help.
///
/// # Panics
/// That is not so.
pub fn check<C>(table: &[OptionRow<C>]) {
    let specs = || table.iter().map(|row| &row.spec);
    let all_names: Vec<&CStr> = specs().flat_map(|spec| spec.names).copied().collect();
    let keys: Vec<&str> = specs().filter_map(|spec| spec.key).collect();
    let mut all = all_names.iter().map(|name| name.to_bytes()).collect::<Vec<_>>();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), name_count(table)), (all_names.len(), all_names.len()));
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "{key}");
    }
    for spec in specs() {
        assert_eq!(spec.names.is_empty(), spec.help.is_empty(), "{spec:?}");
        assert!(spec.key.is_some() || !spec.names.is_empty(), "{spec:?}");
    }
}
