//! List of sessions, and the end of one of them.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use unicode_width::UnicodeWidthChar;

use super::config::ClientConfig;
use super::connect::Connection;
use super::decoder::{ServerDecoder, ServerEvent};
use super::outcome::{self, End};
use crate::error::{Error, Result, reason};
use crate::proto::request::{self, RequestKind};
use crate::proto::{self, EndKind, encode_bare};
use crate::sys::poll::PollSet;
use crate::sys::{ReadOutcome, accounts, stdio};
use crate::text::{CUT, shown};

/// Control request: a list of sessions, or the end of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// The list of sessions.
    List {
        /// The format: JSON, or a table for a person.
        json: bool,
    },
    /// The end of the session whose id begins like this.
    Kill(String),
}

impl ControlRequest {
    /// The request of options: to end a session, or to list them; `None`: neither.
    pub fn of_options(kill: Option<&String>, list: bool, json: bool) -> Option<Self> {
        match kill {
            Some(id) => Some(Self::Kill(id.clone())),
            None => list.then_some(Self::List { json }),
        }
    }
}

/// How long a server may say nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest list, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Asks a server, and returns the status to exit with.
pub fn run(config: &ClientConfig, control_request: &ControlRequest) -> i32 {
    super::run_attempts(config, || ask(config, control_request))
}

fn ask(config: &ClientConfig, control_request: &ControlRequest) -> Result<End> {
    let mut answer = Vec::new();
    let ended = match exchange(config, control_request, &mut answer)? {
        End::Ended(ended) => ended,
        end => return Ok(end),
    };
    if ended.ending == EndKind::Refused {
        return Ok(End::NoSession(ended.text));
    }
    let ControlRequest::List { json } = control_request else {
        return Ok(End::Ended(ended));
    };
    let Ok(mut sessions) = serde_json::from_slice::<Vec<Map<String, Value>>>(&answer) else {
        return Err(Error::new("the gateway sent no list of sessions"));
    };
    name_users(&mut sessions);
    let text = match json {
        // It is still JSON, and read as it was.
        true => shown(&serde_json::to_string(&sessions).unwrap_or_default()).into_owned() + "\n",
        false => table(&sessions, stdio::columns_of_output()),
    };
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(End::Ended(ended)),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(End::OutputClosed),
        Err(error) => Ok(End::OutputFailed(format!("standard output: {}", reason(&error)))),
    }
}

/// Sends the request, and reads the answer to its end.
fn exchange(
    config: &ClientConfig,
    control_request: &ControlRequest,
    answer: &mut Vec<u8>,
) -> Result<End> {
    let (kind, id) = match control_request {
        ControlRequest::List { .. } => (RequestKind::List, ""),
        ControlRequest::Kill(id) => (RequestKind::Kill, id.as_str()),
    };
    let mut packets = Vec::new();
    request::encode(kind, id.as_bytes(), &mut packets);
    packets.extend(encode_bare(proto::VARIABLES, 0));
    let mut connection = Connection::open(config)?;
    let mut decoder = ServerDecoder::after_hello();
    let mut plain = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut until = Instant::now() + ANSWER_TIMEOUT;
    loop {
        connection.flush();
        let mut polled = PollSet::default();
        let writes = !connection.to_server.is_empty();
        let server = polled.add(connection.stream.as_fd(), true, writes);
        let found = polled.wait(Some(until.saturating_duration_since(Instant::now())));
        if !found.readable(server) {
            if Instant::now() >= until {
                return match decoder.is_undecided() {
                    true => Ok(End::NotExtended),
                    false => Err(Error::new("the gateway does not answer")),
                };
            }
            continue;
        }
        until = Instant::now() + ANSWER_TIMEOUT;
        let mut bytes = match connection.stream.read(&mut buffer) {
            ReadOutcome::Bytes(count) => &buffer[..count],
            ReadOutcome::WouldBlock => continue,
            ReadOutcome::Eof | ReadOutcome::Closed if decoder.is_extended() => {
                return Ok(End::Lost(String::from("it ended without a word")));
            }
            ReadOutcome::Eof | ReadOutcome::Closed => return outcome::end_in_plain_mode(&plain),
        };
        loop {
            let output = if decoder.is_extended() { &mut *answer } else { &mut plain };
            match decoder.next(&mut bytes, output) {
                None => break,
                Some(ServerEvent::ExtendedMode) => connection.send(&packets),
                Some(ServerEvent::SessionEnd(ended)) => return Ok(End::Ended(ended)),
                Some(ServerEvent::Notice(line)) => stdio::say(&format!("{} {line}", config.name)),
                Some(
                    ServerEvent::Offer(_)
                    | ServerEvent::SessionKey(_)
                    | ServerEvent::RingPiece(_)
                    | ServerEvent::Go(_),
                ) => {}
            }
        }
        if !decoder.is_undecided() && !decoder.is_extended() && !outcome::may_be_refusal(&plain) {
            return Ok(End::NotExtended);
        }
        if answer.len() > MAX_ANSWER {
            return Err(Error::new("the gateway's list has no end"));
        }
    }
}

/// A gateway does not look names up; they are this machine's.
fn name_users(sessions: &mut [Map<String, Value>]) {
    let mut names: HashMap<u32, Option<String>> = HashMap::new();
    for session in sessions {
        let uid =
            session.get("uid").and_then(Value::as_u64).and_then(|uid| u32::try_from(uid).ok());
        let is_named = session.get("user").is_some_and(|user| !user.is_null());
        if let Some(uid) = uid.filter(|_| !is_named) {
            let name = names.entry(uid).or_insert_with(|| accounts::user_name(uid));
            session.insert(String::from("user"), name.clone().into());
        }
    }
}

/// The columns, and what they have of a session.
type Column = (&'static str, fn(&Map<String, Value>) -> String);
const COLUMNS: [Column; 11] = [
    ("ID", |session| text(session, "id")),
    ("NAME", |session| text(session, "name")),
    ("STATE", state),
    ("USER", |session| match text(session, "user") {
        name if name == EMPTY_CELL => text(session, "uid"),
        name => name,
    }),
    ("PEER", |session| text(session, "peer_pid")),
    ("TTY", |session| {
        let tty = text(session, "tty");
        tty.strip_prefix("/dev/").map_or(tty.clone(), str::to_owned)
    }),
    ("SIZE", |session| match (text(session, "cols"), text(session, "rows")) {
        (cols, rows) if cols != EMPTY_CELL && rows != EMPTY_CELL => format!("{cols}x{rows}"),
        _ => String::from(EMPTY_CELL),
    }),
    ("STARTED", |session| time(session, "started")),
    ("IDLE", |session| match session.get("idle").and_then(Value::as_f64) {
        Some(idle) => duration(idle),
        None => String::from(EMPTY_CELL),
    }),
    ("VIEWERS", |session| match session.get("watchers").and_then(Value::as_u64) {
        Some(count @ 1..) => count.to_string(),
        _ => String::from(EMPTY_CELL),
    }),
    // The last one has all the room that there is.
    ("COMMAND", |session| text(session, "command")),
];

/// Columns that are only shown where a session has something in them.
const DETACH_COLUMNS: [&str; 3] = ["NAME", "STATE", "VIEWERS"];

const EMPTY_CELL: &str = "-";

/// Whether anybody is there: nothing of a session that cannot be detached.
fn state(session: &Map<String, Value>) -> String {
    match (session.get("ended"), session.get("attached")) {
        (Some(Value::Bool(true)), _) => format!("ended {}", text(session, "status")),
        (_, Some(Value::Bool(false))) => format!("detached {}", time(session, "detached_since")),
        (_, Some(Value::Bool(true))) => String::from("attached"),
        _ => String::from(EMPTY_CELL),
    }
}

/// A time without the milliseconds.
fn time(session: &Map<String, Value>, key: &str) -> String {
    let time = text(session, key);
    time.split_once('.').map_or(time.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// Text of a value, safe to show on a terminal.
fn text(session: &Map<String, Value>, key: &str) -> String {
    match session.get(key) {
        Some(Value::String(text)) if !text.is_empty() => shown(text).into_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::from(EMPTY_CELL),
    }
}

fn duration(seconds: f64) -> String {
    // A negative one is 0.
    let seconds = seconds as u64;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A line for each session, and one with the titles; where lines are to fit into so many
/// columns of a terminal first long names and times are cut, then columns are left out,
/// and at last the command is cut.
fn table(sessions: &[Map<String, Value>], width: Option<usize>) -> String {
    let column = |(title, cell): Column| -> Vec<String> {
        std::iter::once(title.to_owned()).chain(sessions.iter().map(cell)).collect()
    };
    let is_shown = |cells: &Vec<String>| {
        !DETACH_COLUMNS.contains(&cells[0].as_str())
            || cells[1..].iter().any(|cell| cell != EMPTY_CELL)
    };
    let mut columns: Vec<Vec<String>> = COLUMNS.into_iter().map(column).filter(is_shown).collect();
    if let Some(width) = width {
        narrow(&mut columns, width);
    }
    let commands = columns.pop().unwrap_or_default();
    let widths: Vec<usize> = columns.iter().map(|cells| widest(cells)).collect();
    let mut table = String::new();
    for (row, command) in commands.iter().enumerate() {
        let mut line = String::new();
        for (cells, width) in columns.iter().zip(&widths) {
            line.push_str(&cells[row]);
            line.extend(std::iter::repeat_n(' ', width - display_width(&cells[row])));
        }
        line.push_str(command);
        if let Some(width) = width {
            truncate(&mut line, width);
        }
        table.push_str(&line);
        table.push('\n');
    }
    table
}

/// Step that saves room, in this order: cuts each cell of the column of this title, or
/// leaves the column out.
type Narrowing = (&'static str, Option<fn(&mut String)>);
const NARROWINGS: [Narrowing; 8] = [
    ("NAME", Some(|name| truncate(name, MIN_NAME_WIDTH))),
    ("STARTED", Some(shorten_time)),
    ("STATE", Some(shorten_time)),
    ("SIZE", None),
    ("TTY", None),
    ("PEER", None),
    ("IDLE", None),
    ("VIEWERS", None),
];

/// Makes room for the commands, which stand last.
fn narrow(columns: &mut Vec<Vec<String>>, width: usize) {
    for (title, cut) in NARROWINGS {
        let others: usize = columns.iter().rev().skip(1).map(|cells| widest(cells)).sum();
        if others + MIN_COMMAND_WIDTH <= width {
            return;
        }
        match (columns.iter().position(|cells| cells[0] == title), cut) {
            (Some(at), Some(cut)) => columns[at].iter_mut().for_each(cut),
            (Some(at), None) => drop(columns.remove(at)),
            (None, _) => {}
        }
    }
}

/// A time at the end of a text without its year and seconds, `11-30 12:24`.
fn shorten_time(text: &mut String) {
    const TIMESTAMP_LENGTH: usize = "2026-11-30T12:24:33Z".len();
    let is_time = |time: &str| {
        let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'Z')];
        marks.iter().all(|(at, mark)| time.as_bytes().get(*at) == Some(mark))
    };
    let begin =
        text.len().checked_sub(TIMESTAMP_LENGTH).filter(|begin| text.is_char_boundary(*begin));
    if let Some(begin) = begin.filter(|begin| text.is_ascii() && is_time(&text[*begin..])) {
        let short = format!("{} {}", &text[begin + 5..begin + 10], &text[begin + 11..begin + 16]);
        text.replace_range(begin.., &short);
    }
}

fn widest(cells: &[String]) -> usize {
    cells.iter().map(|cell| display_width(cell)).max().unwrap_or(0) + COLUMN_GAP
}

/// Blanks between two columns, what a command has at least, and a long name.
const COLUMN_GAP: usize = 2;
const MIN_COMMAND_WIDTH: usize = 16;
const MIN_NAME_WIDTH: usize = 16;

/// How many columns of a terminal a text takes.
fn display_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// Cuts a text to so many columns; what is cut off leaves a mark.
fn truncate(text: &mut String, columns: usize) {
    if display_width(text) <= columns {
        return;
    }
    let mut taken = 0;
    let end = text.char_indices().find(|(_, c)| {
        taken += char_width(*c);
        taken >= columns
    });
    text.truncate(end.map_or(text.len(), |(at, _)| at));
    text.push(CUT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_a_session_and_does_nothing_to_a_terminal() {
        let sessions: Vec<Map<String, Value>> = serde_json::from_str(
            r#"[{"id":"0123abcd","user":"root","uid":0,"peer_pid":7,"tty":"/dev/pts/3","rows":24,
            "cols":80,"started":"2026-11-25T13:00:00.123Z","idle":130.5,"command":"sh\u001b[2J\n"},
            {"id":"k3x","uid":4001,"new":[1]}]"#,
        )
        .expect("sessions");
        let table = table(&sessions, None);
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected: [Vec<&str>; 3] = [
            vec!["ID", "USER", "PEER", "TTY", "SIZE", "STARTED", "IDLE", "COMMAND"],
            vec![
                "0123abcd",
                "root",
                "7",
                "pts/3",
                "80x24",
                "2026-11-25T13:00:00Z",
                "2m",
                "sh\\u001b[2J\\n",
            ],
            vec!["k3x", "4001", "-", "-", "-", "-", "-", "-"],
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn who_can_attach_sees_to_what() {
        let sessions: Vec<Map<String, Value>> = serde_json::from_str(
            r#"[{"id":"a","name":"job","attached":false,"ended":false,
            "detached_since":"2026-11-25T13:32:08.000Z"},
            {"id":"b","attached":true,"ended":false,"watchers":2},
            {"id":"c","attached":false,"ended":true,"status":7}]"#,
        )
        .expect("JSON");
        let table = table(&sessions, None);
        for part in [
            "NAME",
            "job",
            "detached 2026-11-25T13:32:08Z",
            "attached",
            "ended 7",
            "VIEWERS",
            "  2  ",
        ] {
            assert!(table.contains(part), "{table}");
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let sessions: Vec<Map<String, Value>> = serde_json::from_value(serde_json::json!([
            {"id": "0123abcd", "user": "anna", "name": "n".repeat(64), "attached": true,
             "peer_pid": 1234567, "tty": "/dev/pts/100", "rows": 50, "cols": 132,
             "started": "2026-11-25T13:00:00.123Z", "idle": 5.0, "command": "x".repeat(900)},
            {"id": "k3x9q2aa", "uid": 4001, "command": "\u{65e5}\u{672c}".repeat(90)},
            {"id": "k3x9q2ab", "uid": 4001, "command": "sh"},
        ]))
        .expect("sessions");
        for width in [200, 100, 80, 30, 1] {
            let table = table(&sessions, Some(width));
            assert_eq!(table.lines().count(), 4);
            for line in table.lines() {
                assert!(display_width(line) <= width, "{width}: {line}");
            }
        }
        let at_100 = table(&sessions[1..], Some(100));
        assert!(at_100.lines().nth(2).is_some_and(|line| line.ends_with("  sh")), "{at_100}");
        assert!(at_100.contains(CUT) && !at_100.contains(&"\u{65e5}\u{672c}".repeat(40)));
        assert!(table(&sessions, None).contains(&"x".repeat(900)));
    }

    /// The command is the column that a reader looks for.
    #[test]
    fn commands_have_room_in_a_narrow_terminal() {
        let sessions: Vec<Map<String, Value>> = serde_json::from_value(serde_json::json!([
            {"id": "wp6dpf19", "user": "root", "name": "work", "attached": false, "ended": false,
             "detached_since": "2026-11-30T12:24:45.467Z", "tty": "/dev/pts/1", "rows": 30,
             "cols": 100, "started": "2026-11-30T12:24:33.1Z", "idle": 0.5, "command": "/bin/sh -l"},
        ]))
        .expect("sessions");
        for width in [100, 80, 70] {
            let table = table(&sessions, Some(width));
            assert!(table.contains("/bin/sh -l") && table.contains("11-30 12:24"), "{table}");
        }
        assert!(table(&sessions, Some(130)).contains("detached 2026-11-30T12:24:45Z"));
        for text in
            ["attached", "", "\u{e9}2026-11-30T12:24:33Z", "2026-11-30 12:24:33Z", "ended 7"]
        {
            let mut same = String::from(text);
            shorten_time(&mut same);
            assert_eq!(same, text);
        }
    }

    #[test]
    fn times_are_short() {
        let shown = [0.9, 119.0, 120.0, 7200.0, 172_800.0, -1.0, 1e30].map(duration);
        assert_eq!(shown[..6], ["0s", "119s", "2m", "2h", "2d", "0s"]);
    }
}
