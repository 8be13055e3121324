//! A session as a list has it: described when somebody asks, and not before.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::router::GatewayLoop;
use crate::router::told::Subject;
use crate::router::told::clock::Utc;
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::proc;
use fpty::sys::socket::Stream;

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
    pub command: String,
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
    pub(super) fn entry(&self, subject: Subject) -> Vec<u8> {
        let described = match subject {
            Subject::Session(key) => self.described_session(key),
            Subject::Command(key) => self.described_command(key),
        };
        let entry = described.map(|described| self.entry_of(subject, described));
        serde_json::to_vec(&entry.unwrap_or_default()).unwrap_or_default()
    }

    fn entry_of(&self, subject: Subject, described: Described<'_>) -> Entry {
        let Described { client, door, pid, tty, size, idle } = described;
        let peer = client.credentials();
        let facts = self.told.of(subject);
        let door = self.doors.door(door);
        let command = match (self.inquirers.asked_for.get(&subject), door) {
            (Some(command), _) => command.to_string(),
            (None, Some(door)) => door.rules.command.to_string_lossy().into_owned(),
            (None, None) => String::new(),
        };
        let started = match facts {
            Some(facts) => Some(facts.started),
            None => pid.and_then(|pid| proc::started(pid.as_raw())),
        };
        Entry {
            id: self.id_of(subject),
            user: peer.and_then(|peer| self.told.known_name(peer.uid)),
            uid: peer.map(|peer| peer.uid),
            peer_pid: peer.and_then(|peer| u32::try_from(peer.pid).ok()).filter(|pid| *pid > 0),
            socket: door.map(|door| door.name.clone()).unwrap_or_default(),
            command: shown(command),
            pid: pid.map(Pid::as_raw),
            tty,
            rows: size.map(|size| size.rows),
            cols: size.map(|size| size.cols),
            started: started.map(|time: SystemTime| Utc::of(time).rfc3339()),
            // In milliseconds.
            idle: idle.map(|idle| idle.as_millis() as f64 / 1000.0),
        }
    }

    fn described_session(&self, key: crate::router::table::Key) -> Option<Described<'_>> {
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
            pid: attached.wires.program,
            tty: master.slave_name(),
            size: master.size(),
            idle: idle.or_else(|| master.idle_for()),
        })
    }
}

fn shown(mut command: String) -> String {
    if command.len() > SHOWN {
        let end = (0..=SHOWN).rev().find(|end| command.is_char_boundary(*end));
        command.truncate(end.unwrap_or(0));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_not_endless() {
        assert_eq!(shown(String::from("ls")), "ls");
        assert_eq!(shown("\u{e9}".repeat(3000)).len(), SHOWN);
        assert_eq!(shown(format!("x{}", "\u{e9}".repeat(3000))).len(), SHOWN - 1);
    }
}
