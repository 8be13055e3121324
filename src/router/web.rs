//! Web pages that come where a terminal is: they are refused by their first
//! bytes, see [`crate::session::web`].

use std::collections::HashMap;

use super::GatewayLoop;
use super::admission::who;
use super::closing::LastWord;
use super::table::Key;
use super::timers::Due;
use super::told::{Refusal, Said};
use super::traffic::Attached;
use crate::session::web::{ANSWER, Beginning, Begins, HELD, WHY, begins};
use fpty::proto::Protocol;
use fpty::sys::socket::Stream;

/// Sessions of raw mode whose first bytes have come, and are not known; most
/// are known with the first read.
pub type Beginnings = HashMap<Key, Beginning>;

/// So many are no reason to look whether they still are.
const FEW: usize = 64;

impl GatewayLoop {
    /// Looks at the first bytes of a session, which stand in the buffer.
    pub(super) fn hear_first(&mut self, key: Key) {
        let Some(Attached { session, wires, .. }) = self.sessions.get_mut(key) else {
            return;
        };
        let before = self.beginnings.get_mut(&key);
        let begins = match before {
            Some(beginning) => beginning.hear(&self.cx.input),
            None => begins(&self.cx.input),
        };
        match begins {
            Begins::Web => return self.refuse_web(key),
            Begins::Plain => {
                session.is_known_now();
                match self.beginnings.remove(&key) {
                    Some(mut beginning) => session.early_input(beginning.take(), wires),
                    None => self.cx.hear(key, session, wires),
                }
            }
            Begins::Likely | Begins::Unlikely => {
                let is_new = !self.beginnings.contains_key(&key);
                let beginning = self.beginnings.entry(key).or_default();
                if is_new {
                    beginning.hear(&self.cx.input);
                }
                if begins == Begins::Unlikely || beginning.is_released() {
                    session.early_input(beginning.take(), wires);
                }
                if is_new {
                    self.cx.after(HELD, Due::First(key));
                    if self.beginnings.len() > FEW {
                        self.beginnings.retain(|key, _| self.sessions.has(*key));
                    }
                }
            }
        }
        self.settle(key);
    }

    /// First bytes were held back for long enough.
    pub(super) fn give_first(&mut self, key: Key) {
        let Some(Attached { session, wires, .. }) = self.sessions.get_mut(key) else {
            self.beginnings.remove(&key);
            return;
        };
        if let Some(beginning) = self.beginnings.get_mut(&key) {
            session.early_input(beginning.release(), wires);
            self.settle(key);
        }
    }

    fn refuse_web(&mut self, key: Key) {
        self.beginnings.remove(&key);
        let Some(Attached { session, wires, door, .. }) = self.sessions.get_mut(key) else {
            return;
        };
        let (door, client) = (*door, &wires.client);
        let said_all = !session.has_output();
        session.client_left();
        self.cx.told.hears(door, Protocol::Raw.name(), Said::default);
        self.cx.told.refused(Some(client), Refusal::Denied, WHY);
        let line = line(self.cx.doors.door(door).map(|door| door.name.as_str()), client);
        self.cx.doors.log_refusal(&line);
        if said_all {
            let _ = client.write(ANSWER);
        }
        self.close(key);
    }

    /// The same of a client of uwsgi mode, whose program has not started.
    pub(super) fn refuse_web_caller(&mut self, door: u16, client: Stream) {
        self.cx.told.hears(door, Protocol::Uwsgi.name(), Said::default);
        self.cx.told.refused(Some(&client), Refusal::Denied, WHY);
        let line = line(self.cx.doors.door(door).map(|door| door.name.as_str()), &client);
        self.cx.doors.log_refusal(&line);
        let _ = client.write(ANSWER);
        self.cx.close_when_read(client, LastWord::Eof);
    }
}

fn line(address: Option<&str>, client: &Stream) -> String {
    format!("forkptyrouter: {}: {} is refused: {WHY}", address.unwrap_or_default(), who(client))
}
