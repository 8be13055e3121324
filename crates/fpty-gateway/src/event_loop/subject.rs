//! Whom something is about that happens, is told, is due, or is to be done: who ends
//! where that panics.

use super::slab::{Key, Token};
use super::timers::Timer;

/// What is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionRef {
    /// A session with a terminal, and a client.
    Session(Key),
    /// One whose client has left, by its entry among those.
    Detached(Key),
    /// A command without one.
    Command(Key),
}

/// Whom something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultDomain {
    /// A session.
    Session(Key),
    /// A session that has not begun.
    PendingSession(Key),
    /// A command without a terminal.
    Command(Key),
    /// A client whose session has not begun.
    PendingConnection(Key),
    /// A client that wants a session which another gateway may have.
    AttachSearch(Key),
    /// A client that asks who is there, or for the statistics.
    ControlClient(Key),
    /// A session that can be left.
    Detached(Key),
    /// A client that only watches.
    Viewer(Key),
    /// A client that was told its last.
    LingeringClose(Key),
    /// Somebody who is not there any more, whatever becomes of it.
    Nobody,
    /// Somebody who comes.
    Listener,
    /// All of them.
    Gateway,
}

impl From<SessionRef> for FaultDomain {
    fn from(session_ref: SessionRef) -> Self {
        match session_ref {
            SessionRef::Session(key) => Self::Session(key),
            SessionRef::Detached(key) => Self::Detached(key),
            SessionRef::Command(key) => Self::Command(key),
        }
    }
}

impl Token {
    /// Whom an event is about.
    pub(crate) fn fault_domain(self) -> FaultDomain {
        match self {
            Self::Client(key) | Self::Terminal(key) => FaultDomain::Session(key),
            Self::CommandClient(key) | Self::CommandStream(key, _) => FaultDomain::Command(key),
            Self::PendingConnection(key) => FaultDomain::PendingConnection(key),
            Self::ControlClient(key) => FaultDomain::ControlClient(key),
            Self::LingeringClose(key) => FaultDomain::LingeringClose(key),
            Self::Listener(_) | Self::StatsListener => FaultDomain::Listener,
            // These look at one after the other, see there.
            Self::Children | Self::Peers | Self::Recorder | Self::Detached | Self::Alarm => {
                FaultDomain::Gateway
            }
        }
    }
}

impl Timer {
    /// Whom it is about.
    pub(crate) fn fault_domain(self) -> FaultDomain {
        match self {
            Self::Session(key, _)
            | Self::Terminal(key, _)
            | Self::HttpProbe(key)
            | Self::Entrust(key) => FaultDomain::Session(key),
            Self::Command(key, _) => FaultDomain::Command(key),
            Self::Handshake(key) => FaultDomain::PendingConnection(key),
            Self::ControlClient(key) => FaultDomain::ControlClient(key),
            // Whoever asked gives up by itself.
            Self::PeerReply(_) => FaultDomain::Nobody,
            _ => FaultDomain::Gateway,
        }
    }
}
