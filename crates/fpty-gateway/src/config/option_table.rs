//! The one table type of options. A row has all that there is to an option: its names,
//! its line in `uwsgi --help`, the key that stands for it at a socket with rules of
//! its own, and how its value is read.

use std::ffi::{CStr, OsStr};

use super::value::Typed;
use fpty::error::Result;

/// An option, a key, or both.
#[derive(Debug)]
pub struct Row<C: 'static> {
    /// What is told of it.
    pub spec: Spec,
    /// Reads its value, and puts it where it belongs; the error is the line for the
    /// operator.
    pub take: Take<C>,
}

/// See [`Row::take`].
pub type Take<C> = fn(&mut C, &Typed<'_>) -> Result<()>;

/// What is told of an option.
#[derive(Debug)]
pub struct Spec {
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
    pub at: At,
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
pub enum At {
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
pub const fn option(names: &'static [&'static CStr]) -> Spec {
    let (takes_value, implies, key, at) = (true, Implies::Nothing, None, At::Any);
    Spec { names, help: c"", takes_value, implies, key, at }
}

/// One that is on when it is named.
pub const fn switch(names: &'static [&'static CStr]) -> Spec {
    Spec { takes_value: false, ..option(names) }
}

/// What means something at one socket alone, or something else than the option of
/// that name.
pub const fn key(key: &'static str) -> Spec {
    option(&[]).key(key)
}

impl Spec {
    /// The line of `uwsgi --help`.
    pub const fn help(self, help: &'static CStr) -> Self {
        Self { help, ..self }
    }

    /// The key that stands for the option at a socket with rules of its own.
    pub const fn key(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    /// At which sockets the key means something.
    pub const fn at(self, at: At) -> Self {
        Self { at, ..self }
    }

    /// What naming the option implies for the server.
    pub const fn implies(self, implies: Implies) -> Self {
        Self { implies, ..self }
    }

    /// What is done with a value.
    pub const fn takes<C>(self, take: Take<C>) -> Row<C> {
        Row { spec: self, take }
    }
}

/// How many names there are in a table.
pub const fn names<C>(table: &[Row<C>]) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < table.len() {
        count += table[at].spec.names.len();
        at += 1;
    }
    count
}

/// Takes an option as typed.
///
/// # Errors
/// A value that the option cannot have: the line for the operator.
pub fn set<C>(table: &[Row<C>], config: &mut C, name: &str, value: &OsStr) -> Result<()> {
    let is_it = |known: &&CStr| known.to_bytes() == name.as_bytes();
    let row = table.iter().find(|row| row.spec.names.iter().any(is_it));
    let typed = Typed::of_option(name, value);
    let row = row.ok_or_else(|| typed.unusable("there is none of that name"))?;
    (row.take)(config, &typed)
}

/// Takes a value that was read.
pub fn put<T>(place: &mut T, value: Result<T>) -> Result<()> {
    *place = value?;
    Ok(())
}

/// Checks a table, for a test: of each name and each key there is one, and each option
/// has its line in the help.
///
/// # Panics
/// That is not so.
pub fn check<C>(table: &[Row<C>]) {
    let specs = || table.iter().map(|row| &row.spec);
    let all_names: Vec<&CStr> = specs().flat_map(|spec| spec.names).copied().collect();
    let keys: Vec<&str> = specs().filter_map(|spec| spec.key).collect();
    let mut all = all_names.iter().map(|name| name.to_bytes()).collect::<Vec<_>>();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), names(table)), (all_names.len(), all_names.len()));
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key), "{key}");
    }
    for spec in specs() {
        assert_eq!(spec.names.is_empty(), spec.help.is_empty(), "{spec:?}");
        assert!(spec.key.is_some() || !spec.names.is_empty(), "{spec:?}");
    }
}
