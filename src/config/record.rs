//! What is recorded of sessions, and where (`forkptyrouter-record` and its
//! kind).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::value;
use fpty::error::{Error, Result};

/// One of the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The folder.
    Folder,
    /// How a recording is written.
    Format,
    /// Whether input is recorded.
    Input,
    /// How long a file may become.
    Limit,
    /// What becomes of a session that cannot be recorded.
    OnError,
    /// What becomes of commands without a terminal, which are not recorded.
    Commands,
}

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
            _ if typed.as_bytes().starts_with(b"/") => self.set(Part::Folder, what, typed)?,
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

    /// Takes one option as typed.
    ///
    /// # Errors
    /// A value that it cannot have.
    pub fn set(&mut self, part: Part, option: &str, typed: &OsStr) -> Result<()> {
        let word = typed.to_string_lossy();
        let neither = |one: &str, other: &str| {
            Err(Error::new(format!("option {option} = {word}: neither {one} nor {other}")))
        };
        match part {
            Part::Folder => {
                let folder = value::bytes(option, typed)?;
                if folder.as_bytes().contains(&b'\n') {
                    return Err(Error::new(format!("option {option}: a line feed in a path")));
                }
                self.folder = Some(folder);
            }
            Part::Format => match word.trim() {
                "v2" => self.format = Format::V2,
                "v3" => self.format = Format::V3,
                _ => return neither("v2", "v3"),
            },
            Part::Input => self.input = value::switch(option, typed)?,
            Part::Limit => match word.trim().parse::<u64>() {
                Ok(0) => self.limit = None,
                Ok(limit @ LEAST..) => self.limit = Some(limit),
                _ => {
                    return Err(Error::new(format!(
                        "option {option} = {word}: neither 0 nor a number of bytes from {LEAST}"
                    )));
                }
            },
            Part::OnError => match word.trim() {
                "close" => self.on_error = OnError::Close,
                "continue" => self.on_error = OnError::Continue,
                _ => return neither("close", "continue"),
            },
            Part::Commands => match word.trim() {
                "skip" => self.commands = Some(Commands::Skip),
                "refuse" => self.commands = Some(Commands::Refuse),
                _ => return neither("skip", "refuse"),
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_what_it_can_have_and_names_what_not() {
        let mut record = Record::default();
        for (part, good) in [
            (Part::Folder, "/var/lib/recordings"),
            (Part::Format, "v2"),
            (Part::Input, "true"),
            (Part::Limit, "5000000000"),
            (Part::OnError, "close"),
            (Part::Commands, "skip"),
        ] {
            record.set(part, "forkptyrouter-x", good.as_ref()).expect(good);
        }
        assert_eq!(record.folder.as_deref(), Some("/var/lib/recordings".as_ref()));
        assert_eq!((record.format, record.input), (Format::V2, true));
        assert_eq!((record.limit, record.on_error), (Some(5_000_000_000), OnError::Close));
        for (part, nonsense) in [
            (Part::Folder, " "),
            (Part::Folder, "/var/a\nb"),
            (Part::Format, "v4"),
            (Part::Input, "perhaps"),
            (Part::Limit, "100"),
            (Part::Limit, "1GB"),
            (Part::OnError, "stop"),
            (Part::Commands, "record"),
        ] {
            let error = record.set(part, "forkptyrouter-x", nonsense.as_ref()).expect_err(nonsense);
            assert!(error.to_string().contains("forkptyrouter-x"), "{error}");
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
