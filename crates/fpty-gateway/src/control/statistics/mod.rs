//! The statistics: the JSON of a uWSGI corerouter and more, and by HTTP the metrics for
//! Prometheus. Their clients are control clients.
//!
//! | file | subject |
//! | --- | --- |
//! | `statistics_request.rs` | the HTTP request |

pub(crate) mod statistics_request;

use serde::Serialize;

use crate::event_loop::context::Context;
use crate::host::host;
use crate::observe::metrics::counters::CountersSnapshot;
use crate::observe::metrics::prometheus;
use fpty::text::shown;

pub use super::statistics::statistics_request::{Request, StatisticsResponse};

/// The response to a request, and whether a list of sessions follows.
pub fn answer(cx: &Context, response: StatisticsResponse) -> (String, bool) {
    let body = match response {
        StatisticsResponse::Metrics => prometheus::text(&cx.observers.metrics.snapshot()),
        StatisticsResponse::Head(_) => String::new(),
        StatisticsResponse::Error(_, _, why) => format!("{why}\n"),
        StatisticsResponse::Plain | StatisticsResponse::Json => report(cx),
    };
    let lists = matches!(response, StatisticsResponse::Plain | StatisticsResponse::Json);
    (response.head() + &body, lists)
}

/// Report of the C corerouter, under its names, and the counters.
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
fn report(cx: &Context) -> String {
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
