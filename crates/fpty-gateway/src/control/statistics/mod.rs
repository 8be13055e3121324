//! The statistics: the JSON of a corerouter and more, and by HTTP the metrics that
//! Prometheus reads. Who asks for them is one of those who ask for lists.
//!
//! | file | subject |
//! | --- | --- |
//! | `report.rs` | the JSON, up to its list of sessions |
//! | `request.rs` | what one asks for |

pub(crate) mod report;
pub(crate) mod request;

use crate::event_loop::context::Context;

pub use super::statistics::request::{Request, StatisticsResponse};

/// What whoever asks this is answered, and whether a list of sessions follows.
pub fn answer(cx: &Context, response: StatisticsResponse) -> (String, bool) {
    let (body, lists) = match response {
        StatisticsResponse::Metrics => {
            (crate::observe::metrics::prometheus::text(&cx.audit.counters.snapshot()), false)
        }
        StatisticsResponse::Head(_) => (String::new(), false),
        StatisticsResponse::Error(_, _, why) => (format!("{why}\n"), false),
        StatisticsResponse::Plain | StatisticsResponse::Json => (report::report(cx), true),
    };
    (response.head() + &body, lists)
}
