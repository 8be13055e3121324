//! Clients that ask who is there, want a session ended, or the statistics: over
//! all sockets and gateways, and piece by piece, so that nobody else waits for it.
//! What is not one's own does not exist.
//!
//! | file | subject |
//! | --- | --- |
//! | `attach_elsewhere.rs` | clients whose session another gateway may have |
//! | `client.rs` | one of them: what it asks for, and its answer |
//! | `entry.rs` | a session as a list has it |
//! | `page.rs` | some sessions of one gateway |
//! | `pages.rs` | a list over all gateways, page by page |
//! | `peers/` | what gateways ask each other |
//! | `session_view.rs` | what lists have of a session |
//! | `sessions.rs` | all sessions of a gateway, to be looked at |
//! | `statistics/` | the statistics |

pub(crate) mod attach_elsewhere;
pub(crate) mod client;
pub(crate) mod entry;
pub mod page;
pub(crate) mod pages;
pub mod peers;
pub(crate) mod session_view;
pub mod sessions;
pub(crate) mod statistics;

use std::os::fd::AsFd;
use std::time::Duration;

use crate::connection::client_hello::Opening;
use crate::connection::lingering_close::LastWord;
use crate::connection::listeners::Newcomer;
use crate::control::peers::{Asker, Question, Siblings};
use crate::control::statistics::{Asked, Request};
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Source, Table};
use crate::event_loop::timers::Due;
use crate::session::selector::SessionSelector;
use fpty::fair_share::{self, Who};
use fpty::proto::request::Verb;
use fpty::proto::{Ended, Ending};
use fpty::sys::Read;
use fpty::sys::poll::Ready;

use crate::control::client::{Inquirer, Search, Wants};
use crate::control::pages::Next;
use crate::control::sessions::View;

/// Clients at once that ask, and of one user; for a further one, the one that
/// has taken longest is let go, of whoever has most of them.
const CLIENTS: usize = 256;
const CLIENTS_OF_ONE: usize = 16;

/// The same of those who ask for the statistics.
const CLIENTS_OF_STATISTICS: usize = 32;

/// How long one may take to ask, how long not to read, and how long it may take
/// in all.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);

/// What is read of a request at once.
const ONE_READ: usize = 4096;

/// Everybody who asks.
pub struct Inquirers {
    clients: Table<Inquirer>,
    /// Whether statistics are asked for by HTTP.
    http: bool,
}

/// What a client asks that wants no session of its own.
pub fn is_inquiry(opening: &Opening) -> bool {
    opening.extended && matches!(opening.request.verb(), Some(Verb::List | Verb::Kill))
}

impl Inquirers {
    /// Nobody yet.
    pub fn new(http: bool) -> Self {
        Self { clients: Table::new(), http }
    }

    /// Whether this one is still there.
    pub fn has(&self, key: Key) -> bool {
        self.clients.has(key)
    }

    /// One is closed as it is.
    pub fn drop_one(&mut self, key: Key) {
        self.clients.remove(key);
    }

    /// Somebody asks: it needs no seat, and whoever may come in may.
    pub fn inquire(&mut self, cx: &mut Context, newcomer: Newcomer, opening: Opening) {
        // Its seat is free: it is no session.
        let Newcomer { client, .. } = newcomer;
        let is_known = client.peer_uid().is_some();
        let request = opening.request.read();
        let sought = match &request {
            Ok(Some((Verb::Kill, id))) => Some(SessionSelector::of(id)),
            _ => None,
        };
        let wants = match sought.flatten() {
            Some(sought) => Wants::End(Search::of(sought)),
            None => Wants::List,
        };
        let mut inquirer = Inquirer::new(client, wants);
        match (request, sought) {
            (Err(why), _) => inquirer.refuse(format!("bad request: {why}")),
            (Ok(_), Some(Some(_))) | (Ok(_), None) if is_known => {}
            (Ok(_), Some(_)) => inquirer.end_of_kill(false),
            (Ok(_), None) => inquirer.end_of_list(),
        }
        self.insert(cx, inquirer);
    }

    /// Takes the next client of the statistics.
    pub fn accept_statistics(&mut self, cx: &mut Context) {
        let client = match cx.doors.accept_statistics() {
            Ok(Some(client)) => client,
            Ok(None) => return,
            // It goes on waiting, and would be told of again at once.
            Err(_) => return cx.pause(),
        };
        self.insert(cx, Inquirer::new(client, Wants::Some(Request::default())));
    }

    /// One that has to go for another one of this kind and theirs.
    fn one_too_many(&self, inquirer: &Inquirer) -> Option<Key> {
        let of_statistics = inquirer.is_of_statistics();
        let (all, most) = match (of_statistics, inquirer.who) {
            (true, _) => (CLIENTS_OF_STATISTICS, CLIENTS_OF_STATISTICS),
            (false, Who::User(0)) => (CLIENTS, CLIENTS),
            (false, _) => (CLIENTS, CLIENTS_OF_ONE),
        };
        let alike =
            self.clients.iter().filter(|(_, other)| other.is_of_statistics() == of_statistics);
        let places = alike.map(|(key, one)| (key, one.who, one.since));
        fair_share::in_the_way(places, inquirer.who, most, all)
    }

    fn insert(&mut self, cx: &mut Context, inquirer: Inquirer) {
        if let Some(slowest) = self.one_too_many(&inquirer) {
            self.close(cx, slowest);
        }
        cx.then(Outcome::Inquires(self.clients.insert(inquirer)));
    }

    /// One has come.
    pub fn begin(&mut self, cx: &mut Context, key: Key) {
        let Some(one) = self.clients.get_mut(key) else { return };
        match one.is_of_statistics() {
            true => fault_injection::point("statistics"),
            false => fault_injection::point("inquiry"),
        }
        // Without stats-http nobody has to say anything.
        if matches!(one.wants, Wants::Some(_)) && !self.http {
            one.asks(cx, Asked::Plain);
        }
        let token = Source::Inquirer(key).token();
        if cx.poller.add(one.client.as_fd(), token, one.interest()).is_err() {
            self.clients.remove(key);
            return;
        }
        cx.after(PATIENCE, Due::Inquirer(key));
    }

    /// Somebody who asks says what for, takes more of the answer, or has left.
    pub fn ready(
        &mut self,
        cx: &mut Context,
        siblings: &mut Siblings,
        view: View<'_>,
        key: Key,
        ready: Ready,
    ) {
        let Some(one) = self.clients.get_mut(key) else { return };
        let Wants::Some(request) = &mut one.wants else {
            return match ready.hang_up {
                true => self.close(cx, key),
                false => self.send(cx, siblings, view, key),
            };
        };
        let asked = match one.client.read(&mut cx.buffer[..ONE_READ]) {
            Read::Bytes(count) => {
                fault_injection::strike("statistics", || &cx.buffer[..count]);
                match request.hear(&cx.buffer[..count]) {
                    Some(asked) => asked,
                    None => return,
                }
            }
            Read::Blocked if !ready.hang_up => return,
            Read::End if !ready.hang_up => match request.end() {
                Some(asked) => asked,
                None => return self.close(cx, key),
            },
            Read::Blocked | Read::End | Read::Gone => return self.close(cx, key),
        };
        one.asks(cx, asked);
        self.send(cx, siblings, view, key);
    }

    /// Gives one more of its answer.
    fn send(&mut self, cx: &mut Context, siblings: &mut Siblings, view: View<'_>, key: Key) {
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
                true => LastWord::Eof,
                false => LastWord::Packet { is_answered: false },
            };
            if let Some(one) = self.clients.remove(key) {
                cx.close_when_read(one.client, last);
            }
            return;
        }
        if one.answer.is_empty() && !one.pages.waits {
            look_further(one, cx, siblings, view, key);
        }
        self.watch(cx, key);
    }

    /// Another gateway has answered, or has not.
    pub fn answered(&mut self, cx: &mut Context, key: Key, answer: Option<&[u8]>) {
        fault_injection::point("answer");
        if let Some(one) = self.clients.get_mut(key).filter(|one| one.pages.waits) {
            one.hears(answer);
            self.watch(cx, key);
        }
    }

    /// Whoever takes something is told of in the next turn.
    fn watch(&mut self, cx: &mut Context, key: Key) {
        if let Some(one) = self.clients.get(key) {
            let token = Source::Inquirer(key).token();
            let _ = cx.poller.change(one.client.as_fd(), token, one.interest());
        }
    }

    /// One has had its time, and more of it if it reads.
    pub fn hurry(&mut self, cx: &mut Context, siblings: &mut Siblings, view: View<'_>, key: Key) {
        let Some(one) = self.clients.get_mut(key) else { return };
        // It says no more, and has said enough, perhaps.
        let asked = match &one.wants {
            Wants::Some(request) => request.end(),
            _ => None,
        };
        if let Some(asked) = asked {
            cx.after(PATIENCE, Due::Inquirer(key));
            one.asks(cx, asked);
            return self.send(cx, siblings, view, key);
        }
        let reads = std::mem::take(&mut one.reads) || one.pages.waits;
        match reads && one.since.elapsed() < LONGEST {
            true => cx.after(PATIENCE, Due::Inquirer(key)),
            false => self.close(cx, key),
        }
    }

    /// One gets no answer, for no fault of its own.
    pub fn end(&mut self, cx: &mut Context, key: Key, why: &str) {
        let Some(one) = self.clients.get(key) else { return };
        if one.is_of_statistics() {
            return self.close(cx, key);
        }
        if let Some(one) = self.clients.remove(key) {
            if one.answer.is_empty() {
                let _ = one.client.write(&Ended::because(Ending::Refused, why).packet());
            }
            cx.close_when_read(one.client, LastWord::Packet { is_answered: false });
        }
    }

    fn close(&mut self, cx: &mut Context, key: Key) {
        if let Some(one) = self.clients.remove(key) {
            let _ = cx.poller.remove(one.client.as_fd());
        }
    }
}

/// Looks at some more sessions, of us or of another.
fn look_further(
    one: &mut Inquirer,
    cx: &mut Context,
    siblings: &mut Siblings,
    view: View<'_>,
    key: Key,
) {
    fault_injection::point("list");
    let asker = Asker::Inquirer(key);
    let next = match one.knows_enough() {
        true => Next::Over,
        false => one.pages.next(cx, siblings, view, asker),
    };
    let found = match next {
        Next::Page(whose, piece) => return one.add(whose, &piece),
        Next::Asked => return,
        Next::Over => one.conclude(),
    };
    let Some(found) = found else { return };
    let (by, place, id) = (one.pages.by(), found.place, found.id);
    match found.whose {
        None => one.end_of_kill(view.end(cx, by, place, id)),
        Some(whom) => match siblings.ask(cx, whom, Question::End { by, place, id }, &[], asker) {
            true => one.pages.waits = true,
            false => one.end_of_kill(false),
        },
    }
}
