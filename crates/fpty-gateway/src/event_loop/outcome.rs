//! What a part of the gateway has come to, and others are concerned by: the loop
//! does it when the part has finished, so that no part calls one above it.

use std::rc::Rc;

use super::deferred::DeferredChunk;
use super::slab::{Key, Token};
use super::subject::{FaultDomain, SessionRef};
use crate::connection::late_hello::LateHello;
use crate::control::peers::request::{IncomingRequest, Requester};
use crate::observe::audit::{EndReason, EndedSession};
use crate::observe::recording::results::RecorderEvent;
use crate::observe::recording::tap::RecordingTap;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::poll::Ready;

/// Something for the loop to do.
pub enum Outcome {
    /// Look what a session needs now.
    Settle(Key),
    /// Look what a command needs now.
    SettleCommand(Key),
    /// Hear the rest of what a client sent.
    ResumeInput(Box<DeferredChunk>),
    /// A program was reaped: which, the session that had it, and how it ended.
    Reaped(Pid, Option<Key>, Exit),
    /// Let the next one go of those sessions that wait for it.
    RunTeardown,
    /// A client says hello after all, whose session was that of a silent one: its first
    /// packets stand in the buffer.
    LateHello(Box<LateHello>),
    /// A program was executed.
    Started(SessionRef),
    /// There never was such a session, nor this recording of it.
    Aborted(SessionRef, Option<Rc<RecordingTap>>),
    /// A session is over.
    Closed(Closed),
    /// Somebody asks who is there, or for the statistics.
    ControlRequest(Key),
    /// A session is to end at somebody's wish.
    Terminate(SessionRef),
    /// It is known whose the session is that somebody seeks.
    AttachRouted(Key),
    /// Another gateway asks something.
    PeerRequest(Box<IncomingRequest>),
    /// Another gateway has answered; `None`: it has not.
    PeerReply(Requester, Option<Vec<u8>>),
    /// What keeps sessions is to have this one, whose client has its terminal for
    /// good.
    Supervise(Key),
    /// The kernel refuses to tell of this session: it ends.
    Unpollable(Key),
    /// The supervisor says something, or was killed.
    SupervisorReady,
    /// The client of a session does not answer, or does not go.
    DropClient(Key),
    /// Something happened to a session that can be left, or to who watches it.
    DetachedReady(Ready),
    /// Do what is due for a session that can be left.
    DetachedDeadline(Key),
    /// Give somebody who watches what there is.
    FeedViewer(Key),
    /// See to what the recorder has said of somebody.
    Recorder(FaultDomain, Box<RecorderEvent>),
    /// Read the terminal on of a session without a client.
    ResumeReading(Key),
    /// A session without a client is to end.
    TerminateDetached(Key, EndReason),
}

/// How a session ended, and what is still to be told of that.
pub struct Closed {
    /// Which.
    pub session_ref: SessionRef,
    /// Why.
    pub why: EndReason,
    /// How its program ended, as far as that is known.
    pub exit: Option<Exit>,
    /// The audit's last line of it.
    pub last: Option<Box<EndedSession>>,
    /// Its recording.
    pub recording: Option<Rc<RecordingTap>>,
    /// Its terminal was its client's, for good.
    pub was_supervised: bool,
}

impl Outcome {
    /// Whom it is about: who ends where it panics.
    pub fn fault_domain(&self) -> FaultDomain {
        match self {
            Self::Settle(key)
            | Self::Supervise(key)
            | Self::DropClient(key)
            | Self::Unpollable(key) => FaultDomain::Session(*key),
            Self::SettleCommand(key) => FaultDomain::Command(*key),
            Self::ResumeInput(rest) => rest.fault_domain(),
            Self::Started(session_ref) => FaultDomain::from(*session_ref),
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
