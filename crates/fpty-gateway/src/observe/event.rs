//! Events of sessions and commands, and the trait of their observers.

use std::cell::Cell;
use std::time::Duration;

use super::audit::end_reason::{DetachReason, EndReason, RejectReason};
use super::audit::origin::Origin;
use super::audit::session_history::ByteTotals;
use super::audit::session_info::{EndedSession, SessionInfo};
use crate::process::supervisor::end_lines::EndLineSlot;
use crate::session::session_ref::SessionRef;
use fpty::sys::child::Exit;
use fpty::sys::clock::Timestamp;
use fpty::sys::socket::Stream;

/// Event of a session or command, or of a client that gets none.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// A session is about to start: it has its terminal or streams, and a process that is not
    /// known to have executed the program.
    Pending(SessionRef),
    /// The program was executed.
    Started(SessionRef),
    /// A session of an earlier gateway goes on, which started then.
    Restored(SessionRef, Timestamp),
    /// A client has attached to a detached session, which gets another key.
    Attached {
        /// The session as it was detached.
        from: SessionRef,
        /// The live session.
        to: SessionRef,
        /// The origin of the client.
        origin: &'a Origin,
        /// The client's connection.
        client: &'a Stream,
    },
    /// A client has been detached; both keys are one where it was lost with an earlier gateway.
    Detached {
        /// The live session.
        from: SessionRef,
        /// The session as it is detached.
        to: SessionRef,
        /// Why.
        reason: DetachReason,
        /// Bytes that were relayed for this client.
        bytes: ByteTotals,
    },
    /// A viewer has joined a session.
    ViewerJoined {
        /// The session.
        session: SessionRef,
        /// The origin of the viewer.
        origin: &'a Origin,
        /// The viewer's connection.
        client: &'a Stream,
        /// The slot of the audit's line for the viewer's end, in case that the gateway is killed.
        prepared: &'a Cell<Option<EndLineSlot>>,
    },
    /// A viewer has left.
    ViewerLeft {
        /// The session.
        session: SessionRef,
        /// The viewer's connection.
        client: &'a Stream,
        /// How long the viewer was there.
        after: Duration,
        /// The slot that came with the viewer's beginning.
        prepared: Option<EndLineSlot>,
    },
    /// The program has ended, and its status is known.
    Exited(SessionRef, Exit),
    /// A session is over.
    Closed {
        /// The session.
        session: SessionRef,
        /// Why.
        reason: EndReason,
        /// The facts and figures of the session.
        ended: Option<&'a EndedSession>,
    },
    /// A pending session was dropped: its client is rejected.
    Aborted(SessionRef),
    /// A client gets no session.
    Rejected {
        /// The origin of the client.
        origin: &'a Origin,
        /// The client's connection, where there is one.
        client: Option<&'a Stream>,
        /// The reason, as it is counted.
        reason: RejectReason,
        /// The reason, as the client reads it.
        text: &'a str,
    },
}

impl Event<'_> {
    /// The session before the event; of a closed or rejected one there is none left.
    pub fn session(&self) -> Option<SessionRef> {
        match *self {
            Self::Pending(session)
            | Self::Started(session)
            | Self::Restored(session, _)
            | Self::Attached { from: session, .. }
            | Self::Detached { from: session, .. }
            | Self::ViewerJoined { session, .. }
            | Self::ViewerLeft { session, .. }
            | Self::Exited(session, _) => Some(session),
            Self::Closed { .. } | Self::Aborted(_) | Self::Rejected { .. } => None,
        }
    }
}

/// Observer of events. The loop waits while it is told: an observer never blocks, and hands what
/// takes time to a thread or process of its own.
pub trait Observer {
    /// Handles an event. `info`: what was known of the session before the event, where somebody
    /// needs that ([`crate::config::options::GatewayConfig::needs_session_info`]); of a closed session
    /// it stands in the event.
    fn on_event(&mut self, event: &Event<'_>, info: Option<&SessionInfo>);
}
