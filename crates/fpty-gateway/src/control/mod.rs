//! Control requests: list, kill, statistics. They go over all listeners and gateways, page
//! by page, so that no session waits for them. A user sees its own sessions alone.
//!
//! | file | subject |
//! | --- | --- |
//! | `control_client.rs` | a client with a control request, and its answer |
//! | `page_cursor.rs` | the cursor of a list over all gateways |
//! | `session_page.rs` | a page: some sessions of one gateway; kill |
//! | `gateway_sessions.rs` | all sessions of a gateway, to iterate and to look up |
//! | `session_entry.rs` | a session as an entry of a list, in JSON |
//! | `session_view.rs` | what a list shows of an attached session |
//! | `peers/` | requests between gateways |
//! | `attach_elsewhere.rs` | attach to a session that another gateway may have |
//! | `statistics/` | the statistics' socket |

pub(crate) mod attach_elsewhere;
pub(crate) mod control_client;
pub mod gateway_sessions;
pub(crate) mod page_cursor;
pub mod peers;
pub(crate) mod session_entry;
pub mod session_page;
pub(crate) mod session_view;
pub(crate) mod statistics;

use std::os::fd::AsFd;
use std::time::Duration;

use crate::connection::client_hello::ClientHello;
use crate::connection::lingering_close::CloseNotice;
use crate::connection::listeners::Connection;
use crate::control::peers::{PeerRequest, Peers, Requester};
use crate::control::statistics::{Request, StatisticsResponse};
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Slab, Token};
use crate::event_loop::timers::Timer;
use crate::session::selector::SessionSelector;
use fpty::fair_share::{self, Principal};
use fpty::proto::request::RequestKind;
use fpty::proto::{EndKind, SessionEnd};
use fpty::sys::ReadOutcome;
use fpty::sys::poll::Ready;

use crate::control::control_client::{ControlClient, ControlRequest, KillSearch};
use crate::control::gateway_sessions::GatewaySessions;
use crate::control::page_cursor::NextPage;

/// The most control clients, and of one user; a further one evicts the oldest of the user
/// with the most.
const MAX_CLIENTS: usize = 256;
const MAX_CLIENTS_PER_USER: usize = 16;

/// The most clients of the statistics.
const MAX_STATISTICS_CLIENTS: usize = 32;

/// Timeout of a request and of a client that does not read, and timeout in all.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of one read of a request.
const REQUEST_READ: usize = 4096;

/// All control clients.
pub struct ControlClients {
    clients: Slab<ControlClient>,
    /// Whether statistics are requested by HTTP.
    http: bool,
}

/// Whether a hello has a control request.
pub fn is_control_request(hello: &ClientHello) -> bool {
    hello.extended && matches!(hello.request.kind(), Some(RequestKind::List | RequestKind::Kill))
}

impl ControlClients {
    /// No client.
    pub fn new(http: bool) -> Self {
        Self { clients: Slab::new(), http }
    }

    /// Whether a client is still there.
    pub fn has(&self, key: Key) -> bool {
        self.clients.has(key)
    }

    /// Closes one without a word.
    pub fn discard(&mut self, key: Key) {
        self.clients.remove(key);
    }

    /// Adds a control request: it needs no permit; every client that may connect may send
    /// it.
    pub fn add_request(&mut self, cx: &mut Context, connection: Connection, hello: ClientHello) {
        // The permit is released: a control client has no session.
        let Connection { client, .. } = connection;
        let is_known = client.peer_uid().is_some();
        let request = hello.request.read();
        let selector = match &request {
            Ok(Some((RequestKind::Kill, id))) => Some(SessionSelector::of(id)),
            _ => None,
        };
        let control_request = match selector.flatten() {
            Some(selector) => ControlRequest::Kill(KillSearch::of(selector)),
            None => ControlRequest::List,
        };
        let mut client = ControlClient::new(client, control_request);
        match (request, selector) {
            (Err(why), _) => client.refuse(format!("bad request: {why}")),
            (Ok(_), Some(Some(_))) | (Ok(_), None) if is_known => {}
            (Ok(_), Some(_)) => client.end_of_kill(false),
            (Ok(_), None) => client.end_of_list(),
        }
        self.insert(cx, client);
    }

    /// Accepts a client of the statistics.
    pub fn accept_statistics(&mut self, cx: &mut Context) {
        let client = match cx.listeners.accept_statistics() {
            Ok(Some(client)) => client,
            Ok(None) => return,
            // It goes on waiting, and would be told of again at once.
            Err(_) => return cx.pause_accepting(),
        };
        let control_request = ControlRequest::Statistics(Some(Request::default()));
        self.insert(cx, ControlClient::new(client, control_request));
    }

    /// The client that a further one of its kind evicts.
    fn client_to_evict(&self, client: &ControlClient) -> Option<Key> {
        let of_statistics = client.is_of_statistics();
        let (all, most) = match (of_statistics, client.principal) {
            (true, _) => (MAX_STATISTICS_CLIENTS, MAX_STATISTICS_CLIENTS),
            (false, Principal::User(0)) => (MAX_CLIENTS, MAX_CLIENTS),
            (false, _) => (MAX_CLIENTS, MAX_CLIENTS_PER_USER),
        };
        let alike =
            self.clients.iter().filter(|(_, other)| other.is_of_statistics() == of_statistics);
        let places = alike.map(|(key, one)| (key, one.principal, one.since));
        fair_share::to_evict(places, client.principal, most, all)
    }

    fn insert(&mut self, cx: &mut Context, client: ControlClient) {
        if let Some(slowest) = self.client_to_evict(&client) {
            self.close(cx, slowest);
        }
        cx.push_outcome(Outcome::ControlRequest(self.clients.insert(client)));
    }

    /// Registers a new client.
    pub fn begin(&mut self, cx: &mut Context, key: Key) {
        let Some(one) = self.clients.get_mut(key) else { return };
        match one.is_of_statistics() {
            true => fault_injection::point("statistics"),
            false => fault_injection::point("inquiry"),
        }
        // Without stats-http nobody has to say anything.
        if one.is_of_statistics() && !self.http {
            one.set_response(cx, StatisticsResponse::Plain);
        }
        let token = Token::ControlClient(key).token();
        if cx.poller.add(one.client.as_fd(), token, one.interest()).is_err() {
            self.clients.remove(key);
            return;
        }
        cx.schedule(IDLE_TIMEOUT, Timer::ControlClient(key));
    }

    /// A client is readable, writable, or hung up.
    pub fn ready(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        view: GatewaySessions<'_>,
        key: Key,
        ready: Ready,
    ) {
        let Some(one) = self.clients.get_mut(key) else { return };
        let ControlRequest::Statistics(Some(request)) = &mut one.control_request else {
            return match ready.hang_up {
                true => self.close(cx, key),
                false => self.send(cx, peers, view, key),
            };
        };
        let response = match one.client.read(&mut cx.buffer[..REQUEST_READ]) {
            ReadOutcome::Bytes(count) => {
                fault_injection::panic_if_requested("statistics", || &cx.buffer[..count]);
                match request.feed(&cx.buffer[..count]) {
                    None => return,
                    response => response,
                }
            }
            ReadOutcome::WouldBlock if !ready.hang_up => return,
            ReadOutcome::Eof if !ready.hang_up => request.end(),
            ReadOutcome::WouldBlock | ReadOutcome::Eof | ReadOutcome::Closed => None,
        };
        let Some(response) = response else {
            return self.close(cx, key);
        };
        one.set_response(cx, response);
        self.send(cx, peers, view, key);
    }

    /// Sends more of an answer.
    fn send(&mut self, cx: &mut Context, peers: &mut Peers, view: GatewaySessions<'_>, key: Key) {
        let Some(one) = self.clients.get_mut(key) else { return };
        let (before, client) = (one.answer.len(), &one.client);
        if !one.answer.flush(|bytes| client.write(bytes).taken()) {
            return self.close(cx, key);
        }
        one.reads |= one.answer.len() < before;
        // A little at a time: sessions do not wait for a list of them, nor
        // does a list wait in memory for its reader.
        if one.answer.is_empty() && one.over {
            let last = match one.is_of_statistics() {
                true => CloseNotice::Eof,
                false => CloseNotice::Packet { is_answered: false },
            };
            if let Some(one) = self.clients.remove(key) {
                cx.close_lingering(one.client, last);
            }
            return;
        }
        if one.answer.is_empty() && !one.cursor.waits {
            next_page(one, cx, peers, view, key);
        }
        self.watch(cx, key);
    }

    /// A peer has replied, or not in time.
    pub fn answered(&mut self, cx: &mut Context, key: Key, answer: Option<&[u8]>) {
        fault_injection::point("answer");
        if let Some(one) = self.clients.get_mut(key).filter(|one| one.cursor.waits) {
            one.peer_replied(answer);
            self.watch(cx, key);
        }
    }

    /// Updates the interest at the poller.
    fn watch(&mut self, cx: &mut Context, key: Key) {
        if let Some(one) = self.clients.get(key) {
            let token = Token::ControlClient(key).token();
            let _ = cx.poller.change(one.client.as_fd(), token, one.interest());
        }
    }

    /// The timeout of a client, which has longer while it reads.
    pub fn timed_out(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        view: GatewaySessions<'_>,
        key: Key,
    ) {
        let Some(one) = self.clients.get_mut(key) else { return };
        // It says no more, and has said enough, perhaps.
        let response = match &one.control_request {
            ControlRequest::Statistics(Some(request)) => request.end(),
            _ => None,
        };
        if let Some(response) = response {
            cx.schedule(IDLE_TIMEOUT, Timer::ControlClient(key));
            one.set_response(cx, response);
            return self.send(cx, peers, view, key);
        }
        let reads = std::mem::take(&mut one.reads) || one.cursor.waits;
        match reads && one.since.elapsed() < TOTAL_TIMEOUT {
            true => cx.schedule(IDLE_TIMEOUT, Timer::ControlClient(key)),
            false => self.close(cx, key),
        }
    }

    /// Ends a client with this text.
    pub fn end(&mut self, cx: &mut Context, key: Key, why: &str) {
        let Some(one) = self.clients.get(key) else { return };
        if one.is_of_statistics() {
            return self.close(cx, key);
        }
        if let Some(one) = self.clients.remove(key) {
            if one.answer.is_empty() {
                let _ = one.client.write(&SessionEnd::new(EndKind::Refused, why).packet());
            }
            cx.close_lingering(one.client, CloseNotice::Packet { is_answered: false });
        }
    }

    fn close(&mut self, cx: &mut Context, key: Key) {
        if let Some(one) = self.clients.remove(key) {
            let _ = cx.poller.remove(one.client.as_fd());
        }
    }
}

/// Fetches the next page, of this gateway or a peer.
fn next_page(
    one: &mut ControlClient,
    cx: &mut Context,
    peers: &mut Peers,
    view: GatewaySessions<'_>,
    key: Key,
) {
    fault_injection::point("list");
    let requester = Requester::ControlClient(key);
    let next = match one.is_ambiguous() {
        true => NextPage::Over,
        false => one.cursor.next(cx, peers, view, requester),
    };
    let found = match next {
        NextPage::Page(whose, page) => return one.add(whose, &page),
        NextPage::Requested => return,
        NextPage::Over => one.conclude(),
    };
    let Some(found) = found else { return };
    let (by, place, id) = (one.cursor.page_request.by, found.place, found.id);
    match found.gateway {
        None => one.end_of_kill(view.end(cx, by, place, id)),
        Some(whom) => {
            match peers.request(cx, whom, &PeerRequest::Kill { by, place, id }, &[], requester) {
                true => one.cursor.waits = true,
                false => one.end_of_kill(false),
            }
        }
    }
}
