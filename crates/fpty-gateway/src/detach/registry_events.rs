//! Events of the registry's epoll, and deadlines of its sessions: each is handed to the loop, which
//! handles one after the other and guards each against a panic. A session is looked at when one of
//! its deadlines is over, and not before.

use std::time::Duration;

use super::attach_state::{ExpiredDeadline, TimeLimits};
use super::detachable_session::DetachableSession;
use super::registry::{DetachRegistry, POLL_INTERVAL, RETRY_DELAY};
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Token};
use crate::event_loop::timers::Timer;
use crate::observe::audit::EndReason;
use crate::session::relay::Sessions;
use fpty::sys::clock::BootInstant;
use fpty::sys::poll::{Interest, Ready};

impl DetachableSession {
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
        let program = self.state.program().filter(|program| program.status_deadline.is_some());
        let dirty = self.dirty.then(|| BootInstant::now() + RETRY_DELAY);
        let status_deadline = program.map(|_| BootInstant::now() + POLL_INTERVAL);
        let closed = self.state.terminal().and_then(|detached| detached.closed);
        let due = self.state.due(self.time_limits(cx));
        due.into_iter().chain(dirty).chain(status_deadline).chain(closed).min()
    }
}

impl DetachRegistry {
    /// Hands all events of the registry's epoll to the loop.
    pub fn poll_ready(&mut self, cx: &mut Context) {
        let count = self.poller.wait(Some(Duration::ZERO)).unwrap_or(0);
        for index in 0..count {
            cx.push_outcome(Outcome::DetachedReady(self.poller.ready(index)));
        }
    }

    /// Handles one event.
    pub fn handle_event(&mut self, core: &mut Core, ready: Ready) {
        match Token::of(ready.token) {
            Token::Terminal(entry) => self.terminal_ready(core, entry),
            Token::PendingConnection(entry) => self.restored_exited(core, entry),
            Token::Client(viewer) => self.viewer_ready(&mut core.cx, viewer, ready),
            Token::Children => core.cx.push_outcome(Outcome::SupervisorReady),
            _ => {}
        }
    }

    /// Handles what is overdue, session by session, and sets the next timer.
    pub fn run_deadlines(&mut self, cx: &mut Context) {
        let now = BootInstant::now();
        while self.wakeups.last().is_some_and(|next| *next <= now) {
            self.wakeups.pop();
        }
        self.bytes_read = 0;
        if std::mem::take(&mut self.is_throttled) {
            let _ = cx.poller.change(&self.poller, Token::Detached.token(), Interest::READ);
        }
        while let Some((_, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            if let Some(entry) = self.entries.get_mut(key) {
                entry.scheduled = None;
            }
            cx.push_outcome(Outcome::DetachedDeadline(key));
        }
        let next = self.due.first().map(|(at, _)| at.since(now));
        let again = self.supervisor.flush().then_some(RETRY_DELAY).into_iter().chain(next);
        if let Some(wait) = again.chain(self.schedule_feeds(cx)).min() {
            self.wake_in(cx, wait);
        }
    }

    /// Handles a session's deadline.
    pub fn handle_deadline(&mut self, core: &mut Core, key: Key) {
        fault_injection::point("left");
        self.note_confirmed(&core.sessions, key);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let ends = entry.state.program().is_some_and(|program| program.status_deadline.is_some());
        let now = BootInstant::now();
        let closed = entry.state.terminal().and_then(|detached| detached.closed);
        let is_closed = closed.is_some_and(|at| now >= at);
        if entry.dirty {
            self.sync_supervisor(core, key);
        }
        if ends {
            self.check_restored_exit(core, key);
        } else if is_closed {
            self.register_again(core, key);
        }
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match entry.state.overdue(entry.time_limits(&core.cx), now) {
            Some(ExpiredDeadline::DropClient(client)) => {
                core.cx.push_outcome(Outcome::DropClient(client.session))
            }
            Some(ExpiredDeadline::Expired) => self.end_detached(core, key, EndReason::Limit),
            None => self.schedule(&mut core.cx, key),
        }
    }

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
