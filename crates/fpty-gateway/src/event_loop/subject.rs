//! Whom something is about that happens, is told, is due, or is to be done: who ends
//! where that panics.

use super::slab::{Key, Source};
use super::timers::Due;

/// What is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A session with a terminal, and a client.
    Session(Key),
    /// One whose client has left, by its entry among those.
    Detached(Key),
    /// A command without one.
    Command(Key),
}

/// Whom something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A session.
    Session(Key),
    /// A session that has not begun.
    Unborn(Key),
    /// A command without a terminal.
    Command(Key),
    /// A client whose session has not begun.
    Caller(Key),
    /// A client that wants a session which another gateway may have.
    Seeker(Key),
    /// A client that asks who is there, or for the statistics.
    Inquirer(Key),
    /// A session that can be left.
    Detached(Key),
    /// A client that only watches.
    Viewer(Key),
    /// A client that was told its last.
    Closing(Key),
    /// Somebody who is not there any more, whatever becomes of it.
    Past,
    /// Somebody who comes.
    Door,
    /// All of them.
    All,
}

impl From<Subject> for Whose {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Session(key) => Self::Session(key),
            Subject::Detached(key) => Self::Detached(key),
            Subject::Command(key) => Self::Command(key),
        }
    }
}

impl Source {
    /// Whom an event is about.
    pub(crate) fn whose(self) -> Whose {
        match self {
            Self::Client(key) | Self::Terminal(key) => Whose::Session(key),
            Self::CommandClient(key) | Self::CommandStream(key, _) => Whose::Command(key),
            Self::Caller(key) => Whose::Caller(key),
            Self::Inquirer(key) => Whose::Inquirer(key),
            Self::Closing(key) => Whose::Closing(key),
            Self::Listener(_) | Self::StatsListener => Whose::Door,
            // These look at one after the other, see there.
            Self::Children | Self::Siblings | Self::Recorder | Self::Detached | Self::Alarm => {
                Whose::All
            }
        }
    }
}

impl Due {
    /// Whom it is about.
    pub(crate) fn whose(self) -> Whose {
        match self {
            Self::Session(key, _)
            | Self::Terminal(key, _)
            | Self::First(key)
            | Self::Keeper(key) => Whose::Session(key),
            Self::Command(key, _) => Whose::Command(key),
            Self::Silent(key) => Whose::Caller(key),
            Self::Inquirer(key) => Whose::Inquirer(key),
            // Whoever asked gives up by itself.
            Self::Answer(_) => Whose::Past,
            _ => Whose::All,
        }
    }
}
