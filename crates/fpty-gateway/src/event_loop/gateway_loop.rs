//! The gateway process: all its parts. The event loop alone knows all of them.

use super::context::Context;
use super::fault_domain::FaultDomain;
use super::fault_injection;
use super::panic_recovery;
use crate::command::commands::Commands;
use crate::connection::handshake::PendingConnections;
use crate::connection::http_probe::HttpProbes;
use crate::control::ControlClients;
use crate::control::attach_elsewhere::AttachSearches;
use crate::control::peers::Peers;
use crate::detach::{self, DetachRegistry};
use crate::observe::recording::Recordings;
use crate::process::process_table::ProcessTable;
use crate::process::supervisor::supervisor_client::RestoredSessions;
use crate::session::relay::Sessions;
use crate::session::teardown::TeardownQueue;
use crate::session::transitions::Transitions;
use fpty::sys::signal::Signals;

/// One gateway process, and its parts.
pub struct GatewayLoop {
    pub(crate) cx: Context,
    pub(crate) pending: PendingConnections,
    pub(crate) sessions: Sessions,
    pub(crate) http_probes: HttpProbes,
    pub(crate) commands: Commands,
    pub(crate) control_clients: ControlClients,
    /// `None`: no session can outlive the gateway.
    pub(crate) registry: Option<Box<DetachRegistry>>,
    pub(crate) teardowns: TeardownQueue,
    pub(crate) processes: ProcessTable,
    pub(crate) children: Signals,
    pub(crate) recorder: Option<Box<Recordings>>,
    pub(crate) peers: Peers,
    pub(crate) attach_searches: AttachSearches,
}

impl GatewayLoop {
    /// The parts that a session's life concerns.
    pub(crate) fn transitions(&mut self) -> Transitions<'_> {
        Transitions {
            cx: &mut self.cx,
            sessions: &mut self.sessions,
            processes: &mut self.processes,
            teardowns: &mut self.teardowns,
            registry: self.registry.as_deref_mut(),
            recorder: self.recorder.as_deref_mut(),
        }
    }

    /// Does something for somebody; if it panics they end.
    pub(crate) fn guarded(&mut self, fault_domain: FaultDomain, body: impl FnOnce(&mut Self)) {
        panic_recovery::guarded(self, fault_domain, body);
    }

    /// Takes up the sessions of a gateway that was here before us.
    pub(crate) fn restore(&mut self, found: RestoredSessions) {
        for (record, held) in found {
            let (id, mut is_done) = (record.id.clone(), false);
            self.guarded(FaultDomain::Nobody, |event_loop| {
                fault_injection::strike("adoption", || record.name.clone());
                event_loop.transitions().restore(record, held);
                is_done = true;
            });
            // Or the next gateway would panic as well.
            if let Some(registry) = self.registry.as_mut().filter(|_| !is_done) {
                registry.unregister(&mut self.cx, id);
            }
            self.handle_outcomes();
        }
        if let Some(registry) = &mut self.registry {
            registry.wake_in(&mut self.cx, detach::RETRY_DELAY);
        }
    }
}
