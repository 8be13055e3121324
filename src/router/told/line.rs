//! One line of an audit, as JSON or as names and values: a line in whatever a
//! peer chooses to be called, and never too long for one write.

use std::fmt::Write;

pub use crate::config::audit::Audit as Format;

/// What a field's value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// It is not known, or there is none.
    Null,
    /// A number.
    Number(u64),
    /// True or false.
    Truth(bool),
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
pub struct Line {
    format: Format,
    text: String,
    group: &'static str,
    is_first: bool,
}

impl Line {
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
                        self.text.push('"');
                        self.text.push_str(group);
                        self.text.push_str("\":{");
                        self.is_first = true;
                    }
                    self.group = group;
                }
                self.separate(',');
                self.text.push('"');
                self.text.push_str(name);
                self.text.push_str("\":");
            }
            Format::KeyVal => {
                self.separate(' ');
                if !group.is_empty() {
                    self.text.push_str(group);
                    self.text.push('.');
                }
                self.text.push_str(name);
                self.text.push('=');
            }
        }
        self.value(value);
        self
    }

    /// Adds fields that were written before, by [`Line::part`].
    pub fn fields(&mut self, part: &str) -> &mut Self {
        self.leave_group();
        self.separate(if self.format == Format::Json { ',' } else { ' ' });
        self.text.push_str(part);
        self
    }

    /// Fields of a line, to be added to others.
    pub fn part(format: Format, fields: impl FnOnce(&mut Self)) -> String {
        let text = String::with_capacity(512);
        let mut part = Self { format, text, group: "", is_first: true };
        fields(&mut part);
        part.leave_group();
        part.text
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
            Value::Truth(truth) => self.text.push_str(if truth { "true" } else { "false" }),
            Value::Seconds(duration) => {
                let _ = write!(self.text, "{}.{:03}", duration.as_secs(), duration.subsec_millis());
            }
            Value::Text(text, most) => {
                self.text.push('"');
                escape(text, most, &mut self.text);
                self.text.push('"');
            }
        }
    }
}

/// What stands for what was cut off.
const CUT: char = '\u{2026}';

/// Appends a text as JSON has it within quotes, in so many bytes. All that
/// would begin another line, or do something to a terminal that shows it, is
/// written as its number.
fn escape(text: &str, most: usize, line: &mut String) {
    let end = line.len() + most;
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if text.len() <= most && text.bytes().all(is_plain) {
        return line.push_str(text);
    }
    // As far as there is room for the mark behind it.
    let mut whole = line.len();
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() || is_format(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
            c => line.push(c),
        }
        if line.len() > end {
            line.truncate(whole);
            line.push(CUT);
            return;
        }
        if line.len() + CUT.len_utf8() <= end {
            whole = line.len();
        }
    }
}

/// Characters that would show a text as another than it is.
fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value as Json;
    use std::time::Duration;

    /// A line with texts of a peer's.
    fn line(format: Format, one: &str, other: &str, most: usize) -> String {
        let mut line = Line::new(format, "audit: ");
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
        let mut ends_in_a_group = Line::new(Format::Json, "");
        ends_in_a_group.member("record", "bytes", Value::Number(1));
        assert_eq!(ends_in_a_group.finish(), "{\"record\":{\"bytes\":1}}");
        assert_eq!(Line::new(Format::Json, "").finish(), "{}");
        let part = |format| {
            Line::part(format, |line| {
                line.field("id", Value::word("x")).member("peer", "pid", Value::Null);
            })
        };
        let with_part = |format| {
            let mut line = Line::new(format, "");
            line.member("a", "b", Value::Number(1))
                .fields(&part(format))
                .field("c", Value::Number(2));
            line.finish()
        };
        let json = "{\"a\":{\"b\":1},\"id\":\"x\",\"peer\":{\"pid\":null},\"c\":2}";
        assert_eq!(with_part(Format::Json), json);
        assert_eq!(with_part(Format::KeyVal), "a.b=1 id=\"x\" peer.pid=null c=2");
    }

    #[test]
    fn nothing_that_a_peer_says_begins_another_line_or_reaches_a_terminal() {
        let evil = "\n{\"event\":\"x\"}\r\x1b[2J\u{9b}31m\u{202e}\u{2028}\\\"\x7f\0\u{e0041}";
        for format in [Format::Json, Format::KeyVal] {
            let line = line(format, evil, evil, 1000);
            let shown = |c: char| !c.is_control() && !is_format(c);
            assert!(line.chars().all(shown), "{line:?}");
            assert_eq!(line.matches("event").count(), 3);
        }
        let json = line(Format::Json, evil, "", 1000);
        let json: Json = serde_json::from_str(&json["audit: ".len()..]).expect("JSON");
        assert_eq!(json["peer"]["user"], evil);
    }

    #[test]
    fn what_is_cut_off_leaves_a_mark() {
        let cut = |text: &str, most| {
            let mut line = String::new();
            escape(text, most, &mut line);
            line
        };
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abc\u{2026}");
        assert_eq!(cut("ab\n\n", 6), "ab\\n\\n");
        assert_eq!(cut("ab\n\nx", 6), "ab\u{2026}");
        assert_eq!(cut("\x01\x01", 11), "\\u0001\u{2026}");
        assert_eq!(cut("\u{e0041}x", 12), "\u{2026}");
    }

    proptest! {
        #[test]
        fn any_text_is_one_valid_line(one in ".{0,300}", other in any::<String>(), most in 3usize..900) {
            let line = line(Format::Json, &one, &other, most);
            prop_assert!(line.len() <= 200 + 2 * most);
            prop_assert!(!line.chars().any(char::is_control));
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
