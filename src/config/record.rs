//! What is recorded of sessions, and where (`forkptyrouter-record` and its
//! kind).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::value;
use fpty::error::{Error, Result};

/// How a recording is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// asciicast, version 2.
    V2,
    /// asciicast, version 3.
    #[default]
    V3,
}

/// What becomes of a session that cannot be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It ends, or does not begin.
    Close,
    /// It goes on.
    #[default]
    Continue,
}

/// What becomes of commands without a terminal, which are not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands {
    /// They run all the same.
    Skip,
    /// There are none.
    Refuse,
}

/// A file has at least so much room: what stands at its beginning and its end.
pub const LEAST: u64 = 4096;

/// What is recorded of sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The folder; `None`: nothing is recorded.
    pub folder: Option<OsString>,
    /// How a recording is written.
    pub format: Format,
    /// Whether input is recorded, too.
    pub input: bool,
    /// How long a file may become, in bytes.
    pub limit: Option<u64>,
    /// What becomes of a session that cannot be recorded.
    pub on_error: OnError,
    /// What becomes of commands without a terminal; `None`: what follows from
    /// [`Record::on_error`].
    pub commands: Option<Commands>,
}

impl Record {
    /// Whether commands without a terminal are refused: nothing goes
    /// unrecorded where a session that cannot be recorded ends, unless that was
    /// said.
    pub fn refuses_commands(&self) -> bool {
        let refuses = match self.commands {
            Some(commands) => commands == Commands::Refuse,
            None => self.on_error == OnError::Close,
        };
        self.folder.is_some() && refuses
    }

    /// Takes what one socket has instead: another folder, or none (`off`).
    ///
    /// # Errors
    /// It is neither a switch nor the path of a folder.
    pub fn set_here(&mut self, what: &str, typed: &OsStr) -> Result<()> {
        match value::switch(what, typed) {
            _ if typed.as_bytes().starts_with(b"/") => self.folder = Some(folder(what, typed)?),
            Ok(true) => {}
            Ok(false) => self.folder = None,
            Err(_) => {
                let word = typed.to_string_lossy();
                let line = format!("option {what} = {word}: neither yes nor no nor a full path");
                return Err(Error::new(line));
            }
        }
        Ok(())
    }
}

/// Reads the path of a folder.
///
/// # Errors
/// It can be none; likewise those below.
pub fn folder(what: &str, typed: &OsStr) -> Result<OsString> {
    let folder = value::bytes(what, typed)?;
    match folder.as_bytes().contains(&b'\n') {
        true => Err(Error::new(format!("option {what}: a line feed in a path"))),
        false => Ok(folder),
    }
}

/// Reads one of two words.
fn either<T>(what: &str, typed: &OsStr, words: [(&str, T); 2]) -> Result<T> {
    let (word, names) = (typed.to_string_lossy(), [words[0].0, words[1].0]);
    let found = words.into_iter().find(|(name, _)| *name == word.trim());
    found.map(|(_, value)| value).ok_or_else(|| {
        let [one, other] = names;
        Error::new(format!("option {what} = {word}: neither {one} nor {other}"))
    })
}

/// Reads how a recording is written.
pub fn format(what: &str, typed: &OsStr) -> Result<Format> {
    either(what, typed, [("v2", Format::V2), ("v3", Format::V3)])
}

/// Reads how long a file may become; 0: as long as it likes.
pub fn limit(what: &str, typed: &OsStr) -> Result<Option<u64>> {
    let word = typed.to_string_lossy();
    match word.trim().parse() {
        Ok(0) => Ok(None),
        Ok(limit @ LEAST..) => Ok(Some(limit)),
        _ => Err(Error::new(format!(
            "option {what} = {word}: neither 0 nor a number of bytes from {LEAST}"
        ))),
    }
}

/// Reads what becomes of a session that cannot be recorded.
pub fn on_error(what: &str, typed: &OsStr) -> Result<OnError> {
    either(what, typed, [("close", OnError::Close), ("continue", OnError::Continue)])
}

/// Reads what becomes of commands without a terminal.
pub fn commands(what: &str, typed: &OsStr) -> Result<Commands> {
    either(what, typed, [("skip", Commands::Skip), ("refuse", Commands::Refuse)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_what_it_can_have_and_names_what_not() {
        let (of, typed) = ("forkptyrouter-x", OsStr::new);
        assert_eq!(folder(of, typed("/var/r")).ok().as_deref(), Some(typed("/var/r")));
        assert_eq!(format(of, typed(" v2 ")).ok(), Some(Format::V2));
        assert_eq!(limit(of, typed("5000000000")).ok(), Some(Some(5_000_000_000)));
        assert_eq!(limit(of, typed("0")).ok(), Some(None));
        assert_eq!(on_error(of, typed("close")).ok(), Some(OnError::Close));
        assert_eq!(commands(of, typed("skip")).ok(), Some(Commands::Skip));
        for error in [
            folder(of, typed(" ")).err(),
            folder(of, typed("/var/a\nb")).err(),
            format(of, typed("v4")).err(),
            limit(of, typed("100")).err(),
            limit(of, typed("1GB")).err(),
            on_error(of, typed("stop")).err(),
            commands(of, typed("record")).err(),
        ] {
            let error = error.expect("nonsense").to_string();
            assert!(error.contains("forkptyrouter-x"), "{error}");
        }
    }

    #[test]
    fn nothing_goes_unrecorded_where_that_is_asked_for() {
        let record = |on_error, commands| Record {
            folder: Some("/r".into()),
            on_error,
            commands,
            ..Record::default()
        };
        assert!(!record(OnError::Continue, None).refuses_commands());
        assert!(record(OnError::Close, None).refuses_commands());
        assert!(!record(OnError::Close, Some(Commands::Skip)).refuses_commands());
        assert!(record(OnError::Continue, Some(Commands::Refuse)).refuses_commands());
        let off = Record { folder: None, ..record(OnError::Close, Some(Commands::Refuse)) };
        assert!(!off.refuses_commands());
    }
}
