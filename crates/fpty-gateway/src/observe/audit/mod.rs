//! The audit (`forkptyrouter-audit`): a line in the log for each start, attach, detach and
//! end of a session, and for each rejected client. Its facts feed the statistics, too.
//!
//! | file | subject |
//! | --- | --- |
//! | `session_events.rs` | events of sessions, and their lines |
//! | `session_info.rs` | what is known of a session, and its lines |
//! | `session_history.rs` | the part of that which a successor of the gateway restores |
//! | `origin.rs` | the origin of a session: listener, protocol, what the client asked for |
//! | `peer.rs` | the peer's credentials or address, and the identity that it claims |
//! | `end_reason.rs` | reasons: of an end, of a detach, of a rejection |
//! | `line.rs` | a line as JSON or as key=value |
//! | `timestamp.rs` | RFC 3339 |
//! | `prepared_end.rs` | lines of ends that are prepared in case that the gateway is killed |
//! | `recording_fields.rs` | the fields of a recording in the line of an end |
//! | `rejection_rate.rs` | the limit of lines for rejected clients |
//! | `user_names.rs` | user names, looked up without blocking |

pub(crate) mod end_reason;
pub mod line;
pub(crate) mod origin;
pub(crate) mod peer;
pub mod prepared_end;
pub(crate) mod recording_fields;
pub(crate) mod rejection_rate;
mod session_events;
pub(crate) mod session_history;
pub(crate) mod session_info;
pub mod timestamp;
pub(crate) mod user_names;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::options::GatewayConfig;
use crate::connection::client_hello::ClientHello;
use crate::host::host;
use crate::log;
use crate::log_queue::LogQueue;
use crate::process::supervisor::end_lines::{EndLineSlot, EndLines};
use crate::session::session_ref::SessionRef;
use fpty::proto::Protocol;
use fpty::sys::child::Pid;
use fpty::sys::clock::{self, BootInstant, Timestamp};

pub use super::audit::end_reason::{DetachReason, EndReason, RejectReason};
use super::audit::line::AuditLine;
pub use super::audit::origin::{AuditSocket, Mode, Origin, Rejection};
pub use super::audit::peer::{ClaimedIdentity, Peer};
pub use super::audit::recording_fields::RecordingResult;
use super::audit::rejection_rate::RejectionRate;
pub use super::audit::session_history::{ByteTotals, SessionHistory};
use super::audit::session_info::LineSource;
pub use super::audit::session_info::{End, EndedSession, NewSession, SessionInfo, write_peer};
use super::audit::user_names::UserNames;

/// How many bytes of a command a line has room for, and the least.
const COMMAND_ROOM: usize = 900;
const LEAST_ROOM: usize = 64;
/// Limit of the rest of a line, in bytes.
const REST_OF_LINE: usize = 2100;

/// Lines that may wait for the log.
const MAX_WAITING_LINES: usize = 4096;

/// Audit of a gateway.
pub struct Audit {
    /// Names of users.
    pub user_names: UserNames,
    /// Whether somebody needs what is known of sessions: an audit, a recording, or by
    /// [`GatewayConfig::needs_session_info`].
    pub keeps_session_info: bool,
    place: LineSource,
    queue: LogQueue,
    rejection_rate: RejectionRate,
    sockets: Vec<AuditSocket>,
    info: HashMap<SessionRef, Box<SessionInfo>>,
    lines: Option<EndLines>,
}

impl Audit {
    /// The audit of the gateway of this number, with these sockets, and with the end
    /// lines that an earlier gateway has not written.
    pub fn new(config: &GatewayConfig, ordinal: usize, sockets: Vec<AuditSocket>) -> Self {
        let room = host().log_packet_size().map_or(COMMAND_ROOM, |most| {
            most.saturating_sub(REST_OF_LINE).clamp(LEAST_ROOM, COMMAND_ROOM)
        });
        Self {
            keeps_session_info: config.needs_session_info()
                || sockets.iter().any(|socket| socket.audit.is_some() || socket.is_recorded),
            place: LineSource {
                host: fpty::sys::host_name(),
                instance: host().instance(),
                command_room: room,
            },
            user_names: UserNames::default(),
            queue: LogQueue::of(MAX_WAITING_LINES),
            rejection_rate: RejectionRate::new(),
            sockets,
            info: HashMap::new(),
            lines: EndLines::of(ordinal),
        }
    }

    /// Origin of a client: the socket, and the mode.
    pub fn origin(&self, listener: u16, mode: impl Into<Mode>) -> Origin {
        if !self.keeps_session_info {
            return Origin::default();
        }
        let socket = self.sockets.get(usize::from(listener)).cloned().unwrap_or_default();
        Origin { socket, mode: mode.into(), ..Origin::default() }
    }

    /// Origin of a client that has said hello, with the identity that it claims.
    pub fn origin_of(&self, listener: u16, hello: &ClientHello) -> Origin {
        let mode = if hello.extended { Mode::Extended } else { Protocol::Uwsgi.into() };
        let claimed = self.keeps_session_info.then(|| ClaimedIdentity::of(&hello.variables));
        Origin { claimed: claimed.unwrap_or_default(), ..self.origin(listener, mode) }
    }

    /// Origin of a client that asks for a command.
    pub fn with_command(&self, origin: Origin, command: impl FnOnce() -> Option<String>) -> Origin {
        let command = self.keeps_session_info.then(command).flatten().map(Arc::from);
        Origin { command, ..origin }
    }

    /// The audit's facts of a session.
    pub fn of(&self, session_ref: SessionRef) -> Option<&SessionInfo> {
        self.info.get(&session_ref).map(Box::as_ref)
    }

    /// Sessions of which facts are kept.
    pub fn subjects(&self) -> impl Iterator<Item = SessionRef> {
        self.info.keys().copied()
    }

    /// User and group of programs that are started at a socket.
    pub fn ids_at(&self, listener: u16) -> Option<(u32, u32)> {
        self.sockets.get(usize::from(listener)).map(|socket| socket.ids)
    }

    /// Notes the path of a session's recording, and whether the session is recorded
    /// now.
    pub fn recorded(&mut self, session_ref: SessionRef, path: &str, recorded: bool) {
        if let Some(info) = self.info.get_mut(&session_ref) {
            info.recording = Some(path.into());
            info.recorded = recorded;
        }
    }

    /// Removes a session that never began, and returns the origin of its client, which is
    /// about to be refused.
    pub fn remove(&mut self, session_ref: SessionRef) -> Origin {
        let Some(info) = self.info.remove(&session_ref) else {
            return Origin::default();
        };
        let SessionInfo { socket: name, history, audit, place, .. } = *info;
        place.into_iter().for_each(|place| self.remove_prepared(place));
        let SessionHistory { mode, claimed, command, .. } = history;
        let socket = AuditSocket { name, audit, ..AuditSocket::default() };
        Origin { socket, mode, claimed, command: Some(command) }
    }

    /// Writes how many of the second that is over had no line of their own.
    fn write_suppressed(&mut self) {
        for rejected in self.rejection_rate.over(clock::now()) {
            self.write_line(rejected.line(&self.place));
        }
    }

    /// Writes a line of ours, which says how many were lost before it.
    fn write_line(&mut self, line: Option<AuditLine>) {
        if let Some(line) = line {
            self.queue.say(|lost| line.finish_after(std::mem::take(lost)), log::try_write);
        }
    }

    /// Notes what is known of a new session or command.
    pub fn note(&mut self, session_ref: SessionRef, origin: Origin, peer: Peer, new: NewSession) {
        let Origin { socket, mode, claimed, command } = origin;
        let history = SessionHistory {
            mode,
            first: peer,
            claimed,
            command: command.unwrap_or_else(|| Arc::clone(&socket.command)),
            uid: socket.ids.0,
            gid: socket.ids.1,
            tty: new.tty.map(Into::into),
            size: new.size.filter(|_| mode != Mode::Raw).map(|size| (size.rows, size.cols)),
            attached: Timestamp::now().into(),
            before: (Some(0), Some(0)),
            client: None,
        };
        self.insert_info(session_ref, socket, history, new.id, new.pid);
    }

    /// Notes the same of one that has this story, and this id and process; it began at
    /// this socket.
    fn insert_info(
        &mut self,
        session_ref: SessionRef,
        socket: AuditSocket,
        history: SessionHistory,
        id: String,
        pid: Option<Pid>,
    ) {
        let info = SessionInfo {
            id,
            socket: socket.name,
            audit: socket.audit,
            history,
            pid: pid.and_then(|program| u32::try_from(program.as_raw()).ok()),
            started: Timestamp::now(),
            ..SessionInfo::default()
        };
        self.info.insert(session_ref, Box::new(info));
    }

    /// Removes a session that has ended, and returns what is still to be logged.
    pub fn ended(
        &mut self,
        session_ref: SessionRef,
        why: EndReason,
        bytes: ByteTotals,
    ) -> Option<EndedSession> {
        let info = self.info.remove(&session_ref)?;
        let (duration, bytes) = (info.started.elapsed(), info.history.bytes_with(bytes));
        Some(EndedSession { info, end: End { at: SystemTime::now(), duration, why, bytes } })
    }

    /// Writes the line of a session's end, where anybody wants to know of it, as soon as
    /// it is known what became of its recording.
    pub fn write_end(&mut self, last: Option<&EndedSession>, recorded: Option<&RecordingResult>) {
        let Some(last) = last else { return };
        last.info.place.into_iter().for_each(|place| self.remove_prepared(place));
        self.write_line(last.info.end_line(&last.end, recorded, &self.place));
    }

    /// The line of a session's end, in advance, and when the session began:
    /// for somebody else to write. Of one that has not started yet the line of the start
    /// is prepared, so that whoever writes the end finds it.
    pub fn prepared_end(&mut self, session_ref: SessionRef) -> Option<(String, BootInstant)> {
        self.prepare_end(session_ref);
        let info = self.info.get(&session_ref)?;
        Some((info.prepared_end_line(&self.place)?, info.started.boot))
    }

    /// The supervisor tells of a session's end, where this gateway is killed; or it
    /// does not.
    pub fn set_supervised(&mut self, session_ref: SessionRef, kept: bool) {
        if let Some(info) = self.info.get_mut(&session_ref) {
            info.is_supervised = kept;
            if let (Some(lines), Some(place)) = (&self.lines, info.place) {
                lines.set_supervised(place, kept);
            }
        }
    }

    /// There is no supervisor any more.
    pub fn supervisor_lost(&mut self) {
        let kept = self.info.iter().filter(|(_, info)| info.is_supervised);
        let kept: Vec<SessionRef> = kept.map(|(session_ref, _)| *session_ref).collect();
        kept.into_iter().for_each(|session_ref| self.set_supervised(session_ref, false));
    }

    /// Sets the time since when the current client is attached.
    pub fn set_attached(&mut self, session_ref: SessionRef, since: Timestamp) {
        if let Some(info) = self.info.get_mut(&session_ref) {
            info.history.attached = since.into();
        }
    }

    /// Prepares a session's last line, once, with the first one where that is to be written.
    fn prepare_end(&mut self, session_ref: SessionRef) {
        let (Some(lines), Some(info)) = (&mut self.lines, self.info.get_mut(&session_ref)) else {
            return;
        };
        if info.place.is_none() {
            let start = if info.is_started { None } else { info.start_line(&self.place) };
            let start = start.map(AuditLine::finish);
            let line = info.prepared_end_line(&self.place);
            info.place = line.and_then(|line| {
                lines.put(start.as_deref(), &line, info.started.boot, info.is_supervised)
            });
        }
    }

    /// Writes the line of a beginning, which was prepared with the end in this slot.
    fn write_start(&mut self, line: Option<AuditLine>, prepared: Option<EndLineSlot>) {
        self.write_line(line);
        if let (Some(lines), Some(slot)) = (&mut self.lines, prepared) {
            lines.mark_start_logged(slot);
        }
        self.note_written_starts();
    }

    fn note_written_starts(&mut self) {
        if let Some(lines) = self.lines.as_mut().filter(|_| !self.queue.waits()) {
            lines.starts_written();
        }
    }

    /// Whether lines wait for the log.
    pub fn has_waiting_lines(&self) -> bool {
        self.queue.waits() || self.rejection_rate.has_suppressed
    }

    /// Writes waiting lines; returns whether the log took any.
    pub fn flush(&mut self) -> bool {
        self.write_suppressed();
        let has_written = self.queue.flush(log::try_write) > 0;
        self.note_written_starts();
        has_written
    }

    /// The history of a session for the next gateway, where anybody wants to know it.
    pub fn history(&self, session_ref: SessionRef) -> Option<Box<SessionHistory>> {
        self.info.get(&session_ref).map(|info| info.history.for_successor())
    }

    /// A session of a gateway that was here before has this story, and this id and
    /// process; it began at this socket.
    pub fn restore(
        &mut self,
        session_ref: SessionRef,
        history: SessionHistory,
        listener: u16,
        id: String,
        pid: Option<Pid>,
    ) {
        let socket = self.sockets.get(usize::from(listener)).cloned().unwrap_or_default();
        self.insert_info(session_ref, socket, history, id, pid);
    }

    /// Writes a line that another process has prepared.
    pub fn write_raw(&mut self, line: String) {
        self.queue.say(|_| line, log::try_write);
    }

    /// The line that was written in advance for a session of which nothing else is
    /// known here.
    pub fn put_prepared(&mut self, line: &str, started: BootInstant) -> Option<EndLineSlot> {
        self.lines.as_mut()?.put(None, line, started, true)
    }

    /// Releases the slot of an end line that was written.
    pub fn remove_prepared(&mut self, place: EndLineSlot) {
        if let Some(lines) = &mut self.lines {
            lines.take(place);
        }
    }
}
