//! A session as a list has it: described when somebody asks, and not before.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::piece::One;
use crate::router::GatewayLoop;
use crate::router::table::Key;
use crate::router::told::Subject;
use crate::router::told::clock::Utc;
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::clock::Timestamp;
use fpty::sys::proc;
use fpty::sys::process::Process;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;
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

/// What is different of sessions and commands.
pub(in crate::router) struct Described<'a> {
    /// Its client.
    pub client: &'a Stream,
    /// Where that came in.
    pub door: u16,
    /// Its process, while it runs.
    pub pid: Option<Pid>,
    /// Its terminal.
    pub tty: Option<String>,
    /// The size of that.
    pub size: Option<Size>,
    /// How long it has been idle, where that is known.
    pub idle: Option<Duration>,
}

impl GatewayLoop {
    /// A session or command as JSON.
    pub(super) fn entry(&self, one: One) -> Vec<u8> {
        let entry = match one {
            One::Here(subject) => self.entry_here(subject),
            One::Left(key) => self.entry_left(key),
        };
        // JSON leaves some characters as they are that a terminal obeys.
        let text = serde_json::to_string(&entry.unwrap_or_default()).unwrap_or_default();
        shown(&text).into_owned().into_bytes()
    }

    fn entry_here(&self, subject: Subject) -> Option<Entry> {
        let (described, left) = match subject {
            Subject::Session(key) => (self.described_session(key), self.left_session(key)),
            Subject::Command(key) => (self.described_command(key), None),
        };
        let Described { client, door, pid, tty, size, idle } = described?;
        let peer = client.credentials();
        let pid = pid.map(Pid::as_raw);
        let command = match &left {
            Some(left) => left.command.map(str::to_owned),
            None => self.command_of(subject),
        };
        let socket = left.as_ref().and_then(|left| left.socket).map(str::to_owned);
        let of_left = left.as_ref().filter(|left| !left.is_bound);
        let started = match (self.cx.told.of(subject), of_left) {
            (_, Some(left)) => Some(left.since.wall),
            (Some(facts), None) => Some(facts.started.wall),
            (None, None) => pid.and_then(proc::started).map(|began| Timestamp::from(began).wall),
        };
        Some(Entry {
            id: self.listed_id(One::Here(subject)),
            user: peer.and_then(|peer| self.cx.told.known_name(peer.uid)),
            uid: peer.map(|peer| peer.uid),
            peer_pid: peer.and_then(|peer| u32::try_from(peer.pid).ok()).filter(|pid| *pid > 0),
            socket: socket.unwrap_or_else(|| self.socket(door)),
            command: command.map(bounded),
            pid,
            tty,
            rows: size.map(|size| size.rows),
            cols: size.map(|size| size.cols),
            started: started.map(written),
            idle: idle.map(seconds),
            name: left.map(|left| left.name.to_owned()).filter(|name| !name.is_empty()),
            attached: true,
            ..Entry::default()
        })
    }

    fn entry_left(&self, key: Key) -> Option<Entry> {
        let left = self.left.as_ref()?.alone_or_over(key)?;
        let size = left.master.and_then(Master::size);
        Some(Entry {
            id: left.id.to_owned(),
            user: self.cx.told.known_name(left.uid),
            uid: Some(left.uid),
            peer_pid: None,
            socket: self.socket(left.door),
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

    fn socket(&self, door: u16) -> String {
        self.cx.doors.door(door).map(|door| door.name.clone()).unwrap_or_default()
    }

    /// What runs in a session or command.
    pub(in crate::router) fn command_of(&self, subject: Subject) -> Option<String> {
        if let Some(command) = self.inquirers.asked_for.get(&subject) {
            return Some(command.to_string());
        }
        let door = match subject {
            Subject::Session(key) => self.sessions.get(key)?.door,
            Subject::Command(key) => self.described_command(key)?.door,
        };
        let rules = self.cx.doors.rules(door)?;
        Some(rules.command.to_string_lossy().into_owned())
    }

    fn described_session(&self, key: Key) -> Option<Described<'_>> {
        let attached = self.sessions.get(key)?;
        let master = &attached.wires.master;
        // Where nobody keeps the time the terminal has it, roughly.
        let idle = match attached.session.is_handed_over() {
            true => None,
            false => attached.idle_for(),
        };
        Some(Described {
            client: &attached.wires.client,
            door: attached.door,
            pid: attached.wires.program.as_ref().map(Process::pid),
            tty: master.slave_name(),
            size: master.size(),
            idle: idle.or_else(|| master.idle_for()),
        })
    }
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
