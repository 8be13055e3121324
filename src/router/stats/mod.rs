//! The statistics: the JSON of a corerouter and more, and by HTTP the metrics that
//! Prometheus reads. Who asks for them is one of those who ask for lists.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | what is answered |
//! | `request.rs` | what one asks for |
//! | `report.rs` | the JSON, up to its list of sessions |
//! | `prometheus.rs` | the metrics |

mod prometheus;
mod report;
mod request;

use super::context::Context;

pub use request::{Asked, Request};

/// What whoever asks this is answered, and whether a list of sessions follows.
pub fn answer(cx: &Context, asked: Asked) -> (String, bool) {
    let (body, lists) = match asked {
        Asked::Metrics => (prometheus::text(&cx.told.counters.now()), false),
        Asked::Head(_) => (String::new(), false),
        Asked::Not(_, _, why) => (format!("{why}\n"), false),
        Asked::Plain | Asked::Json => (report::report(cx), true),
    };
    (asked.head() + &body, lists)
}
