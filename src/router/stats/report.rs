//! The statistics as JSON, up to the list of sessions: a corerouter's names, and
//! what was counted.

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::router::context::Context;
use crate::router::told::counters::Counted;
use crate::router::told::{Gone, Refusal};
use crate::uwsgi::server;
use fpty::text::shown;

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

/// The report, up to the list of sessions.
pub fn report(cx: &Context) -> String {
    let counted = cx.told.counters.now();
    let report = Report {
        version: server::version(),
        pid: std::process::id(),
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        cwd: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        active_sessions: counted.sessions,
        forkptyrouter: cx.doors.names().collect(),
        cheap: 0,
        counters: Counters::of(&counted),
    };
    // JSON leaves some characters as they are that a terminal obeys.
    let mut text = shown(&serde_json::to_string(&report).unwrap_or_default()).into_owned();
    // The list comes piece by piece, and then the end.
    text.pop();
    text.push_str(",\"sessions\":[");
    text
}
