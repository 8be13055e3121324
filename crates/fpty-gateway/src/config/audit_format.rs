//! The format of audit lines (`forkptyrouter-audit`).

/// Format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditFormat {
    /// `{"event":"session-end","peer":{"pid":4711}}`
    Json,
    /// `event="session-end" peer.pid=4711`
    KeyVal,
}

/// Values of the option; `None`: there are no lines.
pub(crate) const AUDIT_FORMATS: [(&str, Option<AuditFormat>); 3] =
    [("json", Some(AuditFormat::Json)), ("keyval", Some(AuditFormat::KeyVal)), ("off", None)];
