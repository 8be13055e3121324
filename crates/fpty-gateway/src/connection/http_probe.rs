//! Web pages that come where a terminal is: they are refused by their first
//! bytes, see [`fpty::proto::http_request`].

use std::collections::HashMap;

use super::access::who;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Due;
use crate::observe::audit::Refusal;
use crate::session::relay::{LiveSession, SessionAction, Sessions};
use fpty::proto::Protocol;
use fpty::proto::http_request::{ANSWER, Beginning, Begins, HELD, WHY, begins};
use fpty::sys::socket::Stream;

/// Sessions of raw mode whose first bytes have come, and are not known; most
/// are known with the first read.
#[derive(Default)]
pub struct Beginnings {
    held: HashMap<Key, Beginning>,
}

/// So many are no reason to look whether they still are.
const FEW: usize = 64;

impl Beginnings {
    /// Looks at the first bytes of a session, which stand in the buffer.
    pub fn hear(&mut self, sessions: &mut Sessions, cx: &mut Context, key: Key) -> SessionAction {
        let Some(LiveSession { session, io, .. }) = sessions.get_mut(key) else {
            return SessionAction::Wait;
        };
        let _armed = io.master.arm();
        let begins = match self.held.get_mut(&key) {
            Some(beginning) => beginning.hear(&cx.input),
            None => begins(&cx.input),
        };
        match begins {
            Begins::Web => return self.refuse(sessions, cx, key),
            Begins::Plain => {
                session.accept_first_bytes();
                match self.held.remove(&key) {
                    Some(mut beginning) => session.early_input(beginning.take(), io),
                    None => cx.hear(key, session, io),
                }
            }
            Begins::Likely | Begins::Unlikely => {
                let awaits_first_bytes = !self.held.contains_key(&key);
                let beginning = self.held.entry(key).or_default();
                if awaits_first_bytes {
                    beginning.hear(&cx.input);
                }
                if begins == Begins::Unlikely || beginning.is_released() {
                    session.early_input(beginning.take(), io);
                }
                if awaits_first_bytes {
                    cx.after(HELD, Due::First(key));
                    if self.held.len() > FEW {
                        self.held.retain(|key, _| sessions.has(*key));
                    }
                }
            }
        }
        sessions.settle(cx, key)
    }

    /// There are no more of them than came.
    pub fn ended(&mut self, sessions: &mut Sessions, key: Key) {
        let Some(LiveSession { session, io, .. }) = sessions.get_mut(key) else {
            return;
        };
        if let Some(mut beginning) = self.held.remove(&key) {
            let _armed = io.master.arm();
            session.early_input(beginning.take(), io);
        }
        session.client_half_closed();
    }

    /// First bytes were held back for long enough.
    pub fn give(&mut self, sessions: &mut Sessions, cx: &mut Context, key: Key) -> SessionAction {
        let Some(LiveSession { session, io, .. }) = sessions.get_mut(key) else {
            self.held.remove(&key);
            return SessionAction::Wait;
        };
        let Some(beginning) = self.held.get_mut(&key) else {
            return SessionAction::Wait;
        };
        session.early_input(beginning.release(), io);
        sessions.settle(cx, key)
    }

    fn refuse(&mut self, sessions: &mut Sessions, cx: &mut Context, key: Key) -> SessionAction {
        self.held.remove(&key);
        let Some(LiveSession { session, io, door, .. }) = sessions.get_mut(key) else {
            return SessionAction::Wait;
        };
        let (door, client) = (*door, &io.client);
        let said_all = !session.has_output();
        session.client_disconnected();
        cx.refuse_page(door, Protocol::Raw, client, said_all);
        SessionAction::Close
    }
}

impl Context {
    /// A web page has come to a terminal's socket: it is told so, where nothing
    /// else was said to it.
    pub fn refuse_page(&mut self, door: u16, protocol: Protocol, client: &Stream, is_told: bool) {
        let origin = self.told.origin(door, protocol);
        self.told.refused(origin, Some(client), Refusal::Denied, WHY);
        let line = line(self.doors.door(door).map(|door| door.name.as_str()), client);
        self.doors.log_refusal(&line);
        if is_told {
            let _ = client.write(ANSWER);
        }
    }
}

fn line(address: Option<&str>, client: &Stream) -> String {
    format!("forkptyrouter: {}: {} is refused: {WHY}", address.unwrap_or_default(), who(client))
}
