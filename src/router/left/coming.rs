//! A client comes back to a session, or has the one go that is attached.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::super::GatewayLoop;
use super::super::doors::Newcomer;
use super::super::fault;
use super::super::greet::Opened;
use super::super::recovery::Whose;
use super::super::table::{Key, Source};
use super::super::told::clock::Utc;
use super::super::told::{Origin, Subject};
use super::super::traffic::{Attached, Wires};
use super::{Entry, LOOK, Place, Taken};
use crate::config::rules::Rules;
use crate::session::Session;
use crate::session::greeting::Opening;
use crate::session::keeping::Kept;
use fpty::proto::{Ended, Ending, is_name, variables};
use fpty::sys::Size;
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::Interest;
use fpty::sys::process::Process;
use fpty::sys::socket::Transport;

/// How long a client that comes back may take to answer, and one that has to
/// go may take for it.
const PATIENCE: Duration = Duration::from_secs(2);
const GOING: Duration = Duration::from_secs(1);

/// What everybody is told of a session that there is not, and who has no right
/// of one that there is.
const NO_SUCH: &str = "there is no such session";

/// Somebody who waits for a session.
pub struct Waiting {
    newcomer: Newcomer,
    opening: Opening,
    uid: u32,
    /// What was sent after the request.
    rest: Vec<u8>,
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

impl GatewayLoop {
    /// A client asks for a session that was left. What it sent after that
    /// stands in the buffer.
    pub(in crate::router) fn come_back(&mut self, opened: Opened) {
        let Opened { newcomer, mut opening, arrived, ended } = opened;
        let refused = |why: &str| Ended::because(Ending::Refused, why);
        let newcomer = self.cx.seated(newcomer);
        if let Err(why) = self.cx.check_limits(&newcomer) {
            return self.cx.turn_back(newcomer, true, why);
        }
        let which = match std::mem::take(&mut opening.request).read() {
            Ok(Some((_, which))) => which,
            Ok(None) | Err(_) => return self.cx.turn_back(newcomer, true, refused("bad request")),
        };
        let asked = Asked::of(&opening, which);
        if asked.begins && !is_name(asked.which.as_bytes()) {
            return self.cx.turn_back(newcomer, true, refused("bad request: no name"));
        }
        let is_unix = newcomer.transport == Transport::Unix;
        let uid = is_unix.then(|| newcomer.client.peer_uid()).flatten();
        let allows = |rules: &Rules| rules.detach.sessions > 0;
        let is_allowed = self.cx.doors.rules(newcomer.door).is_some_and(allows);
        let (Some(left), Some(uid)) = (self.left.as_ref().filter(|_| is_allowed), uid) else {
            if asked.begins {
                return self.open_new(Opened { newcomer, opening, arrived, ended });
            }
            let why = match newcomer.transport {
                _ if !is_allowed => "sessions cannot be left here (forkptyrouter-detach)",
                Transport::Tcp => "over TCP nobody knows whose session it would be",
                Transport::Unix => "nobody knows whose session it would be",
            };
            return self.cx.turn_back(newcomer, true, refused(why));
        };
        let Some(key) = left.find(newcomer.door, uid, &asked.which, asked.begins) else {
            if asked.begins {
                return self.open_new(Opened { newcomer, opening, arrived, ended });
            }
            return self.cx.turn_back(newcomer, true, refused(NO_SUCH));
        };
        if asked.watches {
            return self.watch(key, newcomer, opening, uid);
        }
        let Some(entry) = self.left.as_mut().and_then(|left| left.entries.get_mut(key)) else {
            return;
        };
        if matches!(entry.place, Place::Over(_)) {
            return self.watch(key, newcomer, opening, uid);
        }
        let rest = std::mem::take(&mut self.cx.input);
        // Its capacity is a turn's.
        self.cx.input.reserve_exact(super::super::context::BUFFER);
        let waiting = Waiting { newcomer, opening, uid, rest };
        match &mut entry.place {
            Place::Alone(_) | Place::Over(_) => self.come_next(key, waiting),
            Place::Attached(taken) if !asked.steals => {
                let (who, since) = (taken.uid, Utc::of(taken.since.wall).in_seconds());
                let who = self.who(who);
                let why = format!(
                    "{who} is attached since {since} (--steal takes it, --read-only watches)"
                );
                self.cx.turn_back(waiting.newcomer, true, refused(&why));
            }
            Place::Attached(taken) => {
                let session = taken.session;
                let until = Instant::now() + GOING;
                let before = taken.next.replace((Box::new(waiting), until));
                if let Some((before, _)) = before {
                    self.refuse_waiting(*before);
                }
                self.has_to_go(session, uid);
            }
        }
    }

    /// A user for people, by its name where that is known without asking: clients
    /// know the others'.
    fn who(&self, uid: u32) -> String {
        let root = || (uid == 0).then(|| String::from("root"));
        self.cx.told.known_name(uid).or_else(root).unwrap_or_else(|| format!("user {uid}"))
    }

    /// The one who is attached is told to go.
    fn has_to_go(&mut self, session: Key, uid: u32) {
        let who = self.who(uid);
        if let Some(attached) = self.sessions.get_mut(session) {
            let text = format!("{who} has taken the session");
            let told = Ended { ending: Ending::Detached, value: 1, text };
            attached.session.part_from_client(&told, &mut attached.wires);
        }
        self.look_at_left(LOOK);
    }

    /// Somebody who waits gets nothing.
    pub(super) fn refuse_waiting(&mut self, waiting: Waiting) {
        self.cx.turn_back(waiting.newcomer, true, Ended::because(Ending::Refused, NO_SUCH));
    }

    /// A client gets a session that nobody is attached to: its terminal, or
    /// what is kept of it, is offered, and it is told to go on when it has that.
    pub(super) fn come_next(&mut self, key: Key, waiting: Waiting) {
        let door = waiting.newcomer.door;
        let Some(left) = &mut self.left else {
            return;
        };
        let is_alone = |entry: &&mut Box<Entry>| matches!(entry.place, Place::Alone(_));
        let Some(entry) = left.entries.boxed_mut(key).filter(is_alone) else {
            return self.refuse_waiting(waiting);
        };
        let Waiting { newcomer, mut opening, uid, rest } = waiting;
        let Newcomer { client, seat, origin, .. } = newcomer;
        let taken = Taken {
            session: Key::NONE,
            uid,
            since: Timestamp::now(),
            until: Some(Instant::now() + PATIENCE),
            next: None,
        };
        let Place::Alone(alone) = std::mem::replace(&mut entry.place, Place::Attached(taken))
        else {
            return;
        };
        let (pid, adopted, since) = (entry.pid, entry.adopted, entry.since);
        fault::point("coming");
        let program = match adopted {
            // What it cannot be signalled by ends by other ways.
            true => entry.program.try_clone().ok().map(Process::held),
            false => Some(Process::child(pid)),
        };
        let _ = left.poller.remove(&alone.master);
        let size = alone.master.size().unwrap_or(Size { rows: 24, cols: 80 });
        let mut session = Session::opened(&mut opening, size);
        session.keep(Kept { remains: alone.remains, hidden: true, relays: false });
        let mut wires = Wires::new(client, alone.master, program);
        wires.is_recorded_by(alone.recording);
        let session = self.sessions.insert(Attached::new(session, wires, Transport::Unix, door));
        self.cx.faults.made = Some(Whose::Unborn(session));
        fault::point("back");
        self.cx.seats.is_of(seat.ok().flatten(), Subject::Session(session));
        if let Some(taken) = left.taken_mut(key) {
            taken.session = session;
        }
        left.by_session.insert(session, key);
        if !adopted {
            self.programs.belongs_to(pid, session);
        }
        let Some(attached) = self.sessions.get_mut(session) else {
            return;
        };
        attached.terminal_interest = Some(Interest::default());
        let poller = &self.cx.poller;
        let (client, terminal) =
            (Source::Client(session).token(), Source::Terminal(session).token());
        let registered =
            poller.add(attached.wires.client.as_fd(), client, Interest::READ).and_then(|()| {
                poller.add(attached.wires.master.as_fd(), terminal, Interest::default())
            });
        if registered.is_err() {
            return self.leave_after_all(session);
        }
        let Attached { session: state, wires, .. } = attached;
        let armed = wires.master.arm();
        state.early_input(&opening.input, wires);
        if !rest.is_empty() {
            self.cx.input.clear();
            self.cx.input.extend_from_slice(&rest);
            self.cx.hear(session, state, wires);
        }
        drop(armed);
        self.tell_store(key);
        self.look_at_left(LOOK);
        self.begins_again(session, origin, since);
        fault::point("back-again");
        self.sessions.offer(&mut self.cx, session);
        self.settle(session);
    }

    /// A session that began long ago has another client, or another gateway.
    pub(in crate::router) fn begins_again(
        &mut self,
        session: Key,
        origin: Origin,
        since: Timestamp,
    ) {
        let id = self.left_id(session).unwrap_or_else(|| self.cx.ids.of(session));
        let Some(attached) = self.sessions.get_mut(session) else {
            return;
        };
        let size = attached.wires.master.size().unwrap_or(Size { rows: 24, cols: 80 });
        attached.note(&mut self.cx, session, id, origin, size);
        self.sessions.started(&mut self.cx, session);
        self.goes_on(session, since);
    }
}

impl super::Left {
    /// The session that is meant: by its id; by its name, which is one's own, also
    /// for root; by the unique beginning of an id; nothing: the one that was left
    /// last and runs, else the last that has ended. One that has ended is none to go
    /// on with where it `begins` anew, which is asked for by a name alone.
    fn find(&self, door: u16, uid: u32, which: &str, begins: bool) -> Option<Key> {
        let all = || {
            self.entries.iter().filter(|(_, entry)| {
                entry.door == door && entry.bound.is_none() && (uid == 0 || entry.uid == uid)
            })
        };
        let own = || {
            all().filter(|(_, entry)| {
                entry.uid == uid && !(begins && matches!(entry.place, Place::Over(_)))
            })
        };
        let rank = |entry: &Entry| (entry.place.rank(), entry.turned.at);
        if which.is_empty() {
            let left = own().filter(|(_, entry)| entry.place.rank() > 0);
            return left.max_by_key(|(_, entry)| rank(entry)).map(|(key, _)| key);
        }
        // Somebody may have named a session like another's id.
        let whole = all().find(|(_, entry)| !begins && entry.id == which);
        if let Some((key, _)) = whole {
            return Some(key);
        }
        let named = own().filter(|(_, entry)| entry.name == which);
        let named =
            named.max_by_key(|(_, entry)| (!matches!(entry.place, Place::Over(_)), rank(entry)));
        if let Some((key, _)) = named {
            return Some(key);
        }
        if begins {
            return None;
        }
        let mut by_id = all().filter(|(_, entry)| entry.id.starts_with(which));
        let (key, _) = by_id.next()?;
        by_id.next().is_none().then_some(key)
    }
}
