//! Observers of sessions and commands. Each event ([`event::Event`]) is emitted in
//! `session/lifecycle.rs`, and told to the observers here.
//!
//! | file | subject |
//! | --- | --- |
//! | `audit/` | audit: lines for the log, and what is known of each session |
//! | `event.rs` | events of a session, and the trait of their observers |
//! | `metrics/` | counters of the gateways, and the Prometheus format |
//! | `recording/` | recordings, and the process that writes them |
//!
//! A new observer is a file here that implements [`Observer`], and three lines in this one: a field
//! of [`Observers`], made in [`Observers::new`], and its place in [`Observers::list`]. An option of
//! its own stands in `config/options.rs`. docs/architecture.md has an example.
//!
//! Limits and requested commands are observers, too, told first. The recorder is none: it needs the
//! sessions' descriptors, so the loop tells it by outcomes (`session/transitions.rs`).

pub mod audit;
pub(crate) mod event;
pub(crate) mod metrics;
pub mod recording;

use crate::config::options::GatewayConfig;
use crate::observe::audit::Audit;
use crate::observe::event::{Event, Observer};
use crate::observe::metrics::counters::Counters;

/// Observers of a gateway's sessions.
pub struct Observers {
    /// Counters, which all gateways share.
    pub metrics: Counters,
}

impl Observers {
    /// The observers of the gateway of this number. The configuration has the options of those
    /// with options of their own.
    pub fn new(_config: &GatewayConfig, ordinal: usize) -> Self {
        Self { metrics: Counters::of_gateway(ordinal) }
    }

    /// All observers, in the order in which they are told.
    fn list(&mut self) -> impl Iterator<Item = &mut dyn Observer> {
        [&mut self.metrics as &mut dyn Observer].into_iter()
    }

    /// Tells all observers of an event: `first` those whose state follows the sessions, then the
    /// list, then the audit, which keeps what is known of the session.
    pub fn tell<'a>(
        &'a mut self,
        event: &Event<'_>,
        first: [&'a mut dyn Observer; 2],
        audit: &mut Audit,
    ) {
        let info = event.session().and_then(|session| audit.of(session));
        for observer in first.into_iter().chain(self.list()) {
            observer.on_event(event, info);
        }
        audit.on_event(event);
    }
}
