//! The client's configuration: the server, the session, and what to run there.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::sys::signal::Signal;

use crate::proto::Protocol;
use crate::proto::request::{self, RequestKind};
use crate::proto::variables::is_environment_name;
use crate::sys::{passable_stdio, stdio};

/// The configuration of a client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The prefix of each line that the client writes: `[pty]`, `fpty:`.
    pub name: &'static str,
    /// The server's address.
    pub address: OsString,
    /// The protocol of the server's socket.
    pub protocol: Protocol,
    /// The program to run at the server.
    pub exec_request: ExecRequest,
    /// Whether with a terminal.
    pub request_tty: RequestTty,
    /// Whether Ctrl-C, Ctrl-\ and Ctrl-Z are signals here.
    pub isig: bool,
    /// The character that begins an escape; `None`: there are none.
    pub escape: Option<u8>,
    /// Says only what went wrong.
    pub quiet: bool,
    /// Says how it ended as JSON, too, on the last line of standard error.
    pub status_json: bool,
    /// More variables for the program's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The choice of the session.
    pub session: SessionChoice,
    /// Attach even where another client is attached, which is detached.
    pub steal: bool,
    /// Attach as a viewer: no input goes to the program.
    pub read_only: bool,
    /// A connection that breaks is taken up again, where the session goes on.
    pub reconnect: bool,
    /// Signals that are ignored at the start by somebody else's doing, and
    /// count all the same.
    pub never_ignored: &'static [Signal],
}

/// The choice of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SessionChoice {
    /// A new session.
    #[default]
    New,
    /// A new one that has a name.
    NewNamed(String),
    /// Attach to a detached session: its id, the beginning of the id, or its name;
    /// empty: the session that was detached last.
    Attach(String),
    /// The session of that name, or a new one.
    AttachOrNew(String),
}

impl ClientConfig {
    /// Whether the program is to have a terminal.
    pub(super) fn wants_terminal(&self) -> bool {
        let stdin = stdio::stdin_is_a_terminal();
        match self.request_tty {
            RequestTty::Force => true,
            RequestTty::No => false,
            RequestTty::FromSshd => stdin || std::env::var_os("SSH_TTY").is_some(),
            RequestTty::Auto if self.exec_request == ExecRequest::Configured => true,
            RequestTty::Auto => {
                stdin
                    && nix::unistd::isatty(passable_stdio::standard_fd(passable_stdio::OUTPUT))
                        .unwrap_or(false)
            }
        }
    }

    /// Whether only a server that speaks the extended mode will do.
    pub(super) fn needs_extended(&self) -> bool {
        self.exec_request != ExecRequest::Configured || self.session != SessionChoice::New
    }
}

/// Program to run at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExecRequest {
    /// The program that the server has configured.
    #[default]
    Configured,
    /// A command line, for the shell there.
    CommandLine(OsString),
    /// A program and its arguments.
    Program(Vec<OsString>),
    /// The SFTP server there, with these arguments.
    Sftp(OsString),
}

/// Request of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestTty {
    /// A terminal for the configured program always; for a command where standard input
    /// and output are terminals.
    #[default]
    Auto,
    /// A terminal where sshd has made one.
    FromSshd,
    /// A terminal in any case.
    Force,
    /// Never.
    No,
}

/// A variable to send as it was typed, `NAME=VALUE`, or `NAME` alone for one that
/// has its value from here, if it has one.
///
/// # Errors
/// The name is none of an environment variable: the reason.
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

impl RequestTty {
    /// The request of switches, of which the first counts: with a terminal, without
    /// one, what sshd was asked for.
    pub fn of_switches(tty: bool, no_tty: bool, ssh: bool) -> Self {
        match (tty, no_tty, ssh) {
            (true, ..) => Self::Force,
            (_, true, _) => Self::No,
            (.., true) => Self::FromSshd,
            _ => Self::Auto,
        }
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

    /// Appends the packets of the request.
    pub(super) fn encode(&self, packets: &mut Vec<u8>) {
        match self {
            Self::Configured => {}
            Self::CommandLine(line) => {
                request::encode(RequestKind::CommandLine, line.as_bytes(), packets)
            }
            Self::Program(words) => {
                let words = words.iter().flat_map(|word| [word.as_bytes(), b"\0"]);
                request::encode(RequestKind::Program, &words.collect::<Vec<_>>().concat(), packets);
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
