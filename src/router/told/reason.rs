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
    /// All of them, by their number.
    pub const ALL: [Self; 7] = [
        Self::Exit,
        Self::Signal,
        Self::Hangup,
        Self::Idle,
        Self::Limit,
        Self::Operator,
        Self::Lost,
    ];

    /// As it is written down.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Hangup => "hangup",
            Self::Idle => "idle",
            Self::Limit => "limit",
            Self::Operator => "operator",
            Self::Lost => "lost",
        }
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
    /// All of them, by their number.
    pub const ALL: [Self; 6] =
        [Self::Exec, Self::Resources, Self::Denied, Self::Limit, Self::Command, Self::Handshake];

    /// What the client was told.
    pub fn of(why: &Ended) -> Self {
        match why.ending {
            Ending::ExecFailed => Self::Exec,
            _ => Self::Resources,
        }
    }

    /// As it is written down.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Resources => "resources",
            Self::Denied => "denied",
            Self::Limit => "limit",
            Self::Command => "command",
            Self::Handshake => "handshake",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_number_and_a_word_of_its_own() {
        for (number, gone) in Gone::ALL.into_iter().enumerate() {
            assert_eq!(gone as usize, number);
            assert_eq!(Gone::ALL.iter().filter(|other| other.word() == gone.word()).count(), 1);
        }
        for (number, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, number);
        }
    }
}
