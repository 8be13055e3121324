//! The one error type: what failed, on what, and why.

use std::fmt;
use std::io;

/// An error: what failed, on what, and why, for a person to act on.
#[derive(Debug)]
pub struct Error {
    what: String,
    source: Option<io::Error>,
}

/// A result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with no system call behind it.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// The errno behind the error, 0 where there is none.
    pub fn errno(&self) -> i32 {
        self.source.as_ref().and_then(io::Error::raw_os_error).unwrap_or(0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            None => f.write_str(&self.what),
            Some(source) => write!(f, "{}: {}", self.what, reason(source)),
        }
    }
}

impl std::error::Error for Error {}

/// Text of a system error, without its number.
pub fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), errno_text)
}

/// The text of an errno, as strerror(3) has it.
pub fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    // std adds the number.
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Adds what was being done, and on what, to an error of the system.
pub trait Context<T> {
    /// `what` reads like "cannot open a terminal".
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error { what: what.into(), source: Some(error.into()) })
    }
}
