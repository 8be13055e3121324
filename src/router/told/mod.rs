//! What is told of sessions: to the log, line by line (an audit), and to
//! whoever asks for statistics.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | a session begins, ends, or is refused |
//! | `facts.rs` | what is known of it; its lines |
//! | `peer.rs` | who is at the other end |
//! | `names.rs` | names of users, without waiting for one |
//! | `reason.rs` | why it ended, why there was none |
//! | `refusals.rs` | how many of them have a line of their own |
//! | `line.rs` | how a line looks |
//! | `in_advance.rs` | last lines, in case that a gateway is killed |
//! | `story.rs` | what the next gateway is to know of a session |
//! | `counters.rs` | what happened since the start, of all gateways |
//! | `traffic.rs` | bytes of a session |
//! | `clock.rs` | the time as it is written down |

pub mod clock;
pub mod counters;
mod facts;
pub mod in_advance;
pub mod line;
mod names;
mod peer;
mod reason;
mod refusals;
mod story;
mod traffic;

use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::secrets::NOBODY;
use super::supervisor::lines::{self, Lines};
use super::table::Key;
use crate::config::router::Router;
use crate::config::rules::Rules;
use crate::shares::Who;
use crate::uwsgi::queue::Queue;
use crate::uwsgi::{log, server};
use fpty::proto::{Ended, Ending};
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::socket::Stream;

use counters::Counters;
use facts::Act;
pub use facts::{End, Facts, Last, Recorded, of_peer};
use facts::{Place, Refused};
use line::Format;
use names::Names;
pub use peer::{Peer, Said};
pub use reason::{Gone, Parted, Refusal};
use refusals::Refusals;
pub use story::Story;
pub use traffic::Traffic;

/// How many bytes of a command a line has room for, and the least.
const COMMAND_ROOM: usize = 900;
const LEAST_ROOM: usize = 64;
/// How many bytes the rest of it may have.
const THE_REST: usize = 2100;

/// Lines that may wait for the log.
const LINES: usize = 4096;

/// What is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A session with a terminal, and a client.
    Session(Key),
    /// One whose client has left, by its entry among those.
    Left(Key),
    /// A command without one.
    Command(Key),
}

/// What is new of a session or command that is about to begin.
pub struct New {
    /// Its process.
    pub pid: Option<Pid>,
    /// Its terminal, where it has one.
    pub tty: Option<String>,
    /// The size of that.
    pub size: Option<Size>,
}

/// A socket, as it is told of.
#[derive(Clone, Default)]
pub struct Socket {
    /// Its name.
    pub name: Arc<str>,
    /// How the audit's lines of those who come there look; `None`: there are
    /// none.
    pub audit: Option<Format>,
    /// Whether those who come there are recorded.
    pub is_recorded: bool,
    /// What runs there.
    pub command: Arc<str>,
    /// As which user, and group.
    pub ids: (u32, u32),
}

impl Socket {
    /// One with these rules.
    pub fn of(name: &str, rules: &Rules) -> Self {
        let own = || (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Self {
            name: name.into(),
            audit: rules.audit,
            is_recorded: rules.record.folder.is_some(),
            command: rules.command.to_string_lossy().into(),
            ids: rules.identity.as_ref().map_or_else(own, |identity| (identity.uid, identity.gid)),
        }
    }
}

/// Where a session, or a refusal, comes from. It travels with the connection
/// from its first word on; empty where nobody wants to know.
#[derive(Clone, Default)]
pub struct Origin {
    socket: Socket,
    mode: &'static str,
    said: Said,
    /// The command that it asks for.
    command: Option<Arc<str>>,
}

/// Why somebody gets no session: what it is told, and what is counted.
#[derive(Debug)]
pub struct Rejection {
    /// For the client.
    pub ended: Ended,
    /// For the audit and the metrics.
    pub reason: Refusal,
}

impl From<Ended> for Rejection {
    fn from(ended: Ended) -> Self {
        let reason = Refusal::of(&ended);
        Self { ended, reason }
    }
}

impl Rejection {
    /// For this reason, which the client is told in a text.
    pub fn because(reason: Refusal, text: impl Into<String>) -> Self {
        Self { ended: Ended::because(Ending::Refused, text), reason }
    }
}

/// What a gateway tells of its sessions.
pub struct Told {
    /// What happened since the start.
    pub counters: Counters,
    /// Somebody wants to know more of a session than that there is one.
    keeps_facts: bool,
    place: Place,
    names: Names,
    queue: Queue,
    refusals: Refusals,
    sockets: Vec<Socket>,
    facts: HashMap<Subject, Box<Facts>>,
    lines: Option<Lines>,
}

impl Told {
    /// Of the gateway of this number, with these sockets, and with the lines that one
    /// that was here before us has not written.
    pub fn new(
        config: &Router,
        ordinal: usize,
        sockets: Vec<Socket>,
        left_behind: Vec<String>,
    ) -> Self {
        let room = server::log_packet().map_or(COMMAND_ROOM, |most| {
            most.saturating_sub(THE_REST).clamp(LEAST_ROOM, COMMAND_ROOM)
        });
        let mut queue = Queue::of(LINES);
        for line in left_behind {
            queue.say(|_| line, log::takes);
        }
        Self {
            counters: Counters::of_gateway(ordinal),
            keeps_facts: config.stats.is_some()
                || sockets.iter().any(|socket| socket.audit.is_some() || socket.is_recorded),
            place: Place {
                host: fpty::sys::host_name(),
                instance: server::instance(),
                command_room: room,
            },
            names: Names::default(),
            queue,
            refusals: Refusals::new(),
            sockets,
            facts: HashMap::new(),
            lines: Lines::of(ordinal),
        }
    }

    /// Where somebody comes from: at which socket, what it speaks, and what it
    /// says of itself.
    pub fn origin(&self, door: u16, mode: &'static str, said: impl FnOnce() -> Said) -> Origin {
        if !self.keeps_facts {
            return Origin::default();
        }
        let socket = self.sockets.get(usize::from(door)).cloned().unwrap_or_default();
        Origin { socket, mode, said: said(), command: None }
    }

    /// The same, of somebody who asks for a command.
    pub fn asking(&self, origin: Origin, command: impl FnOnce() -> Option<String>) -> Origin {
        match self.keeps_facts {
            true => Origin { command: command().map(Arc::from), ..origin },
            false => origin,
        }
    }

    /// What is known of a session.
    pub fn of(&self, subject: Subject) -> Option<&Facts> {
        self.facts.get(&subject).map(Box::as_ref)
    }

    /// Of whom anything is known.
    pub fn subjects(&self) -> impl Iterator<Item = Subject> {
        self.facts.keys().copied()
    }

    /// As which user and group programs run that are started at a socket.
    pub fn ids_at(&self, door: u16) -> Option<(u32, u32)> {
        self.sockets.get(usize::from(door)).map(|socket| socket.ids)
    }

    /// The name of a user, as far as that is known without waiting for it.
    pub fn name_of(&mut self, uid: u32) -> Option<Arc<str>> {
        self.names.of(uid)
    }

    /// The same, where it is known already.
    pub fn known_name(&self, uid: u32) -> Option<String> {
        self.names.known(uid)
    }

    /// A program has ended.
    pub fn program_ended(&mut self, subject: Subject, exit: Exit) {
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.exit = Some(exit);
        }
    }

    /// Where a session's recording is to be.
    pub fn records_to(&mut self, subject: Subject, path: &str) {
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.recording = Some(path.into());
        }
    }

    /// A session is recorded, or no more.
    pub fn is_recorded(&mut self, subject: Subject, recorded: bool) {
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.recorded = recorded;
        }
    }

    /// There never was such a session: where its client comes from, which is about
    /// to be refused.
    pub fn was_none(&mut self, subject: Subject) -> Origin {
        let Some(facts) = self.facts.remove(&subject) else {
            return Origin::default();
        };
        let Facts { socket: name, mode, said, audit, command, uid, gid, .. } = *facts;
        let audit = audit.map(|(format, _)| format);
        let ids = (uid, gid);
        let socket = Socket { name, audit, is_recorded: false, command: command.clone(), ids };
        Origin { socket, mode, said, command: Some(command) }
    }

    /// Somebody gets no session.
    pub fn refused(&mut self, origin: Origin, client: Option<&Stream>, reason: Refusal, why: &str) {
        self.counters.refused(reason);
        let Some(format) = origin.socket.audit else {
            return;
        };
        let who = client.map_or(Who::Nobody, Who::of);
        self.tell_of_refusals();
        let at = (&origin.socket.name, format, origin.mode);
        if !self.refusals.is_told(who, at, reason, why) {
            return;
        }
        let peer = client.map(|client| peer::Peer::of(client, &mut self.names, true));
        let refused = Refused {
            socket: &origin.socket.name,
            mode: origin.mode,
            peer: peer.unwrap_or_default(),
            said: origin.said,
            command: origin.command.as_deref(),
            reason,
            why,
            count: None,
        };
        let (place, now) = (&self.place, SystemTime::now());
        self.queue.say(|lost| refused.line(format, place, now, take(lost)), log::takes);
    }

    /// Writes how many of the second that is over had no line of their own.
    fn tell_of_refusals(&mut self) {
        for left_out in self.refusals.over(Instant::now()) {
            let refused = Refused {
                socket: &left_out.socket,
                mode: left_out.mode,
                peer: left_out.peer,
                said: Said::default(),
                command: None,
                reason: left_out.reason,
                why: &left_out.why,
                count: Some(left_out.count),
            };
            let (format, place, now) = (left_out.format, &self.place, SystemTime::now());
            self.queue.say(|lost| refused.line(format, place, now, take(lost)), log::takes);
        }
    }

    /// Whether anybody wants to know more of a session than that there is one.
    pub fn keeps_facts(&self) -> bool {
        self.keeps_facts
    }

    /// Notes what is known of a new session or command.
    pub fn note(
        &mut self,
        subject: Subject,
        origin: Origin,
        id: String,
        client: &Stream,
        new: New,
    ) {
        let with_login = origin.socket.audit.is_some();
        let peer = peer::Peer::of(client, &mut self.names, with_login);
        self.note_peer(subject, origin, id, peer, new);
    }

    /// The same of one that goes on without a client, and is this user's.
    pub fn note_user(&mut self, subject: Subject, origin: Origin, id: String, uid: u32, new: New) {
        let peer = match uid {
            NOBODY => peer::Peer::default(),
            _ => peer::Peer { uid: Some(uid), user: self.names.of(uid), ..peer::Peer::default() },
        };
        self.note_peer(subject, origin, id, peer, new);
    }

    fn note_peer(
        &mut self,
        subject: Subject,
        origin: Origin,
        id: String,
        peer: peer::Peer,
        new: New,
    ) {
        let Origin { socket, mode, said, command } = origin;
        let audit = socket.audit;
        let mut facts = Facts {
            id,
            socket: socket.name,
            mode,
            peer,
            said,
            uid: socket.ids.0,
            gid: socket.ids.1,
            command: command.unwrap_or(socket.command),
            pid: new.pid.and_then(|program| u32::try_from(program.as_raw()).ok()),
            tty: new.tty.map(Into::into),
            size: new.size.filter(|_| mode != "raw"),
            started: Timestamp::now(),
            exit: None,
            audit: None,
            recorded: false,
            recording: None,
            place: None,
            is_kept: false,
            client: None,
            attached: Timestamp::now(),
            before: (Some(0), Some(0)),
        };
        facts.audit = audit.map(|format| (format, facts.common(format, &self.place)));
        self.facts.insert(subject, Box::new(facts));
    }

    /// A client has left a session, which goes on without it.
    pub fn detached(
        &mut self,
        from: Subject,
        to: Subject,
        how: Parted,
        bytes: (Option<u64>, Option<u64>),
    ) {
        let Some(mut facts) = self.facts.remove(&from) else {
            return;
        };
        facts.before = facts.bytes_with(bytes);
        let by = match how {
            Parted::Stolen(uid) => Some((uid, self.names.of(uid))),
            Parted::Asked | Parted::Lost => None,
        };
        let by = by.as_ref().map(|(uid, name)| (*uid, name.as_deref()));
        let act = Act::Detach(how, facts.attached.elapsed(), by);
        self.act(&facts, act, facts.client());
        self.facts.insert(to, facts);
    }

    /// The client of a session, which was there since then, was lost with its gateway.
    pub fn lost_with_its_gateway(&mut self, subject: Subject, since: Timestamp) {
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.attached = since;
        }
        self.detached(subject, subject, Parted::Lost, (None, None));
    }

    /// A client attaches to a session that goes on.
    pub fn attached(&mut self, from: Subject, to: Subject, origin: &Origin, client: &Stream) {
        let Some(mut facts) = self.facts.remove(&from) else {
            return;
        };
        let peer = peer::Peer::of(client, &mut self.names, facts.audit.is_some());
        self.act(&facts, Act::Attach(&origin.said), &peer);
        facts.client = Some(Box::new(peer));
        facts.attached = Timestamp::now();
        self.facts.insert(to, facts);
    }

    /// A client looks on, from now on.
    pub fn viewed(&mut self, subject: Subject, origin: &Origin, client: &Stream) {
        if let Some(facts) = self.facts.get(&subject).filter(|facts| facts.audit.is_some()) {
            let peer = peer::Peer::of(client, &mut self.names, true);
            Self::write(&mut self.queue, &self.place, facts, Act::Watch(&origin.said), &peer);
        }
    }

    /// It does so no more, after so long.
    pub fn unviewed(&mut self, subject: Subject, client: &Stream, after: Duration) {
        if let Some(facts) = self.facts.get(&subject).filter(|facts| facts.audit.is_some()) {
            let peer = peer::Peer::of(client, &mut self.names, true);
            Self::write(&mut self.queue, &self.place, facts, Act::Unwatch(after), &peer);
        }
    }

    fn act(&mut self, facts: &Facts, act: Act<'_>, peer: &peer::Peer) {
        if facts.audit.is_some() {
            Self::write(&mut self.queue, &self.place, facts, act, peer);
        }
    }

    fn write(queue: &mut Queue, place: &Place, facts: &Facts, act: Act<'_>, peer: &peer::Peer) {
        let now = SystemTime::now();
        queue.say(
            |lost| facts.act_line(act, peer, place, now, take(lost)).unwrap_or_default(),
            log::takes,
        );
    }

    /// It is over; what of that is still to be told.
    pub fn ended(
        &mut self,
        subject: Subject,
        why: Gone,
        bytes: (Option<u64>, Option<u64>),
    ) -> Option<Last> {
        let facts = self.facts.remove(&subject);
        let duration = facts.as_ref().map(|facts| facts.started.elapsed());
        let bytes = facts.as_ref().map_or(bytes, |facts| facts.bytes_with(bytes));
        self.counters.ended(why, duration);
        let end = End { at: SystemTime::now(), duration: duration?, why, bytes };
        Some(Last { facts: facts?, end })
    }

    /// Writes the line of a session's end, as soon as it is known what became
    /// of its recording.
    pub fn tell_last(&mut self, last: &Last, recorded: Option<&Recorded>) {
        if let (Some(lines), Some(place)) = (&mut self.lines, last.facts.place) {
            lines.take(place);
        }
        if last.facts.audit.is_some() {
            let Last { facts, end } = last;
            let line =
                |lost: &mut u64| facts.end_line(end, recorded, take(lost)).unwrap_or_default();
            self.queue.say(line, log::takes);
        }
    }

    /// The line of a session's end, in advance, and when the session began:
    /// for somebody else to write.
    pub fn in_advance(&self, subject: Subject) -> Option<(String, BootInstant)> {
        let facts = self.facts.get(&subject)?;
        Some((facts.line_in_advance(&self.place)?, facts.started.boot))
    }

    /// The supervisor tells of a session's end, where this gateway is killed.
    pub fn entrusted(&mut self, subject: Subject) {
        self.mark_entrusted(subject, true);
    }

    /// It does not.
    pub fn not_entrusted(&mut self, subject: Subject) {
        self.mark_entrusted(subject, false);
    }

    fn mark_entrusted(&mut self, subject: Subject, kept: bool) {
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.is_kept = kept;
            if let (Some(lines), Some(place)) = (&self.lines, facts.place) {
                lines.keep(place, kept);
            }
        }
    }

    /// There is no supervisor any more.
    pub fn nothing_is_entrusted(&mut self) {
        let kept = self.facts.iter().filter(|(_, facts)| facts.is_kept);
        let kept: Vec<Subject> = kept.map(|(subject, _)| *subject).collect();
        kept.into_iter().for_each(|subject| self.not_entrusted(subject));
    }

    /// Writes a session's last line in advance.
    fn write_in_advance(&mut self, subject: Subject) {
        let (Some(lines), Some(facts)) = (&mut self.lines, self.facts.get_mut(&subject)) else {
            return;
        };
        if let Some(line) = facts.line_in_advance(&self.place) {
            facts.place = lines.put(&line, facts.started.boot);
        }
        if let Some(place) = facts.place.filter(|_| facts.is_kept) {
            lines.keep(place, true);
        }
    }

    /// Whether lines wait for the log.
    pub fn waits(&self) -> bool {
        self.queue.waits() || self.refusals.count()
    }

    /// Writes some of them; returns whether the log took any.
    pub fn flush(&mut self) -> bool {
        self.tell_of_refusals();
        self.queue.flush(log::takes) > 0
    }

    /// A session of a gateway that was here before goes on: its beginning was told
    /// then. Whoever keeps it has the line of its end.
    pub fn goes_on(&mut self, subject: Subject, started: Timestamp) {
        self.counters.goes_on();
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.started = started;
            facts.is_kept = true;
        }
        self.write_in_advance(subject);
    }

    /// What the next gateway is to know of a session, where anybody wants to know it.
    pub fn story(&self, subject: Subject) -> Option<Box<Story>> {
        self.facts.get(&subject).map(|facts| Box::new(Story::of(facts)))
    }

    /// A session of a gateway that was here before has this story, and this id and
    /// process; it began at this socket, then.
    pub fn note_story(
        &mut self,
        subject: Subject,
        story: &Story,
        door: u16,
        (id, pid, started): (String, Option<Pid>, Timestamp),
    ) {
        let socket = self.sockets.get(usize::from(door)).cloned().unwrap_or_default();
        let pid = pid.and_then(|pid| u32::try_from(pid.as_raw()).ok());
        let mut facts = story.clone().facts(id, &socket.name, pid, started);
        facts.audit = socket.audit.map(|format| (format, facts.common(format, &self.place)));
        self.facts.insert(subject, Box::new(facts));
    }

    /// Writes a line that somebody has written in advance.
    pub fn say(&mut self, line: String) {
        self.queue.say(|_| line, log::takes);
    }

    /// The line that was written in advance for a session of which nothing else is
    /// known here.
    pub fn put_in_advance(&mut self, line: &str, started: BootInstant) -> Option<lines::Place> {
        let lines = self.lines.as_mut()?;
        let place = lines.put(line, started)?;
        lines.keep(place, true);
        Some(place)
    }

    /// It was written.
    pub fn take_down(&mut self, place: lines::Place) {
        if let Some(lines) = &mut self.lines {
            lines.take(place);
        }
    }

    /// A session has begun: its program was executed.
    pub fn begun(&mut self, subject: Subject) {
        self.counters.began();
        self.write_in_advance(subject);
        if let Some(facts) = self.facts.get(&subject).filter(|facts| facts.audit.is_some()) {
            self.queue.say(|lost| facts.start_line(take(lost)).unwrap_or_default(), log::takes);
        }
    }
}
