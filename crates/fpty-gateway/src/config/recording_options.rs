//! Options of recordings (`forkptyrouter-record` and its kind).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::value::OptionValue;
use fpty::error::Result;

/// The format of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// asciicast, version 2.
    V2,
    /// asciicast, version 3.
    #[default]
    V3,
}

/// The policy for a session that cannot be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The session ends, or does not begin.
    Close,
    /// The session goes on.
    #[default]
    Continue,
}

/// The least limit of a file in bytes: header and trailer.
pub const MIN_LIMIT: u64 = 4096;

/// Options of recordings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordOptions {
    /// The folder; `None`: nothing is recorded.
    pub dir: Option<OsString>,
    /// The format of a recording.
    pub format: Format,
    /// Whether input is recorded, too.
    pub input: bool,
    /// The limit of a file in bytes.
    pub limit: Option<u64>,
    /// The policy for a session that cannot be recorded.
    pub on_error: OnError,
    /// Whether commands without a terminal, which are not recorded, are refused;
    /// `None`: what follows from [`RecordOptions::on_error`].
    pub refuse_commands: Option<bool>,
}

impl RecordOptions {
    /// Whether commands without a terminal are refused: nothing goes
    /// unrecorded where a session that cannot be recorded ends, unless that was
    /// said.
    pub fn refuses_commands(&self) -> bool {
        let follows = self.on_error == OnError::Close;
        self.dir.is_some() && self.refuse_commands.unwrap_or(follows)
    }

    /// Sets the folder of all sockets.
    ///
    /// # Errors
    /// The value cannot be a path.
    pub fn set_dir(&mut self, typed: &OptionValue<'_>) -> Result<()> {
        let folder = typed.bytes()?;
        if folder.as_bytes().contains(&b'\n') {
            return Err(typed.invalid_without_value("a line feed in a path"));
        }
        self.dir = Some(folder);
        Ok(())
    }

    /// Sets the folder of one socket: another one, or none (`off`).
    ///
    /// # Errors
    /// The value is neither a switch nor a path.
    pub fn set_at_socket(&mut self, typed: &OptionValue<'_>) -> Result<()> {
        match typed.boolean() {
            _ if typed.value.as_bytes().starts_with(b"/") => return self.set_dir(typed),
            Ok(true) => {}
            Ok(false) => self.dir = None,
            Err(_) => return Err(typed.invalid("neither yes nor no nor a full path")),
        }
        Ok(())
    }
}

/// Words for the formats.
pub(crate) const FORMATS: [(&str, Format); 2] = [("v2", Format::V2), ("v3", Format::V3)];

/// Words for the policy.
pub(crate) const ON_ERROR: [(&str, OnError); 2] =
    [("close", OnError::Close), ("continue", OnError::Continue)];

/// Words for commands.
pub(crate) const COMMANDS: [(&str, Option<bool>); 2] =
    [("skip", Some(false)), ("refuse", Some(true))];

/// Parses the limit of a file; 0: none.
///
/// # Errors
/// The value is no such number.
pub fn limit(typed: &OptionValue<'_>) -> Result<Option<u64>> {
    let read = |word: &str| match word.parse().ok()? {
        0 => Some(None),
        limit @ MIN_LIMIT.. => Some(Some(limit)),
        _ => None,
    };
    typed.parse((read, &format!("neither 0 nor a number of bytes from {MIN_LIMIT}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_what_it_can_have_and_names_what_not() {
        let typed = |value: &'static str| OptionValue::of_option("forkptyrouter-x", value.as_ref());
        let mut record = RecordOptions::default();
        record.set_dir(&typed("/var/r")).expect("a folder");
        assert_eq!(record.dir.as_deref(), Some("/var/r".as_ref()));
        assert_eq!(limit(&typed("5000000000")).ok(), Some(Some(5_000_000_000)));
        assert_eq!(limit(&typed("0")).ok(), Some(None));
        for error in [
            record.set_dir(&typed(" ")).err(),
            record.set_dir(&typed("/var/a\nb")).err(),
            record.set_at_socket(&typed("perhaps")).err(),
            limit(&typed("100")).err(),
            limit(&typed("1GB")).err(),
        ] {
            let error = error.expect("nonsense").to_string();
            assert!(error.contains("forkptyrouter-x"), "{error}");
        }
    }

    #[test]
    fn nothing_goes_unrecorded_where_that_is_asked_for() {
        let record = |on_error, refuse_commands| RecordOptions {
            dir: Some("/r".into()),
            on_error,
            refuse_commands,
            ..RecordOptions::default()
        };
        assert!(!record(OnError::Continue, None).refuses_commands());
        assert!(record(OnError::Close, None).refuses_commands());
        assert!(!record(OnError::Close, Some(false)).refuses_commands());
        assert!(record(OnError::Continue, Some(true)).refuses_commands());
        let off = RecordOptions { dir: None, ..record(OnError::Close, Some(true)) };
        assert!(!off.refuses_commands());
    }
}
