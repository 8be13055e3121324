//! The part of a session's audit facts that outlives its gateway: the supervisor keeps it,
//! and the successor of the gateway restores it, so that the audit goes on as it began.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::origin::Mode;
use super::peer::{ClaimedIdentity, Peer};
use fpty::text::cut;

/// The most bytes of a command: more than a line has room for.
const COMMAND: usize = 1000;

/// Bytes of input and output; `None`: they were not relayed.
pub type ByteTotals = (Option<u64>, Option<u64>);

/// The history of a session: what outlives its gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionHistory {
    /// The protocol mode.
    pub mode: Mode,
    /// The peer of the first client.
    pub first: Peer,
    /// The peer of the last client, where it is not the first one.
    pub client: Option<Box<Peer>>,
    /// The identity that the first client claims.
    #[serde(rename = "said")]
    pub claimed: ClaimedIdentity,
    /// The command.
    pub command: Arc<str>,
    /// The program's uid.
    pub uid: u32,
    /// The program's gid.
    pub gid: u32,
    /// The terminal's name, where there is one.
    pub tty: Option<Box<str>>,
    /// Rows and columns at the start, as the client sent them.
    pub size: Option<(u16, u16)>,
    /// Time since when the last client is attached, as a
    /// [`Timestamp`](fpty::sys::clock::Timestamp) is encoded.
    pub attached: (u64, u64),
    /// Bytes of the clients before the last one.
    pub before: ByteTotals,
}

impl SessionHistory {
    /// A copy for the successor, with a bounded command.
    pub fn for_successor(&self) -> Box<Self> {
        Box::new(Self { command: cut(&self.command, COMMAND).into(), ..self.clone() })
    }

    /// The peer of the last client.
    pub fn last_client(&self) -> &Peer {
        self.client.as_deref().unwrap_or(&self.first)
    }

    /// Bytes of all clients, with these of the last one.
    pub fn bytes_with(&self, last: ByteTotals) -> ByteTotals {
        let both = |before: Option<u64>, last: Option<u64>| Some(before? + last?);
        (both(self.before.0, last.0), both(self.before.1, last.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_gateway_knows_the_same() {
        let other = Peer { address: Some([1, 2, 3, 4].into()), port: Some(5), ..Peer::default() };
        let logname = Some("anna".into());
        let mut history = SessionHistory {
            mode: Mode::Uwsgi,
            first: Peer { uid: Some(7), user: Some("anna".into()), ..Peer::default() },
            client: Some(Box::new(other)),
            claimed: ClaimedIdentity {
                logname,
                term: Some("xterm".into()),
                ..ClaimedIdentity::default()
            },
            command: "x".repeat(2 * COMMAND).into(),
            uid: 1,
            gid: 2,
            tty: Some("/dev/pts/3".into()),
            size: Some((24, 80)),
            attached: (5, 6),
            before: (Some(1), None),
        };
        let text = serde_json::to_string(&history.for_successor()).expect("JSON");
        let read: SessionHistory = serde_json::from_str(&text).expect("a story");
        history.command = "x".repeat(COMMAND).into();
        assert_eq!(read, history);
        assert_eq!(read.bytes_with((Some(2), Some(3))), (Some(3), None));
    }
}
