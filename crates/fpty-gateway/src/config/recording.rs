//! What is recorded of sessions, and where (`forkptyrouter-record` and its
//! kind).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::value::Typed;
use fpty::error::Result;

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
    /// Whether commands without a terminal, which are not recorded, are refused;
    /// `None`: what follows from [`Record::on_error`].
    pub refuse_commands: Option<bool>,
}

impl Record {
    /// Whether commands without a terminal are refused: nothing goes
    /// unrecorded where a session that cannot be recorded ends, unless that was
    /// said.
    pub fn refuses_commands(&self) -> bool {
        let follows = self.on_error == OnError::Close;
        self.folder.is_some() && self.refuse_commands.unwrap_or(follows)
    }

    /// Takes the folder of all sockets.
    ///
    /// # Errors
    /// It cannot be the path of one.
    pub fn set_folder(&mut self, typed: &Typed<'_>) -> Result<()> {
        let folder = typed.bytes()?;
        if folder.as_bytes().contains(&b'\n') {
            return Err(typed.unusable("a line feed in a path"));
        }
        self.folder = Some(folder);
        Ok(())
    }

    /// Takes what one socket has instead: another folder, or none (`off`).
    ///
    /// # Errors
    /// It is neither a switch nor the path of a folder.
    pub fn set_here(&mut self, typed: &Typed<'_>) -> Result<()> {
        match typed.switch() {
            _ if typed.value.as_bytes().starts_with(b"/") => return self.set_folder(typed),
            Ok(true) => {}
            Ok(false) => self.folder = None,
            Err(_) => return Err(typed.wrong("neither yes nor no nor a full path")),
        }
        Ok(())
    }
}

/// How a recording may be written.
pub(crate) const FORMATS: [(&str, Format); 2] = [("v2", Format::V2), ("v3", Format::V3)];

/// What may become of a session that cannot be recorded.
pub(crate) const ON_ERROR: [(&str, OnError); 2] =
    [("close", OnError::Close), ("continue", OnError::Continue)];

/// What may become of commands.
pub(crate) const COMMANDS: [(&str, Option<bool>); 2] =
    [("skip", Some(false)), ("refuse", Some(true))];

/// Reads how long a file may become; 0: as long as it likes.
///
/// # Errors
/// It is no such number.
pub fn limit(typed: &Typed<'_>) -> Result<Option<u64>> {
    let read = |word: &str| match word.parse().ok()? {
        0 => Some(None),
        limit @ LEAST.. => Some(Some(limit)),
        _ => None,
    };
    typed.read(read, &format!("neither 0 nor a number of bytes from {LEAST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_what_it_can_have_and_names_what_not() {
        let typed = |value: &'static str| Typed::of_option("forkptyrouter-x", value.as_ref());
        let mut record = Record::default();
        record.set_folder(&typed("/var/r")).expect("a folder");
        assert_eq!(record.folder.as_deref(), Some("/var/r".as_ref()));
        assert_eq!(limit(&typed("5000000000")).ok(), Some(Some(5_000_000_000)));
        assert_eq!(limit(&typed("0")).ok(), Some(None));
        for error in [
            record.set_folder(&typed(" ")).err(),
            record.set_folder(&typed("/var/a\nb")).err(),
            record.set_here(&typed("perhaps")).err(),
            limit(&typed("100")).err(),
            limit(&typed("1GB")).err(),
        ] {
            let error = error.expect("nonsense").to_string();
            assert!(error.contains("forkptyrouter-x"), "{error}");
        }
    }

    #[test]
    fn nothing_goes_unrecorded_where_that_is_asked_for() {
        let record = |on_error, refuse_commands| Record {
            folder: Some("/r".into()),
            on_error,
            refuse_commands,
            ..Record::default()
        };
        assert!(!record(OnError::Continue, None).refuses_commands());
        assert!(record(OnError::Close, None).refuses_commands());
        assert!(!record(OnError::Close, Some(false)).refuses_commands());
        assert!(record(OnError::Continue, Some(true)).refuses_commands());
        let off = Record { folder: None, ..record(OnError::Close, Some(true)) };
        assert!(!off.refuses_commands());
    }
}
