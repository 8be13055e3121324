//! Deadlines of detachable sessions: each session is looked at when one of its deadlines is over,
//! and not before.

use std::time::Duration;

use super::attach_state::TimeLimits;
use super::registry::{DetachRegistry, POLL_INTERVAL, RETRY_DELAY};
use super::registry_entry::RegistryEntry;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timer;
use crate::session::relay::Sessions;
use fpty::sys::clock::BootInstant;

impl RegistryEntry {
    /// Time limits, by the rules of the session's socket.
    pub(crate) fn time_limits(&self, cx: &Context) -> TimeLimits {
        let rules = cx.listeners.rules(self.listener);
        TimeLimits {
            detached: rules.map_or(Duration::MAX, |rules| rules.detach.time),
            end: rules.and_then(|rules| rules.max_time).map(|whole| self.since.boot + whole),
        }
    }

    /// The session's next deadline.
    fn next_deadline(&self, cx: &Context) -> Option<BootInstant> {
        let status_deadline = self.state.program().and_then(|program| program.status_deadline);
        let dirty = self.dirty.then(|| BootInstant::now() + RETRY_DELAY);
        let status_deadline = status_deadline.map(|_| BootInstant::now() + POLL_INTERVAL);
        let closed = self.state.terminal().and_then(|detached| detached.closed);
        let due = self.state.due(self.time_limits(cx));
        due.into_iter().chain(dirty).chain(status_deadline).chain(closed).min()
    }
}

impl DetachRegistry {
    /// Schedules the session's next deadline.
    pub(crate) fn schedule(&mut self, cx: &mut Context, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let due = entry.next_deadline(cx);
        if due == entry.scheduled {
            return;
        }
        if let Some(before) = std::mem::replace(&mut entry.scheduled, due) {
            self.due.remove(&(before, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
            self.wake_in(cx, due.since(BootInstant::now()));
        }
    }

    /// Confirms the attach of a client that was sent GO: it has answered, and knows its secret.
    pub(crate) fn note_confirmed(&mut self, sessions: &Sessions, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let client = entry.state.client().and_then(|client| sessions.get(client.session));
        if client.is_some_and(|attached| !attached.session.is_awaiting_go()) {
            entry.state.confirm_attach();
            entry.dirty |= entry.secrets.confirm();
        }
    }

    /// Sets the loop's timer, unless it fires before that time already.
    pub fn wake_in(&mut self, cx: &mut Context, wait: Duration) {
        let at = BootInstant::now() + wait;
        if self.wakeups.last().is_none_or(|next| at < *next) {
            self.wakeups.push(at);
            cx.schedule(wait, Timer::Detached);
        }
    }
}
