//! A session as a list has it, and the statistics: described when somebody asks,
//! and not before.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::view::{Described, One, View};
use crate::router::context::Context;
use crate::router::told::Subject;
use crate::router::told::clock::Utc;
use fpty::sys::child::Pid;
use fpty::sys::clock::Timestamp;
use fpty::sys::proc;
use fpty::sys::pty::Master;
use fpty::text::{cut, shown};

/// So many bytes of a command are shown.
const SHOWN: usize = 1000;

/// A session. What is not known is `None`.
#[derive(Debug, Default, Serialize)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// The name of its client's user, where that is known already: to ask for it
    /// may take long.
    pub user: Option<String>,
    /// The number of that one; of TCP there is none.
    pub uid: Option<u32>,
    /// The client's process.
    pub peer_pid: Option<u32>,
    /// Where it came in.
    pub socket: String,
    /// What runs.
    pub command: Option<String>,
    /// Its process.
    pub pid: Option<i32>,
    /// Its terminal, where it has one.
    pub tty: Option<String>,
    /// The height of that.
    pub rows: Option<u16>,
    /// Its width.
    pub cols: Option<u16>,
    /// When it began (RFC 3339).
    pub started: Option<String>,
    /// For how many seconds nothing has gone either way.
    pub idle: Option<f64>,
    /// What it is called, where it can be left.
    pub name: Option<String>,
    /// Whether it has a client.
    pub attached: bool,
    /// When the last one left.
    pub detached_since: Option<String>,
    /// Whether its program has ended, so that only its last output is left.
    pub ended: bool,
    /// How: what `$?` would be.
    pub status: Option<u8>,
}

impl View<'_> {
    /// A session or command as JSON.
    pub(super) fn entry(self, cx: &Context, one: One) -> Vec<u8> {
        let entry = match one {
            One::Here(subject) => self.entry_here(cx, subject),
            One::Left(_) => self.entry_left(cx, one),
        };
        // JSON leaves some characters as they are that a terminal obeys.
        let text = serde_json::to_string(&entry.unwrap_or_default()).unwrap_or_default();
        shown(&text).into_owned().into_bytes()
    }

    fn entry_here(self, cx: &Context, subject: Subject) -> Option<Entry> {
        let facts = cx.told.of(subject);
        let described = self.described(subject, facts)?;
        let left = self.can_be_left(One::Here(subject));
        let peer = described.client.credentials();
        let pid = described.pid.map(Pid::as_raw);
        let command = match &left {
            Some(left) => left.command.map(str::to_owned),
            None => cx.command_of(subject, described.door),
        };
        let socket = left.as_ref().and_then(|left| left.socket).map(str::to_owned);
        let of_left = left.as_ref().filter(|left| !left.is_bound);
        let started = match (facts, of_left) {
            (_, Some(left)) => Some(left.since.wall),
            (Some(facts), None) => Some(facts.started.wall),
            (None, None) => pid.and_then(proc::started).map(|began| Timestamp::from(began).wall),
        };
        let size = described.size();
        Some(Entry {
            id: self.id_of(cx, One::Here(subject)),
            user: peer.and_then(|peer| cx.told.known_name(peer.uid)),
            uid: peer.map(|peer| peer.uid),
            peer_pid: peer.and_then(|peer| u32::try_from(peer.pid).ok()).filter(|pid| *pid > 0),
            socket: socket.unwrap_or_else(|| address(cx, described.door)),
            command: command.map(bounded),
            pid,
            tty: described.master.and_then(Master::slave_name),
            rows: size.map(|size| size.rows),
            cols: size.map(|size| size.cols),
            started: started.map(written),
            idle: described.idle.map(seconds),
            name: left.map(|left| left.name.to_owned()).filter(|name| !name.is_empty()),
            attached: true,
            ..Entry::default()
        })
    }

    fn entry_left(self, cx: &Context, one: One) -> Option<Entry> {
        let left = self.can_be_left(one)?;
        let size = left.master.and_then(Master::size);
        Some(Entry {
            id: left.id.to_owned(),
            user: left.uid.and_then(|uid| cx.told.known_name(uid)),
            uid: left.uid,
            peer_pid: None,
            socket: address(cx, left.door),
            command: left.command.map(str::to_owned).map(bounded),
            // Of one that has ended it may be another's by now.
            pid: left.status.is_none().then_some(left.pid),
            tty: left.master.and_then(Master::slave_name),
            rows: size.map(|size| size.rows),
            cols: size.map(|size| size.cols),
            started: Some(written(left.since.wall)),
            idle: left.master.and_then(Master::idle_for).map(seconds),
            name: Some(left.name.to_owned()).filter(|name| !name.is_empty()),
            attached: false,
            detached_since: left.left.map(|left| written(left.wall)),
            ended: left.status.is_some(),
            status: left.status,
        })
    }
}

impl View<'_> {
    /// What the statistics have of one, as JSON.
    pub(super) fn statistics_of(self, cx: &Context, one: One) -> Option<String> {
        let One::Here(subject) = one else { return None };
        let facts = cx.told.of(subject)?;
        let described = self.described(subject, Some(facts))?;
        let Described { idle, is_handed_over, bytes, .. } = described;
        Some(facts.as_json(described.size(), idle, is_handed_over, bytes))
    }
}

/// That of a socket.
fn address(cx: &Context, door: u16) -> String {
    cx.doors.door(door).map(|door| door.name.clone()).unwrap_or_default()
}

fn written(time: SystemTime) -> String {
    Utc::of(time).rfc3339()
}

/// In milliseconds.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}

fn bounded(command: String) -> String {
    cut(&command, SHOWN).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_not_endless() {
        assert_eq!(bounded(String::from("ls")), "ls");
        assert_eq!(bounded("\u{e9}".repeat(3000)).len(), SHOWN);
        assert_eq!(bounded(format!("x{}", "\u{e9}".repeat(3000))).len(), SHOWN - 1);
    }
}
