//! What is told of sessions: to the log, line by line (an audit), and to
//! whoever asks for statistics.
//!
//! | file | subject |
//! | --- | --- |
//! | `carried_over.rs` | what of that the next gateway is to know |
//! | `end_reason.rs` | why it ended, why there was none |
//! | `line.rs` | how a line looks |
//! | `origin.rs` | where it comes from |
//! | `peer.rs` | who is at the other end |
//! | `prepared_end.rs` | last lines, in case that a gateway is killed |
//! | `recording_fields.rs` | what a line has of the recording |
//! | `rejection_rate.rs` | how many of them have a line of their own |
//! | `session_info.rs` | what is known of it; its lines |
//! | `timestamp.rs` | the time as it is written down |
//! | `user_names.rs` | names of users, without waiting for one |

pub(crate) mod carried_over;
pub(crate) mod end_reason;
pub mod line;
pub(crate) mod origin;
pub(crate) mod peer;
pub mod prepared_end;
pub(crate) mod recording_fields;
pub(crate) mod rejection_rate;
pub(crate) mod session_info;
pub mod timestamp;
pub(crate) mod user_names;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::gateway_config::Router;
use crate::connection::client_hello::Opening;
use crate::event_loop::subject::Subject;
use crate::host::host;
use crate::log;
use crate::log_queue::Queue;
use crate::process::supervisor::end_lines::{self, Lines};
use fpty::fair_share::Who;
use fpty::proto::Protocol;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::socket::Stream;

pub use super::audit::carried_over::{Relayed, Story};
pub use super::audit::end_reason::{Gone, Parted, Refusal};
pub use super::audit::origin::{Mode, Origin, Rejection, Socket};
pub use super::audit::peer::{Peer, Said};
pub use super::audit::recording_fields::Recorded;
use super::audit::rejection_rate::Refusals;
use super::audit::session_info::{Act, Place, Refused};
pub use super::audit::session_info::{End, Facts, Last, New, of_peer};
use super::audit::user_names::Names;
use super::metrics::counters::Counters;

/// How many bytes of a command a line has room for, and the least.
const COMMAND_ROOM: usize = 900;
const LEAST_ROOM: usize = 64;
/// How many bytes the rest of it may have.
const THE_REST: usize = 2100;

/// Lines that may wait for the log.
const LINES: usize = 4096;

/// What a gateway tells of its sessions.
pub struct Told {
    /// What happened since the start.
    pub counters: Counters,
    /// Names of users.
    pub names: Names,
    /// Somebody wants to know more of a session than that there is one.
    keeps_facts: bool,
    place: Place,
    queue: Queue,
    refusals: Refusals,
    sockets: Vec<Socket>,
    facts: HashMap<Subject, Box<Facts>>,
    lines: Option<Lines>,
}

impl Told {
    /// Of the gateway of this number, with these sockets, and with the lines that one
    /// that was here before us has not written.
    pub fn new(config: &Router, ordinal: usize, sockets: Vec<Socket>) -> Self {
        let room = host().log_packet().map_or(COMMAND_ROOM, |most| {
            most.saturating_sub(THE_REST).clamp(LEAST_ROOM, COMMAND_ROOM)
        });
        Self {
            counters: Counters::of_gateway(ordinal),
            keeps_facts: config.stats.is_some()
                || sockets.iter().any(|socket| socket.audit.is_some() || socket.is_recorded),
            place: Place {
                host: fpty::sys::host_name(),
                instance: host().instance(),
                command_room: room,
            },
            names: Names::default(),
            queue: Queue::of(LINES),
            refusals: Refusals::new(),
            sockets,
            facts: HashMap::new(),
            lines: Lines::of(ordinal),
        }
    }

    /// Where somebody comes from: at which socket, and what it speaks.
    pub fn origin(&self, door: u16, mode: impl Into<Mode>) -> Origin {
        if !self.keeps_facts {
            return Origin::default();
        }
        let socket = self.sockets.get(usize::from(door)).cloned().unwrap_or_default();
        Origin { socket, mode: mode.into(), ..Origin::default() }
    }

    /// The same of somebody who has said this of itself.
    pub fn origin_of(&self, door: u16, opening: &Opening) -> Origin {
        let mode = if opening.extended { Mode::Extended } else { Protocol::Uwsgi.into() };
        match self.keeps_facts {
            true => Origin { said: Said::of(&opening.variables), ..self.origin(door, mode) },
            false => Origin::default(),
        }
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

    /// A program has ended.
    pub fn program_ended(&mut self, subject: Subject, exit: Exit) {
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.exit = Some(exit);
        }
    }

    /// Where a session's recording is, or is to be, and whether it is recorded now.
    pub fn recorded(&mut self, subject: Subject, path: &str, recorded: bool) {
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.recording = Some(path.into());
            facts.recorded = recorded;
        }
    }

    /// There never was such a session: where its client comes from, which is about
    /// to be refused.
    pub fn remove(&mut self, subject: Subject) -> Origin {
        let Some(facts) = self.facts.remove(&subject) else {
            return Origin::default();
        };
        let Facts { socket: name, story, audit, .. } = *facts;
        let Story { mode, said, command, uid, gid, .. } = story;
        let (audit, ids) = (audit.map(|(format, _)| format), (uid, gid));
        let socket = Socket { name, audit, is_recorded: false, command: command.clone(), ids };
        Origin { socket, mode, said, command: Some(command) }
    }

    /// Somebody gets no session.
    pub fn refused(&mut self, origin: Origin, client: Option<&Stream>, reason: Refusal, why: &str) {
        self.counters.refused(reason);
        if !origin.has_audit() {
            return;
        }
        self.tell_of_refusals();
        let refused =
            Refused { origin, peer: Peer::default(), reason, why: why.into(), count: None };
        let who = client.map_or(Who::Nobody, Who::of);
        if let Some(refused) = self.refusals.note(who, refused) {
            let peer = client.map(|client| Peer::of(client, &mut self.names, true));
            self.tell_refused(&Refused { peer: peer.unwrap_or_default(), ..refused });
        }
    }

    /// Writes how many of the second that is over had no line of their own.
    fn tell_of_refusals(&mut self) {
        for refused in self.refusals.over(Instant::now()) {
            self.tell_refused(&refused);
        }
    }

    fn tell_refused(&mut self, refused: &Refused) {
        let line = refused.line(&self.place, *self.queue.lost());
        self.tell(line);
    }

    /// Writes a line of ours, which says how many were lost before it.
    fn tell(&mut self, line: Option<String>) {
        if let Some(line) = line {
            let told = |lost: &mut u64| {
                *lost = 0;
                line
            };
            self.queue.say(told, log::takes);
        }
    }

    /// Whether anybody wants to know more of a session than that there is one.
    pub fn keeps_facts(&self) -> bool {
        self.keeps_facts
    }

    /// Notes what is known of a new session or command.
    pub fn note(&mut self, subject: Subject, origin: Origin, peer: Peer, new: New) {
        let Origin { socket, mode, said, command } = origin;
        let story = Story {
            mode,
            first: peer,
            said,
            command: command.unwrap_or_else(|| Arc::clone(&socket.command)),
            uid: socket.ids.0,
            gid: socket.ids.1,
            tty: new.tty.map(Into::into),
            size: new.size.filter(|_| mode != Mode::Raw).map(|size| (size.rows, size.cols)),
            attached: Timestamp::now().into(),
            before: (Some(0), Some(0)),
            client: None,
        };
        self.note_story(subject, socket, story, new.id, new.pid);
    }

    /// Notes the same of one that has this story, and this id and process; it began at
    /// this socket.
    fn note_story(
        &mut self,
        subject: Subject,
        socket: Socket,
        story: Story,
        id: String,
        pid: Option<Pid>,
    ) {
        let mut facts = Facts {
            id,
            socket: socket.name,
            story,
            pid: pid.and_then(|program| u32::try_from(program.as_raw()).ok()),
            started: Timestamp::now(),
            exit: None,
            audit: None,
            recorded: false,
            recording: None,
            place: None,
            is_kept: false,
        };
        facts.audit = socket.audit.map(|format| (format, facts.common(format, &self.place)));
        self.facts.insert(subject, Box::new(facts));
    }

    /// A client has left a session, which goes on without it.
    pub fn detached(&mut self, from: Subject, to: Subject, how: Parted, bytes: Relayed) {
        let Some(mut facts) = self.facts.remove(&from) else {
            return;
        };
        facts.story.before = facts.story.bytes_with(bytes);
        let by = match how {
            Parted::Stolen(uid) => Some((uid, self.names.of(uid))),
            Parted::Asked | Parted::Lost => None,
        };
        let by = by.as_ref().map(|(uid, name)| (*uid, name.as_deref()));
        let act = Act::Detach(how, Timestamp::from(facts.story.attached).elapsed(), by);
        self.tell_act(&facts, act, facts.story.last_client());
        self.facts.insert(to, facts);
    }

    /// The client of a session, which was there since then, was lost with its gateway.
    pub fn lost_with_its_gateway(&mut self, subject: Subject, since: Timestamp) {
        if let Some(facts) = self.facts.get_mut(&subject) {
            facts.story.attached = since.into();
        }
        self.detached(subject, subject, Parted::Lost, (None, None));
    }

    /// A client attaches to a session that goes on.
    pub fn attached(&mut self, from: Subject, to: Subject, origin: &Origin, client: &Stream) {
        let Some(mut facts) = self.facts.remove(&from) else {
            return;
        };
        let peer = Peer::of(client, &mut self.names, facts.audit.is_some());
        self.tell_act(&facts, Act::Attach(&origin.said), &peer);
        facts.story.client = Some(Box::new(peer));
        facts.story.attached = Timestamp::now().into();
        self.facts.insert(to, facts);
    }

    /// A client looks on, from now on. Where it stands that it does so no more, in case
    /// that this gateway is killed.
    pub fn viewed(
        &mut self,
        subject: Subject,
        origin: &Origin,
        client: &Stream,
    ) -> Option<end_lines::Place> {
        let facts = self.facts.get(&subject).filter(|facts| facts.audit.is_some())?;
        let peer = Peer::of(client, &mut self.names, true);
        let last = facts.act_line(Act::Unwatch(None), &peer, &self.place, 0);
        let line = facts.act_line(Act::Watch(&origin.said), &peer, &self.place, *self.queue.lost());
        self.tell(line);
        self.lines.as_mut()?.put(&last?, BootInstant::now(), false)
    }

    /// It does so no more, after so long.
    pub fn unviewed(
        &mut self,
        subject: Subject,
        client: &Stream,
        after: Duration,
        place: Option<end_lines::Place>,
    ) {
        place.into_iter().for_each(|place| self.take_down(place));
        if let Some(facts) = self.facts.get(&subject).filter(|facts| facts.audit.is_some()) {
            let peer = Peer::of(client, &mut self.names, true);
            let act = Act::Unwatch(Some(after));
            let line = facts.act_line(act, &peer, &self.place, *self.queue.lost());
            self.tell(line);
        }
    }

    fn tell_act(&mut self, facts: &Facts, act: Act<'_>, peer: &Peer) {
        let line = facts.act_line(act, peer, &self.place, *self.queue.lost());
        self.tell(line);
    }

    /// It is over; what of that is still to be told.
    pub fn ended(&mut self, subject: Subject, why: Gone, bytes: Relayed) -> Option<Last> {
        let facts = self.facts.remove(&subject);
        self.counters.ended(why, facts.as_ref().map(|facts| facts.started.elapsed()));
        let facts = facts?;
        let (duration, bytes) = (facts.started.elapsed(), facts.story.bytes_with(bytes));
        Some(Last { facts, end: End { at: SystemTime::now(), duration, why, bytes } })
    }

    /// Writes the line of a session's end, where anybody wants to know of it, as soon as
    /// it is known what became of its recording.
    pub fn tell_last(&mut self, last: Option<&Last>, recorded: Option<&Recorded>) {
        let Some(last) = last else { return };
        if let (Some(lines), Some(place)) = (&mut self.lines, last.facts.place) {
            lines.take(place);
        }
        let line = last.facts.end_line(&last.end, recorded, *self.queue.lost());
        self.tell(line);
    }

    /// The line of a session's end, in advance, and when the session began:
    /// for somebody else to write.
    pub fn in_advance(&self, subject: Subject) -> Option<(String, BootInstant)> {
        let facts = self.facts.get(&subject)?;
        Some((facts.line_in_advance(&self.place)?, facts.started.boot))
    }

    /// The supervisor tells of a session's end, where this gateway is killed; or it
    /// does not.
    pub fn entrusted(&mut self, subject: Subject, kept: bool) {
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
        kept.into_iter().for_each(|subject| self.entrusted(subject, false));
    }

    /// Writes a session's last line in advance.
    fn write_in_advance(&mut self, subject: Subject) {
        let (Some(lines), Some(facts)) = (&mut self.lines, self.facts.get_mut(&subject)) else {
            return;
        };
        let line = facts.line_in_advance(&self.place);
        facts.place = line.and_then(|line| lines.put(&line, facts.started.boot, facts.is_kept));
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
        self.facts.get(&subject).map(|facts| facts.story.handed_on())
    }

    /// A session of a gateway that was here before has this story, and this id and
    /// process; it began at this socket.
    pub fn take_up(
        &mut self,
        subject: Subject,
        story: Story,
        door: u16,
        id: String,
        pid: Option<Pid>,
    ) {
        let socket = self.sockets.get(usize::from(door)).cloned().unwrap_or_default();
        self.note_story(subject, socket, story, id, pid);
    }

    /// Writes a line that somebody has written in advance.
    pub fn say(&mut self, line: String) {
        self.queue.say(|_| line, log::takes);
    }

    /// The line that was written in advance for a session of which nothing else is
    /// known here.
    pub fn put_in_advance(&mut self, line: &str, started: BootInstant) -> Option<end_lines::Place> {
        self.lines.as_mut()?.put(line, started, true)
    }

    /// It was written.
    pub fn take_down(&mut self, place: end_lines::Place) {
        if let Some(lines) = &mut self.lines {
            lines.take(place);
        }
    }

    /// A session has begun: its program was executed.
    pub fn begun(&mut self, subject: Subject) {
        self.counters.began();
        self.write_in_advance(subject);
        let lost = *self.queue.lost();
        let line = self.facts.get(&subject).and_then(|facts| facts.start_line(lost));
        self.tell(line);
    }
}
