//! Facts of the audit about a session, and the lines that it writes of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::end_reason::{DetachReason, EndReason, RejectReason};
use super::line::{ADDRESS, AuditLine, Format, SHORT, Value, WHY};
use super::origin::{Mode, Origin};
use super::peer::{ClaimedIdentity, Peer};
use super::prepared_end::{self, MAX_LINE};
use super::recording_fields::{RecordingResult, write_recording};
use super::session_history::{ByteTotals, SessionHistory};
use super::timestamp;
use crate::process::supervisor::end_lines;
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;

/// The prefix of each line.
pub use crate::log::AUDIT as PREFIX;

/// The source of a line: host and instance.
#[derive(Clone, Debug, Default)]
pub struct LineSource {
    /// The host name.
    pub host: String,
    /// The instance: its procname, or its configuration file.
    pub instance: Option<String>,
    /// The most bytes of a command in a line.
    pub command_room: usize,
}

/// A session or command that is about to start.
pub struct NewSession {
    /// The id.
    pub id: String,
    /// The program's pid.
    pub pid: Option<Pid>,
    /// The terminal's name, where there is one.
    pub tty: Option<String>,
    /// The terminal's size.
    pub size: Option<Size>,
}

/// Facts of the audit about a session.
#[derive(Clone, Debug, Default)]
pub struct SessionInfo {
    /// The session's id.
    pub id: String,
    /// The address of the listener.
    pub socket: Arc<str>,
    /// The part that outlives the gateway.
    pub history: SessionHistory,
    /// The program's pid.
    pub pid: Option<u32>,
    /// The start.
    pub started: Timestamp,
    /// The program's exit.
    pub exit: Option<Exit>,
    /// The format of the session's lines; `None`: no audit.
    pub audit: Option<Format>,
    /// Whether the session is recorded now.
    pub recorded: bool,
    /// The path of the session's recording.
    pub recording: Option<Box<str>>,
    /// The slot of the session's prepared line.
    pub place: Option<end_lines::EndLineSlot>,
    /// The line of its start was written, or waits for the log.
    pub is_started: bool,
    /// The supervisor has the prepared line.
    pub is_supervised: bool,
}

/// An event of a client at a session that goes on.
#[derive(Clone, Copy, Debug)]
pub enum ClientAct<'a> {
    /// Attach, with the claimed identity.
    Attach(&'a ClaimedIdentity),
    /// Detach: the reason, after how long, and the user that has taken the session.
    Detach(DetachReason, Duration, Option<(u32, Option<&'a str>)>),
    /// A viewer attaches, with the claimed identity.
    Watch(&'a ClaimedIdentity),
    /// A viewer leaves, after how long.
    Unwatch(Option<Duration>),
}

/// End of a session.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The time.
    pub at: SystemTime,
    /// The duration.
    pub duration: Duration,
    /// Why.
    pub why: EndReason,
    /// Bytes of input and output.
    pub bytes: ByteTotals,
}

/// An ended session, whose line waits for the result of its recording.
#[derive(Clone, Debug)]
pub struct EndedSession {
    /// The facts of the session.
    pub info: Box<SessionInfo>,
    /// The end.
    pub end: End,
}

impl SessionInfo {
    /// Writes what the lines of start and end both have.
    fn write_common(&self, line: &mut AuditLine, place: &LineSource) {
        write_source(line, Some(&self.id), place);
        let SessionHistory { mode, first, command, uid, gid, .. } = &self.history;
        write_peer(line, &self.socket, *mode, first);
        line.field("uid", Value::Number((*uid).into()))
            .field("gid", Value::Number((*gid).into()))
            .field("command", Value::Text(command, place.command_room))
            .field("pid", Value::number(self.pid));
    }

    /// The prepared line of the end, for the process that comes after a killed gateway;
    /// `None`: no audit.
    pub fn prepared_end_line(&self, place: &LineSource) -> Option<String> {
        let end = End {
            at: prepared_end::UNKNOWN_TIME,
            duration: Duration::ZERO,
            why: EndReason::Lost,
            bytes: (None, None),
        };
        // Where it stands is known, what becomes of it is not.
        let recorded = self.recording.as_ref().map(|path| RecordingResult::unknown(path, 0));
        for recorded in [recorded.as_ref(), None] {
            let line = self.end_line(&end, recorded, place)?.finish();
            if line.len() <= MAX_LINE {
                return Some(line);
            }
        }
        let place = LineSource { command_room: SHORT, ..place.clone() };
        Some(self.end_line(&end, None, &place)?.finish())
    }

    /// The line of the start.
    pub fn start_line(&self, place: &LineSource) -> Option<AuditLine> {
        let mut line = begin(self.audit?, "session-start", self.started.wall);
        self.write_common(&mut line, place);
        let SessionHistory { claimed, tty, size, .. } = &self.history;
        let (rows, cols) = size.unzip();
        write_claimed(&mut line, claimed);
        line.field("tty", Value::text(tty.as_deref(), SHORT))
            .field("term", Value::text(claimed.term.as_deref(), SHORT))
            .field("rows", Value::number(rows))
            .field("cols", Value::number(cols));
        Some(line)
    }

    /// The line of a client's event.
    pub fn client_act_line(
        &self,
        act: ClientAct<'_>,
        peer: &Peer,
        place: &LineSource,
    ) -> Option<AuditLine> {
        let now = SystemTime::now();
        let (event, at) = match act {
            ClientAct::Attach(_) => ("session-attach", now),
            ClientAct::Detach(..) => ("session-detach", now),
            ClientAct::Watch(_) => ("session-watch", now),
            ClientAct::Unwatch(Some(_)) => ("session-unwatch", now),
            ClientAct::Unwatch(None) => ("session-unwatch", prepared_end::UNKNOWN_TIME),
        };
        let mut line = begin(self.audit?, event, at);
        write_source(&mut line, Some(&self.id), place);
        write_peer(&mut line, &self.socket, self.history.mode, peer);
        match act {
            ClientAct::Attach(claimed) | ClientAct::Watch(claimed) => {
                write_claimed(&mut line, claimed);
                line.field("term", Value::text(claimed.term.as_deref(), SHORT));
            }
            ClientAct::Unwatch(duration) => {
                line.field("duration", Value::Seconds(duration.unwrap_or_default()));
            }
            ClientAct::Detach(how, duration, by) => {
                let (uid, user) = by.unzip();
                line.field("duration", Value::Seconds(duration))
                    .field("reason", Value::word(how.word()))
                    .member("by", "uid", Value::number(uid))
                    .member("by", "user", Value::text(user.flatten(), SHORT));
            }
        }
        Some(line)
    }

    /// The line of the end.
    pub fn end_line(
        &self,
        end: &End,
        recorded: Option<&RecordingResult>,
        place: &LineSource,
    ) -> Option<AuditLine> {
        let mut line = begin(self.audit?, "session-end", end.at);
        self.write_common(&mut line, place);
        let (status, signal) = match self.exit {
            Some(Exit::Status(status)) => (u32::try_from(status).ok(), None),
            Some(Exit::Signal { number, .. }) => (None, u32::try_from(number).ok()),
            None => (None, None),
        };
        line.field("duration", Value::Seconds(end.duration))
            .field("reason", Value::word(end.why.word()))
            .field("status", Value::number(status))
            .field("signal", Value::number(signal))
            .field("bytes_in", Value::number(end.bytes.0))
            .field("bytes_out", Value::number(end.bytes.1));
        match recorded {
            Some(recorded) => write_recording(&mut line, recorded),
            None => drop(line.field("record", Value::Null)),
        }
        Some(line)
    }
}

/// A rejected client.
#[derive(Clone, Debug)]
pub struct RejectedConnection {
    /// The origin.
    pub origin: Origin,
    /// The peer.
    pub peer: Peer,
    /// The reason.
    pub reason: RejectReason,
    /// The reason in the words of the log.
    pub why: Box<str>,
    /// The count of rejections that this line stands for.
    pub count: Option<u64>,
}

impl RejectedConnection {
    /// The line; `None`: the listener has no audit.
    pub fn line(&self, place: &LineSource) -> Option<AuditLine> {
        let Origin { socket, mode, claimed, command } = &self.origin;
        let mut line = begin(socket.audit?, "refused", SystemTime::now());
        write_source(&mut line, None, place);
        write_peer(&mut line, &socket.name, *mode, &self.peer);
        write_claimed(&mut line, claimed);
        line.field("command", Value::text(command.as_deref(), place.command_room))
            .field("reason", Value::word(self.reason.word()))
            .field("why", Value::Text(&self.why, WHY));
        if let Some(count) = self.count {
            line.field("count", Value::Number(count));
        }
        Some(line)
    }
}

fn begin(format: Format, event: &'static str, time: SystemTime) -> AuditLine {
    let mut line = AuditLine::new(format, PREFIX);
    line.field("event", Value::word(event)).field("time", Value::word(&timestamp::rfc3339(time)));
    line
}

fn write_source(line: &mut AuditLine, id: Option<&str>, place: &LineSource) {
    line.field("id", Value::text(id, SHORT))
        .field("host", Value::Text(&place.host, SHORT))
        .field("instance", Value::text(place.instance.as_deref(), ADDRESS));
}

fn write_claimed(line: &mut AuditLine, claimed: &ClaimedIdentity) {
    let ClaimedIdentity { ssh_connection, logname, .. } = claimed;
    line.member("claimed", "ssh_connection", Value::text(ssh_connection.as_deref(), ADDRESS))
        .member("claimed", "logname", Value::text(logname.as_deref(), SHORT));
}

/// Writes the listener, the mode and the peer.
pub fn write_peer(line: &mut AuditLine, socket: &str, mode: Mode, peer: &Peer) {
    let address = peer.address.map(|address| address.to_string());
    line.field("socket", Value::Text(socket, ADDRESS))
        .field("mode", Value::word(mode.word()))
        .member("peer", "pid", Value::number(peer.pid))
        .member("peer", "uid", Value::number(peer.uid))
        .member("peer", "gid", Value::number(peer.gid))
        .member("peer", "user", Value::text(peer.user.as_deref(), SHORT))
        .member("peer", "loginuid", Value::number(peer.login_uid))
        .member("peer", "address", Value::text(address.as_deref(), SHORT))
        .member("peer", "port", Value::number(peer.port));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::audit::origin::AuditSocket;
    use serde_json::Value as Json;

    fn info(text: &str) -> SessionInfo {
        let first = Peer {
            pid: Some(u32::MAX),
            uid: Some(u32::MAX),
            gid: Some(u32::MAX),
            user: Some(text.into()),
            login_uid: Some(u32::MAX),
            address: Some([u8::MAX; 16].into()),
            port: Some(u16::MAX),
        };
        let claimed = ClaimedIdentity {
            ssh_connection: Some(text.into()),
            logname: Some(text.into()),
            term: Some(text.into()),
        };
        let history = SessionHistory {
            mode: Mode::Extended,
            first,
            claimed,
            uid: u32::MAX,
            gid: u32::MAX,
            command: text.into(),
            tty: Some(text.into()),
            size: Some((u16::MAX, u16::MAX)),
            ..SessionHistory::default()
        };
        SessionInfo {
            id: String::from("0123abcd"),
            socket: text.into(),
            history,
            pid: Some(u32::MAX),
            exit: Some(Exit::Signal { number: 64, core: true }),
            ..SessionInfo::default()
        }
    }

    /// Facts of a session, with lines of this format.
    fn audited(format: Format, text: &str) -> SessionInfo {
        SessionInfo { audit: Some(format), ..info(text) }
    }

    fn place(text: &str) -> LineSource {
        LineSource { host: text.to_owned(), instance: Some(text.to_owned()), command_room: 800 }
    }

    /// All three lines, at their longest.
    fn lines(format: Format, text: &str) -> [String; 3] {
        let info = audited(format, text);
        let place = place(text);
        let SessionHistory { mode, first: peer, claimed, command, .. } = info.history.clone();
        let (name, audit) = (info.socket.clone(), Some(format));
        let socket = AuditSocket { name, audit, ..AuditSocket::default() };
        let origin = Origin { socket, mode, claimed, command: Some(command) };
        let (reason, count) = (RejectReason::Resources, Some(u64::MAX));
        let refused = RejectedConnection { origin, peer, reason, why: text.into(), count };
        let recorded = RecordingResult {
            path: text.to_owned(),
            bytes: Some(u64::MAX),
            dropped: u64::MAX,
            sha256: Some("f".repeat(64)),
        };
        let end = End {
            at: SystemTime::UNIX_EPOCH,
            duration: Duration::MAX,
            why: EndReason::Operator,
            bytes: (Some(u64::MAX), Some(u64::MAX)),
        };
        [
            info.start_line(&place),
            info.end_line(&end, Some(&recorded), &place),
            refused.line(&place),
        ]
        .map(|line| line.expect("a line").finish_after(u64::MAX))
    }

    #[test]
    fn no_line_is_too_long_for_one_write() {
        for text in ["\u{1}\n\"\\".repeat(5000), "x".repeat(5000), "\u{20ac}".repeat(5000)] {
            for format in [Format::Json, Format::KeyVal] {
                for line in lines(format, &text) {
                    // What the log cuts off.
                    assert!(line.len() < 3072, "{} bytes: {line}", line.len());
                    assert!(!line.contains('\n'));
                }
            }
        }
    }

    #[test]
    fn every_last_line_can_be_written_in_advance() {
        for text in ["\u{1}\n\"\\".repeat(5000), "\u{20ac}".repeat(5000), String::from("x")] {
            for format in [Format::Json, Format::KeyVal] {
                let info = SessionInfo { exit: None, ..audited(format, &text) };
                let line = info.prepared_end_line(&place(&text)).expect("a line");
                assert!(line.len() <= MAX_LINE, "{} bytes", line.len());
                let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
                let line = prepared_end::with_end_time(&line, later, Duration::from_millis(7007));
                assert!(line.contains("2001-09-09T01:46:40.000Z"), "{line}");
                let duration = match format {
                    Format::Json => "\"duration\":7.007,\"reason\":\"lost\",\"status\":null",
                    Format::KeyVal => " duration=7.007 reason=\"lost\" status=null",
                };
                assert!(line.contains(duration), "{line}");
                let known = match format {
                    Format::Json => "\"reason\":\"signal\",\"status\":null,\"signal\":9,",
                    Format::KeyVal => " reason=\"signal\" status=null signal=9 ",
                };
                let killed = Exit::Signal { number: 9, core: false };
                let line = prepared_end::with_reason(&line, EndReason::Signal, Some(killed));
                assert!(line.contains(known) && prepared_end::is_end(&line), "{line}");
                let peer = info.history.first.clone();
                let act = ClientAct::Unwatch(None);
                let line =
                    info.client_act_line(act, &peer, &place(&text)).expect("a line").finish();
                assert!(line.len() <= MAX_LINE && !prepared_end::is_end(&line), "{line}");
                let line = prepared_end::with_end_time(&line, later, Duration::from_millis(7007));
                assert!(line.contains("2001-09-09T01:46:40.000Z"), "{line}");
                assert!(line.ends_with("7.007}") || line.ends_with(" duration=7.007"), "{line}");
                let info = SessionInfo { exit: None, ..audited(format, "duration=0.000 reason=") };
                let line = info.prepared_end_line(&place("x")).expect("a line");
                let line = prepared_end::with_end_time(&line, later, Duration::from_millis(7007));
                assert!(line.contains(duration), "{line}");
                assert_eq!(prepared_end::recorded_session_id(&line), None);
                let path = Some("a file".into());
                let trap = "id=\" record.path=\" \"record\":{\"path\":\"";
                let info = SessionInfo { exit: None, recording: path, ..audited(format, trap) };
                let line = info.prepared_end_line(&place("x")).expect("a line");
                assert_eq!(prepared_end::recorded_session_id(&line), Some("0123abcd"));
                let sha256 = Some(String::from("abc"));
                let path = String::from("file");
                let recorded = RecordingResult { path, bytes: Some(7), dropped: 8, sha256 };
                let (at, duration) = (prepared_end::UNKNOWN_TIME, Duration::ZERO);
                let end = End { at, duration, why: EndReason::Lost, bytes: (None, None) };
                assert_eq!(
                    prepared_end::with_recording(&line, &recorded),
                    info.end_line(&end, Some(&recorded), &place("x")).expect("a line").finish()
                );
            }
        }
    }

    #[test]
    fn lines_are_json_with_these_fields() {
        let [start, end, refused] = lines(Format::Json, "a\nb")
            .map(|line| serde_json::from_str::<Json>(&line[PREFIX.len()..]).expect("JSON"));
        assert_eq!(start["event"], "session-start");
        assert_eq!(start["time"], "1970-01-01T00:00:00.000Z");
        assert_eq!(start["command"], "a\nb");
        assert_eq!(start["claimed"]["ssh_connection"], "a\nb");
        assert_eq!(start["rows"], 65535);
        for name in ["id", "peer", "socket", "mode", "command", "uid", "pid", "host", "instance"] {
            assert_eq!(start[name], end[name], "{name}");
            assert!(!end[name].is_null(), "{name}");
        }
        assert_eq!(end["reason"], "operator");
        assert_eq!((&end["status"], &end["signal"]), (&Json::Null, &Json::from(64)));
        assert_eq!(end["record"]["sha256"], "f".repeat(64));
        assert_eq!(end["bytes_in"], u64::MAX);
        assert_eq!((&refused["reason"], &refused["why"]), (&"resources".into(), &"a\nb".into()));
        assert_eq!(refused["lost"], u64::MAX);
        assert_eq!(refused["id"], Json::Null);
    }

    #[test]
    fn what_did_not_come_through_is_null_and_not_0() {
        let info = SessionInfo { exit: None, ..audited(Format::KeyVal, "x") };
        let end = End {
            at: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(1),
            why: EndReason::Hangup,
            bytes: (None, None),
        };
        let line = info.end_line(&end, None, &place("x")).expect("a line").finish();
        assert!(line.ends_with(
            "duration=0.001 reason=\"hangup\" status=null signal=null bytes_in=null \
             bytes_out=null record=null"
        ));
    }
}
