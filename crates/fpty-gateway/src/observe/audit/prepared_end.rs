//! Audit lines of ends that are prepared while the session runs: for a process that
//! outlives a killed gateway, and knows nothing else of the session.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::end_reason::EndReason;
use super::line::{AuditLine, Format};
use super::recording_fields::{RecordingResult, write_recording};
use super::timestamp::rfc3339;
use fpty::sys::child::Exit;

/// The longest line that there is room for, in bytes.
pub const MAX_LINE: usize = 2032;

/// Placeholder of a time that is not known yet. A duration is 0.000 then.
pub const UNKNOWN_TIME: SystemTime = UNIX_EPOCH;

/// The line, now that it is known when its session ended, and after how long.
pub fn with_end_time(line: &str, ended: SystemTime, duration: Duration) -> String {
    let line = line.replacen(&rfc3339(UNKNOWN_TIME), &rfc3339(ended), 1);
    let seconds = format!("{}.{:03}", duration.as_secs(), duration.subsec_millis());
    // As JSON has it, or keyval. Within a text the quotes would be escaped; at the end of a
    // text one would not, but all that a peer could have chosen comes before.
    let line = line.replacen("\"duration\":0.000", &format!("\"duration\":{seconds}"), 1);
    let line = match line.rsplit_once("duration=0.000 reason=\"") {
        Some((before, after)) => format!("{before}duration={seconds} reason=\"{after}"),
        None => line,
    };
    // Of who looks on it is the last word.
    match line.strip_suffix(" duration=0.000") {
        Some(before) => format!("{before} duration={seconds}"),
        None => line,
    }
}

/// Whether an audit line is a session's end line.
pub fn is_end(line: &str) -> bool {
    line.contains("\"session-end\"")
}

/// The prepared end line with the reason and exit status of a known end.
pub fn with_reason(line: &str, why: EndReason, exit: Option<Exit>) -> String {
    let (status, signal) = match exit {
        Some(Exit::Status(status)) => (status.to_string(), String::from("null")),
        Some(Exit::Signal { number, .. }) => (String::from("null"), number.to_string()),
        None => (String::from("null"), String::from("null")),
    };
    let why = why.word();
    // As JSON has it, or keyval. Within a text the quotes would be escaped.
    line.replacen(
        "\"reason\":\"lost\",\"status\":null,\"signal\":null",
        &format!("\"reason\":\"{why}\",\"status\":{status},\"signal\":{signal}"),
        1,
    )
    .replacen(
        "reason=\"lost\" status=null signal=null",
        &format!("reason=\"{why}\" status={status} signal={signal}"),
        1,
    )
}

/// The place of the recording's fields in a line, and the format of the line; `None`: the
/// session was not recorded.
fn find_recording(line: &str) -> Option<(usize, Format)> {
    // Within a text the quotes would be escaped.
    let json = line.rfind("\"record\":{\"path\":\"").map(|at| (at, Format::Json));
    json.or_else(|| Some((line.rfind("record.path=\"")?, Format::KeyVal)))
}

/// The id of the session, where that was recorded.
pub fn recorded_session_id(line: &str) -> Option<&str> {
    let before = match find_recording(line)?.1 {
        Format::Json => "\"id\":\"",
        Format::KeyVal => " id=\"",
    };
    // It comes before all that a peer could have chosen.
    line.split_once(before)?.1.split('"').next()
}

/// The line, now that it is known what became of the recording.
pub fn with_recording(line: &str, recorded: &RecordingResult) -> String {
    let Some((at, format)) = find_recording(line) else {
        return line.to_owned();
    };
    let mut fields = AuditLine::new(format, "");
    write_recording(&mut fields, recorded);
    let fields = fields.finish();
    // The line has begun.
    line[..at].to_owned() + fields.strip_prefix('{').unwrap_or(&fields)
}
