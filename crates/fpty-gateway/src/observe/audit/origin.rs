//! The origin of a session or a rejection: the listener, the protocol, and the command
//! that the client asked for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::end_reason::RejectReason;
use super::line::Format;
use super::peer::ClaimedIdentity;
use crate::config::rules::Rules;
use fpty::proto::{EndKind, Protocol, SessionEnd};

/// The protocol mode of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Raw mode: bytes both ways.
    Raw,
    /// uwsgi mode: packets to the gateway, bytes back.
    Uwsgi,
    /// Extended mode: packets both ways; it can detach.
    #[default]
    Extended,
}

impl Mode {
    /// The word for the mode.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => Protocol::Raw.name(),
            Self::Uwsgi => Protocol::Uwsgi.name(),
            Self::Extended => "extended",
        }
    }
}

impl From<Protocol> for Mode {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Raw => Self::Raw,
            Protocol::Uwsgi => Self::Uwsgi,
        }
    }
}

/// Listener, as the audit knows it.
#[derive(Clone, Debug, Default)]
pub struct AuditSocket {
    /// The address.
    pub name: Arc<str>,
    /// The format of audit lines; `None`: no audit.
    pub audit: Option<Format>,
    /// Whether the listener's sessions are recorded.
    pub is_recorded: bool,
    /// The configured command.
    pub command: Arc<str>,
    /// The uid and gid of the listener's programs.
    pub ids: (u32, u32),
}

impl AuditSocket {
    /// A listener with these rules.
    pub fn of(name: &str, rules: &Rules) -> Self {
        let own = || (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Self {
            name: name.into(),
            audit: rules.audit,
            is_recorded: rules.record.dir.is_some(),
            command: rules.command.to_string_lossy().into(),
            ids: rules.identity.as_ref().map_or_else(own, |identity| (identity.uid, identity.gid)),
        }
    }
}

/// The origin of a session or a rejection. It travels with the connection; empty where
/// neither audit nor statistics need it.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The listener.
    pub socket: AuditSocket,
    /// The protocol mode.
    pub mode: Mode,
    /// The identity that the client claims.
    pub claimed: ClaimedIdentity,
    /// The command that the client asks for.
    pub command: Option<Arc<str>>,
}

impl Origin {
    /// Whether the listener has an audit.
    pub fn has_audit(&self) -> bool {
        self.socket.audit.is_some()
    }
}

/// A rejection: the END for the client, and the reason for audit and metrics.
#[derive(Debug)]
pub struct Rejection {
    /// The END packet for the client.
    pub ended: SessionEnd,
    /// The reason for audit and metrics.
    pub reason: RejectReason,
}

impl From<SessionEnd> for Rejection {
    fn from(ended: SessionEnd) -> Self {
        let reason = RejectReason::of(&ended);
        Self { ended, reason }
    }
}

impl Rejection {
    /// A rejection for this reason, with a text for the client.
    pub fn because(reason: RejectReason, text: impl Into<String>) -> Self {
        Self { ended: SessionEnd::new(EndKind::Refused, text), reason }
    }
}
