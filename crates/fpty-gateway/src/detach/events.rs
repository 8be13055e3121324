//! What happens to sessions that can be left, and what is due: each is told to the
//! loop, which has one after the other seen to, under a guard of its own.

use std::time::Duration;

use super::attach_state::Overdue;
use super::registry::{Left, SOON};
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Source};
use crate::observe::audit::Gone;
use crate::process::table::Programs;
use crate::session::relay::Sessions;
use fpty::sys::clock::BootInstant;
use fpty::sys::poll::{Interest, Ready};

impl Left {
    /// Something happened to what is waited for here.
    pub fn left_ready(&mut self, cx: &mut Context) {
        let count = self.poller.wait(Some(Duration::ZERO)).unwrap_or(0);
        for index in 0..count {
            cx.then(Outcome::LeftReady(self.poller.ready(index)));
        }
    }

    /// What that was.
    pub fn one_ready(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        ready: Ready,
    ) {
        match Source::of(ready.token) {
            Source::Terminal(entry) => self.alone_ready(cx, programs, entry),
            Source::Caller(entry) => self.adopted_is_over(cx, sessions, programs, entry),
            Source::Client(watcher) => self.watcher_ready(cx, watcher, ready),
            Source::Children => cx.then(Outcome::SupervisorReady),
            _ => {}
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

    /// Does what is due for a session.
    pub fn look_after_entry(
        &mut self,
        cx: &mut Context,
        sessions: &mut Sessions,
        programs: &mut Programs,
        key: Key,
    ) {
        fault_injection::point("left");
        self.note_arrival(sessions, key);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let ends = entry.state.program().is_some_and(|program| program.ending.is_some());
        let now = BootInstant::now();
        let closed = entry.state.terminal().and_then(|alone| alone.closed);
        let is_closed = closed.is_some_and(|at| now >= at);
        if entry.untold {
            self.sync_supervisor(cx, sessions, programs, key);
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
            Some(Overdue::Ends) => self.end_detached(cx, programs, key, Gone::Limit),
            None => self.arm(cx, key),
        }
    }
}
