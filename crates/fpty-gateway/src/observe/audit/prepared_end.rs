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

/// What stands in the place of a time that is not known yet, and of a
/// duration.
pub const UNKNOWN_TIME: SystemTime = UNIX_EPOCH;
const UNKNOWN_DURATION: &str = "0.000";

/// The line, now that it is known when its session ended, and after how long.
pub fn with_end_time(line: &str, ended: SystemTime, duration: Duration) -> String {
    let mut line = line.replacen(&rfc3339(UNKNOWN_TIME), &rfc3339(ended), 1);
    let seconds = format!("{}.{:03}", duration.as_secs(), duration.subsec_millis());
    // As JSON has it, or keyval. Within a text the quotes would be escaped.
    for (before, behind) in [("\"duration\":", ",\"reason\":\""), ("duration=", " reason=\"")] {
        if let Some(at) = line.find(&format!("{before}{UNKNOWN_DURATION}{behind}")) {
            let at = at + before.len();
            line.replace_range(at..at + UNKNOWN_DURATION.len(), &seconds);
            return line;
        }
    }
    // Of who looks on it is the last word.
    let end =
        [format!("\"duration\":{UNKNOWN_DURATION}}}"), format!(" duration={UNKNOWN_DURATION}")];
    let seconds = |end: &str| end.replace(UNKNOWN_DURATION, &seconds);
    let found = end.iter().find_map(|end| Some(line.strip_suffix(end)?.to_owned() + &seconds(end)));
    found.unwrap_or(line)
}

/// Whether it is the last one of a session.
pub fn is_end(line: &str) -> bool {
    line.contains("\"session-end\"")
}

/// The same, of a session whose end is known.
pub fn with_reason(line: &str, why: EndReason, exit: Option<Exit>) -> String {
    let (status, signal) = match exit {
        Some(Exit::Status(status)) => (status.to_string(), String::from("null")),
        Some(Exit::Signal { number, .. }) => (String::from("null"), number.to_string()),
        None => (String::from("null"), String::from("null")),
    };
    let why = why.word();
    // As JSON has it, or keyval, and no text.
    let forms = [
        (
            "\"reason\":\"lost\",\"status\":null,\"signal\":null",
            format!("\"reason\":\"{why}\",\"status\":{status},\"signal\":{signal}"),
        ),
        (
            "reason=\"lost\" status=null signal=null",
            format!("reason=\"{why}\" status={status} signal={signal}"),
        ),
    ];
    let mut line = line.to_owned();
    let found = forms.iter().filter_map(|(lost, told)| Some((line.rfind(lost)?, lost, told)));
    if let Some((at, lost, told)) = found.max() {
        line.replace_range(at..at + lost.len(), told);
    }
    line
}

/// Where it says what becomes of the session's recording, and how the line looks;
/// `None`: it was not recorded.
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
