//! What is asked for: the program that the server has configured, or a
//! command, with a terminal or without.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::proto::request::{self, RequestKind};
use crate::proto::variables::is_environment_name;

/// What is to run at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExecRequest {
    /// What the server has configured.
    #[default]
    Configured,
    /// A command line, for the shell there.
    CommandLine(OsString),
    /// A program and its arguments.
    Program(Vec<OsString>),
    /// The SFTP server there, with these arguments.
    Sftp(OsString),
}

/// When there is to be a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestTty {
    /// For the configured program always; for a command where standard input
    /// and output are terminals.
    #[default]
    Auto,
    /// Where sshd has made one.
    FromSshd,
    /// In any case.
    Force,
    /// Never.
    No,
}

/// A variable to send as it was typed, `NAME=VALUE`, or `NAME` alone for one that
/// has its value from here, if it has one.
///
/// # Errors
/// It is no name of an environment variable: why.
pub fn variable(typed: &OsStr) -> Result<(OsString, Option<OsString>), &'static str> {
    let typed = typed.as_bytes();
    let (name, value) = match typed.iter().position(|byte| *byte == b'=') {
        Some(at) => (&typed[..at], Some(OsStr::from_bytes(&typed[at + 1..]).to_owned())),
        None => (typed, std::env::var_os(OsStr::from_bytes(typed))),
    };
    match is_environment_name(name) {
        true => Ok((OsStr::from_bytes(name).to_owned(), value)),
        false => Err("not the name of an environment variable"),
    }
}

impl ExecRequest {
    /// The request of words on a command line: one word is a command line, several are
    /// a program and its arguments.
    pub fn from_words(mut words: Vec<OsString>) -> Self {
        match words.len() {
            0 => Self::Configured,
            1 => Self::CommandLine(words.remove(0)),
            _ => Self::Program(words),
        }
    }

    /// The request that sshd was given (`SSH_ORIGINAL_COMMAND`, sshd_config(5)
    /// ForceCommand). Its built-in SFTP server would serve its own files, and not those
    /// of the server.
    pub fn from_sshd() -> Self {
        let line = std::env::var_os("SSH_ORIGINAL_COMMAND").filter(|line| !line.is_empty());
        let Some(line) = line else {
            return Self::Configured;
        };
        match line.as_bytes().strip_prefix(b"internal-sftp") {
            Some([]) => Self::Sftp(OsString::new()),
            Some([b' ', arguments @ ..]) => Self::Sftp(OsString::from_vec(arguments.to_vec())),
            _ => Self::CommandLine(line),
        }
    }

    /// Appends the packets that ask for it.
    pub(super) fn encode(&self, packets: &mut Vec<u8>) {
        match self {
            Self::Configured => {}
            Self::CommandLine(line) => {
                request::encode(RequestKind::CommandLine, line.as_bytes(), packets)
            }
            Self::Program(words) => {
                let mut data = Vec::new();
                for word in words {
                    data.extend_from_slice(word.as_bytes());
                    data.push(0);
                }
                request::encode(RequestKind::Program, &data, packets);
            }
            Self::Sftp(words) => request::encode(RequestKind::Sftp, words.as_bytes(), packets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_line_and_several_are_a_program() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(ExecRequest::from_words(Vec::new()), ExecRequest::Configured);
        assert_eq!(
            ExecRequest::from_words(words(&["exit 7"])),
            ExecRequest::CommandLine("exit 7".into())
        );
        assert_eq!(
            ExecRequest::from_words(words(&["a", "b"])),
            ExecRequest::Program(words(&["a", "b"]))
        );
    }
}
