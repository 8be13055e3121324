//! When sessions that can be left are looked after: each when something of it is due,
//! and none before.

use std::time::Duration;

use super::attach_state::Times;
use super::registry::{LOOK, Left, SOON};
use super::registry_entry::Entry;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Due;
use crate::session::relay::Sessions;
use fpty::sys::clock::BootInstant;

impl Entry {
    /// How long it is kept, by the rules of where it began.
    pub(crate) fn times(&self, cx: &Context) -> Times {
        let rules = cx.doors.rules(self.door);
        Times {
            alone: rules.map_or(Duration::MAX, |rules| rules.detach.time),
            end: rules.and_then(|rules| rules.max_time).map(|whole| self.since.boot + whole),
        }
    }

    /// When it is to be looked after next.
    fn due(&self, cx: &Context) -> Option<BootInstant> {
        let ending = self.state.program().and_then(|program| program.ending);
        let untold = self.untold.then(|| BootInstant::now() + SOON);
        let ending = ending.map(|_| BootInstant::now() + LOOK);
        let closed = self.state.terminal().and_then(|alone| alone.closed);
        let due = self.state.due(self.times(cx));
        due.into_iter().chain(untold).chain(ending).chain(closed).min()
    }
}

impl Left {
    /// Has a session looked after when something of it is due.
    pub(crate) fn arm(&mut self, cx: &mut Context, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let due = entry.due(cx);
        if due == entry.armed {
            return;
        }
        if let Some(before) = std::mem::replace(&mut entry.armed, due) {
            self.due.remove(&(before, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
            self.look_after(cx, due.since(BootInstant::now()));
        }
    }

    /// A client that has come may have been told to go on: it has answered, and
    /// knows its secret.
    pub(crate) fn note_arrival(&mut self, sessions: &Sessions, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let client = entry.state.client().and_then(|client| sessions.get(client.session));
        if client.is_some_and(|attached| !attached.session.is_awaiting_go()) {
            entry.state.arrive();
            entry.untold |= entry.secrets.settle();
        }
    }

    /// Has it looked after what is due after so long, or before.
    pub fn look_after(&mut self, cx: &mut Context, wait: Duration) {
        let at = BootInstant::now() + wait;
        if self.alarms.last().is_none_or(|next| at < *next) {
            self.alarms.push(at);
            cx.after(wait, Due::Left);
        }
    }
}
