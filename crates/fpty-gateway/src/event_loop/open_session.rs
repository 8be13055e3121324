//! Connections on their way to a session: accepted, through the handshake, to a new
//! session, a detached one, or a control request; and requests of peers.

use super::fault_injection;
use super::gateway_loop::GatewayLoop;
use super::slab::Key;
use crate::connection::handshake::{ClientRequest, HandshakeResult};
use crate::connection::listeners::Connection;
use crate::control::all_sessions::AllSessions;
use crate::control::attach_elsewhere::{self, AttachRoute};
use crate::control::peers::{IncomingRequest, PeerRequest};
use crate::control::{self};
use crate::process::ipc;
use crate::session::open::{Accepted, SessionPlan};
use crate::session::relay::SessionAction;
use crate::session::state::Session;
use fpty::proto::request::RequestKind;
use fpty::sys::socket::{Stream, Transport};

impl GatewayLoop {
    /// After anything that happened to a session: most often it waits.
    pub(super) fn settle(&mut self, key: Key) {
        match self.sessions.settle(&mut self.cx, key) {
            SessionAction::Wait => {}
            next => self.transitions().apply(key, next),
        }
    }

    /// Takes a connection that waits at a socket.
    pub(super) fn accept(&mut self, listener: u16) {
        match self.cx.accept(listener) {
            Accepted::Nobody => {}
            Accepted::Uwsgi(client, transport) => self.start_handshake(client, transport, listener),
            Accepted::Raw(connection) => {
                let Some(place) = self.cx.listeners.get(listener) else { return };
                let size = place.rules.size;
                let plan = SessionPlan {
                    session: Session::raw(size),
                    program: place.program.clone(),
                    size,
                    environment: Vec::new(),
                    shown: None,
                };
                self.transitions().open_terminal(connection, plan);
            }
        }
    }

    pub(super) fn start_handshake(&mut self, client: Stream, transport: Transport, listener: u16) {
        let handshake_result = self.pending.start(&mut self.cx, client, transport, listener);
        self.handshake_result(handshake_result);
    }

    pub(super) fn handshake_result(&mut self, handshake_result: HandshakeResult) {
        if let HandshakeResult::Complete(client_request) = handshake_result {
            self.open(*client_request);
        }
    }

    /// Does what a client wants.
    pub(super) fn open(&mut self, client_request: ClientRequest) {
        match client_request.hello.request.kind() {
            Some(RequestKind::Attach) => {
                self.find_session(Box::new(client_request), 0);
            }
            _ if control::is_control_request(&client_request.hello) => {
                self.control_clients.add_request(
                    &mut self.cx,
                    client_request.connection,
                    client_request.hello,
                );
            }
            _ => self.open_new(client_request),
        }
    }

    /// A client wants a session that was left; so many gateways have had it before.
    pub(super) fn find_session(&mut self, client_request: Box<ClientRequest>, hops: u8) {
        let (cx, peers, registry) = (&mut self.cx, &mut self.peers, self.registry.as_deref_mut());
        let here = registry.map(|registry| (registry, &self.sessions));
        let goes = self.attach_searches.start(cx, peers, here, client_request, hops);
        self.route_attach(goes);
    }

    /// It is known which gateway has the session that a client wants.
    pub(super) fn route_attach(&mut self, goes: AttachRoute) {
        if let AttachRoute::Here(client_request) = goes {
            if let Some(client_request) = self.transitions().attach(*client_request) {
                self.open_new(client_request);
            }
        }
    }

    /// Another gateway asks something.
    pub(super) fn peer_request(&mut self, mut incoming: IncomingRequest) {
        fault_injection::point("question");
        let cx = &mut self.cx;
        let view = AllSessions::of(&self.sessions, &self.commands, self.registry.as_deref());
        let answer = match &incoming.request {
            PeerRequest::Page(asking) => view.page(cx, *asking).encode(),
            PeerRequest::Kill { by, place, id } => match view.end(cx, *by, *place, *id) {
                true => control::page::KILLED.to_vec(),
                false => Vec::new(),
            },
            PeerRequest::FindSession(query) => {
                let registry = self.registry.as_mut();
                let found =
                    registry.and_then(|registry| registry.find_for_peer(&self.sessions, query));
                found.as_ref().map(ipc::encode).unwrap_or_default()
            }
            PeerRequest::TakeClient(forwarded) => {
                let (forwarded, hops) = (*forwarded, forwarded.hops);
                let Some(client_request) =
                    attach_elsewhere::receive_forwarded(cx, &mut incoming, forwarded)
                else {
                    return;
                };
                self.peers.reply(&incoming, attach_elsewhere::TAKEN);
                return self.find_session(client_request, hops);
            }
        };
        self.peers.reply(&incoming, &answer);
    }

    /// Makes a session, or a command, of a client that has not come back to an old one.
    pub(super) fn open_new(&mut self, client_request: ClientRequest) {
        let connection = self.cx.with_session_permit(client_request.connection);
        let asked = || client_request.hello.request.shown();
        let origin = self.cx.audit.with_command(connection.origin, asked);
        let client_request =
            ClientRequest { connection: Connection { origin, ..connection }, ..client_request };
        match client_request.hello.wants_terminal() {
            true => self.transitions().open(client_request),
            false => self.open_command(client_request),
        }
    }

    pub(super) fn open_command(&mut self, client_request: ClientRequest) {
        let recorder = self.recorder.as_ref();
        if let Some(why) =
            recorder.and_then(|it| it.command_rejection_reason(client_request.connection.listener))
        {
            return self.cx.reject(client_request.connection, true, why);
        }
        self.commands.start(&mut self.cx, &mut self.processes, client_request);
    }
}
