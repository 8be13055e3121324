//! asciicast: how a recording is written down, in version 2 or 3.
//!
//! Both are lines of JSON: a header, then events `[time, kind, text]`. In
//! version 3 an event's time is counted from the one before it, and there are
//! comments.

use fpty::sys::Size;
use fpty::text::escape_json;
use serde::{Deserialize, Serialize};

use super::utf8::JsonText;
pub use crate::config::recording_options::Format;
use crate::observe::audit::line::{AuditLine, Format as LineFormat, Value};

/// The most bytes of a text of the header: none is longer.
const HEAD_TEXT: usize = 8192;

/// The header of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastHeader {
    /// The format.
    pub format: Format,
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
    /// The start, in seconds since 1970.
    pub timestamp: u64,
    /// The command.
    pub command: String,
    /// The title: user and id.
    pub title: String,
    /// TERM.
    pub term: Option<String>,
}

/// A recording that is being encoded.
#[derive(Clone, Debug)]
pub struct Asciicast {
    events: Events,
    output: JsonText,
    input: JsonText,
}

/// The encoder of events.
#[derive(Clone, Debug)]
struct Events {
    format: Format,
    /// The time of the last event in microseconds.
    last: u64,
}

impl Asciicast {
    /// Encodes the header.
    pub fn begin(head: &CastHeader, out: &mut Vec<u8>) -> Self {
        let term = head.term.as_deref().map(|term| Value::Text(term, HEAD_TEXT));
        let (rows, cols) = (Value::Number(head.rows.into()), Value::Number(head.cols.into()));
        let mut line = AuditLine::new(LineFormat::Json, "");
        match head.format {
            Format::V2 => {
                line.field("version", Value::Number(2)).field("width", cols).field("height", rows);
            }
            Format::V3 => {
                line.field("version", Value::Number(3));
                line.member("term", "cols", cols).member("term", "rows", rows);
                if let Some(term) = term {
                    line.member("term", "type", term);
                }
            }
        }
        line.field("timestamp", Value::Number(head.timestamp))
            .field("command", Value::Text(&head.command, HEAD_TEXT))
            .field("title", Value::Text(&head.title, HEAD_TEXT));
        if let (Format::V2, Some(term)) = (head.format, term) {
            line.member("env", "TERM", term);
        }
        out.extend_from_slice(line.finish().as_bytes());
        out.push(b'\n');
        let events = Events { format: head.format, last: 0 };
        Self { events, output: JsonText::default(), input: JsonText::default() }
    }

    /// Encodes output; all times are in microseconds since the start.
    pub fn output(&mut self, at: u64, bytes: &[u8], out: &mut Vec<u8>) {
        self.events.add(at, 'o', out, |out| self.output.push(bytes, out));
    }

    /// Encodes input.
    pub fn input(&mut self, at: u64, bytes: &[u8], out: &mut Vec<u8>) {
        self.events.add(at, 'i', out, |out| self.input.push(bytes, out));
    }

    /// Encodes a resize.
    pub fn resize(&mut self, at: u64, size: Size, out: &mut Vec<u8>) {
        let text = format!("{}x{}", size.cols, size.rows);
        self.events.add(at, 'r', out, |out| out.extend_from_slice(text.as_bytes()));
    }

    /// Encodes a marker.
    pub fn mark(&mut self, at: u64, text: &str, out: &mut Vec<u8>) {
        self.events.add(at, 'm', out, |out| escape_json(text.as_bytes(), out));
    }

    /// Encodes the end, with the exit status where it is known.
    pub fn end(&mut self, at: u64, status: Option<i32>, out: &mut Vec<u8>) {
        self.events.add(at, 'o', out, |out| self.output.finish(out));
        self.events.add(at, 'i', out, |out| self.input.finish(out));
        if let Some(status) = status {
            // Version 2 has no such event, and its players ignore it.
            self.events
                .add(at, 'x', out, |out| out.extend_from_slice(status.to_string().as_bytes()));
        }
    }

    /// Encodes the trailer: the bytes before it and their SHA-256, and how many bytes of the session
    /// are missing.
    pub fn trailer(&self, bytes: u64, sha256: &str, dropped: u64, out: &mut Vec<u8>) {
        let invalid = self.output.invalid() + self.input.invalid();
        let text = format!("bytes={bytes} dropped={dropped} invalid={invalid} sha256={sha256}");
        let line = match self.events.format {
            Format::V2 => format!("[{}, \"#\", \"{text}\"]\n", Seconds(self.events.last)),
            Format::V3 => format!("# {text}\n"),
        };
        out.extend_from_slice(line.as_bytes());
    }
}

impl Events {
    /// Encodes an event; one without text is omitted.
    fn add(&mut self, at: u64, kind: char, out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
        use std::io::Write;
        let before = out.len();
        // The clock does not go back, but its messages could lie.
        let at = at.max(self.last);
        let time = match self.format {
            Format::V2 => at,
            Format::V3 => at - self.last,
        };
        // A vector takes everything.
        let _ = write!(out, "[{}, \"{kind}\", \"", Seconds(time));
        let empty = out.len();
        text(out);
        if out.len() == empty {
            return out.truncate(before);
        }
        out.extend_from_slice(b"\"]\n");
        self.last = at;
    }
}

/// Microseconds, displayed in seconds.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(format: Format) -> CastHeader {
        CastHeader {
            format,
            rows: 24,
            cols: 80,
            timestamp: 1_700_000_000,
            command: String::from("/bin/sh -c \"x\n\""),
            title: String::from("root 0123abcd"),
            term: Some(String::from("xterm")),
        }
    }

    fn written(format: Format) -> String {
        let mut out = Vec::new();
        let mut cast = Asciicast::begin(&head(format), &mut out);
        cast.output(1_000_000, b"a\xe2\x82", &mut out);
        // Half a character is no event.
        cast.output(1_500_000, b"", &mut out);
        cast.input(2_000_000, b"\xe2", &mut out);
        cast.output(2_500_000, b"\xac\r\n", &mut out);
        cast.resize(2_500_001, Size { rows: 30, cols: 100 }, &mut out);
        cast.mark(2_400_000, "7 bytes are missing", &mut out);
        cast.end(3_000_000, Some(143), &mut out);
        cast.trailer(5, "ff", 7, &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn version_3_counts_from_the_event_before() {
        let text = written(Format::V3);
        let (first, rest) = text.split_once('\n').expect("lines");
        let header: serde_json::Value = serde_json::from_str(first).expect("JSON");
        assert_eq!(header["version"], 3);
        assert_eq!(header["term"], serde_json::json!({"cols": 80, "rows": 24, "type": "xterm"}));
        assert_eq!(header["command"], "/bin/sh -c \"x\n\"");
        assert_eq!(
            rest,
            "[1.000000, \"o\", \"a\"]\n[1.500000, \"o\", \"\u{20ac}\\r\\n\"]\n\
             [0.000001, \"r\", \"100x30\"]\n[0.000000, \"m\", \"7 bytes are missing\"]\n\
             [0.499999, \"i\", \"\u{fffd}\"]\n[0.000000, \"x\", \"143\"]\n\
             # bytes=5 dropped=7 invalid=1 sha256=ff\n"
        );
    }

    #[test]
    fn version_2_counts_from_the_beginning() {
        let text = written(Format::V2);
        let (first, rest) = text.split_once('\n').expect("lines");
        let header: serde_json::Value = serde_json::from_str(first).expect("JSON");
        assert_eq!(
            (&header["version"], &header["width"], &header["height"]),
            (&2.into(), &80.into(), &24.into())
        );
        assert_eq!(header["env"]["TERM"], "xterm");
        assert_eq!(
            rest,
            "[1.000000, \"o\", \"a\"]\n[2.500000, \"o\", \"\u{20ac}\\r\\n\"]\n\
             [2.500001, \"r\", \"100x30\"]\n[2.500001, \"m\", \"7 bytes are missing\"]\n\
             [3.000000, \"i\", \"\u{fffd}\"]\n[3.000000, \"x\", \"143\"]\n\
             [3.000000, \"#\", \"bytes=5 dropped=7 invalid=1 sha256=ff\"]\n"
        );
    }
}
