//! Text of others on its way to a terminal, a log or a file: in one line, and
//! without anything that a terminal would obey or that would show it as another
//! than it is.
//!
//! Such characters are written as their numbers, as JSON has them: `\n`,
//! `\u001b`. So what is JSON already stays JSON, and is read as it was; what was
//! written so before stays as it is.

use std::any::Any;
use std::borrow::Cow;

/// Ellipsis that marks cut-off text.
pub const CUT: char = '\u{2026}';

/// The first and the last of each run of characters beyond ASCII that do more than
/// to be seen, in order: the categories Cc (control: U+0080 to U+009F, which
/// terminals obey), Cf (format: those that turn text around or are not seen at
/// all), Zl and Zp (line and paragraph separator) of Unicode 16.
const CONTROLS: [(char, char); 21] = [
    ('\u{80}', '\u{9f}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0001}', '\u{e0001}'),
    ('\u{e0020}', '\u{e007f}'),
];

/// Whether a character does more than to be seen: a control of ASCII's, or one of
/// those above.
pub fn is_control(c: char) -> bool {
    let next = CONTROLS.partition_point(|(_, last)| *last < c);
    c.is_ascii_control() || CONTROLS.get(next).is_some_and(|(first, _)| *first <= c)
}

/// The text in one line, to be seen.
pub fn shown(text: &str) -> Cow<'_, str> {
    match special::<false>(text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let mut out = Vec::new();
            escape::<false>(text.as_bytes(), &mut out);
            Cow::Owned(String::from_utf8_lossy(&out).into_owned())
        }
    }
}

/// The text in one line, in so many bytes at most; what is cut off leaves a mark.
pub fn shown_within(text: &str, most: usize) -> Cow<'_, str> {
    if special::<false>(text.as_bytes()).is_none() && text.len() <= most {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    escape_within::<false>(text, most, &mut out);
    Cow::Owned(out)
}

/// The beginning of a text: as many whole characters as there are in so many bytes.
pub fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Appends UTF-8 as the inside of a JSON string.
pub fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    escape::<true>(text, out);
}

/// Appends a text as the inside of a JSON string, in so many bytes at most; what
/// is cut off leaves a mark.
pub fn escape_json_within(text: &str, most: usize, out: &mut String) {
    match special::<true>(text.as_bytes()) {
        None if text.len() <= most => out.push_str(text),
        _ => escape_within::<true>(text, most, out),
    }
}

fn escape_within<const QUOTED: bool>(text: &str, most: usize, out: &mut String) {
    let end = out.len() + most;
    // As far as there is room for the mark behind it.
    let mut whole = out.len();
    let mut one = Vec::with_capacity(12);
    for c in text.chars() {
        one.clear();
        escape::<QUOTED>(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut one);
        out.push_str(std::str::from_utf8(&one).unwrap_or_default());
        if out.len() > end {
            out.truncate(whole);
            out.push(CUT);
            return;
        }
        if out.len() + CUT.len_utf8() <= end {
            whole = out.len();
        }
    }
}

/// Kind of each byte of UTF-8; 0: the byte stands for itself.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        kinds[byte] = CONTROL;
        byte += 1;
    }
    kinds[0x7f] = CONTROL;
    kinds[b'"' as usize] = QUOTE;
    kinds[b'\\' as usize] = QUOTE;
    let mut at = 0;
    while at < CONTROLS.len() {
        let (first, last) = (begins(CONTROLS[at].0), begins(CONTROLS[at].1));
        let mut byte = first;
        while byte <= last {
            kinds[byte] = MAYBE;
            byte += 1;
        }
        at += 1;
    }
    kinds
};

/// The byte that a character beyond ASCII begins with in UTF-8 (RFC 3629).
const fn begins(c: char) -> usize {
    match c as usize {
        c @ 0..0x800 => 0xc0 | c >> 6,
        c @ 0x800..0x1_0000 => 0xe0 | c >> 12,
        c => 0xf0 | c >> 18,
    }
}

const CONTROL: u8 = 1;
const QUOTE: u8 = 2;
const MAYBE: u8 = 3;

/// The place of the first byte that may not be itself. Most are: a processor looks at
/// some of them in one instruction.
fn candidate<const QUOTED: bool>(text: &[u8]) -> Option<usize> {
    const STEP: usize = 16;
    let is_one = |byte: u8| {
        let quote = QUOTED && ((byte == b'"') | (byte == b'\\'));
        (byte < 0x20) | quote | (byte == 0x7f) | (byte >= 0xc2)
    };
    let any = |step: &[u8]| step.iter().fold(false, |one, byte| one | is_one(*byte));
    let plain = text.chunks_exact(STEP).take_while(|step| !any(step)).count() * STEP;
    let is_one = |byte: &u8| match KINDS[usize::from(*byte)] {
        QUOTE => QUOTED,
        kind => kind != 0,
    };
    text[plain..].iter().position(is_one).map(|at| plain + at)
}

/// The place and the length of the first character that is not written as itself.
fn special<const QUOTED: bool>(text: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    while let Some(next) = text.get(at..).and_then(candidate::<QUOTED>) {
        at += next;
        if text[at] < 0x80 {
            return Some((at, 1));
        }
        let length = length(text[at]);
        if first(&text[at..]).is_some_and(is_control) {
            return Some((at, length));
        }
        at += length;
    }
    None
}

/// How long a character is that begins with this byte.
fn length(first: u8) -> usize {
    match first {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

fn first(text: &[u8]) -> Option<char> {
    std::str::from_utf8(text.get(..length(*text.first()?))?).ok()?.chars().next()
}

fn escape<const QUOTED: bool>(mut text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(text.len() + text.len() / 4);
    while let Some((at, length)) = special::<QUOTED>(text) {
        out.extend_from_slice(&text[..at]);
        match text[at] {
            quote @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', quote]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let mut units = [0; 2];
                for unit in first(&text[at..]).unwrap_or_default().encode_utf16(&mut units) {
                    out.extend_from_slice(b"\\u");
                    let digits = [*unit >> 12, *unit >> 8, *unit >> 4, *unit];
                    out.extend(digits.map(|digit| HEX[usize::from(digit & 15)]));
                }
            }
        }
        text = &text[at + length..];
    }
    out.extend_from_slice(text);
}

/// The message of a panic.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const EVIL: &str = "\n{\"event\":\"x\"}\r\x1b[2J\u{9b}31m\u{202e}\u{2028}\u{61c}\u{ad}\\\"\x7f\0\u{e0041}\u{feff}";

    fn is_safe(text: &str) -> bool {
        !text.chars().any(is_control)
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_as_its_number() {
        assert_eq!(shown("a\x1b[2Jb\r\nc\u{9b}"), "a\\u001b[2Jb\\r\\nc\\u009b");
        assert_eq!(shown("\u{202e}x\u{85}\u{e0041}"), "\\u202ex\\u0085\\udb40\\udc41");
        assert!(matches!(shown("d\u{e9}j\u{e0} \"vu\" \\ \u{1f600}"), Cow::Borrowed(_)));
    }

    #[test]
    fn every_such_character_is_found_by_its_first_byte() {
        for c in (0..=0x0010_ffff).filter_map(char::from_u32) {
            let text = String::from(c);
            let kept = shown(&text) == text.as_str();
            assert_eq!(kept, !is_control(c), "{c:?}");
        }
    }

    #[test]
    fn what_is_cut_off_leaves_a_mark() {
        let cut_off = |text: &str, most| {
            let mut line = String::new();
            escape_json_within(text, most, &mut line);
            line
        };
        assert_eq!(cut_off("abcdef", 6), "abcdef");
        assert_eq!(cut_off("abcdefg", 6), "abc\u{2026}");
        assert_eq!(cut_off("ab\n\n", 6), "ab\\n\\n");
        assert_eq!(cut_off("ab\n\nx", 6), "ab\u{2026}");
        assert_eq!(cut_off("\x01\x01", 11), "\\u0001\u{2026}");
        assert_eq!(cut_off("\u{e0041}x", 12), "\u{2026}");
        assert_eq!(shown_within("a\"b", 3), "a\"b");
        assert_eq!(cut("\u{e9}\u{e9}", 3), "\u{e9}");
        assert_eq!(cut("\u{e9}", 0), "");
        assert_eq!(cut("ab", 9), "ab");
    }

    #[test]
    fn json_is_read_as_it_was() {
        let json = serde_json::json!({ EVIL: [EVIL, 7] });
        let written = json.to_string();
        assert!(!is_safe(&written), "serde_json leaves some as they are");
        let safe = shown(&written);
        assert!(is_safe(&safe), "{safe}");
        assert_eq!(serde_json::from_str::<Value>(&safe).expect("JSON"), json);
    }

    proptest! {
        #[test]
        fn no_text_does_more_than_to_be_seen(
            text in any::<String>(), evil in 0..EVIL.chars().count(), most in 3usize..300,
        ) {
            let text = text + &EVIL.chars().skip(evil).collect::<String>();
            let line = shown(&text);
            prop_assert!(is_safe(&line));
            prop_assert_eq!(shown(&line), line.clone());
            let within = shown_within(&text, most);
            prop_assert!(is_safe(&within) && within.len() <= most);
            prop_assert!(text.starts_with(cut(&text, most)) && cut(&text, most).len() <= most);
        }

        #[test]
        fn a_json_string_is_read_as_it_was(text in any::<String>(), more in ".{0,40}") {
            let text = text + &more + EVIL;
            let mut out = vec![b'"'];
            escape_json(text.as_bytes(), &mut out);
            out.push(b'"');
            let out = String::from_utf8(out).expect("UTF-8");
            prop_assert!(is_safe(&out));
            prop_assert_eq!(serde_json::from_str::<String>(&out).expect("JSON"), text);
        }
    }
}
