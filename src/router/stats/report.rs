//! The statistics as JSON: a corerouter's names, what was counted, and the
//! open sessions, piece by piece.

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::router::GatewayLoop;
use crate::router::table::Key;
use crate::router::told::counters::Counted;
use crate::router::told::{Gone, Refusal};
use crate::uwsgi::server;

/// Sessions that one turn lists.
const AT_ONCE: usize = 32;

/// What the C corerouter reports, under its names, and what was counted.
#[derive(Serialize)]
struct Report<'a> {
    version: &'a str,
    pid: u32,
    uid: u32,
    gid: u32,
    cwd: String,
    active_sessions: u64,
    forkptyrouter: Vec<&'a str>,
    cheap: u8,
    counters: Counters<'a>,
}

#[derive(Serialize)]
struct Counters<'a> {
    accepted: u64,
    refused: ByReason<'a>,
    ended: ByReason<'a>,
    bytes_in: u64,
    bytes_out: u64,
    peak_sessions: u64,
}

/// Numbers, by the words for them.
struct ByReason<'a>(Vec<&'static str>, &'a [u64]);

impl Serialize for ByReason<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (word, count) in self.0.iter().zip(self.1) {
            map.serialize_entry(word, count)?;
        }
        map.end()
    }
}

impl<'a> Counters<'a> {
    fn of(counted: &'a Counted) -> Self {
        let refused = Refusal::ALL.into_iter().map(Refusal::word).collect();
        let ended = Gone::ALL.into_iter().map(Gone::word).collect();
        Self {
            accepted: counted.accepted,
            refused: ByReason(refused, &counted.refused),
            ended: ByReason(ended, &counted.ended),
            bytes_in: counted.bytes_in,
            bytes_out: counted.bytes_out,
            peak_sessions: counted.peak,
        }
    }
}

/// How far a list of sessions is.
#[derive(Debug, Default)]
pub struct Listing {
    /// The first place that was not looked at.
    next: usize,
    is_under_way: bool,
}

impl GatewayLoop {
    /// The report, up to the list of sessions.
    pub(super) fn report(&self) -> String {
        let counted = self.told.counters.now();
        let report = Report {
            version: server::version(),
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            cwd: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
            active_sessions: counted.sessions,
            forkptyrouter: self.doors.names().collect(),
            cheap: 0,
            counters: Counters::of(&counted),
        };
        let mut text = serde_json::to_string(&report).unwrap_or_default();
        // The list comes piece by piece, and then the end.
        text.pop();
        text.push_str(",\"sessions\":[");
        text
    }

    /// Some more of the list, and whether that was all.
    pub(super) fn list(&mut self, listing: &mut Listing) -> (String, bool) {
        let some: Vec<(usize, Key)> = self.sessions.from(listing.next).take(AT_ONCE).collect();
        let is_all = some.len() < AT_ONCE;
        let mut text = String::new();
        for (place, key) in some {
            listing.next = place + 1;
            let Some(session) = self.session_as_json(key) else {
                continue;
            };
            if std::mem::replace(&mut listing.is_under_way, true) {
                text.push(',');
            }
            text.push_str(&session);
        }
        if is_all {
            text.push_str("]}");
        } else if text.is_empty() {
            // Nothing of it was known: whoever reads waits for something.
            text.push(' ');
        }
        (text, is_all)
    }

    fn session_as_json(&self, key: Key) -> Option<String> {
        let facts = self.told.of(key)?;
        let attached = self.sessions.get(key)?;
        let is_handed_over = attached.session.is_handed_over();
        let idle = match is_handed_over {
            true => attached.wires.master.idle_for(),
            false => attached.idle_for(),
        };
        let size = attached.wires.master.size();
        let bytes = attached.wires.traffic.as_ref().map(|traffic| traffic.bytes());
        Some(facts.as_json(size, idle, is_handed_over, bytes))
    }
}
