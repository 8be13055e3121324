//! Reasons of the audit: of a session's end, of a detach, of a rejection.

use fpty::proto::{EndKind, SessionEnd};
use fpty::sys::child::Exit;

/// The reason of a session's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The program has exited, with a status.
    Exit,
    /// A signal has ended the program.
    Signal,
    /// The client has left.
    Hangup,
    /// The idle timeout.
    Idle,
    /// A limit: of time, or of its recording.
    Limit,
    /// A kill by an operator or the owner.
    Operator,
    /// The session was lost, by no fault of its own.
    Lost,
}

impl EndReason {
    /// The words for the reasons, in order.
    pub const WORDS: [&'static str; 7] =
        ["exit", "signal", "hangup", "idle", "limit", "operator", "lost"];

    /// The word for the reason.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// The reason of a program's exit.
    pub fn of_exit(exit: Exit) -> Self {
        match exit {
            Exit::Status(_) => Self::Exit,
            Exit::Signal { .. } => Self::Signal,
        }
    }

    /// The reason of an END packet.
    pub fn of(ending: EndKind) -> Self {
        match ending {
            EndKind::Exit => Self::Exit,
            EndKind::Signal => Self::Signal,
            EndKind::Idle => Self::Idle,
            EndKind::Limit => Self::Limit,
            EndKind::Operator => Self::Operator,
            _ => Self::Lost,
        }
    }
}

/// The reason of a detach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachReason {
    /// The client has requested the detach.
    Requested,
    /// The client was lost.
    Lost,
    /// Another client has taken the session: its uid.
    Stolen(u32),
}

impl DetachReason {
    /// The word of the reason in the audit.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requested => "asked",
            Self::Lost => "lost",
            Self::Stolen(_) => "stolen",
        }
    }
}

/// The reason of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// The program cannot be executed.
    Exec,
    /// No descriptor, terminal, process or memory.
    Resources,
    /// An access rule.
    Denied,
    /// A limit of sessions.
    Limit,
    /// The requested command is not allowed.
    Command,
    /// The handshake was not complete in time.
    Handshake,
}

impl RejectReason {
    /// The words of the reasons in the audit, by their number.
    pub const WORDS: [&'static str; 6] =
        ["exec", "resources", "denied", "limit", "command", "handshake"];

    /// The reason of a rejection, from the end that the client was sent.
    pub fn of(why: &SessionEnd) -> Self {
        match why.ending {
            EndKind::ExecFailed => Self::Exec,
            _ => Self::Resources,
        }
    }

    /// The word of the reason in the audit.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_word() {
        assert_eq!((EndReason::Exit.word(), EndReason::Hangup.word()), ("exit", "hangup"));
        assert_eq!((EndReason::Idle.word(), EndReason::Limit.word()), ("idle", "limit"));
        assert_eq!((EndReason::Signal.word(), EndReason::Operator.word()), ("signal", "operator"));
        assert_eq!(EndReason::Lost.word(), "lost");
        assert_eq!(
            (RejectReason::Exec.word(), RejectReason::Resources.word()),
            ("exec", "resources")
        );
        assert_eq!((RejectReason::Denied.word(), RejectReason::Limit.word()), ("denied", "limit"));
        assert_eq!(
            (RejectReason::Command.word(), RejectReason::Handshake.word()),
            ("command", "handshake")
        );
    }
}
