//! Fault domains: what ends where the handling of an event, a timer or an outcome panics.

use super::slab::{Key, Token};
use super::timers::Timer;
use crate::session::session_ref::SessionRef;

/// A fault domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultDomain {
    /// A session with its client.
    Session(Key),
    /// A session whose program was not executed yet.
    PendingSession(Key),
    /// A command without a terminal.
    Command(Key),
    /// A connection in its handshake.
    PendingConnection(Key),
    /// A search for a session over all gateways.
    AttachSearch(Key),
    /// A control client.
    ControlClient(Key),
    /// A session that can be detached.
    Detached(Key),
    /// A viewer.
    Viewer(Key),
    /// A lingering connection.
    LingeringClose(Key),
    /// Nothing that still exists.
    Nobody,
    /// A connection that is being accepted.
    Listener,
    /// The whole gateway.
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
    /// The fault domain of an event.
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
    /// The fault domain of a timer.
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
