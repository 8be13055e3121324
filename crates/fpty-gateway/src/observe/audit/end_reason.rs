//! Why a session ended, and why there was none.

use fpty::proto::{EndKind, SessionEnd};
use fpty::sys::child::Exit;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its program did, with an exit status.
    Exit,
    /// A signal ended its program.
    Signal,
    /// Its client left.
    Hangup,
    /// Nothing went either way for too long.
    Idle,
    /// It took longer than it may.
    Limit,
    /// Somebody ended it who may.
    Operator,
    /// By no fault of its own.
    Lost,
}

impl EndReason {
    /// As they are written down, by their number.
    pub const WORDS: [&'static str; 7] =
        ["exit", "signal", "hangup", "idle", "limit", "operator", "lost"];

    /// As it is written down.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// How the program ended.
    pub fn of_exit(exit: Exit) -> Self {
        match exit {
            Exit::Status(_) => Self::Exit,
            Exit::Signal { .. } => Self::Signal,
        }
    }

    /// What the client was told.
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

/// How a client came to leave a session that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachReason {
    /// It has asked to.
    Requested,
    /// It was lost.
    Lost,
    /// This user has taken the session.
    Stolen(u32),
}

impl DetachReason {
    /// As it is written down.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requested => "asked",
            Self::Lost => "lost",
            Self::Stolen(_) => "stolen",
        }
    }
}

/// Why there was no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// The program cannot be executed.
    Exec,
    /// No descriptor, terminal, process or memory was left.
    Resources,
    /// Its user, group or address is not allowed.
    Denied,
    /// There are as many as there may be.
    Limit,
    /// What it asked for is not allowed.
    Command,
    /// What it wants did not come in time, or as a whole.
    Handshake,
}

impl RejectReason {
    /// As they are written down, by their number.
    pub const WORDS: [&'static str; 6] =
        ["exec", "resources", "denied", "limit", "command", "handshake"];

    /// What the client was told.
    pub fn of(why: &SessionEnd) -> Self {
        match why.ending {
            EndKind::ExecFailed => Self::Exec,
            _ => Self::Resources,
        }
    }

    /// As it is written down.
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
