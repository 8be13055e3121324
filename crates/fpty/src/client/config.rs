//! The client's configuration: the server, the session, and what to run there.

use std::ffi::OsString;

use nix::sys::signal::Signal;

use super::request::{ExecRequest, RequestTty};
use crate::proto::Protocol;
use crate::sys::{stdio, stdio_pass};

/// Exit status where the end was not the program's own.
pub const EXIT_LOST: i32 = 254;

/// The configuration of a client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The prefix of each line that the client writes: `[pty]`, `fpty:`.
    pub name: &'static str,
    /// The server's address.
    pub address: OsString,
    /// What it speaks.
    pub protocol: Protocol,
    /// What is to run there.
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
    /// Which session it is to be.
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
    /// A new one.
    #[default]
    New,
    /// A new one that has a name.
    NewNamed(String),
    /// Attach to a detached session: its id, the beginning of the id, or its name;
    /// empty: the session that was detached last.
    Attach(String),
    /// The one of that name, or a new one.
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
                    && nix::unistd::isatty(stdio_pass::standard_fd(stdio_pass::OUTPUT))
                        .unwrap_or(false)
            }
        }
    }

    /// Whether only a server that speaks the extended mode will do.
    pub(super) fn needs_extended(&self) -> bool {
        self.exec_request != ExecRequest::Configured || self.session != SessionChoice::New
    }
}
