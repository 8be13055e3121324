//! The statistics: the JSON of a uWSGI corerouter and more, and by HTTP the metrics for
//! Prometheus. Their clients are control clients.
//!
//! | file | subject |
//! | --- | --- |
//! | `statistics_request.rs` | the HTTP request |
//! | `report.rs` | the JSON, up to its list of sessions |

pub(crate) mod report;
pub(crate) mod statistics_request;

use crate::event_loop::context::Context;

pub use super::statistics::statistics_request::{Request, StatisticsResponse};

/// What whoever asks this is answered, and whether a list of sessions follows.
pub fn answer(cx: &Context, response: StatisticsResponse) -> (String, bool) {
    let (body, lists) = match response {
        StatisticsResponse::Metrics => {
            (crate::observe::metrics::prometheus::text(&cx.observers.metrics.snapshot()), false)
        }
        StatisticsResponse::Head(_) => (String::new(), false),
        StatisticsResponse::Error(_, _, why) => (format!("{why}\n"), false),
        StatisticsResponse::Plain | StatisticsResponse::Json => (report::report(cx), true),
    };
    (response.head() + &body, lists)
}
