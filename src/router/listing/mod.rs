//! Clients that ask who is there, or want a session ended: over all sockets and
//! gateways, and piece by piece, so that nobody else waits for it. What is not
//! one's own does not exist.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | clients: they ask, and read at their own pace |
//! | `entry.rs` | a session as a list has it |
//! | `piece.rs` | some sessions of one gateway, for whoever asks |
//! | `beginning.rs` | which session is meant: an id, how it begins, a name |

pub mod beginning;
mod entry;
pub mod piece;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::GatewayLoop;
use super::closing::LastWord;
use super::doors::Newcomer;
use super::fault;
use super::recovery::Whose;
use super::siblings::{Asker, Question};
use super::table::{Key, Source, Table};
use super::timers::Due;
use super::told::Subject;
use crate::session::greeting::Opening;
use crate::shares::{self, Who};
use fpty::proto::request::Verb;
use fpty::proto::{Ended, Ending, NOTICE, encode_input, encode_packet};
use fpty::relay::Backlog;
use fpty::sys::credentials::OF_ELSEWHERE;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::Stream;

use beginning::Beginning;
pub(super) use entry::Described;
use piece::{Asking, Piece};

/// Clients at once that ask, and of one user; for a further one, the one that
/// has taken longest is let go, of whoever has most of them.
const CLIENTS: usize = 256;
const CLIENTS_OF_ONE: usize = 16;

/// How long one may not read, and how long it may take in all.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);

/// The answer for what does not exist, and for what is not one's own.
const NO_SUCH_SESSION: &str = "there is no such session";

/// Everybody who asks.
#[derive(Default)]
pub struct Inquirers {
    clients: Table<Inquirer>,
    /// The commands of sessions that asked for one.
    asked_for: HashMap<Subject, Box<str>>,
}

/// Somebody who asks.
struct Inquirer {
    client: Stream,
    /// Its user; `None`: nobody knows.
    uid: Option<u32>,
    /// Whose share of the places it has.
    who: Who,
    since: Instant,
    /// The id that it wants ended; `None`: it wants the list.
    ends: Option<Beginning>,
    /// The gateway whose turn it is; `None`: our own.
    whose: Option<usize>,
    /// Where its sessions go on.
    next: u32,
    /// Another gateway is to say something.
    waits: bool,
    /// Sessions that were found: whose they are, where, and their ids.
    found: Vec<(Option<usize>, u32, Beginning)>,
    /// One of them is being ended by another gateway.
    is_ending: bool,
    /// Something was listed.
    listed: bool,
    /// Gateways that did not answer.
    unheard: u32,
    answer: Backlog,
    /// It has taken something of late.
    reads: bool,
    /// The answer is complete.
    over: bool,
}

impl Inquirer {
    fn says(&mut self, text: &[u8]) {
        let mut packets = Vec::new();
        encode_input(text, &mut packets);
        self.answer.push(&packets);
    }

    fn ends(&mut self, ended: &Ended) {
        self.answer.push(&ended.packet());
        self.over = true;
    }

    /// Adds what a gateway has.
    fn add(&mut self, piece: &Piece) {
        let whose = self.whose;
        match self.ends {
            Some(_) => {
                let found = piece.found().map(|(place, id)| (whose, place, id));
                self.found.extend(found);
            }
            None if piece.body.is_empty() => {}
            None => {
                let comma = if std::mem::replace(&mut self.listed, true) { "," } else { "[" };
                let text = [comma.as_bytes(), &piece.body].concat();
                self.says(&text);
            }
        }
        match piece.next {
            Some(next) => self.next = next,
            None => self.goes_on(),
        }
    }

    /// The gateway whose turn it was says no more.
    fn goes_on(&mut self) {
        self.next = 0;
        self.whose = Some(self.whose.map_or(0, |whose| whose + 1));
    }

    /// All gateways have been asked for the list.
    fn end_of_list(&mut self) {
        self.says(if self.listed { b"]" } else { b"[]" });
        if self.unheard > 0 {
            let line = format!("sessions lack: gateways that do not answer: {}", self.unheard);
            let mut packet = Vec::new();
            encode_packet(NOTICE, line.as_bytes(), &mut packet);
            self.answer.push(&packet);
        }
        self.ends(&Ended { ending: Ending::Exit, value: 0, text: String::new() });
    }

    /// A session was ended, or was not there any more.
    fn end_of_kill(&mut self, was_ended: bool) {
        self.ends(&match was_ended {
            true => Ended { ending: Ending::Exit, value: 0, text: String::new() },
            false => Ended::because(Ending::Refused, NO_SUCH_SESSION),
        });
    }
}

impl Inquirers {
    /// Whether this one is still there.
    pub fn has(&self, key: Key) -> bool {
        self.clients.has(key)
    }

    /// Notes which command a session has asked for.
    pub fn note_command(&mut self, subject: Subject, command: Option<String>) {
        if let Some(command) = command {
            self.asked_for.insert(subject, command.into());
        }
    }

    /// A session is over.
    pub fn forget(&mut self, subject: Subject) {
        if !self.asked_for.is_empty() {
            self.asked_for.remove(&subject);
        }
    }

    /// After a panic: only what sessions have asked for that there are.
    pub fn retain(&mut self, exists: impl Fn(Subject) -> bool) {
        self.asked_for.retain(|subject, _| exists(*subject));
    }

    /// One is closed as it is.
    pub fn drop_one(&mut self, key: Key) {
        self.clients.remove(key);
    }

    /// One that has to go for another of theirs.
    fn one_too_many(&self, who: Who) -> Option<Key> {
        let places = self.clients.iter().map(|(key, one)| (key, one.who, one.since));
        let most = if who == Who::User(0) { CLIENTS } else { CLIENTS_OF_ONE };
        shares::in_the_way(places, who, most, CLIENTS)
    }
}

/// What a client asks that wants no session of its own.
pub fn is_inquiry(opening: &Opening) -> bool {
    opening.extended && matches!(opening.request.verb(), Some(Verb::List | Verb::Kill))
}

impl GatewayLoop {
    /// Somebody asks: it needs no seat, and whoever may come in may.
    pub(super) fn inquire(&mut self, newcomer: Newcomer, opening: Opening) {
        let Newcomer { client, seat, .. } = newcomer;
        if let Ok(Some(seat)) = seat {
            self.cx.seats.leave(seat);
        }
        let uid = client.credentials().map(|peer| peer.uid);
        let who = Who::of(&client);
        if let Some(slowest) = self.inquirers.one_too_many(who) {
            self.close_inquirer(slowest);
        }
        let mut inquirer = Inquirer {
            client,
            uid: uid.filter(|uid| *uid != OF_ELSEWHERE),
            who,
            since: Instant::now(),
            ends: None,
            whose: None,
            next: 0,
            waits: false,
            found: Vec::new(),
            is_ending: false,
            listed: false,
            unheard: 0,
            answer: Backlog::default(),
            reads: false,
            over: false,
        };
        match opening.request.read() {
            Err(why) => {
                let why = format!("bad request: {why}");
                inquirer.ends(&Ended::because(Ending::Refused, why));
            }
            Ok(Some((Verb::Kill, id))) => match Beginning::of(&id) {
                Some(beginning) if inquirer.uid.is_some() => inquirer.ends = Some(beginning),
                _ => inquirer.end_of_kill(false),
            },
            Ok(_) if inquirer.uid.is_none() => inquirer.end_of_list(),
            Ok(_) => {}
        }
        let key = self.inquirers.clients.insert(inquirer);
        self.cx.faults.made = Some(Whose::Inquirer(key));
        fault::point("inquiry");
        let Some(inquirer) = self.inquirers.clients.get_mut(key) else { return };
        let token = Source::Inquirer(key).token();
        let interest = Interest { read: false, write: true };
        if self.cx.poller.add(inquirer.client.as_fd(), token, interest).is_err() {
            self.inquirers.clients.remove(key);
            return;
        }
        self.cx.after(PATIENCE, Due::Inquirer(key));
    }

    /// Somebody who asks takes more of the answer, or has left.
    pub(super) fn inquirer_ready(&mut self, key: Key, ready: Ready) {
        if ready.hang_up {
            return self.close_inquirer(key);
        }
        let Some(one) = self.inquirers.clients.get_mut(key) else { return };
        let before = one.answer.len();
        let client = &one.client;
        if !one.answer.flush(|bytes| client.write(bytes).taken()) {
            return self.close_inquirer(key);
        }
        one.reads |= one.answer.len() < before;
        if !one.answer.is_empty() || one.waits {
            return self.watch_inquirer(key);
        }
        if one.over {
            if let Some(one) = self.inquirers.clients.remove(key) {
                self.cx.close_when_read(one.client, LastWord::Packet { is_answered: false });
            }
            return;
        }
        self.look_further(key);
        self.watch_inquirer(key);
    }

    /// Looks at some more sessions, of us or of another.
    fn look_further(&mut self, key: Key) {
        let Some(one) = self.inquirers.clients.get(key) else { return };
        let Some(by) = one.uid else { return };
        let asking = Asking { by, from: one.next, beginning: one.ends };
        fault::point("list");
        let Some(first) = one.whose else {
            let piece = self.piece(asking);
            if let Some(one) = self.inquirers.clients.get_mut(key) {
                one.add(&piece);
            }
            return;
        };
        // Among several there may be one that has the whole as its id.
        let is_whole = one.ends.is_some_and(|sought| sought.is_whole());
        let is_several = one.found.len() > 1 && !is_whole;
        let whom = self.siblings.others().find(|number| *number >= first);
        let Some(whom) = whom.filter(|_| !is_several) else {
            return self.conclude(key, by);
        };
        let asked = self.ask(whom, Question::Piece(asking), Asker::Inquirer(key));
        if let Some(one) = self.inquirers.clients.get_mut(key) {
            one.whose = Some(whom);
            one.waits = asked;
            if !asked {
                one.unheard += 1;
                one.goes_on();
            }
        }
    }

    /// Everybody was asked.
    fn conclude(&mut self, key: Key, by: u32) {
        let Some(one) = self.inquirers.clients.get_mut(key) else { return };
        let Some(beginning) = one.ends else {
            return one.end_of_list();
        };
        // Somebody may have named a session like another's id.
        if let Some(whole) = one.found.iter().find(|(.., id)| id.is_same(&beginning)).copied() {
            one.found = vec![whole];
        }
        let refusal = |why: String| Ended::because(Ending::Refused, why);
        let (whose, place, id) = match one.found[..] {
            [] if one.unheard > 0 => {
                let why = format!("{NO_SUCH_SESSION}, but for gateways that do not answer");
                return one.ends(&refusal(why));
            }
            [] => return one.end_of_kill(false),
            [_] if one.unheard > 0 && !beginning.is_whole() => {
                let why = "a gateway does not answer: give the whole id";
                return one.ends(&refusal(String::from(why)));
            }
            [found] => found,
            [..] => {
                let why = format!("several sessions are meant by {beginning}");
                return one.ends(&refusal(why));
            }
        };
        let is_ended = match whose {
            None => Some(self.end_by(by, place, id)),
            Some(whom) => {
                let question = Question::End { by, place, id };
                match self.ask(whom, question, Asker::Inquirer(key)) {
                    true => None,
                    false => Some(false),
                }
            }
        };
        let Some(one) = self.inquirers.clients.get_mut(key) else { return };
        match is_ended {
            Some(is_ended) => one.end_of_kill(is_ended),
            None => (one.waits, one.is_ending) = (true, true),
        }
    }

    /// Another gateway has answered, or has not.
    pub(super) fn inquirer_answered(&mut self, key: Key, answer: Option<&[u8]>) {
        let Some(one) = self.inquirers.clients.get_mut(key).filter(|one| one.waits) else {
            return;
        };
        one.waits = false;
        if one.is_ending {
            match answer {
                Some(answer) => one.end_of_kill(answer == piece::ENDED),
                None => {
                    let why = "the session's gateway does not answer";
                    one.ends(&Ended::because(Ending::Refused, why));
                }
            }
        } else {
            match answer.and_then(Piece::decode) {
                Some(piece) => one.add(&piece),
                None => {
                    one.unheard += 1;
                    one.goes_on();
                }
            }
        }
        self.watch_inquirer(key);
    }

    /// Whoever takes something is told of in the next turn.
    fn watch_inquirer(&mut self, key: Key) {
        if let Some(one) = self.inquirers.clients.get_mut(key) {
            // Until another gateway has answered there is nothing to write.
            let write = !one.waits || !one.answer.is_empty();
            let interest = Interest { read: false, write };
            let token = Source::Inquirer(key).token();
            let _ = self.cx.poller.change(one.client.as_fd(), token, interest);
        }
    }

    /// One has had its time, and more of it if it reads.
    pub(super) fn hurry_inquirer(&mut self, key: Key) {
        let Some(one) = self.inquirers.clients.get_mut(key) else { return };
        let reads = std::mem::take(&mut one.reads) || one.waits;
        match reads && one.since.elapsed() < LONGEST {
            true => self.cx.after(PATIENCE, Due::Inquirer(key)),
            false => self.close_inquirer(key),
        }
    }

    /// One gets no answer, for no fault of its own.
    pub(super) fn end_inquirer(&mut self, key: Key, why: &str) {
        if let Some(one) = self.inquirers.clients.remove(key) {
            if one.answer.is_empty() {
                let _ = one.client.write(&Ended::because(Ending::Refused, why).packet());
            }
            self.cx.close_when_read(one.client, LastWord::Packet { is_answered: false });
        }
    }

    fn close_inquirer(&mut self, key: Key) {
        if let Some(one) = self.inquirers.clients.remove(key) {
            let _ = self.cx.poller.remove(one.client.as_fd());
        }
    }
}
