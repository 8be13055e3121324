//! asciicast: how a recording is written down, in version 2 or 3.
//!
//! Both are lines of JSON: a header, then events `[time, kind, text]`. In
//! version 3 an event's time is counted from the one before it, and there are
//! comments.

use fpty::sys::Size;
use fpty::text::{escape_json, shown};
use serde::{Deserialize, Serialize};

use super::utf8::Text;
pub use crate::config::recording::Format;

/// What stands at the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version.
    pub format: Format,
    /// The terminal's height.
    pub rows: u16,
    /// Its width.
    pub cols: u16,
    /// When it began, in seconds since 1970.
    pub timestamp: u64,
    /// What was run.
    pub command: String,
    /// Whose it was, in a few words.
    pub title: String,
    /// The kind of the terminal.
    pub term: Option<String>,
}

/// What the last line says of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals<'a> {
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the session that are not there.
    pub dropped: u64,
    /// Their hash.
    pub sha256: &'a str,
}

/// A recording that is being written.
#[derive(Clone, Debug)]
pub struct Cast {
    events: Events,
    output: Text,
    input: Text,
}

/// How its events are written.
#[derive(Clone, Debug)]
struct Events {
    format: Format,
    /// When the last one was, in microseconds.
    last: u64,
}

#[derive(Serialize)]
struct Version2<'a> {
    version: u8,
    width: u16,
    height: u16,
    timestamp: u64,
    command: &'a str,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Environment<'a>>,
}

#[derive(Serialize)]
struct Environment<'a> {
    #[serde(rename = "TERM")]
    term: &'a str,
}

#[derive(Serialize)]
struct Version3<'a> {
    version: u8,
    term: Terminal<'a>,
    timestamp: u64,
    command: &'a str,
    title: &'a str,
}

#[derive(Serialize)]
struct Terminal<'a> {
    cols: u16,
    rows: u16,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

impl Cast {
    /// Begins one.
    pub fn begin(head: &Head, out: &mut Vec<u8>) -> Self {
        let Head { rows, cols, timestamp, ref command, ref title, .. } = *head;
        let term = head.term.as_deref();
        let line = match head.format {
            Format::V2 => serde_json::to_string(&Version2 {
                version: 2,
                width: cols,
                height: rows,
                timestamp,
                command,
                title,
                env: term.map(|term| Environment { term }),
            }),
            Format::V3 => serde_json::to_string(&Version3 {
                version: 3,
                term: Terminal { cols, rows, kind: term },
                timestamp,
                command,
                title,
            }),
        };
        // JSON leaves some characters as they are that a terminal obeys.
        out.extend_from_slice(shown(&line.unwrap_or_default()).as_bytes());
        out.push(b'\n');
        let events = Events { format: head.format, last: 0 };
        Self { events, output: Text::default(), input: Text::default() }
    }

    /// The program wrote this; all times are in microseconds since the
    /// beginning.
    pub fn output(&mut self, at: u64, bytes: &[u8], out: &mut Vec<u8>) {
        self.events.add(at, 'o', out, |out| self.output.push(bytes, out));
    }

    /// The program was given this.
    pub fn input(&mut self, at: u64, bytes: &[u8], out: &mut Vec<u8>) {
        self.events.add(at, 'i', out, |out| self.input.push(bytes, out));
    }

    /// The terminal has this size now.
    pub fn resize(&mut self, at: u64, size: Size, out: &mut Vec<u8>) {
        let text = format!("{}x{}", size.cols, size.rows);
        self.events.add(at, 'r', out, |out| out.extend_from_slice(text.as_bytes()));
    }

    /// A mark that a player can show.
    pub fn mark(&mut self, at: u64, text: &str, out: &mut Vec<u8>) {
        self.events.add(at, 'm', out, |out| escape_json(text.as_bytes(), out));
    }

    /// No more output and no more input will come; the program may have ended
    /// with this status.
    pub fn end(&mut self, at: u64, status: Option<i32>, out: &mut Vec<u8>) {
        self.events.add(at, 'o', out, |out| self.output.finish(out));
        self.events.add(at, 'i', out, |out| self.input.finish(out));
        if let Some(status) = status {
            // Version 2 has no such event, and its players ignore it.
            self.events
                .add(at, 'x', out, |out| out.extend_from_slice(status.to_string().as_bytes()));
        }
    }

    /// The very last line.
    pub fn last_line(&self, totals: Totals<'_>, out: &mut Vec<u8>) {
        let invalid = self.output.invalid() + self.input.invalid();
        let Totals { bytes, dropped, sha256 } = totals;
        let text = format!("bytes={bytes} dropped={dropped} invalid={invalid} sha256={sha256}");
        let line = match self.events.format {
            Format::V2 => format!("[{}, \"#\", \"{text}\"]\n", Seconds(self.events.last)),
            Format::V3 => format!("# {text}\n"),
        };
        out.extend_from_slice(line.as_bytes());
    }
}

impl Events {
    /// Adds an event; one without a text is none.
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

/// Microseconds, written in seconds.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(format: Format) -> Head {
        Head {
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
        let mut cast = Cast::begin(&head(format), &mut out);
        cast.output(1_000_000, b"a\xe2\x82", &mut out);
        // Half a character is no event.
        cast.output(1_500_000, b"", &mut out);
        cast.input(2_000_000, b"\xe2", &mut out);
        cast.output(2_500_000, b"\xac\r\n", &mut out);
        cast.resize(2_500_001, Size { rows: 30, cols: 100 }, &mut out);
        cast.mark(2_400_000, "7 bytes are missing", &mut out);
        cast.end(3_000_000, Some(143), &mut out);
        cast.last_line(Totals { bytes: 5, dropped: 7, sha256: "ff" }, &mut out);
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
