//! Where a session, or a refusal, comes from: the socket, what its client speaks,
//! and what it asks for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::end_reason::Refusal;
use super::line::Format;
use super::peer::Said;
use crate::config::rules::Rules;
use fpty::proto::{Ended, Ending, Protocol};

/// What a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Bytes both ways.
    Raw,
    /// Packets to the gateway, bytes back.
    Uwsgi,
    /// Packets both ways: so does who can leave.
    #[default]
    Extended,
}

impl Mode {
    /// As it is written down.
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

/// A socket, as it is told of.
#[derive(Clone, Debug, Default)]
pub struct Socket {
    /// Its name.
    pub name: Arc<str>,
    /// How the audit's lines of those who come there look; `None`: there are
    /// none.
    pub audit: Option<Format>,
    /// Whether those who come there are recorded.
    pub is_recorded: bool,
    /// What runs there.
    pub command: Arc<str>,
    /// As which user, and group.
    pub ids: (u32, u32),
}

impl Socket {
    /// One with these rules.
    pub fn of(name: &str, rules: &Rules) -> Self {
        let own = || (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Self {
            name: name.into(),
            audit: rules.audit,
            is_recorded: rules.record.folder.is_some(),
            command: rules.command.to_string_lossy().into(),
            ids: rules.identity.as_ref().map_or_else(own, |identity| (identity.uid, identity.gid)),
        }
    }
}

/// Where somebody comes from. It travels with the connection from its first word
/// on; empty where nobody wants to know.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The socket.
    pub socket: Socket,
    /// What it speaks.
    pub mode: Mode,
    /// What it says of itself.
    pub said: Said,
    /// The command that it asks for.
    pub command: Option<Arc<str>>,
}

impl Origin {
    /// Whether there are lines of those who come there.
    pub fn has_audit(&self) -> bool {
        self.socket.audit.is_some()
    }
}

/// Why somebody gets no session: what it is told, and what is counted.
#[derive(Debug)]
pub struct Rejection {
    /// For the client.
    pub ended: Ended,
    /// For the audit and the metrics.
    pub reason: Refusal,
}

impl From<Ended> for Rejection {
    fn from(ended: Ended) -> Self {
        let reason = Refusal::of(&ended);
        Self { ended, reason }
    }
}

impl Rejection {
    /// For this reason, which the client is told in a text.
    pub fn because(reason: Refusal, text: impl Into<String>) -> Self {
        Self { ended: Ended::because(Ending::Refused, text), reason }
    }
}
