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

pub use super::statistics::request::{Asked, Request};

/// What whoever asks this is answered, and whether a list of sessions follows.
pub fn answer(cx: &Context, asked: Asked) -> (String, bool) {
    let (body, lists) = match asked {
        Asked::Metrics => {
            (crate::observe::metrics::prometheus::text(&cx.told.counters.now()), false)
        }
        Asked::Head(_) => (String::new(), false),
        Asked::Not(_, _, why) => (format!("{why}\n"), false),
        Asked::Plain | Asked::Json => (report::report(cx), true),
    };
    (asked.head() + &body, lists)
}
