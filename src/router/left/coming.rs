//! A client comes back to a session, or has the one go that is attached.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::super::GatewayLoop;
use super::super::table::{Key, Source};
use super::super::timers::Due;
use super::super::traffic::{Attached, Wires};
use super::list::written;
use super::{Entry, LOOK, Place, Taken, leaving, now};
use crate::session::Session;
use crate::session::greeting::Opening;
use crate::session::keeping::Kept;
use fpty::proto::{Ended, Ending, variables};
use fpty::sys::Size;
use fpty::sys::peer::Arrived;
use fpty::sys::poll::Interest;
use fpty::sys::socket::{Stream, Transport};

/// How long a client that comes back may take to answer, and one that has to
/// go may take for it.
const PATIENCE: Duration = Duration::from_secs(2);
const GOING: Duration = Duration::from_secs(1);

/// What everybody is told of a session that there is not, and who has no right
/// of one that there is.
const NO_SUCH: &str = "there is no such session";

/// Somebody who waits for a session.
pub struct Waiting {
    client: Stream,
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
    /// stands in the turn's buffer.
    pub(in crate::router) fn come_back(
        &mut self,
        client: Stream,
        transport: Transport,
        mut opening: Opening,
        arrived: Arrived,
        ended: bool,
    ) {
        let refused = |why: &str| Ended::because(Ending::Refused, why);
        let which = match std::mem::take(&mut opening.request).read() {
            Ok(Some((_, which))) => which,
            Ok(None) | Err(_) => return self.refuse(&client, true, refused("bad request")),
        };
        let asked = Asked::of(&opening, which);
        if asked.begins && !leaving::is_name(asked.which.as_bytes()) {
            return self.refuse(&client, true, refused("bad request: no name"));
        }
        let uid = (transport == Transport::Unix).then(|| client.peer_uid()).flatten();
        let (Some(left), Some(uid)) = (&self.left, uid) else {
            if asked.begins {
                return self.open_new(client, transport, opening, arrived, ended);
            }
            let why = match transport {
                _ if self.left.is_none() => "sessions cannot be left here (forkptyrouter-detach)",
                Transport::Tcp => "over TCP nobody knows whose session it would be",
                Transport::Unix => "nobody knows whose session it would be",
            };
            return self.refuse(&client, true, refused(why));
        };
        let Some(key) = left.find(uid, &asked.which, asked.begins) else {
            if asked.begins {
                return self.open_new(client, transport, opening, arrived, ended);
            }
            return self.refuse(&client, true, refused(NO_SUCH));
        };
        if asked.watches {
            return self.watch(key, client, opening);
        }
        let rest = std::mem::take(&mut self.turn.input);
        // Its capacity is a turn's.
        self.turn.input.reserve_exact(super::super::turn::BUFFER);
        let waiting = Waiting { client, opening, uid, rest };
        let Some(entry) = self.left.as_mut().and_then(|left| left.entries.get_mut(key)) else {
            return;
        };
        match &mut entry.place {
            Place::Alone(_) => self.come_next(key, waiting),
            Place::Over(_) => self.watch(key, waiting.client, waiting.opening),
            Place::Attached(taken) if !asked.steals => {
                let (who, since) = (taken.uid, written(taken.since));
                let why = format!(
                    "uid {who} is attached since {since} (--steal takes it, --read-only watches)"
                );
                self.refuse(&waiting.client, true, refused(&why));
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

    /// The one who is attached is told to go.
    fn has_to_go(&mut self, session: Key, uid: u32) {
        if let Some(attached) = self.sessions.get_mut(session) {
            let text = format!("uid {uid} has taken the session");
            let told = Ended { ending: Ending::Detached, value: 1, text };
            attached.session.part_from_client(&told, &mut attached.wires);
        }
        self.look_at_left(LOOK);
    }

    /// Somebody who waits gets nothing.
    pub(super) fn refuse_waiting(&mut self, waiting: Waiting) {
        self.refuse(&waiting.client, true, Ended::because(Ending::Refused, NO_SUCH));
    }

    /// A client gets a session that nobody is attached to: its terminal, or
    /// what is kept of it, is offered, and it is told to go on when it has that.
    pub(super) fn come_next(&mut self, key: Key, waiting: Waiting) {
        let relays = !self.hands_over();
        let Some(left) = &mut self.left else {
            return;
        };
        let is_alone = |entry: &&mut Box<Entry>| matches!(entry.place, Place::Alone(_));
        let Some(entry) = left.entries.boxed_mut(key).filter(is_alone) else {
            return self.refuse_waiting(waiting);
        };
        let Waiting { client, mut opening, uid, mut rest } = waiting;
        let taken = Taken {
            session: Key::NONE,
            uid,
            since: now(),
            until: Some(Instant::now() + PATIENCE),
            next: None,
        };
        let Place::Alone(alone) = std::mem::replace(&mut entry.place, Place::Attached(taken))
        else {
            return;
        };
        let (pid, adopted) = (entry.pid, entry.adopted);
        let _ = left.poller.remove(&alone.master);
        let size = alone.master.size().unwrap_or(Size { rows: 24, cols: 80 });
        let mut session = Session::opened(&mut opening, size);
        session.keep(Kept { remains: alone.remains, hidden: true, relays });
        let wires = Wires { client, master: alone.master, program: Some(pid) };
        let session = self.sessions.insert(Attached::new(session, wires, Transport::Unix));
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
        let poller = &self.turn.poller;
        let (client, terminal) =
            (Source::Client(session).token(), Source::Terminal(session).token());
        let registered =
            poller.add(attached.wires.client.as_fd(), client, Interest::READ).and_then(|()| {
                poller.add(attached.wires.master.as_fd(), terminal, Interest::default())
            });
        if registered.is_err() {
            return self.leave_after_all(session);
        }
        let armed = left.interrupts.arm();
        let Attached { session: state, wires, .. } = attached;
        state.early_input(&opening.input, wires);
        if !rest.is_empty() {
            state.client_sent(&mut rest, &mut self.turn.gather, wires);
        }
        drop(armed);
        self.tell_store(key);
        self.look_at_left(LOOK);
        if let Some(timeout) = self.config.timeout {
            self.after(timeout, Due::Idle(session));
        }
        self.offer(session);
        self.settle(session);
    }

    /// Ends a session that can be left: its id, or name. Whether there is one.
    #[allow(dead_code)]
    pub(in crate::router) fn kill_left(&mut self, uid: u32, which: &str) -> bool {
        let Some(left) = &mut self.left else {
            return false;
        };
        let Some(key) = left.find(uid, which, false).filter(|_| !which.is_empty()) else {
            return false;
        };
        match left.entries.get_mut(key).map(|entry| &entry.place) {
            Some(Place::Attached(taken)) => {
                let session = taken.session;
                if let Some(attached) = self.sessions.get_mut(session) {
                    let why = "somebody has ended the session";
                    attached.session.dismiss(Ending::Operator, why, &mut attached.wires);
                    self.after(PATIENCE, Due::Dismissed(session));
                    self.settle(session);
                }
            }
            Some(Place::Alone(_)) => self.end_alone(key),
            Some(Place::Over(_)) => {
                left.remove(key);
            }
            None => return false,
        }
        true
    }
}

impl super::Left {
    /// The session that is meant: by its name, its id or the unique beginning of
    /// one; nothing: the one that was left last and runs, else the last that has
    /// ended. One that has ended is none to go on with where it `begins` anew.
    fn find(&self, uid: u32, which: &str, begins: bool) -> Option<Key> {
        let all = || {
            self.entries.iter().filter(|(_, entry)| {
                (uid == 0 || entry.uid == uid) && !(begins && matches!(entry.place, Place::Over(_)))
            })
        };
        let rank = |entry: &Entry| match &entry.place {
            Place::Alone(alone) => (2, alone.since),
            Place::Over(over) => (1, over.at),
            Place::Attached(taken) => (0, taken.since),
        };
        if which.is_empty() {
            let left = all().filter(|(_, entry)| entry.uid == uid && rank(entry).0 > 0);
            return left.max_by_key(|(_, entry)| rank(entry)).map(|(key, _)| key);
        }
        let named = all().filter(|(_, entry)| entry.name == which);
        let named = named.max_by_key(|(_, entry)| {
            (entry.uid == uid, !matches!(entry.place, Place::Over(_)), rank(entry))
        });
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
