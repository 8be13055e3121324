//! The audit's line of a session's end, written in advance: for whoever comes after
//! a gateway that was killed, and knows nothing else of the session.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::end_reason::Gone;
use super::line::{Format, Line};
use super::recording_fields::{Recorded, of_recording};
use super::timestamp::rfc3339;
use fpty::sys::child::Exit;

/// The longest line that there is room for, in bytes.
pub const LONGEST: usize = 2032;

/// What stands in the place of a time that is not known yet, and of a
/// duration.
pub const NO_TIME: SystemTime = UNIX_EPOCH;
const NO_DURATION: &str = "0.000";

/// The line, now that it is known when its session ended, and after how long.
pub fn at(line: &str, ended: SystemTime, duration: Duration) -> String {
    let mut line = line.replacen(&rfc3339(NO_TIME), &rfc3339(ended), 1);
    let seconds = format!("{}.{:03}", duration.as_secs(), duration.subsec_millis());
    // As JSON has it, or keyval. Within a text the quotes would be escaped.
    for (before, behind) in [("\"duration\":", ",\"reason\":\""), ("duration=", " reason=\"")] {
        if let Some(at) = line.find(&format!("{before}{NO_DURATION}{behind}")) {
            let at = at + before.len();
            line.replace_range(at..at + NO_DURATION.len(), &seconds);
            return line;
        }
    }
    // Of who looks on it is the last word.
    let end = [format!("\"duration\":{NO_DURATION}}}"), format!(" duration={NO_DURATION}")];
    let seconds = |end: &str| end.replace(NO_DURATION, &seconds);
    let found = end.iter().find_map(|end| Some(line.strip_suffix(end)?.to_owned() + &seconds(end)));
    found.unwrap_or(line)
}

/// Whether it is the last one of a session.
pub fn is_end(line: &str) -> bool {
    line.contains("\"session-end\"")
}

/// The same, of a session whose end is known.
pub fn because(line: &str, why: Gone, exit: Option<Exit>) -> String {
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
fn place_of_recording(line: &str) -> Option<(usize, Format)> {
    // Within a text the quotes would be escaped.
    let json = line.rfind("\"record\":{\"path\":\"").map(|at| (at, Format::Json));
    json.or_else(|| Some((line.rfind("record.path=\"")?, Format::KeyVal)))
}

/// The id of the session, where that was recorded.
pub fn id_of_recorded(line: &str) -> Option<&str> {
    let before = match place_of_recording(line)?.1 {
        Format::Json => "\"id\":\"",
        Format::KeyVal => " id=\"",
    };
    // It comes before all that a peer could have chosen.
    line.split_once(before)?.1.split('"').next()
}

/// The line, now that it is known what became of the recording.
pub fn recorded(line: &str, recorded: &Recorded) -> String {
    let Some((at, format)) = place_of_recording(line) else {
        return line.to_owned();
    };
    let end = if format == Format::Json { "}" } else { "" };
    format!("{}{}{end}", &line[..at], Line::part(format, |line| of_recording(line, recorded)))
}
