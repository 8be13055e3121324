//! Bytes of a terminal as text in JSON: a character that is split between two
//! reads is put together again, what is no UTF-8 becomes U+FFFD.

use fpty::text::escape_json;

/// A stream of bytes as text: the start of a split character, and the invalid bytes.
#[derive(Clone, Debug, Default)]
pub struct JsonText {
    /// The start of a character.
    carried: [u8; 4],
    count: usize,
    invalid: u64,
}

/// U+FFFD.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

impl JsonText {
    /// Appends the bytes to `out`, as the inside of a JSON string.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let whole;
        let mut bytes = match std::mem::take(&mut self.count) {
            0 => bytes,
            count => {
                whole = [&self.carried[..count], bytes].concat();
                &whole
            }
        };
        loop {
            let error = match std::str::from_utf8(bytes) {
                Ok(text) => return escape_json(text.as_bytes(), out),
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            escape_json(valid, out);
            let Some(length) = error.error_len() else {
                // Less than a character.
                self.carried[..rest.len()].copy_from_slice(rest);
                self.count = rest.len();
                return;
            };
            self.replace(length, out);
            bytes = &rest[length..];
        }
    }

    /// The stream has ended: an incomplete character is invalid.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let left = std::mem::take(&mut self.count);
        if left > 0 {
            self.replace(left, out);
        }
    }

    /// Invalid bytes so far.
    pub fn invalid(&self) -> u64 {
        self.invalid
    }

    fn replace(&mut self, length: usize, out: &mut Vec<u8>) {
        self.invalid += length as u64;
        out.extend_from_slice(REPLACEMENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text of these pieces, read as JSON, and how many bytes were no text.
    fn read(pieces: &[&[u8]]) -> (String, u64) {
        let (mut text, mut out) = (JsonText::default(), vec![b'"']);
        for piece in pieces {
            text.push(piece, &mut out);
        }
        text.finish(&mut out);
        out.push(b'"');
        let shown = String::from_utf8(out).expect("UTF-8");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        (serde_json::from_str(&shown).expect("JSON"), text.invalid())
    }

    #[test]
    fn a_character_may_come_in_pieces() {
        let euro = "\u{20ac}".as_bytes();
        assert_eq!(read(&[&euro[..1], &euro[1..2], &euro[2..]]), ("\u{20ac}".into(), 0));
        assert_eq!(read(&[b"a\xf0\x9f", b"\x98\x80b"]), ("a\u{1f600}b".into(), 0));
        assert_eq!(read(&[b"\xe2\x82", b"x"]), ("\u{fffd}x".into(), 2));
        assert_eq!(read(&[b"\xe2\x82"]), ("\u{fffd}".into(), 2));
        assert_eq!(
            read(&[b"\xe2", b"\xe2\x82\xac\xc3", b"\xa9"]),
            ("\u{fffd}\u{20ac}\u{e9}".into(), 1)
        );
    }

    #[test]
    fn controls_are_written_out() {
        let (text, invalid) = read(&[b"\x1b[1m\r\n\t\"\\\x7f\xc2\x9b\xc2\xa9\0"]);
        assert_eq!(text, "\u{1b}[1m\r\n\t\"\\\u{7f}\u{9b}\u{a9}\0");
        assert_eq!(invalid, 0);
        let mut out = Vec::new();
        escape_json("\u{9b}\u{a9}".as_bytes(), &mut out);
        assert_eq!(out, b"\\u009b\xc2\xa9");
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_what_they_are_in_one(
            bytes in proptest::collection::vec(prop_oneof![
                any::<u8>(), Just(0xe2), Just(0x82), Just(0xac), Just(0xf0), Just(0x9f), Just(0xc2),
            ], 0..200),
            cuts in proptest::collection::vec(1usize..6, 1..200),
        ) {
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let (text, invalid) = read(&pieces);
            prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
            let valid: usize = bytes.utf8_chunks().map(|chunk| chunk.valid().len()).sum();
            prop_assert_eq!(invalid, (bytes.len() - valid) as u64);
        }
    }

    /// Run by itself, in release mode, it says how fast it is.
    #[test]
    fn escaping_is_no_bottleneck() {
        let line =
            b"drwxr-xr-x  2 root root \x1b[01;34mthings\x1b[0m \"quoted\" \xe2\x82\xac 12,345\r\n";
        let bytes = line.repeat(1_000_000 / line.len());
        let begin = std::time::Instant::now();
        let (mut text, mut out) = (JsonText::default(), Vec::new());
        let rounds = if cfg!(debug_assertions) { 2 } else { 100 };
        for _ in 0..rounds {
            out.clear();
            text.push(&bytes, &mut out);
        }
        let speed = f64::from(rounds) / begin.elapsed().as_secs_f64();
        println!("{speed:.0} MB/s");
        assert!(cfg!(debug_assertions) || speed > 100.0);
    }
}
