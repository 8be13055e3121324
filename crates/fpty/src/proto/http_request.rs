//! A web page can have a browser connect to any address, that of the person's
//! own machine included, and send an HTTP request there whose body is the
//! page's choice. At a raw terminal that body would be typed. So the first
//! bytes of a client of raw mode are looked at: those of an HTTP request
//! (RFC 9112, 3) or of a TLS handshake (RFC 8446, 5.1) are no terminal's.
//!
//! Nothing of a request reaches the terminal that comes within [`HOLD_TIME`], be it
//! byte by byte. Of one that is slower the end of its first line never does:
//! what a shell has so far it does not run.

use std::time::Duration;

/// How long first bytes are held back that may become a request, while a
/// person who has typed as much waits for the echo.
pub const HOLD_TIME: Duration = Duration::from_secs(1);

/// The longest first line, in bytes; a longer one is a request if a method begins
/// it, and else none.
const MAX_REQUEST_LINE: usize = 8 * 1024;

/// The methods that browsers have, and what HTTP/2 begins with.
const METHODS: [&[u8]; 10] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI",
];

/// The longest word that is taken for another method, in bytes.
const MAX_METHOD: usize = 32;

/// Kind of a client's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// A browser's.
    Http,
    /// A person's, or a program's.
    Terminal,
    /// Undecided: the bytes look like a browser's.
    MaybeHttp,
    /// Undecided: the bytes look like a person's.
    MaybeTerminal,
}

/// The first bytes of a client, until it is known what they are.
#[derive(Debug, Default)]
pub struct HttpProbe {
    bytes: Vec<u8>,
    /// How many of the bytes the terminal has.
    given: usize,
    /// Held-back bytes were released.
    released: bool,
}

impl HttpProbe {
    /// Adds first bytes. Those for the terminal are what [`HttpProbe::take`] returns
    /// then.
    pub fn feed(&mut self, bytes: &[u8]) -> FirstBytes {
        self.bytes.extend_from_slice(bytes);
        classify(&self.bytes)
    }

    /// Takes the bytes that the terminal does not have yet.
    pub fn take(&mut self) -> &[u8] {
        let from = std::mem::replace(&mut self.given, self.bytes.len());
        &self.bytes[from..]
    }

    /// Takes the held-back bytes, and holds nothing back from now on.
    pub fn release(&mut self) -> &[u8] {
        self.released = true;
        self.take()
    }

    /// Whether held-back bytes were released.
    pub fn is_released(&self) -> bool {
        self.released
    }
}

/// The kind of a client's first bytes.
pub fn classify(bytes: &[u8]) -> FirstBytes {
    if let Some(classify) = tls_handshake(bytes) {
        return classify;
    }
    let end = bytes.iter().position(|byte| b"\r\n".contains(byte));
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let length = line.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    let (method, rest) = line.split_at(length);
    if method.is_empty() || length > MAX_METHOD {
        return FirstBytes::Terminal;
    }
    let known = match rest {
        [] => METHODS.iter().any(|known| known.starts_with(method)),
        _ => METHODS.contains(&method),
    };
    if begins_request(rest) {
        return FirstBytes::Http;
    }
    if end.is_some() || !may_begin_request(rest) {
        return FirstBytes::Terminal;
    }
    match (known, line.len() > MAX_REQUEST_LINE) {
        (true, false) => FirstBytes::MaybeHttp,
        (true, true) => FirstBytes::Http,
        (false, false) => FirstBytes::MaybeTerminal,
        (false, true) => FirstBytes::Terminal,
    }
}

/// A record of a TLS handshake, of a version from 3.0 to 3.4; or what may become one.
fn tls_handshake(bytes: &[u8]) -> Option<FirstBytes> {
    match bytes {
        [0x16] | [0x16, 3] => Some(FirstBytes::MaybeHttp),
        [0x16, 3, minor, ..] if *minor <= 4 => Some(FirstBytes::Http),
        _ => None,
    }
}

/// The words behind a method: what is asked for, and how; `None`: the first
/// one has not begun.
fn target_and_version(rest: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let rest = rest.strip_prefix(b" ")?;
    let length = rest.iter().take_while(|byte| **byte > b' ' && **byte != 0x7f).count();
    let (target, rest) = rest.split_at(length);
    (length > 0).then_some((target, (!rest.is_empty()).then_some(rest)))
}

fn begins_request(rest: &[u8]) -> bool {
    let version = target_and_version(rest).and_then(|(_, rest)| rest?.strip_prefix(b" HTTP/"));
    version.is_some_and(|version| version.first().is_some_and(u8::is_ascii_digit))
}

fn may_begin_request(rest: &[u8]) -> bool {
    match target_and_version(rest) {
        None => rest.is_empty() || rest == b" ",
        Some((_, None)) => true,
        Some((_, Some(rest))) => b" HTTP/".starts_with(rest),
    }
}

/// Whether first bytes are those of a browser where packets are spoken. As the header of
/// a packet each of these is a signal that does not exist, or a client that gives itself
/// a number which no client has. Of less than a header: whether they may become that.
pub fn is_http_or_tls(first: &[u8]) -> bool {
    let of_method = |method: &&[u8]| match method {
        [a, b, c] => [*a, *b, *c, b' '].starts_with(first),
        method => method.starts_with(first),
    };
    METHODS.iter().any(of_method) || tls_handshake(first).is_some()
}

/// HTTP response to a browser.
pub const FORBIDDEN_RESPONSE: &[u8] = b"HTTP/1.0 403 Forbidden\r\nConnection: close\r\n\
Content-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\n\r\n\
this is a terminal: no web page is let in\r\n";

/// Reason of a browser's rejection, for the log.
pub const HTTP_REJECTED: &str = "it speaks HTTP, as a web page does";

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
            assert_eq!(classify(line.as_bytes()), FirstBytes::Http, "{line:?}");
            // In any pieces nothing is taken for something else before.
            let mut beginning = HttpProbe::default();
            let known = line.bytes().map(|byte| beginning.feed(&[byte]));
            let first = known
                .filter(|classify| !matches!(classify, FirstBytes::MaybeTerminal))
                .find(|classify| *classify != FirstBytes::MaybeHttp);
            assert_eq!(first, Some(FirstBytes::Http), "{line:?}");
        }
        assert_eq!(classify(b"\x16\x03\x01\x02\x00"), FirstBytes::Http);
        let long = [b"GET /".to_vec(), vec![b'x'; MAX_REQUEST_LINE]].concat();
        assert_eq!(classify(&long), FirstBytes::Http);
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
            assert_ne!(classify(line.as_bytes()), FirstBytes::Http, "{line:?}");
            let is_decided = line.contains(['\n', '\x1b']);
            let is_plain = classify(line.as_bytes()) == FirstBytes::Terminal;
            assert!(is_plain || !is_decided, "{line:?}");
        }
        for (line, what) in [
            ("P", FirstBytes::MaybeHttp),
            ("PO", FirstBytes::MaybeHttp),
            ("PX", FirstBytes::MaybeTerminal),
        ] {
            assert_eq!(classify(line.as_bytes()), what, "{line}");
        }
        let long = [b"XYZ /".to_vec(), vec![b'x'; MAX_REQUEST_LINE]].concat();
        assert_eq!(classify(&long), FirstBytes::Terminal);
    }

    #[test]
    fn what_was_held_is_given_once_and_in_order() {
        let mut beginning = HttpProbe::default();
        assert_eq!(beginning.feed(b"PO"), FirstBytes::MaybeHttp);
        assert_eq!(beginning.release(), b"PO");
        assert_eq!(beginning.feed(b"P x"), FirstBytes::MaybeTerminal);
        assert_eq!(beginning.take(), b"P x");
        assert!(beginning.take().is_empty() && beginning.is_released());
    }

    #[test]
    fn no_packet_of_ours_looks_like_one() {
        for first in [*b"GET ", *b"POST", *b"PUT ", *b"HEAD", *b"OPTI", *b"PRI ", [0x16, 3, 1, 2]] {
            assert!(is_http_or_tls(&first), "{first:?}");
        }
        for first in [[0, 1, 0, 102], [0, 24, 0, 100], [0, 5, 0, 0], [0, 0, 0, 2], *b"GETX"] {
            assert!(!is_http_or_tls(&first), "{first:?}");
        }
    }
}
