//! What a client of the statistics asks for by HTTP (RFC 9112), and what it is
//! answered.
//!
//! A web page can have a browser ask here, too, where it runs on the same
//! machine, or come by a name that its owner lets mean an address of ours
//! (DNS rebinding). It is to read nothing: no other origin is let in, and
//! whoever asks must have asked for an address, or `localhost`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// JSON, without a word of HTTP.
    Plain,
    /// JSON.
    Json,
    /// The metrics, as Prometheus reads them.
    Metrics,
    /// What the answer would be headed by.
    Head(Kind),
    /// It cannot be answered: the status, and why.
    Not(u16, &'static str, &'static str),
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The JSON.
    Json,
    /// The metrics.
    Metrics,
}

/// A longer head of a request is none.
const LONGEST: usize = 8 * 1024;

const BAD: Asked = Asked::Not(400, "Bad Request", "this is no request");
const ELSEWHERE: Asked = Asked::Not(
    403,
    "Forbidden",
    "the Host of a request must be an address or localhost: a web page may have made up another",
);
const NO_METHOD: Asked = Asked::Not(405, "Method Not Allowed", "there are GET and HEAD");
const TOO_LONG: Asked =
    Asked::Not(431, "Request Header Fields Too Large", "the head of the request is too long");

/// The head of a request by HTTP.
#[derive(Debug, Default)]
pub struct Request {
    heard: Vec<u8>,
}

impl Request {
    /// Takes more of it; `None`: it is not complete.
    pub fn hear(&mut self, bytes: &[u8]) -> Option<Asked> {
        // The end may be cut in two.
        let from = self.heard.len().saturating_sub(3);
        let room = LONGEST - self.heard.len().min(LONGEST);
        self.heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(end) = self.end_from(from) {
            return Some(asked(&self.heard[..end]));
        }
        (self.heard.len() >= LONGEST).then_some(TOO_LONG)
    }

    /// Whoever asks sends no more; `None`: nothing came.
    pub fn end(&self) -> Option<Asked> {
        (!self.heard.is_empty()).then(|| asked(&self.heard))
    }

    /// Where the head ends, looked for from this place on: at an empty line,
    /// and where it has no version (HTTP/0.9) or makes no sense at the end of
    /// the first one.
    fn end_from(&self, from: usize) -> Option<usize> {
        let heard = &self.heard;
        let first = heard.iter().position(|byte| *byte == b'\n')?;
        if words(&heard[..first]).is_none_or(|(_, _, version)| version.is_empty()) {
            return Some(first);
        }
        (from..heard.len()).find(|end| {
            heard[*end] == b'\n'
                && (heard[..*end].ends_with(b"\n") || heard[..*end].ends_with(b"\n\r"))
        })
    }
}

/// Method, target and version of a first line; the last one may be empty.
fn words(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let version = words.next().unwrap_or_default();
    let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_alphabetic);
    (is_method && !target.is_empty() && words.next().is_none()).then_some((method, target, version))
}

/// What is asked for by a head; any path but one is as good as another.
fn asked(head: &[u8]) -> Asked {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let Some((method, target, version)) = lines.next().and_then(words) else {
        return BAD;
    };
    let is_first = matches!(version, b"" | b"HTTP/1.0");
    let is_later = version.len() == 8 && version.starts_with(b"HTTP/1.");
    if !is_first && !is_later {
        return BAD;
    }
    let mut hosts = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':');
        // A line that goes on the one before is of no use to anybody.
        let Some((name, value)) = colon.filter(|at| *at > 0).map(|at| line.split_at(at)) else {
            return BAD;
        };
        if name.eq_ignore_ascii_case(b"host") {
            hosts.push(value[1..].trim_ascii());
        }
    }
    // Without a version there are no hosts, from which browsers have long been.
    if hosts.len() > 1 || (hosts.is_empty() && !is_first) {
        return BAD;
    }
    let Some((host, path)) = split_target(target) else {
        return BAD;
    };
    hosts.extend(host);
    if !hosts.iter().all(|host| is_here(host)) {
        return ELSEWHERE;
    }
    let path = path.split(|byte| b"?#".contains(byte)).next().unwrap_or_default();
    let kind = match path {
        b"/metrics" | b"/metrics/" => Kind::Metrics,
        _ => Kind::Json,
    };
    match (method, kind) {
        (b"HEAD", kind) => Asked::Head(kind),
        (b"GET", Kind::Metrics) => Asked::Metrics,
        (b"GET", Kind::Json) => Asked::Json,
        _ => NO_METHOD,
    }
}

/// The host that a target names, where it is one for a proxy, and its path.
fn split_target(target: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    if target.starts_with(b"/") || target == b"*" {
        return Some((None, target));
    }
    let at = target.windows(3).position(|part| part == b"://")?;
    let scheme = &target[..at];
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = &target[at + 3..];
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    (!host.is_empty()).then_some((Some(host), path))
}

/// Whether a host, with a port or without, is an address or `localhost`.
fn is_here(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => ("localhost", port),
            _ => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    port && (name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok())
}

impl Asked {
    /// What goes before the answer; with it, where that is all.
    pub fn head(self) -> String {
        let (status, kind) = match self {
            Self::Plain => return String::new(),
            Self::Json | Self::Head(Kind::Json) => (String::from("200 OK"), "application/json"),
            Self::Metrics | Self::Head(Kind::Metrics) => {
                (String::from("200 OK"), "text/plain; version=0.0.4; charset=utf-8")
            }
            Self::Not(status, words, _) => (format!("{status} {words}"), "text/plain"),
        };
        let allow = if self == NO_METHOD { "Allow: GET, HEAD\r\n" } else { "" };
        format!(
            "HTTP/1.0 {status}\r\nConnection: close\r\n{allow}Content-Type: {kind}\r\n\
             X-Content-Type-Options: nosniff\r\n\r\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &str) -> Asked {
        let mut request = Request::default();
        request.hear(head.as_bytes()).unwrap_or_else(|| panic!("{head:?} is not complete"))
    }

    #[test]
    fn one_path_is_for_prometheus() {
        for (head, asked) in [
            ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:1717\r\n\r\n", Asked::Metrics),
            ("GET /metrics?x=1 HTTP/1.0\r\nHost: [::1]:9\r\n\r\n", Asked::Metrics),
            ("GET /metrics/ HTTP/1.0\n\n", Asked::Metrics),
            ("GET /metrics\r\n", Asked::Metrics),
            ("GET / HTTP/1.0\r\n\r\n", Asked::Json),
            ("GET /metricsx HTTP/1.0\r\n\r\n", Asked::Json),
            ("GET /metrics HTTP/1.1\r\nhost:LocalHost\r\nX: y\r\n\r\n", Asked::Metrics),
            ("HEAD /metrics HTTP/1.0\r\n\r\n", Asked::Head(Kind::Metrics)),
            ("HEAD / HTTP/1.0\r\n\r\n", Asked::Head(Kind::Json)),
            (
                "GET http://127.0.0.1:1717/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                Asked::Metrics,
            ),
            ("GET http://localhost HTTP/1.0\r\n\r\n", Asked::Json),
            ("GET HTTP://[::1]:17?x HTTP/1.0\r\n\r\n", Asked::Json),
        ] {
            assert_eq!(of(head), asked, "{head:?}");
        }
    }

    #[test]
    fn a_web_page_is_not_answered() {
        for head in [
            "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: evil.example:1717\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: 127.0.0.1.evil.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost:x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@127.0.0.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            "GET http://127.0.0.1@evil.example/ HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(of(head), ELSEWHERE, "{head:?}");
        }
        for head in
            ["POST / HTTP/1.0\r\n\r\nid\n", "OPTIONS * HTTP/1.0\r\n\r\n", "BREW / HTTP/1.0\r\n\r\n"]
        {
            assert_eq!(of(head), NO_METHOD, "{head:?}");
            assert!(of(head).head().contains("\r\nAllow: GET, HEAD\r\n"));
        }
    }

    #[test]
    fn nonsense_is_no_request() {
        for head in [
            "\n",
            "\0\u{1}\n",
            "GET\n",
            "GET  / HTTP/1.0\n",
            "GET / HTTP/1.0 x\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n x\r\n\r\n",
            "GET metrics HTTP/1.0\r\n\r\n",
            "GET ftp://127.0.0.1/ HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(of(head), BAD, "{head:?}");
        }
    }

    #[test]
    fn the_whole_head_is_waited_for_byte_by_byte_and_not_for_ever() {
        for head in
            ["GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "GET /metrics HTTP/1.0\nA: b\n\n"]
        {
            let mut request = Request::default();
            let (last, before) = head.as_bytes().split_last().expect("some");
            assert!(before.iter().all(|byte| request.hear(&[*byte]).is_none()), "{head:?}");
            assert_eq!(request.hear(&[*last]), Some(Asked::Metrics));
        }
        let mut endless = Request::default();
        let heard = (0..LONGEST).filter_map(|_| endless.hear(b"x")).next();
        assert_eq!((heard, endless.heard.len()), (Some(TOO_LONG), LONGEST));
        assert_eq!(Request::default().hear(&[b'x'; 1 << 20]), Some(TOO_LONG));
        let mut short = Request::default();
        assert_eq!((short.hear(b"GET /metrics"), short.end()), (None, Some(Asked::Metrics)));
        assert_eq!(Request::default().end(), None);
        let mut cut = Request::default();
        assert_eq!(cut.hear(b"GET / HTTP/1.1\r\nHost: evil.exa"), None);
        assert_eq!(cut.end(), Some(ELSEWHERE));
    }

    #[test]
    fn no_origin_is_let_in() {
        for asked in [Asked::Json, Asked::Metrics, Asked::Head(Kind::Json), ELSEWHERE, BAD] {
            let head = asked.head();
            assert!(!head.contains("Access-Control") && head.contains("nosniff"), "{head}");
            assert!(head.starts_with("HTTP/1.0 ") && head.ends_with("\r\n\r\n"), "{head}");
        }
    }
}
