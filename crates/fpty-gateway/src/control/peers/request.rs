//! What gateways ask each other.

use serde::{Deserialize, Serialize};

use std::os::fd::OwnedFd;

use crate::event_loop::slab::Key;
use crate::session::selector::SessionSelector;

use super::attach_request::AttachQuery;
use super::session_request::PageRequest;

/// What one is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// Its sessions that somebody may know of.
    Page(PageRequest),
    /// To end the session in this place that has this id, if this user may.
    Kill {
        /// The user.
        by: u32,
        /// The place.
        place: u32,
        /// The id.
        id: SessionSelector,
    },
    /// Which of its sessions is meant.
    FindSession(AttachQuery),
    /// To go on with a client; its connection comes along, and what it has said.
    TakeClient(ForwardedClient),
}

/// Who asked, and waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A client that asks who is there.
    ControlClient(Key),
    /// One that seeks a session: what this gateway knows of it.
    AttachSearch(Key, usize),
    /// One that another gateway is to go on with.
    Forwarded(Key),
}

/// A question of another gateway's, which waits for the answer.
#[derive(Debug)]
pub struct IncomingRequest {
    pub(crate) from: usize,
    pub(crate) number: u64,
    /// What it asks.
    pub request: PeerRequest,
    /// What came along.
    pub passed: Vec<OwnedFd>,
}

/// A client that another gateway is to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedClient {
    /// Where it came in.
    pub listener: u16,
    /// Later than this (nanoseconds since the machine's start) it has been told that
    /// nobody took it.
    pub until: u64,
    /// How many gateways have had it before.
    pub hops: u8,
    /// It sends no more.
    pub ended: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::peers::session_request::PageKind;
    use crate::process::ipc::{decode, encode};
    use fpty::proto::session_key::Secret;

    #[test]
    fn questions_are_read_as_they_were_written() {
        let id = SessionSelector::of(b"0123abcd").expect("an id");
        let name = SessionSelector::of(&[b'n'; 64]).expect("a name");
        let until = u64::MAX - 7;
        let secret = Some(Secret::from_bytes([7; 16]));
        for request in [
            PeerRequest::Page(PageRequest { by: 7, from: 70_000, kind: PageKind::List }),
            PeerRequest::Page(PageRequest { by: 0, from: 1 << 31, kind: PageKind::Statistics }),
            PeerRequest::Page(PageRequest { by: 7, from: 0, kind: PageKind::Matches(id) }),
            PeerRequest::Kill { by: 0, place: 1 << 31, id },
            PeerRequest::FindSession(AttachQuery {
                listener: 300,
                uid: 70_000,
                which: Some(name),
                secret: None,
            }),
            PeerRequest::FindSession(AttachQuery {
                listener: 0,
                uid: u32::MAX,
                which: Some(id),
                secret,
            }),
            PeerRequest::FindSession(AttachQuery {
                listener: 0,
                uid: 0,
                which: None,
                secret: None,
            }),
            PeerRequest::TakeClient(ForwardedClient { listener: 300, until, hops: 3, ended: true }),
            PeerRequest::TakeClient(ForwardedClient { listener: 0, until, hops: 0, ended: false }),
        ] {
            assert_eq!(decode(&encode(&request)), Some(request));
        }
        let no_id = &br#"{"End":{"by":0,"place":1,"id":"../x"}}"#[..];
        for nonsense in [no_id, br#"{"End":{"by":0,"place":1}}"#, br#""Piece""#, b""] {
            assert_eq!(decode::<PeerRequest>(nonsense), None);
        }
    }
}
