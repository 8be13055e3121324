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
//! | `board.rs` | last lines, in case that a gateway is killed |
//! | `counters.rs` | what happened since the start, of all gateways |
//! | `traffic.rs` | bytes of a session |
//! | `clock.rs` | the time as it is written down |

pub mod board;
pub mod clock;
pub mod counters;
mod facts;
pub mod line;
mod names;
mod peer;
mod reason;
mod refusals;
mod traffic;

use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::GatewayLoop;
use super::table::Key;
use crate::config::router::Router;
use crate::config::rules::Rules;
use crate::shares::Who;
use crate::uwsgi::queue::Queue;
use crate::uwsgi::{log, server};
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::{BootInstant, Timestamp};
use fpty::sys::process::Process;
use fpty::sys::socket::Stream;

use board::Board;
use counters::Counters;
pub use facts::{End, Facts, Last, Recorded};
use facts::{Place, Refused};
use line::Format;
use names::Names;
pub use peer::Said;
pub use reason::{Gone, Refusal};
use refusals::Refusals;
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
    /// A session with a terminal.
    Session(Key),
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

/// Who is about to get a session, or a refusal.
#[derive(Default)]
struct Caller {
    socket: Socket,
    mode: &'static str,
    said: Said,
    /// The command that it asks for.
    command: Option<Arc<str>>,
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
    caller: Caller,
    /// Why it is about to be refused, where that is not for want of something.
    refusal: Option<Refusal>,
    sockets: Vec<Socket>,
    facts: HashMap<Subject, Box<Facts>>,
    board: Option<Board>,
}

impl Told {
    /// Of the gateway of this number, with these sockets.
    pub fn new(config: &Router, ordinal: usize, sockets: Vec<Socket>) -> Self {
        let room = server::log_packet().map_or(COMMAND_ROOM, |most| {
            most.saturating_sub(THE_REST).clamp(LEAST_ROOM, COMMAND_ROOM)
        });
        let (board, left) = board::adopt(ordinal);
        let mut queue = Queue::of(LINES);
        for line in left {
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
            caller: Caller::default(),
            refusal: None,
            sockets,
            facts: HashMap::new(),
            board,
        }
    }

    /// Notes who is about to get a session or a refusal: at which socket, what
    /// it speaks, and what it says of itself.
    pub fn hears(&mut self, door: u16, mode: &'static str, said: impl FnOnce() -> Said) {
        if self.keeps_facts {
            let socket = self.sockets.get(usize::from(door)).cloned().unwrap_or_default();
            self.caller = Caller { socket, mode, said: said(), command: None };
        }
    }

    /// The same: which command it asks for.
    pub fn asks(&mut self, command: impl FnOnce() -> Option<String>) {
        if self.keeps_facts {
            self.caller.command = command().map(Arc::from);
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

    /// The name of a user, where it is known already.
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
    pub fn records_to(&mut self, key: Key, path: &str) {
        if let Some(facts) = self.facts.get_mut(&Subject::Session(key)) {
            facts.recording = Some(path.into());
        }
    }

    /// A session is recorded, or no more.
    pub fn is_recorded(&mut self, key: Key, recorded: bool) {
        if let Some(facts) = self.facts.get_mut(&Subject::Session(key)) {
            facts.recorded = recorded;
        }
    }

    /// There never was such a session: its client is about to be refused.
    pub fn was_none(&mut self, subject: Subject) {
        if let Some(facts) = self.facts.remove(&subject) {
            let Facts { socket: name, mode, said, audit, command, uid, gid, .. } = *facts;
            let audit = audit.map(|(format, _)| format);
            let ids = (uid, gid);
            let socket = Socket { name, audit, is_recorded: false, command: command.clone(), ids };
            let command = Some(command);
            self.caller = Caller { socket, mode, said, command };
        }
    }

    /// Says why the next one is refused.
    pub fn refuses(&mut self, reason: Refusal) {
        self.refusal = Some(reason);
    }

    /// Somebody gets no session.
    pub fn refused(&mut self, client: Option<&Stream>, reason: Refusal, why: &str) {
        let reason = self.refusal.take().unwrap_or(reason);
        self.counters.refused(reason);
        let caller = std::mem::take(&mut self.caller);
        let Some(format) = caller.socket.audit else {
            return;
        };
        let who = client.map_or(Who::Nobody, Who::of);
        self.tell_of_refusals();
        let at = (&caller.socket.name, format, caller.mode);
        if !self.refusals.is_told(who, at, reason, why) {
            return;
        }
        let peer = client.map(|client| peer::Peer::of(client, &mut self.names, true));
        let refused = Refused {
            socket: &caller.socket.name,
            mode: caller.mode,
            peer: peer.unwrap_or_default(),
            said: caller.said,
            command: caller.command.as_deref(),
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
    pub fn note(&mut self, subject: Subject, id: String, client: &Stream, new: New) {
        let Caller { socket, mode, said, command } = std::mem::take(&mut self.caller);
        let audit = socket.audit;
        let mut facts = Facts {
            id,
            socket: socket.name,
            mode,
            peer: peer::Peer::of(client, &mut self.names, audit.is_some()),
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
            board: None,
        };
        facts.audit = audit.map(|format| (format, facts.common(format, &self.place)));
        self.facts.insert(subject, Box::new(facts));
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
        self.counters.ended(why, duration);
        let end = End { at: SystemTime::now(), duration: duration?, why, bytes };
        Some(Last { facts: facts?, end })
    }

    /// Writes the line of a session's end, as soon as it is known what became
    /// of its recording.
    pub fn tell_last(&mut self, last: &Last, recorded: Option<&Recorded>) {
        if let (Some(board), Some(place)) = (&mut self.board, last.facts.board) {
            board.take(place);
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

    /// Somebody else tells of a session's end, where this gateway is killed.
    pub fn entrusted(&mut self, subject: Subject) {
        let facts = self.facts.get_mut(&subject);
        let place = facts.and_then(|facts| facts.board.take());
        if let (Some(board), Some(place)) = (&mut self.board, place) {
            board.take(place);
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
        }
    }

    /// Writes a line that somebody has written in advance.
    pub fn say(&mut self, line: String) {
        self.queue.say(|_| line, log::takes);
    }

    /// A session has begun: its program was executed.
    pub fn begun(&mut self, subject: Subject) {
        self.counters.began();
        let Some(facts) = self.facts.get_mut(&subject) else {
            return;
        };
        if facts.audit.is_some() {
            let advance = facts.line_in_advance(&self.place).unwrap_or_default();
            let board = self.board.as_mut();
            facts.board = board.and_then(|board| board.put(&advance, facts.started.boot));
            self.queue.say(|lost| facts.start_line(take(lost)).unwrap_or_default(), log::takes);
        }
    }
}

impl GatewayLoop {
    /// Notes what is known of a new session, where somebody wants to know it.
    pub(super) fn note_session(&mut self, key: Key, size: Size) {
        // One that was left keeps its own.
        let id = self.left_id(key);
        let Some(attached) = self.sessions.get_mut(key).filter(|_| self.cx.told.keeps_facts) else {
            return;
        };
        let wires = &mut attached.wires;
        let tty = wires.master.slave_name();
        let pid = wires.program.as_ref().map(Process::pid);
        let new = New { pid, tty, size: Some(size) };
        let id = id.unwrap_or_else(|| self.cx.ids.of(key));
        self.cx.told.note(Subject::Session(key), id, &wires.client, new);
        wires.traffic.get_or_insert_with(Box::default).note();
    }

    /// Its program was executed, if that was not known yet.
    pub(super) fn has_begun(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        if std::mem::take(&mut attached.starting) != 0 {
            self.tell_start(key);
        }
    }

    /// A session has begun: its program was executed.
    pub(super) fn tell_start(&mut self, key: Key) {
        self.faults.has_begun(key);
        self.cx.told.begun(Subject::Session(key));
        self.begin_recording(key);
    }

    /// A session ends.
    pub(super) fn tell_end(&mut self, key: Key) {
        super::fault::point("told-end");
        self.cx.seats.ended(Subject::Session(key));
        self.inquirers.forget(Subject::Session(key));
        // It was never seen to run, perhaps, and runs all the same.
        self.has_begun(key);
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        let session = &attached.session;
        let why = match (session.dismissed(), attached.exit) {
            (Some(ending), _) => Gone::of(ending),
            (None, Some(gone)) => gone,
            (None, None) if session.client_is_gone() => Gone::Hangup,
            (None, None) => Gone::Lost,
        };
        let bytes = match session.is_handed_over() {
            true => (None, None),
            false => attached.wires.traffic.as_ref().map(|traffic| traffic.bytes()).unzip(),
        };
        let is_entrusted = session.is_handed_over() && session.kept().is_none();
        let exit = self.cx.told.of(Subject::Session(key)).and_then(|facts| facts.exit);
        if let Some(line) = self.last_words_of(key, why, exit) {
            self.cx.told.say(line);
        }
        if let Some(last) = self.cx.told.ended(Subject::Session(key), why, bytes) {
            let (exit, last) = (last.facts.exit, Box::new(last));
            if let Some(last) = self.end_recording(key, exit, last) {
                self.cx.told.tell_last(&last, None);
            }
        }
        if is_entrusted {
            self.no_longer_entrusted(key);
        }
    }

    /// A program has ended by itself or by a signal.
    pub(super) fn note_exit(&mut self, key: Key, exit: Exit) {
        if let Some(attached) = self.sessions.get_mut(key) {
            attached.exit = Some(Gone::of_exit(exit));
        }
        self.cx.told.program_ended(Subject::Session(key), exit);
    }
}
