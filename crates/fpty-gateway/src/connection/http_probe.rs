//! HTTP probes: web pages that connect to a terminal's socket are rejected by their first
//! bytes, see [`fpty::proto::http_request`].

use std::collections::HashMap;

use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timer;
use crate::session::relay::{LiveSession, SessionAction, Sessions};
use fpty::proto::Protocol;
use fpty::proto::http_request::{
    FORBIDDEN_RESPONSE, FirstBytes, HOLD_TIME, HTTP_REJECTED, HttpProbe, classify,
};
use fpty::sys::socket::Stream;

/// Probes of sessions in raw mode whose first bytes are not classified yet; most are with
/// the first read.
#[derive(Default)]
pub struct HttpProbes {
    probes: HashMap<Key, HttpProbe>,
}

/// Probes are pruned above this number.
const PRUNE_ABOVE: usize = 64;

impl HttpProbes {
    /// Classifies the first bytes of a session, which stand in the context's buffer.
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
                let is_new = !self.probes.contains_key(&key);
                let probe = self.probes.entry(key).or_default();
                if is_new {
                    probe.feed(&cx.input);
                }
                if classify == FirstBytes::MaybeTerminal || probe.is_released() {
                    session.early_input(probe.take(), io);
                }
                if is_new {
                    cx.schedule(HOLD_TIME, Timer::HttpProbe(key));
                    if self.probes.len() > PRUNE_ABOVE {
                        self.probes.retain(|key, _| sessions.has(*key));
                    }
                }
            }
        }
        sessions.settle(cx, key)
    }

    /// The input ended during the probe.
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

    /// Passes on first bytes that were held back for long enough.
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
    /// Rejects an HTTP client: with a response, where nothing was sent to it before.
    pub fn reject_http(
        &mut self,
        listener: u16,
        protocol: Protocol,
        client: &Stream,
        is_told: bool,
    ) {
        self.deny(listener, protocol, client, HTTP_REJECTED);
        if is_told {
            let _ = client.write(FORBIDDEN_RESPONSE);
        }
    }
}
