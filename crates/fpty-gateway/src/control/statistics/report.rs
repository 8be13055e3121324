//! The statistics as JSON, up to the list of sessions: a corerouter's names, and
//! what was counted.

use serde::Serialize;

use crate::event_loop::context::Context;
use crate::host::host;
use crate::observe::metrics::counters::CountersSnapshot;
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
    counters: &'a CountersSnapshot,
}

/// The report, up to the list of sessions.
pub fn report(cx: &Context) -> String {
    let counted = cx.observers.metrics.snapshot();
    let report = Report {
        version: host().version(),
        pid: std::process::id(),
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        cwd: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
        active_sessions: counted.sessions,
        forkptyrouter: cx.listeners.names().collect(),
        cheap: 0,
        counters: &counted,
    };
    // JSON leaves some characters as they are that a terminal obeys.
    let mut text = shown(&serde_json::to_string(&report).unwrap_or_default()).into_owned();
    // The list comes piece by piece, and then the end.
    text.pop();
    text.push_str(",\"sessions\":[");
    text
}
