//! What is known of a session, as one gateway hands it on to the next, by way of the
//! process that keeps both: what is told of it goes on as it began.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::peer::{Peer, Said};
use fpty::proto::Protocol;
use fpty::sys::Size;
use fpty::sys::clock::Timestamp;
use fpty::text::cut;

/// So many bytes of a command: more than a line has room for.
const COMMAND: usize = 1000;

/// What does not change with the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Story {
    /// What its client speaks.
    mode: String,
    /// Its first client, and the one that is attached or was last, where that is
    /// another.
    first: Known,
    client: Option<Known>,
    /// What the first one says of itself.
    ssh_connection: Option<String>,
    logname: Option<String>,
    term: Option<String>,
    /// What runs, and as whom.
    command: String,
    uid: u32,
    gid: u32,
    tty: Option<String>,
    size: Option<(u16, u16)>,
    /// Since when the last client was attached.
    attached: (u64, u64),
    /// Bytes of the clients before that.
    before: (Option<u64>, Option<u64>),
}

/// A peer, in words of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    pid: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    user: Option<String>,
    login_uid: Option<u32>,
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl From<&Peer> for Known {
    fn from(peer: &Peer) -> Self {
        let Peer { pid, uid, gid, user, login_uid, address, port } = peer.clone();
        let user = user.as_deref().map(str::to_owned);
        Self { pid, uid, gid, user, login_uid, address, port }
    }
}

impl From<Known> for Peer {
    fn from(known: Known) -> Self {
        let Known { pid, uid, gid, user, login_uid, address, port } = known;
        Self { pid, uid, gid, user: user.map(Into::into), login_uid, address, port }
    }
}

impl Story {
    /// That of a session.
    pub fn of(facts: &Facts) -> Self {
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        Self {
            mode: facts.mode.to_owned(),
            first: Known::from(&facts.peer),
            client: facts.client.as_deref().map(Known::from),
            ssh_connection: text(&facts.said.ssh_connection),
            logname: text(&facts.said.logname),
            term: text(&facts.said.term),
            command: cut(&facts.command, COMMAND).to_owned(),
            uid: facts.uid,
            gid: facts.gid,
            tty: text(&facts.tty),
            size: facts.size.map(|size| (size.rows, size.cols)),
            attached: facts.attached.into(),
            before: facts.before,
        }
    }

    /// The facts of the session with this id, which began at a socket with this name,
    /// at that time.
    pub fn facts(self, id: String, socket: &str, pid: Option<u32>, started: Timestamp) -> Facts {
        let text = |text: Option<String>| text.map(Into::into);
        let modes = [Protocol::Raw.name(), Protocol::Uwsgi.name()];
        Facts {
            id,
            socket: socket.into(),
            mode: modes.into_iter().find(|mode| *mode == self.mode).unwrap_or("extended"),
            peer: self.first.into(),
            said: Said {
                ssh_connection: text(self.ssh_connection),
                logname: text(self.logname),
                term: text(self.term),
            },
            uid: self.uid,
            gid: self.gid,
            command: self.command.into(),
            pid,
            tty: text(self.tty),
            size: self.size.map(|(rows, cols)| Size { rows, cols }),
            started,
            exit: None,
            audit: None,
            recorded: false,
            recording: None,
            place: None,
            is_kept: true,
            client: self.client.map(|client| Box::new(client.into())),
            attached: self.attached.into(),
            before: self.before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_gateway_knows_the_same() {
        let peer = Known { uid: Some(7), user: Some(String::from("anna")), ..Known::default() };
        let other = Known { address: Some([1, 2, 3, 4].into()), port: Some(5), ..Known::default() };
        let story = Story {
            mode: String::from("extended"),
            first: peer,
            client: Some(other),
            ssh_connection: None,
            logname: Some(String::from("anna")),
            term: Some(String::from("xterm")),
            command: String::from("/bin/sh"),
            uid: 1,
            gid: 2,
            tty: Some(String::from("/dev/pts/3")),
            size: Some((24, 80)),
            attached: (5, 6),
            before: (Some(1), None),
        };
        let text = serde_json::to_string(&story).expect("JSON");
        let read: Story = serde_json::from_str(&text).expect("a story");
        assert_eq!(read, story);
        let started = Timestamp::from((3, 4));
        let facts = read.facts(String::from("0123abcd"), "/run/u", Some(9), started);
        assert_eq!((&*facts.id, &*facts.socket, facts.pid), ("0123abcd", "/run/u", Some(9)));
        assert_eq!(Story::of(&facts), story);
    }
}
