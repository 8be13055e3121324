//! Why a session ended, and why there was none.

use fpty::proto::{Ended, Ending};
use fpty::sys::child::Exit;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
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

impl Gone {
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
    pub fn of(ending: Ending) -> Self {
        match ending {
            Ending::Exit => Self::Exit,
            Ending::Signal => Self::Signal,
            Ending::Idle => Self::Idle,
            Ending::Limit => Self::Limit,
            Ending::Operator => Self::Operator,
            _ => Self::Lost,
        }
    }
}

/// How a client came to leave a session that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parted {
    /// It has asked to.
    Asked,
    /// It was lost.
    Lost,
    /// This user has taken the session.
    Stolen(u32),
}

impl Parted {
    /// As it is written down.
    pub fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Lost => "lost",
            Self::Stolen(_) => "stolen",
        }
    }
}

/// Why there was no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
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

impl Refusal {
    /// As they are written down, by their number.
    pub const WORDS: [&'static str; 6] =
        ["exec", "resources", "denied", "limit", "command", "handshake"];

    /// What the client was told.
    pub fn of(why: &Ended) -> Self {
        match why.ending {
            Ending::ExecFailed => Self::Exec,
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
        assert_eq!((Gone::Exit.word(), Gone::Hangup.word()), ("exit", "hangup"));
        assert_eq!((Gone::Idle.word(), Gone::Limit.word()), ("idle", "limit"));
        assert_eq!((Gone::Signal.word(), Gone::Operator.word()), ("signal", "operator"));
        assert_eq!(Gone::Lost.word(), "lost");
        assert_eq!((Refusal::Exec.word(), Refusal::Resources.word()), ("exec", "resources"));
        assert_eq!((Refusal::Denied.word(), Refusal::Limit.word()), ("denied", "limit"));
        assert_eq!((Refusal::Command.word(), Refusal::Handshake.word()), ("command", "handshake"));
    }
}
