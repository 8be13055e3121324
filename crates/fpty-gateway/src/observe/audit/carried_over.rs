//! What is known of a session that does not change with its gateway: one hands it on
//! to the next, by way of the process that keeps both, so that what is told of it
//! goes on as it began.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::origin::Mode;
use super::peer::{Peer, Said};
use fpty::text::cut;

/// So many bytes of a command are handed on: more than a line has room for.
const COMMAND: usize = 1000;

/// Bytes of input and output; `None`: they did not come through here.
pub type Relayed = (Option<u64>, Option<u64>);

/// What does not change with the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Story {
    /// What its client speaks.
    pub mode: Mode,
    /// Its first client.
    pub first: Peer,
    /// The client that is attached, or was last, where it is not the first one.
    pub client: Option<Box<Peer>>,
    /// What the first one says of itself.
    pub said: Said,
    /// What its program was started by.
    pub command: Arc<str>,
    /// The user of its program.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Its terminal, where it has one.
    pub tty: Option<Box<str>>,
    /// That one's rows and columns at the beginning, as its client said them.
    pub size: Option<(u16, u16)>,
    /// Since when the last client is attached, as a
    /// [`Timestamp`](fpty::sys::clock::Timestamp) is said.
    pub attached: (u64, u64),
    /// Bytes of the clients before that.
    pub before: Relayed,
}

impl Story {
    /// As it is handed on.
    pub fn handed_on(&self) -> Box<Self> {
        Box::new(Self { command: cut(&self.command, COMMAND).into(), ..self.clone() })
    }

    /// The client that is attached, or was last.
    pub fn last_client(&self) -> &Peer {
        self.client.as_deref().unwrap_or(&self.first)
    }

    /// Bytes of all its clients, with these of the last one.
    pub fn bytes_with(&self, last: Relayed) -> Relayed {
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
        let mut story = Story {
            mode: Mode::Uwsgi,
            first: Peer { uid: Some(7), user: Some("anna".into()), ..Peer::default() },
            client: Some(Box::new(other)),
            said: Said { logname, term: Some("xterm".into()), ..Said::default() },
            command: "x".repeat(2 * COMMAND).into(),
            uid: 1,
            gid: 2,
            tty: Some("/dev/pts/3".into()),
            size: Some((24, 80)),
            attached: (5, 6),
            before: (Some(1), None),
        };
        let text = serde_json::to_string(&story.handed_on()).expect("JSON");
        let read: Story = serde_json::from_str(&text).expect("a story");
        story.command = "x".repeat(COMMAND).into();
        assert_eq!(read, story);
        assert_eq!(read.bytes_with((Some(2), Some(3))), (Some(3), None));
    }
}
