//! Requests between gateways.

use serde::{Deserialize, Serialize};

use std::os::fd::OwnedFd;

use crate::event_loop::slab::Key;
use crate::session::selector::SessionSelector;

use super::attach_request::AttachQuery;

/// Kind of a page: what it says of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageKind {
    /// Entries of a list.
    List,
    /// Entries of the statistics.
    Statistics,
    /// Indexes and ids of matches.
    Matches(SessionSelector),
}

/// The request for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// The user of the request.
    pub by: u32,
    /// The index of the first session.
    pub from: u32,
    /// The kind of the page.
    pub kind: PageKind,
}

impl PageRequest {
    /// Whether the requesting user may see a session of this user.
    pub fn may_see(&self, uid: Option<u32>) -> bool {
        self.by == 0 || uid == Some(self.by)
    }
}

/// A request between gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// A page of sessions.
    Page(PageRequest),
    /// Kill the session at this index with this id, if this user may.
    Kill {
        /// The user.
        by: u32,
        /// The index.
        place: u32,
        /// The id.
        id: SessionSelector,
    },
    /// Find a session to attach to.
    FindSession(AttachQuery),
    /// Take a client: its connection comes along, and what it has sent.
    TakeClient(ForwardedClient),
}

/// The requester, which gets the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A control client.
    ControlClient(Key),
    /// A search for a session, at this peer.
    AttachSearch(Key, usize),
    /// A forwarded client.
    Forwarded(Key),
}

/// A request of a peer, which waits for the reply.
#[derive(Debug)]
pub struct IncomingRequest {
    pub(crate) from: usize,
    pub(crate) number: u64,
    /// The request.
    pub request: PeerRequest,
    /// The descriptors that came along.
    pub passed: Vec<OwnedFd>,
}

/// A forwarded client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedClient {
    /// The listener.
    pub listener: u16,
    /// The deadline, CLOCK_BOOTTIME in nanoseconds: later the client was rejected.
    pub until: u64,
    /// How often the client was forwarded.
    pub hops: u8,
    /// The client has shut its sending side down.
    pub ended: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::peers::peer_request::PageKind;
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

    #[test]
    fn root_knows_all_and_others_their_own() {
        let by = |by| PageRequest { by, from: 0, kind: PageKind::List };
        assert!(by(0).may_see(None) && by(0).may_see(Some(7)));
        assert!(by(7).may_see(Some(7)) && !by(7).may_see(Some(8)) && !by(7).may_see(None));
    }
}
