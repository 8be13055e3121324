//! Web pages that come where a terminal is: they are refused by their first
//! bytes, see [`fpty::proto::http_request`].

use std::collections::HashMap;

use super::access::describe_peer;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timer;
use crate::observe::audit::RejectReason;
use crate::session::relay::{LiveSession, SessionAction, Sessions};
use fpty::proto::Protocol;
use fpty::proto::http_request::{
    FORBIDDEN_RESPONSE, FirstBytes, HOLD_TIME, HTTP_REJECTED, HttpProbe, classify,
};
use fpty::sys::socket::Stream;

/// Sessions of raw mode whose first bytes have come, and are not known; most
/// are known with the first read.
#[derive(Default)]
pub struct HttpProbes {
    probes: HashMap<Key, HttpProbe>,
}

/// So many are no reason to look whether they still are.
const PRUNE_ABOVE: usize = 64;

impl HttpProbes {
    /// Looks at the first bytes of a session, which stand in the buffer.
    pub fn probe(&mut self, sessions: &mut Sessions, cx: &mut Context, key: Key) -> SessionAction {
        let Some(LiveSession { session, io, .. }) = sessions.get_mut(key) else {
            return SessionAction::Wait;
        };
        let _armed = io.master.arm();
        let classify = match self.probes.get_mut(&key) {
            Some(probe) => probe.feed(&cx.input),
            None => classify(&cx.input),
        };
        match classify {
            FirstBytes::Http => return self.reject(sessions, cx, key),
            FirstBytes::Terminal => {
                session.accept_first_bytes();
                match self.probes.remove(&key) {
                    Some(mut probe) => session.early_input(probe.take(), io),
                    None => cx.deliver_input(key, session, io),
                }
            }
            FirstBytes::MaybeHttp | FirstBytes::MaybeTerminal => {
                let awaits_first_bytes = !self.probes.contains_key(&key);
                let probe = self.probes.entry(key).or_default();
                if awaits_first_bytes {
                    probe.feed(&cx.input);
                }
                if classify == FirstBytes::MaybeTerminal || probe.is_released() {
                    session.early_input(probe.take(), io);
                }
                if awaits_first_bytes {
                    cx.schedule(HOLD_TIME, Timer::HttpProbe(key));
                    if self.probes.len() > PRUNE_ABOVE {
                        self.probes.retain(|key, _| sessions.has(*key));
                    }
                }
            }
        }
        sessions.settle(cx, key)
    }

    /// There are no more of them than came.
    pub fn input_ended(&mut self, sessions: &mut Sessions, key: Key) {
        let Some(LiveSession { session, io, .. }) = sessions.get_mut(key) else {
            return;
        };
        if let Some(mut probe) = self.probes.remove(&key) {
            let _armed = io.master.arm();
            session.early_input(probe.take(), io);
        }
        session.client_half_closed();
    }

    /// First bytes were held back for long enough.
    pub fn release(
        &mut self,
        sessions: &mut Sessions,
        cx: &mut Context,
        key: Key,
    ) -> SessionAction {
        let Some(LiveSession { session, io, .. }) = sessions.get_mut(key) else {
            self.probes.remove(&key);
            return SessionAction::Wait;
        };
        let Some(probe) = self.probes.get_mut(&key) else {
            return SessionAction::Wait;
        };
        session.early_input(probe.release(), io);
        sessions.settle(cx, key)
    }

    fn reject(&mut self, sessions: &mut Sessions, cx: &mut Context, key: Key) -> SessionAction {
        self.probes.remove(&key);
        let Some(LiveSession { session, io, listener, .. }) = sessions.get_mut(key) else {
            return SessionAction::Wait;
        };
        let (listener, client) = (*listener, &io.client);
        let said_all = !session.has_output();
        session.client_disconnected();
        cx.reject_http(listener, Protocol::Raw, client, said_all);
        SessionAction::Close
    }
}

impl Context {
    /// A web page has come to a terminal's socket: it is told so, where nothing
    /// else was said to it.
    pub fn reject_http(
        &mut self,
        listener: u16,
        protocol: Protocol,
        client: &Stream,
        is_told: bool,
    ) {
        let origin = self.audit.origin(listener, protocol);
        self.audit.rejected(origin, Some(client), RejectReason::Denied, HTTP_REJECTED);
        let line =
            line(self.listeners.get(listener).map(|listener| listener.name.as_str()), client);
        self.listeners.log_rejection(&line);
        if is_told {
            let _ = client.write(FORBIDDEN_RESPONSE);
        }
    }
}

fn line(address: Option<&str>, client: &Stream) -> String {
    format!(
        "forkptyrouter: {}: {} is refused: {HTTP_REJECTED}",
        address.unwrap_or_default(),
        describe_peer(client)
    )
}
