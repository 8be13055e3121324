//! A client comes back to a session, or has the one go that is attached.

use std::os::fd::AsFd;

use super::entry::{Alone, Client, Entry, Waiting, terminal_size};
use super::registry::Left;
use super::state::Answer;
use crate::config::rules::Rules;
use crate::connection::client_hello::Opening;
use crate::connection::listeners::Newcomer;
use crate::connection::session_access::{self, NOBODY};
use crate::control::peers::attach_request::{Fits, Found, Sought};
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Source};
use crate::event_loop::subject::Whose;
use crate::observe::audit::timestamp;
use crate::process::table::Programs;
use crate::session::relay::{Attached, Sessions, Wires};
use crate::session::state::Session;
use crate::session::state::detach_state::Kept;
use crate::session::timeouts::Timed;
use fpty::error::reason;
use fpty::proto::session_key::Secret;
use fpty::proto::{EndKind, NO_SUCH_SESSION, SessionEnd, is_session_name, variables};
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::Interest;
use fpty::sys::process_handle::ProcessHandle;

/// What the connection is told that had the session before.
const BY_ANOTHER: &str = "its client has come back by another connection";

/// What somebody is told who waited for one.
pub(crate) const HAS_ENDED: &str = "the session has ended";

/// Higher than the rank of anything that has ended.
const ABOVE_ENDED: u8 = 4;

/// What became of somebody who asked for a session that was left.
#[must_use]
pub enum Came {
    /// It is seen to.
    In,
    /// There is none to come back to: a new one begins.
    New(Newcomer, Opening),
    /// It gets nothing.
    Not(Newcomer, SessionEnd),
}

/// What a client asks for.
struct Asked {
    which: String,
    begins: bool,
    steals: bool,
    watches: bool,
}

impl Asked {
    fn of(opening: &Opening, which: Vec<u8>) -> Self {
        let is_set = |name: &[u8]| opening.variables.get(name) == Some(b"1");
        Self {
            which: String::from_utf8_lossy(&which).into_owned(),
            begins: is_set(variables::BEGIN),
            steals: is_set(variables::STEAL),
            watches: is_set(variables::READ_ONLY),
        }
    }
}

/// A client asks for a session that was left. What it sent after that stands in the
/// turn's buffer.
pub fn comes_back(
    left: Option<&mut Left>,
    cx: &mut Context,
    sessions: &mut Sessions,
    programs: &mut Programs,
    newcomer: Newcomer,
    mut opening: Opening,
) -> Came {
    let refused = |why: &str| SessionEnd::new(EndKind::Refused, why);
    let which = match std::mem::take(&mut opening.request).read() {
        Ok(Some((_, which))) => which,
        Ok(None) | Err(_) => return Came::Not(newcomer, refused("bad request")),
    };
    let asked = Asked::of(&opening, which);
    if asked.begins && !is_session_name(asked.which.as_bytes()) {
        return Came::Not(newcomer, refused("bad request: no name"));
    }
    let allows = |rules: &Rules| rules.detach.sessions > 0;
    let is_allowed = cx.doors.rules(newcomer.door).is_some_and(allows);
    match left.filter(|_| is_allowed) {
        Some(left) => left.comes_back(cx, sessions, programs, newcomer, opening, asked),
        None if asked.begins => Came::New(newcomer, opening),
        None => Came::Not(newcomer, refused("sessions cannot be left here (forkptyrouter-detach)")),
    }
}

/// A user for people, by its name where that is known without asking: clients
/// know the others'.
fn who(cx: &Context, uid: u32) -> String {
    if uid == NOBODY {
        return String::from("somebody");
    }
    let root = || (uid == 0).then(|| String::from("root"));
    cx.told.names.known(uid).or_else(root).unwrap_or_else(|| format!("user {uid}"))
}

/// What those are told from whom somebody has taken a session.
fn taken_by(cx: &Context, uid: u32) -> String {
    format!("{} has taken the session", who(cx, uid))
}

impl Left {
    fn comes_back(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        newcomer: Newcomer,
        opening: Opening,
        asked: Asked,
    ) -> Came {
        let uid = session_access::user_of(&newcomer.client);
        let came_with = opening.variables.get(variables::SECRET).and_then(Secret::from_slice);
        let opened = came_with
            .as_ref()
            .and_then(|secret| self.opened_by(sessions, newcomer.door, &asked.which, secret));
        let came_with = came_with.filter(|_| opened.is_some());
        let fitting = || self.fitting(newcomer.door, uid, &asked.which, asked.begins);
        let found = opened.or_else(|| fitting().map(|(_, key)| key));
        let Some(key) = found else {
            return match asked.begins {
                true => Came::New(newcomer, opening),
                false => Came::Not(newcomer, SessionEnd::new(EndKind::Refused, NO_SUCH_SESSION)),
            };
        };
        let is_over = self.entries.get(key).is_some_and(|entry| entry.state.is_over());
        // It is offered with the terminal.
        let entry = self.entries.get_mut(key).filter(|_| !asked.watches);
        let alone = entry.and_then(|entry| entry.state.terminal_mut());
        if let Some(Err(error)) = alone.map(|alone| alone.remains.open_file()) {
            return Came::Not(newcomer, SessionEnd::new(EndKind::Refused, error.to_string()));
        }
        let rest = std::mem::take(&mut cx.input);
        // Its capacity is a turn's.
        cx.input.reserve_exact(crate::event_loop::context::BUFFER);
        let waiting = Box::new(Waiting { newcomer, opening, uid, came_with, rest });
        if asked.watches || is_over {
            self.watch(cx, sessions, programs, key, *waiting);
            return Came::In;
        }
        let session = sessions.vacant_key();
        let client = |_: &_| Client { session, uid };
        // Its client may have lost the connection that has it.
        let is_its_client = waiting.came_with.is_some();
        let steals = asked.steals || is_its_client;
        let answer =
            self.change(key, |entry| entry.state.comes(waiting, steals, client, Timestamp::now()));
        match answer {
            Some(Answer::Begins(alone, waiting)) => {
                self.begins(cx, sessions, programs, key, alone, *waiting);
            }
            Some(Answer::Sees(waiting)) => self.watch(cx, sessions, programs, key, *waiting),
            Some(Answer::IsTaken(waiting)) => {
                return Came::Not(waiting.newcomer, self.is_taken(cx, key));
            }
            Some(Answer::Waits { is_news, overtaken }) => {
                let taken_by = match is_its_client {
                    true => BY_ANOTHER.to_owned(),
                    false => taken_by(cx, uid),
                };
                if let Some(overtaken) = overtaken {
                    overtaken.refuse(cx, &taken_by);
                }
                if is_news {
                    self.send_off(sessions, key, taken_by);
                }
                self.arm(cx, key);
            }
            None => {}
        }
        Came::In
    }

    /// Why somebody does not get a session.
    fn is_taken(&self, cx: &Context, key: Key) -> SessionEnd {
        let state = self.entries.get(key).map(|entry| &entry.state);
        let client = state.and_then(|state| Some((state.client()?, state.since())));
        let why = client.map(|(client, since)| {
            let (who, since) = (who(cx, client.uid), timestamp::in_seconds(since.wall));
            format!("{who} is attached since {since} (--steal takes it, --read-only watches)")
        });
        SessionEnd::new(EndKind::Refused, why.unwrap_or_else(|| NO_SUCH_SESSION.to_owned()))
    }

    /// The one who is attached is told to go.
    fn send_off(&mut self, sessions: &mut Sessions, key: Key, text: String) {
        let client = self.entries.get(key).and_then(|entry| entry.state.client());
        if let Some(attached) = client.and_then(|client| sessions.get_mut(client.session)) {
            let told = SessionEnd { ending: EndKind::Detached, value: 1, text };
            attached.session.part_from_client(&told, &mut attached.wires);
        }
    }

    /// A client gets a session that nobody is attached to: its terminal, or
    /// what is kept of it, is offered, and it is told to go on when it has that.
    pub(crate) fn begins(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
        alone: Box<Alone>,
        waiting: Waiting,
    ) {
        let _ = self.poller.remove(&alone.master);
        fault_injection::point("coming");
        let Waiting { newcomer, mut opening, came_with, rest, .. } = waiting;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.secrets.renew(came_with);
        let its_key = entry.secrets.key(&entry.id, entry.uid);
        let (pid, since) = (entry.pid, entry.since);
        let adopted = entry.adopted();
        let program = match adopted {
            // What it cannot be signalled by ends by other ways.
            Some(pidfd) => pidfd.try_clone().ok().map(ProcessHandle::from_pidfd),
            None => Some(ProcessHandle::child(pid)),
        };
        let is_adopted = adopted.is_some();
        let Newcomer { client, transport, seat, door, origin } = newcomer;
        let size = terminal_size(Some(&alone.master));
        let mut session = Session::opened(&mut opening, size);
        session.keep(Kept { remains: alone.remains, hidden: true, relays: false });
        let mut wires = Wires::new(client, alone.master, program);
        wires.record_by(alone.recording);
        let session = sessions.insert(Attached::new(session, wires, transport, door));
        cx.faults.made = Some(Whose::Session(session));
        fault_injection::point("back");
        // The session has its own.
        drop(seat);
        if !is_adopted {
            programs.belongs_to(pid, session);
        }
        let Some(attached) = sessions.get_mut(session) else {
            return;
        };
        attached.attaches(cx, session, key, &origin);
        attached.terminal_interest = Some(Interest::default());
        let poller = &cx.poller;
        let (client, terminal) =
            (Source::Client(session).token(), Source::Terminal(session).token());
        let registered =
            poller.add(attached.wires.client.as_fd(), client, Interest::READ).and_then(|()| {
                poller.add(attached.wires.master.as_fd(), terminal, Interest::default())
            });
        let Attached { session: state, wires, .. } = attached;
        if let Err(error) = registered {
            let why = format!("cannot wait for the session: {}", reason(&error));
            cx.doors.log_refusal(&format!("forkptyrouter: session refused: {why}"));
            state.part_from_client(&SessionEnd::new(EndKind::Refused, why), wires);
            return cx.then(Outcome::LetClientGo(session));
        }
        if let Some(its_key) = its_key {
            state.tell_key(&its_key, wires);
        }
        let armed = wires.master.arm();
        state.early_input(&opening.input, wires);
        if !rest.is_empty() {
            cx.input.clear();
            cx.input.extend_from_slice(&rest);
            cx.hear(session, state, wires);
        }
        drop(armed);
        self.tell_store(cx, sessions, programs, key);
        self.arm(cx, key);
        if let Some(attached) = sessions.get_mut(session) {
            attached.watch_time(cx, session, since.elapsed());
            fault_injection::point("back-again");
            attached.offer(cx, session);
        }
        cx.then(Outcome::Settle(session));
    }

    /// The session of this id, where this is its secret.
    fn opened_by(
        &mut self,
        sessions: &Sessions,
        door: u16,
        id: &str,
        secret: &Secret,
    ) -> Option<Key> {
        let is_it = |key: &Key| {
            self.entries.get(*key).is_some_and(|entry| entry.door == door && *entry.id == *id)
        };
        let key = self.index.beginning(id).find(is_it)?;
        self.note_arrival(sessions, key);
        self.entries.get(key)?.secrets.are(secret).then_some(key)
    }

    /// The same for whoever seeks one among several gateways: the best that is here.
    pub fn found(&mut self, sessions: &Sessions, sought: &Sought) -> Option<Found> {
        let which = sought.which.map(|which| which.to_string()).unwrap_or_default();
        let secret = sought.secret.as_ref();
        let opened =
            secret.and_then(|secret| self.opened_by(sessions, sought.door, &which, secret));
        let (fits, key) = match opened {
            Some(key) => (Fits::Whole, key),
            None => self.fitting(sought.door, sought.uid, &which, false)?,
        };
        let entry = self.entries.get(key)?;
        // What is called so and runs comes before what has ended.
        let is_named = fits == Fits::Is && !which.is_empty();
        let above = if is_named && !entry.state.is_over() { ABOVE_ENDED } else { 0 };
        let (rank, since) = (entry.state.rank() + above, entry.state.since().boot.as_nanos());
        Some(Found { fits, rank, since })
    }

    /// The session that is meant: by its id; by its name, which is one's own, also
    /// for root; by the unique beginning of an id; nothing: the one that was left
    /// last and runs, else the last that has ended. One that has ended is none to go
    /// on with where it `begins` anew, which is asked for by a name alone.
    fn fitting(&self, door: u16, uid: u32, which: &str, begins: bool) -> Option<(Fits, Key)> {
        if uid == NOBODY {
            return None;
        }
        if which.is_empty() {
            return self.index.nearest(door, uid).map(|key| (Fits::Is, key));
        }
        let is_known =
            |entry: &&Entry| entry.door == door && session_access::is_open_to(entry.uid, uid);
        let known = |key: &Key| self.entries.get(*key).filter(is_known);
        // Somebody may have named a session like another's id.
        if !begins {
            // It comes before those that only begin so.
            let is_whole = |key: &Key| self.entries.get(*key).is_some_and(|it| *it.id == *which);
            let mut whole = self.index.beginning(which).take_while(is_whole);
            if let Some(key) = whole.find(|key| known(key).is_some()) {
                return Some((Fits::Whole, key));
            }
        }
        let rank =
            |entry: &Entry| (!entry.state.is_over(), entry.state.rank(), entry.state.since().boot);
        let named = self.index.named(uid, which);
        let named = named.filter_map(|key| Some((key, self.entries.get(key)?)));
        let is_one = |entry: &Entry| entry.door == door && !(begins && entry.state.is_over());
        let named = named.filter(|(_, entry)| is_one(entry));
        if let Some((key, _)) = named.max_by_key(|(_, entry)| rank(entry)) {
            return Some((Fits::Is, key));
        }
        if begins {
            return None;
        }
        let mut by_id = self.index.beginning(which).filter(|key| known(key).is_some());
        let key = by_id.next()?;
        by_id.next().is_none().then_some((Fits::Begins, key))
    }
}
