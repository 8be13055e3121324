//! The event loop: waits for events, dispatches them, handles outcomes and timers, turn
//! after turn.

use std::mem::ManuallyDrop;
use std::time::Duration;

use super::fault_domain::FaultDomain;
use super::fault_injection;
use super::gateway_loop::GatewayLoop;
use super::timers::Timer;
use crate::host::host;
use crate::log;
use crate::process::shared_memory;
use fpty::error::{Context as _, Result};
use fpty::proto::EndKind;
use fpty::sys::clock;

/// Serves; returns only when it cannot go on.
///
/// # Errors
/// It cannot wait, or too much has gone wrong.
pub fn run(event_loop: GatewayLoop) -> Result<()> {
    // Where it cannot go on its clients' connections are others' to end.
    let mut event_loop = ManuallyDrop::new(event_loop);
    let event_loop: &mut GatewayLoop = &mut event_loop;
    event_loop.handle_outcomes();
    loop {
        let wait = event_loop.wait();
        host().disarm_watchdog();
        let count = event_loop.cx.poller.wait(wait).context("cannot wait for events")?;
        host().arm_watchdog();
        for index in 0..count {
            let ready = event_loop.cx.poller.ready(index);
            if event_loop.sessions.is_deferrable(ready) {
                event_loop.cx.deferred_events.push(ready);
            } else {
                event_loop.dispatch(ready);
            }
        }
        let streams = !event_loop.cx.deferred_events.is_empty();
        // A key that is typed does not wait for the megabytes of others.
        for index in 0..event_loop.cx.deferred_events.len() {
            event_loop.dispatch(event_loop.cx.deferred_events[index]);
        }
        event_loop.cx.deferred_events.clear();
        // What comes due meanwhile is for the next turn, and no wait comes
        // before that: what had to wait for its turn is looked for in each.
        let now = clock::now();
        event_loop.cx.resume_deferred();
        event_loop.handle_outcomes();
        event_loop.cx.deferred_input.reset_budget();
        event_loop.guarded(FaultDomain::Gateway, |event_loop| {
            fault_injection::point("turn");
            event_loop.teardowns.run_teardowns(&mut event_loop.cx, count);
            event_loop.transitions().with_recorder(|recorder, cx, _| recorder.flush_soon(cx));
            event_loop.cx.schedule_log_flush(false);
        });
        event_loop.handle_outcomes();
        event_loop.cx.end_turn(now, streams);
        while let Some(timer) = event_loop.cx.timers.next(now) {
            event_loop.fire(timer);
        }
        event_loop.clear_timers();
        event_loop.cx.panics.check()?;
    }
}

impl GatewayLoop {
    /// How long to wait for events: not at all where something waits for its
    /// turn. (A timer of no time would be over in the turn that set it.)
    pub(super) fn wait(&self) -> Option<Duration> {
        match self.cx.deferred_input.is_empty() && self.teardowns.is_empty() {
            true => self.cx.timers.wait(clock::now()),
            false => Some(Duration::ZERO),
        }
    }

    /// Deadlines of those who are not there any more are thrown out.
    pub(super) fn clear_timers(&mut self) {
        if !self.cx.timers.needs_pruning() {
            return;
        }
        let (sessions, processes) = (&self.sessions, &self.processes);
        let (commands, control_clients, pending) =
            (&self.commands, &self.control_clients, &self.pending);
        self.cx.timers.retain(|timer| match timer {
            Timer::Session(key, _)
            | Timer::Terminal(key, _)
            | Timer::HttpProbe(key)
            | Timer::Entrust(key) => sessions.has(key),
            Timer::Command(key, _) => commands.has(key),
            Timer::ControlClient(key) => control_clients.has(key),
            Timer::Handshake(key) => pending.has(key),
            Timer::HangUpGrace(pid) => processes.has(pid),
            _ => true,
        });
    }

    /// The gateway is to end: whoever it relays for is told so; the audit's lines are
    /// the master's to write, as of a gateway that was killed.
    pub(super) fn stop(&mut self, instance_stops: bool) -> ! {
        let (why, line) = match instance_stops {
            true => (EndKind::Stopped, "session ended: the instance has stopped"),
            false => (EndKind::Lost, "the gateway was ended by a signal"),
        };
        self.sessions.stop(why, line);
        self.commands.stop(why, line);
        self.registry.iter_mut().for_each(|registry| registry.stop(why, line));
        log::flush();
        self.cx.audit.flush();
        shared_memory::note_told(self.cx.ordinal);
        host().exit(0)
    }
}
