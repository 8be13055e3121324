//! How the lines of an audit look (`forkptyrouter-audit`).

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// `{"event":"session-end","peer":{"pid":4711}}`
    Json,
    /// `event="session-end" peer.pid=4711`
    KeyVal,
}

/// What the option may be; `None`: there are no lines.
pub(crate) const WORDS: [(&str, Option<Audit>); 3] =
    [("json", Some(Audit::Json)), ("keyval", Some(Audit::KeyVal)), ("off", None)];
