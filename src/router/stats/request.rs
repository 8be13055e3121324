//! What a client of the statistics asks for.

/// Where the answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// JSON, without a word of HTTP.
    Plain,
    /// JSON.
    Json,
    /// The metrics, as Prometheus reads them.
    Metrics,
    /// What the answer would be headed by.
    Head,
}

/// A longer beginning of a request is none.
const LONGEST: usize = 4096;

/// The beginning of a request by HTTP.
#[derive(Debug, Default)]
pub struct Request {
    heard: Vec<u8>,
}

impl Request {
    /// Takes more of it; `None`: its first line is not complete.
    pub fn hear(&mut self, bytes: &[u8]) -> Option<Asked> {
        let room = LONGEST - self.heard.len().min(LONGEST);
        self.heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let end = self.heard.iter().position(|byte| *byte == b'\n');
        match end {
            Some(end) => Some(Self::asked(&self.heard[..end])),
            None if self.heard.len() >= LONGEST => Some(Asked::Json),
            None => None,
        }
    }

    /// Whoever asks sends no more; `None`: nothing came.
    pub fn end(&self) -> Option<Asked> {
        (!self.heard.is_empty()).then(|| Self::asked(&self.heard))
    }

    /// What is asked for by what came; any path but one is as good as another.
    fn asked(line: &[u8]) -> Asked {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let (method, target) = (words.next(), words.next().unwrap_or_default());
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        match (method, path) {
            (Some(b"HEAD"), _) => Asked::Head,
            (_, b"/metrics" | b"/metrics/") => Asked::Metrics,
            _ => Asked::Json,
        }
    }
}

impl Asked {
    /// What goes before the answer.
    pub fn head(self) -> String {
        let kind = match self {
            Self::Plain => return String::new(),
            Self::Json | Self::Head => "application/json",
            Self::Metrics => "text/plain; version=0.0.4; charset=utf-8",
        };
        format!(
            "HTTP/1.0 200 OK\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\n\
             Content-Type: {kind}\r\n\r\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_is_for_prometheus() {
        for (line, asked) in [
            ("GET /metrics HTTP/1.1\r\n", Asked::Metrics),
            ("GET /metrics?x=1 HTTP/1.0\r\nHost: a\r\n\r\n", Asked::Metrics),
            ("GET / HTTP/1.0\r\n\r\n", Asked::Json),
            ("GET /metricsx HTTP/1.0\r\n", Asked::Json),
            ("HEAD /metrics HTTP/1.0\r\n", Asked::Head),
            ("\n", Asked::Json),
            ("\0\u{1}\n", Asked::Json),
        ] {
            assert_eq!(Request::default().hear(line.as_bytes()), Some(asked), "{line:?}");
        }
    }

    #[test]
    fn it_may_come_byte_by_byte_and_never_end() {
        let mut request = Request::default();
        let line = b"GET /metrics HTTP/1.0\r";
        assert!(line.iter().all(|byte| request.hear(&[*byte]).is_none()));
        assert_eq!(request.hear(b"\n"), Some(Asked::Metrics));
        let mut endless = Request::default();
        let heard = (0..LONGEST).filter_map(|_| endless.hear(b"x")).next();
        assert_eq!(heard, Some(Asked::Json));
        assert!(endless.heard.len() <= LONGEST);
        assert_eq!(Request::default().hear(&[b'x'; 1 << 20]), Some(Asked::Json));
        let mut short = Request::default();
        assert_eq!((short.hear(b"GET /metrics"), short.end()), (None, Some(Asked::Metrics)));
        assert_eq!(Request::default().end(), None);
    }
}
