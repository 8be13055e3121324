//! When sessions that can be left are looked after: each when something of it is due,
//! and none before.

use std::time::Duration;

use super::super::context::Context;
use super::super::fault;
use super::super::outcome::Outcome;
use super::super::programs::Programs;
use super::super::table::{Key, Source};
use super::super::timers::Due;
use super::super::told::Gone;
use super::super::traffic::Sessions;
use super::state::{Overdue, Times};
use super::{Entry, LOOK, Left, SOON};
use fpty::sys::clock::BootInstant;
use fpty::sys::poll::Interest;

impl Entry {
    /// How long it is kept, by the rules of where it began.
    fn times(&self, cx: &Context) -> Times {
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
    pub(super) fn arm(&mut self, cx: &mut Context, key: Key) {
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
    pub(super) fn note_arrival(&mut self, sessions: &Sessions, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let client = entry.state.client().and_then(|client| sessions.get(client.session));
        if client.is_some_and(|attached| !attached.session.is_hidden()) {
            entry.state.has_arrived();
            entry.untold |= entry.secrets.has_arrived();
        }
    }

    /// Does what is due for a session.
    pub fn look_after_entry(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
    ) {
        fault::point("left");
        self.note_arrival(sessions, key);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let ends = entry.state.program().is_some_and(|program| program.ending.is_some());
        let now = BootInstant::now();
        let closed = entry.state.terminal().and_then(|alone| alone.closed);
        let is_closed = closed.is_some_and(|at| now >= at);
        if entry.untold {
            self.tell_store(cx, sessions, programs, key);
        }
        if ends {
            self.adopted_ended(cx, sessions, programs, key);
        } else if is_closed {
            self.alone_reopened(cx, programs, key);
        }
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match entry.state.overdue(entry.times(cx), now) {
            Some(Overdue::LetGo(client)) => cx.then(Outcome::LetClientGo(client.session)),
            Some(Overdue::Ends) => self.end_left(cx, programs, key, Gone::Limit),
            None => self.arm(cx, key),
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

    /// Does what is due, and has the loop look after each session of which something
    /// is.
    pub fn look_after_left(&mut self, cx: &mut Context) {
        let now = BootInstant::now();
        while self.alarms.last().is_some_and(|next| *next <= now) {
            self.alarms.pop();
        }
        self.taken = 0;
        if std::mem::take(&mut self.pauses) {
            let _ = cx.poller.change(&self.poller, Source::Left.token(), Interest::READ);
        }
        while let Some((_, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            if let Some(entry) = self.entries.get_mut(key) {
                entry.armed = None;
            }
            cx.then(Outcome::LookAfterLeft(key));
        }
        let next = self.due.first().map(|(at, _)| at.since(now));
        let again = self.store.flush().then_some(SOON).into_iter().chain(next);
        if let Some(wait) = again.chain(self.watched(cx)).min() {
            self.look_after(cx, wait);
        }
    }
}
