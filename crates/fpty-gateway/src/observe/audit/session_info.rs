//! What is known of a session, from its beginning to its end, and the lines of
//! an audit that say so.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::carried_over::{Relayed, Story};
use super::end_reason::{Gone, Parted, Refusal};
use super::line::{ADDRESS, Format, Line, SHORT, Value, WHY};
use super::origin::{Mode, Origin};
use super::peer::{Peer, Said};
use super::prepared_end::{self, LONGEST};
use super::recording_fields::{Recorded, of_recording};
use super::timestamp;
use crate::process::supervisor::end_lines;
use fpty::sys::Size;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;

/// The words before each line.
pub use crate::log::AUDIT as PREFIX;

/// Where a line is from.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The machine's name.
    pub host: String,
    /// The instance's: its procname, or its configuration file.
    pub instance: Option<String>,
    /// How many bytes of a command there is room for.
    pub command_room: usize,
}

/// What is new of a session or command that is about to begin.
pub struct New {
    /// Its id.
    pub id: String,
    /// Its process.
    pub pid: Option<Pid>,
    /// Its terminal, where it has one.
    pub tty: Option<String>,
    /// The size of that.
    pub size: Option<Size>,
}

/// What is known of a session.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its id.
    pub id: String,
    /// The address that its client came to.
    pub socket: Arc<str>,
    /// What does not change with the gateway.
    pub story: Story,
    /// Its program.
    pub pid: Option<u32>,
    /// When it began.
    pub started: Timestamp,
    /// How its program ended.
    pub exit: Option<Exit>,
    /// How its lines look, and what both of them have; `None`: it has none.
    pub audit: Option<(Format, Box<str>)>,
    /// Whether it is recorded.
    pub recorded: bool,
    /// Where its recording is to be.
    pub recording: Option<Box<str>>,
    /// Where its last line is written in advance.
    pub place: Option<end_lines::Place>,
    /// The supervisor has that line.
    pub is_kept: bool,
}

/// What a client does with a session, that goes on before and afterwards.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    /// It attaches, and says this of itself.
    Attach(&'a Said),
    /// It leaves, after so long; where another one has taken the session, that one's
    /// user and name.
    Detach(Parted, Duration, Option<(u32, Option<&'a str>)>),
    /// It looks on.
    Watch(&'a Said),
    /// It does so no more, after so long.
    Unwatch(Option<Duration>),
}

/// How a session ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// When.
    pub at: SystemTime,
    /// After how long.
    pub duration: Duration,
    /// Why.
    pub why: Gone,
    /// Bytes of input and output.
    pub bytes: Relayed,
}

/// A session that is over: the line of its end can be written when it is known
/// what became of its recording.
#[derive(Clone, Debug)]
pub struct Last {
    /// What was known of it.
    pub facts: Box<Facts>,
    /// How it ended.
    pub end: End,
}

impl Facts {
    /// The fields that all lines about it have, in this format and no longer
    /// than there is room for.
    pub fn common(&self, format: Format, place: &Place) -> Box<str> {
        let fields = |line: &mut Line| {
            of_place(line, Some(&self.id), place);
            let Story { mode, first, command, uid, gid, .. } = &self.story;
            of_peer(line, &self.socket, *mode, first);
            line.field("uid", Value::Number((*uid).into()))
                .field("gid", Value::Number((*gid).into()))
                .field("command", Value::Text(command, place.command_room))
                .field("pid", Value::number(self.pid));
        };
        Line::part(format, fields).into()
    }

    /// The line of its end, in advance, for whoever comes after a gateway that
    /// was killed; `None`: it has no lines.
    pub fn line_in_advance(&self, place: &Place) -> Option<String> {
        let end = End {
            at: prepared_end::NO_TIME,
            duration: Duration::ZERO,
            why: Gone::Lost,
            bytes: (None, None),
        };
        // Where it stands is known, what becomes of it is not.
        let recorded = self
            .recording
            .as_ref()
            .map(|path| Recorded { path: path.to_string(), ..Recorded::default() });
        for recorded in [recorded.as_ref(), None] {
            let line = self.end_line(&end, recorded, 0)?;
            if line.len() <= LONGEST {
                return Some(line);
            }
        }
        let (format, _) = self.audit.as_ref()?;
        let place = Place { command_room: SHORT, ..place.clone() };
        let audit = Some((*format, self.common(*format, &place)));
        Self { audit, ..self.clone() }.end_line(&end, None, 0)
    }

    /// The line of its beginning.
    pub fn start_line(&self, lost: u64) -> Option<String> {
        let (format, common) = self.audit.as_ref()?;
        let mut line = begin(*format, "session-start", self.started.wall);
        line.fields(common);
        let Story { said, tty, size, .. } = &self.story;
        let (rows, cols) = size.unzip();
        of_claim(&mut line, said);
        line.field("tty", Value::text(tty.as_deref(), SHORT))
            .field("term", Value::text(said.term.as_deref(), SHORT))
            .field("rows", Value::number(rows))
            .field("cols", Value::number(cols));
        Some(finish(line, lost))
    }

    /// The line of what a client does with it.
    pub fn act_line(&self, act: Act<'_>, peer: &Peer, place: &Place, lost: u64) -> Option<String> {
        let (format, _) = self.audit.as_ref()?;
        let event = match act {
            Act::Attach(_) => "session-attach",
            Act::Detach(..) => "session-detach",
            Act::Watch(_) => "session-watch",
            Act::Unwatch(_) => "session-unwatch",
        };
        let at = match act {
            Act::Unwatch(None) => prepared_end::NO_TIME,
            _ => SystemTime::now(),
        };
        let mut line = begin(*format, event, at);
        of_place(&mut line, Some(&self.id), place);
        of_peer(&mut line, &self.socket, self.story.mode, peer);
        match act {
            Act::Attach(said) | Act::Watch(said) => {
                of_claim(&mut line, said);
                line.field("term", Value::text(said.term.as_deref(), SHORT));
            }
            Act::Unwatch(duration) => {
                line.field("duration", Value::Seconds(duration.unwrap_or_default()));
            }
            Act::Detach(how, duration, by) => {
                let (uid, user) = by.unzip();
                line.field("duration", Value::Seconds(duration))
                    .field("reason", Value::word(how.word()))
                    .member("by", "uid", Value::number(uid))
                    .member("by", "user", Value::text(user.flatten(), SHORT));
            }
        }
        Some(finish(line, lost))
    }

    /// The line of its end.
    pub fn end_line(&self, end: &End, recorded: Option<&Recorded>, lost: u64) -> Option<String> {
        let (format, common) = self.audit.as_ref()?;
        let mut line = begin(*format, "session-end", end.at);
        line.fields(common);
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
            Some(recorded) => of_recording(&mut line, recorded),
            None => drop(line.field("record", Value::Null)),
        }
        Some(finish(line, lost))
    }
}

/// Somebody who got no session.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Where it comes from.
    pub origin: Origin,
    /// Who it is.
    pub peer: Peer,
    /// Why, in a word.
    pub reason: Refusal,
    /// The same, in the words of the log.
    pub why: Box<str>,
    /// So many that have no line of their own, where it stands for them: what they
    /// have in common.
    pub count: Option<u64>,
}

impl Refused {
    /// Its line; `None`: there is none at that socket.
    pub fn line(&self, place: &Place, lost: u64) -> Option<String> {
        let Origin { socket, mode, said, command } = &self.origin;
        let mut line = begin(socket.audit?, "refused", SystemTime::now());
        of_place(&mut line, None, place);
        of_peer(&mut line, &socket.name, *mode, &self.peer);
        of_claim(&mut line, said);
        line.field("command", Value::text(command.as_deref(), place.command_room))
            .field("reason", Value::word(self.reason.word()))
            .field("why", Value::Text(&self.why, WHY));
        if let Some(count) = self.count {
            line.field("count", Value::Number(count));
        }
        Some(finish(line, lost))
    }
}

fn begin(format: Format, event: &'static str, time: SystemTime) -> Line {
    let mut line = Line::new(format, PREFIX);
    line.field("event", Value::word(event)).field("time", Value::word(&timestamp::rfc3339(time)));
    line
}

fn of_place(line: &mut Line, id: Option<&str>, place: &Place) {
    line.field("id", Value::text(id, SHORT))
        .field("host", Value::Text(&place.host, SHORT))
        .field("instance", Value::text(place.instance.as_deref(), ADDRESS));
}

fn of_claim(line: &mut Line, said: &Said) {
    let Said { ssh_connection, logname, .. } = said;
    line.member("claimed", "ssh_connection", Value::text(ssh_connection.as_deref(), ADDRESS))
        .member("claimed", "logname", Value::text(logname.as_deref(), SHORT));
}

/// Where a session's client came in, and who it is.
pub fn of_peer(line: &mut Line, socket: &str, mode: Mode, peer: &Peer) {
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

fn finish(mut line: Line, lost: u64) -> String {
    // Only where there is something to say: it makes a line no longer.
    if lost > 0 {
        line.field("lost", Value::Number(lost));
    }
    line.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::audit::origin::Socket;
    use serde_json::Value as Json;

    fn facts(text: &str) -> Facts {
        let first = Peer {
            pid: Some(u32::MAX),
            uid: Some(u32::MAX),
            gid: Some(u32::MAX),
            user: Some(text.into()),
            login_uid: Some(u32::MAX),
            address: Some([u8::MAX; 16].into()),
            port: Some(u16::MAX),
        };
        let said = Said {
            ssh_connection: Some(text.into()),
            logname: Some(text.into()),
            term: Some(text.into()),
        };
        let story = Story {
            mode: Mode::Extended,
            first,
            said,
            uid: u32::MAX,
            gid: u32::MAX,
            command: text.into(),
            tty: Some(text.into()),
            size: Some((u16::MAX, u16::MAX)),
            ..Story::default()
        };
        Facts {
            id: String::from("0123abcd"),
            socket: text.into(),
            story,
            pid: Some(u32::MAX),
            started: Timestamp::default(),
            exit: Some(Exit::Signal { number: 64, core: true }),
            audit: None,
            recorded: false,
            recording: None,
            place: None,
            is_kept: false,
        }
    }

    /// The same, with lines of this format.
    fn audited(format: Format, text: &str) -> Facts {
        let facts = facts(text);
        let common = facts.common(format, &place(text));
        Facts { audit: Some((format, common)), ..facts }
    }

    fn place(text: &str) -> Place {
        Place { host: text.to_owned(), instance: Some(text.to_owned()), command_room: 800 }
    }

    /// All three lines, at their longest.
    fn lines(format: Format, text: &str) -> [String; 3] {
        let facts = audited(format, text);
        let place = place(text);
        let Story { mode, first: peer, said, command, .. } = facts.story.clone();
        let (name, audit) = (facts.socket.clone(), Some(format));
        let socket = Socket { name, audit, ..Socket::default() };
        let origin = Origin { socket, mode, said, command: Some(command) };
        let (reason, count) = (Refusal::Resources, Some(u64::MAX));
        let refused = Refused { origin, peer, reason, why: text.into(), count };
        let recorded = Recorded {
            path: text.to_owned(),
            bytes: Some(u64::MAX),
            dropped: u64::MAX,
            sha256: Some("f".repeat(64)),
        };
        let end = End {
            at: SystemTime::UNIX_EPOCH,
            duration: Duration::MAX,
            why: Gone::Operator,
            bytes: (Some(u64::MAX), Some(u64::MAX)),
        };
        [
            facts.start_line(u64::MAX).expect("a line"),
            facts.end_line(&end, Some(&recorded), u64::MAX).expect("a line"),
            refused.line(&place, u64::MAX).expect("a line"),
        ]
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
                let facts = Facts { exit: None, ..audited(format, &text) };
                let line = facts.line_in_advance(&place(&text)).expect("a line");
                assert!(line.len() <= LONGEST, "{} bytes", line.len());
                let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
                let line = prepared_end::at(&line, later, Duration::from_millis(7007));
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
                let line = prepared_end::because(&line, Gone::Signal, Some(killed));
                assert!(line.contains(known) && prepared_end::is_end(&line), "{line}");
                let peer = facts.story.first.clone();
                let act = |after| facts.act_line(Act::Unwatch(after), &peer, &place(&text), 0);
                let line = act(None).expect("a line");
                assert!(line.len() <= LONGEST && !prepared_end::is_end(&line), "{line}");
                let line = prepared_end::at(&line, later, Duration::from_millis(7007));
                assert!(line.contains("2001-09-09T01:46:40.000Z"), "{line}");
                assert!(line.ends_with("7.007}") || line.ends_with(" duration=7.007"), "{line}");
                assert_eq!(prepared_end::id_of_recorded(&line), None);
                let path = Some("a file".into());
                let trap = "id=\" record.path=\" \"record\":{\"path\":\"";
                let facts = Facts { exit: None, recording: path, ..audited(format, trap) };
                let line = facts.line_in_advance(&place("x")).expect("a line");
                assert_eq!(prepared_end::id_of_recorded(&line), Some("0123abcd"));
                let sha256 = Some(String::from("abc"));
                let path = String::from("file");
                let recorded = Recorded { path, bytes: Some(7), dropped: 8, sha256 };
                let (at, duration) = (prepared_end::NO_TIME, Duration::ZERO);
                let end = End { at, duration, why: Gone::Lost, bytes: (None, None) };
                assert_eq!(
                    prepared_end::recorded(&line, &recorded),
                    facts.end_line(&end, Some(&recorded), 0).expect("a line")
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
        let facts = Facts { exit: None, ..audited(Format::KeyVal, "x") };
        let end = End {
            at: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(1),
            why: Gone::Hangup,
            bytes: (None, None),
        };
        let line = facts.end_line(&end, None, 0).expect("a line");
        assert!(line.ends_with(
            "duration=0.001 reason=\"hangup\" status=null signal=null bytes_in=null \
             bytes_out=null record=null"
        ));
    }
}
