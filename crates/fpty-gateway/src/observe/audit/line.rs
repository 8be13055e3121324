//! One line of the audit, as JSON or as key=value: one line whatever a peer is called, and
//! never too long for one write.

use std::fmt::Write;

use fpty::text::escape_json_within;

/// Limits of texts in bytes, so that all of them make a line that is written at once.
pub const SHORT: usize = 64;
pub const ADDRESS: usize = 200;
pub const WHY: usize = 300;
pub const PATH: usize = 500;

pub use crate::config::audit_format::AuditFormat as Format;

/// Value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// No value: it is not known, or there is none.
    Null,
    /// A number.
    Number(u64),
    /// True or false.
    Bool(bool),
    /// Seconds, with milliseconds.
    Seconds(std::time::Duration),
    /// A text, and how many bytes of it there may be in the line; what is cut
    /// off leaves a mark.
    Text(&'a str, usize),
}

impl<'a> Value<'a> {
    /// A text of a length that is no peer's choice.
    pub fn word(word: &'a str) -> Self {
        Self::Text(word, 256)
    }

    /// A text that may be missing.
    pub fn text(text: Option<&'a str>, most: usize) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text, most))
    }

    /// A number that may be missing.
    pub fn number(number: Option<impl Into<u64>>) -> Self {
        number.map_or(Self::Null, |number| Self::Number(number.into()))
    }
}

/// Writes a line field by field.
pub struct AuditLine {
    format: Format,
    text: String,
    group: &'static str,
    is_first: bool,
}

impl AuditLine {
    /// One without a field yet, behind these words.
    pub fn new(format: Format, prefix: &str) -> Self {
        let mut text = String::with_capacity(1024);
        text.push_str(prefix);
        if format == Format::Json {
            text.push('{');
        }
        Self { format, text, group: "", is_first: true }
    }

    /// Adds a field.
    pub fn field(&mut self, name: &'static str, value: Value<'_>) -> &mut Self {
        self.member("", name, value)
    }

    /// Adds a field of a group, whose fields follow each other.
    pub fn member(
        &mut self,
        group: &'static str,
        name: &'static str,
        value: Value<'_>,
    ) -> &mut Self {
        match self.format {
            Format::Json => {
                if group != self.group {
                    self.leave_group();
                    if !group.is_empty() {
                        self.separate(',');
                        self.text.extend(["\"", group, "\":{"]);
                        self.is_first = true;
                    }
                    self.group = group;
                }
                self.separate(',');
                self.text.extend(["\"", name, "\":"]);
            }
            Format::KeyVal => {
                self.separate(' ');
                if !group.is_empty() {
                    self.text.extend([group, "."]);
                }
                self.text.extend([name, "="]);
            }
        }
        self.value(value);
        self
    }

    /// The whole line, which says how many were lost before it.
    pub fn finish_after(mut self, lost: u64) -> String {
        // Only where there is something to say: it makes a line no longer.
        if lost > 0 {
            self.field("lost", Value::Number(lost));
        }
        self.finish()
    }

    /// The whole line.
    pub fn finish(mut self) -> String {
        if self.format == Format::Json {
            self.leave_group();
            self.text.push('}');
        }
        self.text
    }

    fn separate(&mut self, by: char) {
        if !std::mem::take(&mut self.is_first) {
            self.text.push(by);
        }
    }

    fn leave_group(&mut self) {
        if !std::mem::take(&mut self.group).is_empty() {
            self.text.push('}');
            self.is_first = false;
        }
    }

    fn value(&mut self, value: Value<'_>) {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Number(number) => {
                let _ = write!(self.text, "{number}");
            }
            Value::Bool(truth) => self.text.push_str(if truth { "true" } else { "false" }),
            Value::Seconds(duration) => {
                let _ = write!(self.text, "{}.{:03}", duration.as_secs(), duration.subsec_millis());
            }
            Value::Text(text, most) => {
                self.text.push('"');
                escape_json_within(text, most, &mut self.text);
                self.text.push('"');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty::text::{CUT, is_control};
    use proptest::prelude::*;
    use serde_json::Value as Json;
    use std::time::Duration;

    /// A line with texts of a peer's.
    fn line(format: Format, one: &str, other: &str, most: usize) -> String {
        let mut line = AuditLine::new(format, "audit: ");
        line.field("event", Value::word("session-end"))
            .member("peer", "pid", Value::Number(4711))
            .member("peer", "user", Value::Text(one, most))
            .member("claimed", "logname", Value::Text(other, most))
            .field("signal", Value::Null)
            .field("duration", Value::Seconds(Duration::from_millis(61_007)));
        line.finish()
    }

    #[test]
    fn json_has_groups_and_keyval_has_dots() {
        assert_eq!(
            line(Format::Json, "a", "b", 100),
            "audit: {\"event\":\"session-end\",\"peer\":{\"pid\":4711,\"user\":\"a\"},\
             \"claimed\":{\"logname\":\"b\"},\"signal\":null,\"duration\":61.007}"
        );
        assert_eq!(
            line(Format::KeyVal, "a", "b", 100),
            "audit: event=\"session-end\" peer.pid=4711 peer.user=\"a\" claimed.logname=\"b\" \
             signal=null duration=61.007"
        );
        let mut ends_in_a_group = AuditLine::new(Format::Json, "");
        ends_in_a_group.member("record", "bytes", Value::Number(1));
        assert_eq!(ends_in_a_group.finish(), "{\"record\":{\"bytes\":1}}");
        assert_eq!(AuditLine::new(Format::Json, "").finish(), "{}");
    }

    #[test]
    fn nothing_that_a_peer_says_begins_another_line_or_reaches_a_terminal() {
        let evil = "\n{\"event\":\"x\"}\r\x1b[2J\u{9b}31m\u{202e}\u{2028}\\\"\x7f\0\u{e0041}";
        for format in [Format::Json, Format::KeyVal] {
            let line = line(format, evil, evil, 1000);
            assert!(!line.chars().any(is_control), "{line:?}");
            assert_eq!(line.matches("event").count(), 3);
        }
        let json = line(Format::Json, evil, "", 1000);
        let json: Json = serde_json::from_str(&json["audit: ".len()..]).expect("JSON");
        assert_eq!(json["peer"]["user"], evil);
    }

    proptest! {
        #[test]
        fn any_text_is_one_valid_line(one in ".{0,300}", other in any::<String>(), most in 3usize..900) {
            let line = line(Format::Json, &one, &other, most);
            prop_assert!(line.len() <= 200 + 2 * most);
            prop_assert!(!line.chars().any(is_control));
            let json: Json = serde_json::from_str(&line["audit: ".len()..]).expect("JSON");
            for (got, wanted) in [(&json["peer"]["user"], &one), (&json["claimed"]["logname"], &other)] {
                let got = got.as_str().expect("a text");
                match got.strip_suffix(CUT) {
                    Some(beginning) if got != wanted => prop_assert!(wanted.starts_with(beginning)),
                    _ => prop_assert_eq!(got, wanted),
                }
            }
        }
    }
}
