//! Panic recovery of the loop: which part ends for which fault domain.

use std::collections::HashSet;

use super::fault_domain::{FaultDomain, SessionRef};
use super::fault_injection;
use super::gateway_loop::GatewayLoop;
use super::panic_recovery::{INTERNAL_ERROR, PanicRecovery, PanicState, RETRY_DELAY};
use super::timers::Timer;
use crate::observe::audit::{EndReason, RejectReason, Rejection};
use fpty::sys::child::Pid;
use fpty::sys::clock;

impl GatewayLoop {
    /// Programs that run for nobody lose their client.
    pub(super) fn hang_up_orphans(&mut self) {
        let registry = self.registry.iter().flat_map(|registry| registry.processes());
        let owned: HashSet<Pid> =
            self.commands.processes().chain(registry).chain(self.teardowns.processes()).collect();
        let sessions = &self.sessions;
        for program in self.processes.orphans(|key| sessions.has(key), &owned) {
            self.processes.hang_up_group(&mut self.cx, program);
        }
    }
}

impl PanicRecovery for GatewayLoop {
    fn panics(&mut self) -> &mut PanicState {
        &mut self.cx.panics
    }

    /// Ends whom a panic was about.
    fn end_fault_domain(&mut self, fault_domain: FaultDomain) {
        fault_injection::point("end");
        let (cx, processes) = (&mut self.cx, &mut self.processes);
        match fault_domain {
            FaultDomain::Session(key) => self.sessions.end_panicked(cx, processes, key),
            FaultDomain::PendingSession(key) => {
                self.sessions.forget_reaped(processes, key);
                let why = Rejection::because(RejectReason::Resources, INTERNAL_ERROR);
                self.sessions.reject(cx, processes, key, &why);
            }
            FaultDomain::Command(key) => {
                self.commands.end_panicked(cx, processes, key, INTERNAL_ERROR)
            }
            FaultDomain::PendingConnection(key) => {
                drop(self.pending.reject(cx, key, INTERNAL_ERROR))
            }
            FaultDomain::ControlClient(key) => self.control_clients.end(cx, key, INTERNAL_ERROR),
            FaultDomain::AttachSearch(key) => self.attach_searches.end(cx, key, INTERNAL_ERROR),
            FaultDomain::Detached(key) => {
                match self.registry.as_ref().and_then(|registry| registry.session_of(key)) {
                    Some(session) => self.sessions.end_panicked(cx, processes, session),
                    None => self.transitions().end_detached(key, EndReason::Lost),
                }
            }
            FaultDomain::Viewer(key) => {
                self.transitions().with_registry(|registry, cx, _, _| registry.end_viewer(cx, key))
            }
            FaultDomain::LingeringClose(key) => cx.lingering.discard(key),
            FaultDomain::Nobody => {}
            FaultDomain::Listener => cx.pause_accepting(),
            FaultDomain::Gateway => {
                cx.panics.count_unattributed(clock::now());
                // Whatever was cut short, and waits for nothing else.
                cx.pause_accepting();
                cx.schedule(RETRY_DELAY, Timer::Reap);
                cx.schedule(RETRY_DELAY, Timer::Kill);
                self.transitions()
                    .with_registry(|registry, cx, _, _| registry.wake_in(cx, RETRY_DELAY));
            }
        }
    }

    /// It could not be ended: nobody hears of it any more.
    fn discard_fault_domain(&mut self, fault_domain: FaultDomain) {
        match fault_domain {
            FaultDomain::Session(key) | FaultDomain::PendingSession(key) => {
                drop(self.sessions.remove(key))
            }
            FaultDomain::Command(key) => self.commands.discard(key),
            FaultDomain::PendingConnection(key) => self.pending.discard(key),
            FaultDomain::ControlClient(key) => self.control_clients.discard(key),
            FaultDomain::AttachSearch(key) => self.attach_searches.discard(key),
            FaultDomain::Detached(key) | FaultDomain::Viewer(key) => {
                if let Some(registry) = &mut self.registry {
                    registry.discard(key, matches!(fault_domain, FaultDomain::Viewer(_)));
                }
            }
            FaultDomain::LingeringClose(key) => self.cx.lingering.discard(key),
            FaultDomain::Nobody => {}
            FaultDomain::Listener | FaultDomain::Gateway => self.cx.panics.set_fatal(),
        }
    }

    /// What belongs to nobody is given back, and what says that somebody is
    /// there who is not.
    fn clean_up(&mut self) {
        self.cx.clear();
        self.transitions().with_registry(|registry, cx, sessions, processes| {
            registry.drop_orphaned_entries(cx, sessions, processes);
        });
        let (sessions, commands, registry) = (&self.sessions, &self.commands, &self.registry);
        let exists = |session_ref: SessionRef| match session_ref {
            SessionRef::Session(key) => sessions.has(key),
            SessionRef::Detached(key) => {
                registry.as_ref().is_some_and(|registry| registry.has_entry(key))
            }
            SessionRef::Command(key) => commands.has(key),
        };
        let gone: Vec<_> =
            self.cx.audit.subjects().filter(|session_ref| !exists(*session_ref)).collect();
        for session_ref in gone {
            self.cx.lost(session_ref);
        }
        self.cx.requested_commands.retain(exists);
        self.cx.limits.retain(exists);
        if let Some(recorder) = &mut self.recorder {
            recorder.retain();
        }
        self.hang_up_orphans();
    }
}
