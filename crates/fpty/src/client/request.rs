//! What is asked for: the program that the server has configured, or a
//! command, with a terminal or without.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{Client, Which};
use crate::proto::request::{self, Verb};
use crate::proto::variables::is_environment_name;
use crate::sys::{stdio, stdio_pass};

/// What is to run at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
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
pub enum Terminal {
    /// For the configured program always; for a command where standard input
    /// and output are terminals.
    #[default]
    Usual,
    /// Where sshd has made one.
    OfSshd,
    /// In any case.
    Always,
    /// Never.
    Never,
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

impl Wanted {
    /// Of words on a command line: one is a command line, several are a
    /// program and its arguments.
    pub fn of_words(mut words: Vec<OsString>) -> Self {
        match words.len() {
            0 => Self::Configured,
            1 => Self::CommandLine(words.remove(0)),
            _ => Self::Program(words),
        }
    }

    /// Of what sshd was asked for (`SSH_ORIGINAL_COMMAND`, sshd_config(5)
    /// ForceCommand). Its built-in SFTP server would serve its own files, and
    /// not those there.
    pub fn of_sshd() -> Self {
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
            Self::CommandLine(line) => request::encode(Verb::CommandLine, line.as_bytes(), packets),
            Self::Program(words) => {
                let mut data = Vec::new();
                for word in words {
                    data.extend_from_slice(word.as_bytes());
                    data.push(0);
                }
                request::encode(Verb::Program, &data, packets);
            }
            Self::Sftp(words) => request::encode(Verb::Sftp, words.as_bytes(), packets),
        }
    }
}

impl Client {
    /// Whether the program is to have a terminal.
    pub(super) fn wants_terminal(&self) -> bool {
        let stdin = stdio::stdin_is_a_terminal();
        match self.terminal {
            Terminal::Always => true,
            Terminal::Never => false,
            Terminal::OfSshd => stdin || std::env::var_os("SSH_TTY").is_some(),
            Terminal::Usual if self.wanted == Wanted::Configured => true,
            Terminal::Usual => {
                stdin && nix::unistd::isatty(stdio_pass::own(stdio_pass::OUTPUT)).unwrap_or(false)
            }
        }
    }

    /// Whether only a server that speaks the extended mode will do.
    pub(super) fn needs_more(&self) -> bool {
        self.wanted != Wanted::Configured || self.which != Which::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_line_and_several_are_a_program() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(Wanted::of_words(Vec::new()), Wanted::Configured);
        assert_eq!(Wanted::of_words(words(&["exit 7"])), Wanted::CommandLine("exit 7".into()));
        assert_eq!(Wanted::of_words(words(&["a", "b"])), Wanted::Program(words(&["a", "b"])));
    }
}
