//! A web page can have a browser connect to any address, that of the person's
//! own machine included, and send an HTTP request there whose body is the
//! page's choice. At a raw terminal that body would be typed. So the first
//! bytes of a client of raw mode are looked at: those of an HTTP request
//! (RFC 9112, 3) or of a TLS handshake (RFC 8446, 5.1) are no terminal's.
//!
//! Nothing of a request reaches the terminal that comes within [`HELD`], be it
//! byte by byte. Of one that is slower the end of its first line never does:
//! what a shell has so far it does not run.

use std::time::Duration;

/// How long first bytes are held back that may become a request, while a
/// person who has typed as much waits for the echo.
pub const HELD: Duration = Duration::from_secs(1);

/// A longer first line is a request, if one of these begins it, and else none.
const LONGEST: usize = 8 * 1024;

/// The methods that browsers have, and what HTTP/2 begins with.
const METHODS: [&[u8]; 10] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI",
];

/// The longest word that is taken for another method.
const LONGEST_METHOD: usize = 32;

/// What a client's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// A browser's.
    Web,
    /// A person's, or a program's.
    Plain,
    /// It cannot be said; they look like a browser's.
    Likely,
    /// It cannot be said; they look like a person's.
    Unlikely,
}

/// The first bytes of a client, until it is known what they are.
#[derive(Debug, Default)]
pub struct Beginning {
    bytes: Vec<u8>,
    /// How many of them the terminal has.
    given: usize,
    /// They were held back for long enough.
    released: bool,
}

impl Beginning {
    /// Takes more of it. What it is for the terminal is what
    /// [`Beginning::take`] returns then.
    pub fn hear(&mut self, bytes: &[u8]) -> Begins {
        self.bytes.extend_from_slice(bytes);
        begins(&self.bytes)
    }

    /// What the terminal does not have, and has from now on.
    pub fn take(&mut self) -> &[u8] {
        let from = std::mem::replace(&mut self.given, self.bytes.len());
        &self.bytes[from..]
    }

    /// The same, and nothing is held back any more.
    pub fn release(&mut self) -> &[u8] {
        self.released = true;
        self.take()
    }

    /// Whether that is so.
    pub fn is_released(&self) -> bool {
        self.released
    }
}

/// What a client begins with.
pub fn begins(bytes: &[u8]) -> Begins {
    if let Some(begins) = handshake(bytes) {
        return begins;
    }
    let end = bytes.iter().position(|byte| b"\r\n".contains(byte));
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let length = line.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    let (method, rest) = line.split_at(length);
    if method.is_empty() || length > LONGEST_METHOD {
        return Begins::Plain;
    }
    let known = match rest {
        [] => METHODS.iter().any(|known| known.starts_with(method)),
        _ => METHODS.contains(&method),
    };
    if begins_request(rest) {
        return Begins::Web;
    }
    if end.is_some() || !may_begin_request(rest) {
        return Begins::Plain;
    }
    match (known, line.len() > LONGEST) {
        (true, false) => Begins::Likely,
        (true, true) => Begins::Web,
        (false, false) => Begins::Unlikely,
        (false, true) => Begins::Plain,
    }
}

/// A record of a TLS handshake, of a version from 3.0 to 3.4; or what may become one.
fn handshake(bytes: &[u8]) -> Option<Begins> {
    match bytes {
        [0x16] | [0x16, 3] => Some(Begins::Likely),
        [0x16, 3, minor, ..] if *minor <= 4 => Some(Begins::Web),
        _ => None,
    }
}

/// The words behind a method: what is asked for, and how; `None`: the first
/// one has not begun.
fn words(rest: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let rest = rest.strip_prefix(b" ")?;
    let length = rest.iter().take_while(|byte| **byte > b' ' && **byte != 0x7f).count();
    let (target, rest) = rest.split_at(length);
    (length > 0).then_some((target, (!rest.is_empty()).then_some(rest)))
}

fn begins_request(rest: &[u8]) -> bool {
    let version = words(rest).and_then(|(_, rest)| rest?.strip_prefix(b" HTTP/"));
    version.is_some_and(|version| version.first().is_some_and(u8::is_ascii_digit))
}

fn may_begin_request(rest: &[u8]) -> bool {
    match words(rest) {
        None => rest.is_empty() || rest == b" ",
        Some((_, None)) => true,
        Some((_, Some(rest))) => b" HTTP/".starts_with(rest),
    }
}

/// What a browser begins with that comes where packets are spoken: as a
/// packet's header each of these is a signal that there is not, or a client
/// that gives itself a number which none has. Of less than a header: whether it may
/// become that.
pub fn is_no_packet(first: &[u8]) -> bool {
    let of_method = |method: &&[u8]| match method {
        [a, b, c] => [*a, *b, *c, b' '].starts_with(first),
        method => method.starts_with(first),
    };
    METHODS.iter().any(of_method) || handshake(first).is_some()
}

/// What a browser is told.
pub const ANSWER: &[u8] = b"HTTP/1.0 403 Forbidden\r\nConnection: close\r\n\
Content-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\n\r\n\
this is a terminal: no web page is let in\r\n";

/// Why one is refused, for the log.
pub const WHY: &str = "it speaks HTTP, as a web page does";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_any_method_are_known() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "POST /x?y HTTP/1.1\r\nHost: a\r\n\r\nid\n",
            "OPTIONS * HTTP/1.1\r\n",
            "CONNECT a:1 HTTP/1.1\r\n",
            "PROPFIND / HTTP/1.0\n",
            "GET http://a/ HTTP/1.1",
            "PRI * HTTP/2.0\r\n\r\n",
            "GET / HTTP/9",
        ] {
            assert_eq!(begins(line.as_bytes()), Begins::Web, "{line:?}");
            // In any pieces nothing is taken for something else before.
            let mut beginning = Beginning::default();
            let known = line.bytes().map(|byte| beginning.hear(&[byte]));
            let first = known
                .filter(|begins| !matches!(begins, Begins::Unlikely))
                .find(|begins| *begins != Begins::Likely);
            assert_eq!(first, Some(Begins::Web), "{line:?}");
        }
        assert_eq!(begins(b"\x16\x03\x01\x02\x00"), Begins::Web);
        let long = [b"GET /".to_vec(), vec![b'x'; LONGEST]].concat();
        assert_eq!(begins(&long), Begins::Web);
    }

    #[test]
    fn what_people_type_is_theirs() {
        for line in [
            "ls\n",
            "GET\n",
            "GET /x\n",
            "GET  /x HTTP/1.1\n",
            "GET x y\n",
            "POST",
            "get / HTTP/1.1\r\n",
            "echo /x HTTP/1.1\n",
            "SELECT * FROM t;\n",
            "A=1 B=2\n",
            "\x1b[A",
            "\x16\x16",
            "\r\n",
            "",
            "GET / HTTPS\n",
        ] {
            assert_ne!(begins(line.as_bytes()), Begins::Web, "{line:?}");
            let is_decided = line.contains(['\n', '\x1b']);
            let is_plain = begins(line.as_bytes()) == Begins::Plain;
            assert!(is_plain || !is_decided, "{line:?}");
        }
        for (line, what) in
            [("P", Begins::Likely), ("PO", Begins::Likely), ("PX", Begins::Unlikely)]
        {
            assert_eq!(begins(line.as_bytes()), what, "{line}");
        }
        let long = [b"XYZ /".to_vec(), vec![b'x'; LONGEST]].concat();
        assert_eq!(begins(&long), Begins::Plain);
    }

    #[test]
    fn what_was_held_is_given_once_and_in_order() {
        let mut beginning = Beginning::default();
        assert_eq!(beginning.hear(b"PO"), Begins::Likely);
        assert_eq!(beginning.release(), b"PO");
        assert_eq!(beginning.hear(b"P x"), Begins::Unlikely);
        assert_eq!(beginning.take(), b"P x");
        assert!(beginning.take().is_empty() && beginning.is_released());
    }

    #[test]
    fn no_packet_of_ours_looks_like_one() {
        for first in [*b"GET ", *b"POST", *b"PUT ", *b"HEAD", *b"OPTI", *b"PRI ", [0x16, 3, 1, 2]] {
            assert!(is_no_packet(&first), "{first:?}");
        }
        for first in [[0, 1, 0, 102], [0, 24, 0, 100], [0, 5, 0, 0], [0, 0, 0, 2], *b"GETX"] {
            assert!(!is_no_packet(&first), "{first:?}");
        }
    }
}
