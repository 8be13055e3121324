//! Attach to a session that another gateway may have: the client is forwarded to that
//! gateway, and goes on there as if it had connected there.
//!
//! Names are shared counts (`connection/shared_counts.rs`): their owner is known at once. For
//! ids all peers are asked at once; one that does not reply in time is left out. A client is
//! forwarded as its connection and what it has sent. Until the other gateway has confirmed,
//! the connection stays open here, too, so that a gateway which is killed or hangs leaves no
//! client without an answer.

use std::os::fd::{AsFd, OwnedFd};

use super::peers::attach_request::{AttachQuery, BestMatch, MatchQuality, NameKey, name};
use super::peers::{
    ForwardedClient, IncomingRequest, PeerRequest, Peers, REPLY_TIMEOUT, Requester,
};
use crate::config::rules::Rules;
use crate::connection::client_hello::{ClientHello, Handshake, HandshakeStep};
use crate::connection::handshake::ClientRequest;
use crate::connection::limits::Permit;
use crate::connection::listeners::Connection;
use crate::connection::session_access::{self, UNKNOWN_UID};
use crate::detach::DetachRegistry;
use crate::event_loop::context::{BUFFER, Context};
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Slab};
use crate::process::ipc;
use crate::session::relay::Sessions;
use crate::session::selector::SessionSelector;
use fpty::error::reason;
use fpty::proto::session_key::Secret;
use fpty::proto::{
    END_OF_STREAM, EndKind, HELLO, NO_SUCH_SESSION, SessionEnd, VARIABLES, VERSION, encode_bare,
    encode_input, encode_rows_and_cols, request, variables,
};
use fpty::sys::clock::BootInstant;
use fpty::sys::memfd_message;
use fpty::sys::peer_process::ReceivedFds;
use fpty::sys::socket::{Stream, Transport};

/// The reply of a gateway that has taken a client.
pub const TAKEN: &[u8] = b"1";

/// The most forwards of a client: a session may end, and start elsewhere, while the client
/// is on its way.
const MAX_HOPS: u8 = 3;

/// The most bytes that a client has sent before its session.
const MAX_CLIENT_BYTES: usize = 4 * 1024 * 1024;

/// Rejections.
const NO_SUCH_ANSWERED: &str = "there is no such session, but for gateways that do not answer";
const GATEWAY_SILENT: &str = "the session's gateway does not answer: try again";
const SESSION_MOVES: &str = "the session begins elsewhere right now: try again";

/// All searches of this gateway.
#[derive(Default)]
pub struct AttachSearches(Slab<AttachSearch>);

/// A client that wants to attach.
struct AttachSearch {
    client_request: Box<ClientRequest>,
    /// Input behind the request.
    rest: Vec<u8>,
    /// The best match so far.
    best: BestMatch,
    /// Peers that have not replied yet.
    response: usize,
    /// Some peers will not reply.
    unanswered: bool,
}

/// The route of a client that wants to attach.
#[must_use]
pub enum AttachRoute {
    /// The session is at this gateway. Input behind the request stands in the context's
    /// buffer.
    Here(Box<ClientRequest>),
    /// Peers are asked, or have the client; or it was rejected.
    Elsewhere,
}

impl AttachQuery {
    /// The query of a client; `None`: it can match nothing.
    fn of(cx: &Context, client_request: &ClientRequest) -> Option<Self> {
        let connection = &client_request.connection;
        let allows = |rules: &Rules| rules.detach.sessions > 0;
        let is_allowed = cx.listeners.rules(connection.listener).is_some_and(allows);
        if !is_allowed {
            return None;
        }
        let uid = session_access::uid_of(&connection.client);
        let secret =
            client_request.hello.variables.get(variables::SECRET).and_then(Secret::from_slice);
        if uid == UNKNOWN_UID && secret.is_none() {
            return None;
        }
        let (_, which) = client_request.hello.request.clone().read().ok()??;
        let which = match which.as_slice() {
            [] => None,
            which => Some(SessionSelector::of(which)?),
        };
        Some(Self { listener: connection.listener, uid, which, secret })
    }

    /// The key of the name.
    fn name(&self) -> Option<NameKey> {
        // Nobody has none.
        Some(name(self.listener, self.uid, self.which.filter(|_| self.uid != UNKNOWN_UID)?))
    }
}

impl AttachSearches {
    /// Closes one without a word.
    pub fn discard(&mut self, key: Key) {
        self.0.remove(key);
    }

    /// Rejects a client, with this text.
    pub fn end(&mut self, cx: &mut Context, key: Key, why: &str) {
        if let Some(one) = self.0.remove(key) {
            refuse(cx, *one.client_request, why);
        }
    }

    /// Starts the search of a client, which was forwarded `hops` times before.
    pub fn start(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        here: Option<(&mut DetachRegistry, &Sessions)>,
        mut client_request: Box<ClientRequest>,
        hops: u8,
    ) -> AttachRoute {
        // Whoever cannot have one hears so here.
        let may = peers.has_peers() && client_request.connection.permit.is_ok();
        let here = here.filter(|_| may);
        let query = here.as_ref().and_then(|_| AttachQuery::of(cx, &client_request));
        let (Some((registry, sessions)), Some(query)) = (here, query) else {
            return AttachRoute::Here(client_request);
        };
        fault_injection::point("seeking");
        if client_request.hello.variables.get(variables::BEGIN) == Some(b"1") {
            // Of two clients that come at once at two gateways one starts a session under a name
            // that is free, and the other is forwarded there.
            return match query.name().map(|name| cx.shared_counts.claim(name, 1)) {
                Some(Err(gateway)) if gateway != cx.ordinal => {
                    self.forward(cx, peers, client_request, gateway, hops)
                }
                name => {
                    client_request.name = name.and_then(Result::ok);
                    AttachRoute::Here(client_request)
                }
            };
        }
        if hops > 0 {
            return AttachRoute::Here(client_request);
        }
        // Somebody may have named a session like another's id.
        if !query.which.is_some_and(|which| which.is_full_id()) {
            match query.name().and_then(|name| cx.shared_counts.owner(name)) {
                Some(gateway) if gateway == cx.ordinal => return AttachRoute::Here(client_request),
                Some(gateway) => return self.forward(cx, peers, client_request, gateway, hops),
                None => {}
            }
        }
        let mut best = BestMatch::default();
        match registry.find_for_peer(sessions, &query) {
            Some(found) if found.quality == MatchQuality::FullId => {
                return AttachRoute::Here(client_request);
            }
            Some(found) => best.add(cx.ordinal, found),
            None => {}
        }
        self.ask(cx, peers, client_request, query, best);
        AttachRoute::Elsewhere
    }

    fn insert(
        &mut self,
        client_request: Box<ClientRequest>,
        rest: Vec<u8>,
        best: BestMatch,
    ) -> Key {
        let (response, unanswered) = (0, false);
        self.0.insert(AttachSearch { client_request, rest, best, response, unanswered })
    }

    /// Asks all peers.
    fn ask(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        client_request: Box<ClientRequest>,
        query: AttachQuery,
        best: BestMatch,
    ) {
        let key = self.insert(client_request, cx.take_input(), best);
        let others: Vec<usize> = peers.others().collect();
        let question = PeerRequest::FindSession(query);
        let is_asked = |whom: &&usize| {
            let requester = Requester::AttachSearch(key, **whom);
            peers.request(cx, **whom, &question, &[], requester)
        };
        let response = others.iter().filter(is_asked).count();
        let Some(one) = self.0.get_mut(key) else { return };
        (one.response, one.unanswered) = (response, response < others.len());
        if response == 0 {
            cx.push_outcome(Outcome::AttachRouted(key));
        }
    }

    /// A peer has replied; `None`: not in time.
    pub fn peer_replied(&mut self, cx: &mut Context, key: Key, whom: usize, answer: Option<&[u8]>) {
        let Some(one) = self.0.get_mut(key) else { return };
        one.response = one.response.saturating_sub(1);
        match answer {
            Some([]) => {}
            Some(answer) => {
                ipc::decode(answer).into_iter().for_each(|found| one.best.add(whom, found));
            }
            None => one.unanswered = true,
        }
        if one.response == 0 || one.best.is_certain() {
            cx.push_outcome(Outcome::AttachRouted(key));
        }
    }

    /// Concludes a search.
    pub fn conclude(&mut self, cx: &mut Context, peers: &mut Peers, key: Key) -> AttachRoute {
        let Some(one) = self.0.remove(key) else { return AttachRoute::Elsewhere };
        let AttachSearch { client_request, rest, best, unanswered, .. } = *one;
        cx.input.clear();
        cx.input.extend_from_slice(&rest);
        let why = match best.gateway() {
            Some(gateway) if gateway == cx.ordinal => return AttachRoute::Here(client_request),
            Some(gateway) => return self.forward(cx, peers, client_request, gateway, 0),
            None if unanswered => NO_SUCH_ANSWERED,
            None => NO_SUCH_SESSION,
        };
        refuse(cx, *client_request, why);
        AttachRoute::Elsewhere
    }

    /// Forwards a client to another gateway. Input behind the request stands in the
    /// context's buffer.
    fn forward(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        mut client_request: Box<ClientRequest>,
        whom: usize,
        hops: u8,
    ) -> AttachRoute {
        if hops >= MAX_HOPS {
            refuse(cx, *client_request, SESSION_MOVES);
            return AttachRoute::Elsewhere;
        }
        // It takes one there.
        client_request.connection.permit = Ok(Permit::default());
        let said = match memfd_message::create(&said(&client_request.hello, &cx.input)) {
            Ok(said) => said,
            Err(error) => {
                let why = format!("cannot pass the client on: {}", reason(&error));
                refuse(cx, *client_request, &why);
                return AttachRoute::Elsewhere;
            }
        };
        let (listener, ended) = (client_request.connection.listener, client_request.ended);
        let until = (BootInstant::now() + REPLY_TIMEOUT).as_nanos();
        let question =
            PeerRequest::TakeClient(ForwardedClient { listener, until, hops: hops + 1, ended });
        let key = self.insert(client_request, Vec::new(), BestMatch::default());
        let Some(one) = self.0.get(key) else { return AttachRoute::Elsewhere };
        let descriptors = [one.client_request.connection.client.as_fd(), said.as_fd()];
        if !peers.request(cx, whom, &question, &descriptors, Requester::Forwarded(key)) {
            self.end(cx, key, GATEWAY_SILENT);
        }
        AttachRoute::Elsewhere
    }

    /// A peer has taken a forwarded client, or has not.
    pub fn forwarded(&mut self, cx: &mut Context, key: Key, answer: Option<&[u8]>) {
        match answer {
            Some(TAKEN) => {
                // It is closed here as it is, without a word: it goes on there.
                let one = self.0.remove(key);
                drop(one.map(|one| OwnedFd::from(one.client_request.connection.client)));
            }
            Some(_) | None => self.end(cx, key, GATEWAY_SILENT),
        }
    }
}

/// Rejects a client, with this text.
fn refuse(cx: &mut Context, client_request: ClientRequest, why: &str) {
    cx.reject(client_request.connection, true, SessionEnd::new(EndKind::Refused, why));
}

/// Receives a forwarded client, as if it had connected here; `None`: it has been rejected
/// meanwhile. Input behind the request stands in the context's buffer.
pub fn receive_forwarded(
    cx: &mut Context,
    incoming: &mut IncomingRequest,
    forwarded: ForwardedClient,
) -> Option<Box<ClientRequest>> {
    let [client, said] = std::mem::take(&mut incoming.passed).try_into().ok()?;
    let ForwardedClient { listener, until, ended, .. } = forwarded;
    let rules = cx.listeners.rules(listener).filter(|_| BootInstant::now().as_nanos() < until)?;
    let said = memfd_message::read(said, MAX_CLIENT_BYTES).ok()?;
    let (hello, rest) = decode_client(&said)?;
    let client = Stream::of_stranger(client);
    let transport = match client.peer_address() {
        Some(_) => Transport::Tcp,
        None => Transport::Unix,
    };
    let permit = cx.limits.acquire_user(rules, &client);
    let origin = cx.audit.origin_of(listener, &hello);
    cx.input.clear();
    cx.input.extend_from_slice(rest.get(..BUFFER).unwrap_or(rest));
    let connection = Connection { client, transport, listener, permit, origin };
    let received_fds = ReceivedFds::default();
    Some(Box::new(ClientRequest { connection, hello, received_fds, ended, name: None }))
}

/// Encodes what a client has sent. (Passed descriptors are those of a command, which cannot
/// be attached to.)
fn said(hello: &ClientHello, rest: &[u8]) -> Vec<u8> {
    let mut said = encode_bare(HELLO, VERSION).to_vec();
    // 0 is none.
    let (rows, cols) = (hello.rows.unwrap_or(0), hello.cols.unwrap_or(0));
    said.extend(encode_rows_and_cols(rows, cols));
    variables::encode(hello.variables.iter(), &mut said);
    if let Ok(Some((verb, data))) = hello.request.clone().read() {
        request::encode(verb, &data, &mut said);
    }
    encode_input(&hello.input, &mut said);
    if hello.input_ended {
        said.extend(encode_bare(END_OF_STREAM, 0));
    }
    said.extend(encode_bare(VARIABLES, 0));
    said.extend_from_slice(rest);
    said
}

/// Decodes a forwarded client; returns the hello, and the input behind it.
fn decode_client(mut said: &[u8]) -> Option<(ClientHello, &[u8])> {
    let mut handshake = Handshake::default();
    loop {
        match handshake.feed(&mut said) {
            // It has had that.
            HandshakeStep::SendHello(_) => {}
            HandshakeStep::Complete => {
                return handshake.hello.extended.then_some((handshake.hello, said));
            }
            HandshakeStep::Incomplete | HandshakeStep::Reject(_) | HandshakeStep::Http => {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty::proto::request::RequestKind;

    #[test]
    fn what_a_client_has_said_is_heard_by_another_gateway() {
        let mut bytes = encode_bare(HELLO, VERSION).to_vec();
        bytes.extend(encode_rows_and_cols(0, 99));
        request::encode(RequestKind::Attach, b"job", &mut bytes);
        let large = vec![b'v'; 60_000];
        let pairs = [(&b"TERM"[..], &b"foot"[..]), (b"LARGE", &large), (b"fpty.steal", b"1")];
        variables::encode(pairs, &mut bytes);
        encode_input(&[b'i'; 200_000], &mut bytes);
        bytes.extend(encode_bare(END_OF_STREAM, 0));
        bytes.extend(encode_bare(VARIABLES, 0));
        bytes.extend(encode_bare(107, 0));
        let (hello, rest) = decode_client(&bytes).expect("a whole request");
        let again = said(&hello, rest);
        let (twice, rest) = decode_client(&again).expect("a whole request");
        assert_eq!(rest, encode_bare(107, 0));
        assert_eq!((twice.rows, twice.cols, twice.extended), (None, Some(99), true));
        assert!(twice.input_ended && twice.input == hello.input);
        for (name, value) in pairs {
            assert_eq!(twice.variables.get(name), Some(value));
        }
        assert_eq!(twice.request.read(), Ok(Some((RequestKind::Attach, b"job".to_vec()))));
        assert!(decode_client(&again[..again.len() - 9]).is_none(), "cut");
        assert!(decode_client(b"junk").is_none() && decode_client(b"").is_none());
    }
}
