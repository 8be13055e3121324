//! Outcomes: what a part emits for the loop to handle when the part has finished, so that no
//! part calls one above it.

use std::rc::Rc;

use super::deferred_queue::DeferredChunk;
use super::fault_domain::FaultDomain;
use super::slab::{Key, Token};
use crate::connection::late_hello::LateHello;
use crate::control::peers::peer_request::{IncomingRequest, Requester};
use crate::observe::audit::{EndReason, EndedSession};
use crate::observe::recording::recorder_protocol::RecorderEvent;
use crate::observe::recording::tap::RecordingTap;
use crate::session::session_ref::SessionRef;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::poll::Ready;

/// An outcome, for the loop to handle.
pub enum Outcome {
    /// Settle a session: close, interests.
    Settle(Key),
    /// Settle a command.
    SettleCommand(Key),
    /// Deliver deferred input.
    ResumeInput(Box<DeferredChunk>),
    /// A program was reaped: which, the session that had it, and how it ended.
    Reaped(Pid, Option<SessionRef>, Exit),
    /// Let the next one go of those sessions that wait for it.
    RunTeardown,
    /// A late hello, after a silent start: its first packets stand in the buffer.
    LateHello(Box<LateHello>),
    /// The program of a session was executed.
    Started(Key),
    /// A session was aborted before it started, and so was its recording.
    Aborted(SessionRef, Option<Rc<RecordingTap>>),
    /// A session is closed.
    Closed(Closed),
    /// A control client has come.
    ControlRequest(Key),
    /// Terminate a session, on an operator's request.
    Terminate(SessionRef),
    /// A search for a session is complete.
    AttachRouted(Key),
    /// A request of a peer.
    PeerRequest(Box<IncomingRequest>),
    /// A reply of a peer; `None`: none in time.
    PeerReply(Requester, Option<Vec<u8>>),
    /// The supervisor is to have this session, whose client has its terminal for good.
    Supervise(Key),
    /// The poller cannot register a session: it ends.
    Unpollable(Key),
    /// The supervisor has sent something, or was killed.
    SupervisorReady,
    /// The client of a session does not answer, or does not go.
    DropClient(Key),
    /// Something happened to a session that can be detached, or to a viewer of it.
    DetachedReady(Ready),
    /// Do what is due for a session that can be detached.
    DetachedDeadline(Key),
    /// Give a viewer what there is.
    FeedViewer(Key),
    /// An event of the recorder for one session.
    Recorder(FaultDomain, Box<RecorderEvent>),
    /// Read the terminal on of a session without a client.
    ResumeReading(Key),
    /// A session without a client is to end.
    TerminateDetached(Key, EndReason),
}

/// Close of a session, for the observers that are told later.
pub struct Closed {
    /// The session.
    pub session_ref: SessionRef,
    /// The reason.
    pub why: EndReason,
    /// The program's exit, where it is known.
    pub exit: Option<Exit>,
    /// The audit's facts for the line of the end.
    pub last: Option<Box<EndedSession>>,
    /// The session's recording.
    pub recording: Option<Rc<RecordingTap>>,
    /// The client had the session's terminal, for good.
    pub was_supervised: bool,
}

impl Outcome {
    /// The fault domain of an outcome.
    pub fn fault_domain(&self) -> FaultDomain {
        match self {
            Self::Settle(key)
            | Self::Supervise(key)
            | Self::DropClient(key)
            | Self::Started(key)
            | Self::Unpollable(key) => FaultDomain::Session(*key),
            Self::SettleCommand(key) => FaultDomain::Command(*key),
            Self::ResumeInput(rest) => rest.fault_domain,
            // Nobody finds them any more.
            Self::RunTeardown | Self::LateHello(_) | Self::Aborted(..) | Self::Closed(_) => {
                FaultDomain::Nobody
            }
            Self::Recorder(fault_domain, _) => *fault_domain,
            Self::SupervisorReady => FaultDomain::Gateway,
            Self::DetachedReady(ready) => match Token::of(ready.token) {
                Token::Terminal(entry) | Token::PendingConnection(entry) => {
                    FaultDomain::Detached(entry)
                }
                Token::Client(viewer) => FaultDomain::Viewer(viewer),
                _ => FaultDomain::Gateway,
            },
            Self::DetachedDeadline(key) => FaultDomain::Detached(*key),
            Self::FeedViewer(key) => FaultDomain::Viewer(*key),
            Self::ResumeReading(key) | Self::TerminateDetached(key, _) => {
                FaultDomain::Detached(*key)
            }
            Self::ControlRequest(key) | Self::PeerReply(Requester::ControlClient(key), _) => {
                FaultDomain::ControlClient(*key)
            }
            Self::AttachRouted(key)
            | Self::PeerReply(Requester::AttachSearch(key, _) | Requester::Forwarded(key), _) => {
                FaultDomain::AttachSearch(*key)
            }
            Self::Terminate(session_ref) => (*session_ref).into(),
            // Whoever asks does without.
            Self::PeerRequest(_) => FaultDomain::Nobody,
            // The loop knows whose it is.
            Self::Reaped(..) => FaultDomain::Nobody,
        }
    }
}
