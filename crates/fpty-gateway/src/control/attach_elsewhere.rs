//! Clients that want a session which another gateway may have: that one is found,
//! and goes on with the client as if it had come there. Several gateways are one.
//!
//! Who has a name all of them see (`tallies.rs`). For the rest they are asked, all at
//! once, and whoever does not answer in time is done without. The client goes to
//! another gateway as its connection with what it has said; until that one says that
//! it has it, the connection is here, too, so that a gateway which is killed or hangs
//! leaves nobody without an answer.

use std::os::fd::{AsFd, OwnedFd};

use super::peers::attach_request::{AttachQuery, BestMatch, MatchQuality, NameKey, name};
use super::peers::{
    ForwardedClient, IncomingRequest, PeerRequest, Peers, REPLY_TIMEOUT, Requester,
};
use crate::config::rules::Rules;
use crate::connection::client_hello::{ClientHello, Handshake, HandshakeStep};
use crate::connection::handshake::ClientRequest;
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

/// How another gateway says that it goes on with a client.
pub const TAKEN: &[u8] = b"1";

/// So often a client goes on to another gateway: a session may end, and begin
/// elsewhere, while it is on its way.
const MAX_HOPS: u8 = 3;

/// What a client has said is no longer than this.
const MAX_CLIENT_BYTES: usize = 4 * 1024 * 1024;

/// Why somebody gets nothing.
const NO_SUCH_ANSWERED: &str = "there is no such session, but for gateways that do not answer";
const GATEWAY_SILENT: &str = "the session's gateway does not answer: try again";
const SESSION_MOVES: &str = "the session begins elsewhere right now: try again";

/// Everybody who seeks a session.
#[derive(Default)]
pub struct AttachSearches(Slab<AttachSearch>);

/// Somebody who does.
struct AttachSearch {
    client_request: Box<ClientRequest>,
    /// What it sent after its request.
    rest: Vec<u8>,
    /// What was found so far.
    best: BestMatch,
    /// Gateways that have not answered yet.
    response: u32,
    /// Some will not.
    unanswered: bool,
}

/// Where somebody goes that wants a session.
#[must_use]
pub enum AttachRoute {
    /// It stays here. What it sent after its request stands in the turn's buffer.
    Here(Box<ClientRequest>),
    /// Others are asked, or one of them has it; or it gets nothing.
    Elsewhere,
}

impl AttachQuery {
    /// What somebody seeks; `None`: nothing that there could be.
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

    /// The key of its name.
    fn name(&self) -> Option<NameKey> {
        // Nobody has none.
        Some(name(self.listener, self.uid, self.which.filter(|_| self.uid != UNKNOWN_UID)?))
    }
}

impl AttachSearches {
    /// One is closed as it is.
    pub fn discard(&mut self, key: Key) {
        self.0.remove(key);
    }

    /// One gets no answer, for no fault of its own.
    pub fn end(&mut self, cx: &mut Context, key: Key, why: &str) {
        if let Some(one) = self.0.remove(key) {
            cx.reject(one.client_request.connection, true, SessionEnd::new(EndKind::Refused, why));
        }
    }

    /// A client wants a session, which may be another gateway's. So many have had it
    /// before.
    pub fn start(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        here: Option<(&mut DetachRegistry, &Sessions)>,
        client_request: Box<ClientRequest>,
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
            return self.begin(cx, peers, client_request, &query, hops);
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

    /// A session is to begin, if nobody has that name. Of two that come at once at
    /// two gateways one begins it, and the other one's client goes there, too.
    fn begin(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        mut client_request: Box<ClientRequest>,
        query: &AttachQuery,
        hops: u8,
    ) -> AttachRoute {
        match query.name().map(|name| cx.shared_counts.claim(name, 1)) {
            Some(Err(gateway)) if gateway != cx.ordinal => {
                self.forward(cx, peers, client_request, gateway, hops)
            }
            name => {
                client_request.name = name.and_then(Result::ok);
                AttachRoute::Here(client_request)
            }
        }
    }

    /// Asks all others.
    fn ask(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        client_request: Box<ClientRequest>,
        query: AttachQuery,
        best: BestMatch,
    ) {
        let rest = cx.take_input();
        let key = self.0.insert(AttachSearch {
            client_request,
            rest,
            best,
            response: 0,
            unanswered: false,
        });
        let others: Vec<usize> = peers.others().collect();
        let mut response = 0;
        for whom in &others {
            let question = PeerRequest::FindSession(query.clone());
            response += u32::from(peers.request(
                cx,
                *whom,
                question,
                &[],
                Requester::AttachSearch(key, *whom),
            ));
        }
        let Some(one) = self.0.get_mut(key) else { return };
        (one.response, one.unanswered) = (response, (response as usize) < others.len());
        if response == 0 {
            cx.push_outcome(Outcome::AttachRouted(key));
        }
    }

    /// Another gateway has said what it has, or has not.
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

    /// It is known whose the session is.
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
        cx.reject(client_request.connection, true, SessionEnd::new(EndKind::Refused, why));
        AttachRoute::Elsewhere
    }

    /// Another gateway goes on with a client. What that sent after its request stands
    /// in the turn's buffer.
    fn forward(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        mut client_request: Box<ClientRequest>,
        whom: usize,
        hops: u8,
    ) -> AttachRoute {
        let refused = |why: &str| SessionEnd::new(EndKind::Refused, why);
        if hops >= MAX_HOPS {
            cx.reject(client_request.connection, true, refused(SESSION_MOVES));
            return AttachRoute::Elsewhere;
        }
        // It takes one there.
        client_request.connection.permit = Ok(None);
        let said = match memfd_message::create(&said(&client_request.hello, &cx.input)) {
            Ok(said) => said,
            Err(error) => {
                let why = format!("cannot pass the client on: {}", reason(&error));
                cx.reject(client_request.connection, true, refused(&why));
                return AttachRoute::Elsewhere;
            }
        };
        let (listener, ended) = (client_request.connection.listener, client_request.ended);
        let until = (BootInstant::now() + REPLY_TIMEOUT).as_nanos();
        let question =
            PeerRequest::TakeClient(ForwardedClient { listener, until, hops: hops + 1, ended });
        let (rest, best) = (Vec::new(), BestMatch::default());
        let key = self.0.insert(AttachSearch {
            client_request,
            rest,
            best,
            response: 0,
            unanswered: false,
        });
        let Some(one) = self.0.get(key) else { return AttachRoute::Elsewhere };
        let descriptors = [one.client_request.connection.client.as_fd(), said.as_fd()];
        if !peers.request(cx, whom, question, &descriptors, Requester::Forwarded(key)) {
            self.end(cx, key, GATEWAY_SILENT);
        }
        AttachRoute::Elsewhere
    }

    /// Another gateway has a client, or has not.
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

/// Another gateway's client, as if it had come here; `None`: it has gone on without
/// us. What it sent after its request stands in the turn's buffer.
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

/// What a client has said, as it would say it. (Streams that it passes are those of a
/// command, which nobody comes back to.)
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

/// What is heard of that, and what comes after it.
fn decode_client(mut said: &[u8]) -> Option<(ClientHello, &[u8])> {
    let mut handshake = Handshake::default();
    loop {
        match handshake.feed(&mut said) {
            // It has had that.
            HandshakeStep::SendHello(_) => {}
            HandshakeStep::Complete => {
                return handshake.is_extended().then(|| (handshake.into_hello(), said));
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
