//! The start of a gateway: its listeners, its parts, and the sessions that its predecessor
//! has left.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::context::Context;
use super::core::Core;
use super::fault_domain::FaultDomain;
use super::fault_injection;
use super::gateway_loop::GatewayLoop;
use super::slab::{Slab, Token};
use crate::config::options::GatewayConfig;
use crate::config::rules::Rules;
use crate::connection::handshake::PendingConnections;
use crate::connection::http_probe::HttpProbes;
use crate::connection::listeners::{Listener, Listeners};
use crate::connection::shared_counts::SharedCounts;
use crate::control::ControlClients;
use crate::control::attach_elsewhere::AttachSearches;
use crate::control::peers::Peers;
use crate::detach::restore_sessions::write_end_line;
use crate::detach::{DetachRegistry, RETRY_DELAY};
use crate::host::{SocketRole, host};
use crate::log::log;
use crate::observe::audit::{self, Audit};
use crate::observe::recording::Recordings;
use crate::process::ipc::Hello;
use crate::process::process_table::{self, ProcessTable};
use crate::process::supervisor::leaders::{self, Leaders};
use crate::process::supervisor::leftovers::OrphanedSessions;
use crate::process::supervisor::supervisor_client::RestoredSessions;
use crate::session::teardown::TeardownQueue;
use fpty::error::{Context as _, Result};
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::signal::{Signals, block, own_dispositions};
use fpty::sys::spawn::Program;

/// A gateway as it begins.
///
/// # Errors
/// A part of the gateway cannot be made: poller, signals, or a socket.
pub fn start(ordinal: usize, config: GatewayConfig) -> Result<GatewayLoop> {
    fpty::sys::forbid_ptrace();
    fpty::sys::stdio::keep_stderr(config.processes > 1);
    if fpty::sys::keeps_root_group() {
        log("forkptyrouter: sessions have the group root: name a gid, not only a uid");
    }
    // The server's own gateways end by SIGTERM and SIGINT; so do we, when the
    // clients were told.
    own_dispositions(&[Signal::SIGTERM, Signal::SIGINT]);
    // A pipe raises it; what became of a write says it all.
    block(Signal::SIGPIPE);
    let limit = fpty::sys::raise_descriptor_limit().ok();
    let rules: Vec<Rc<Rules>> = config.all_rules.iter().cloned().map(Rc::new).collect();
    let processes: Vec<Arc<Program>> =
        rules.iter().map(|rules| Arc::new(process_table::program_for(rules, limit))).collect();
    let poller = Poller::new(config.events as usize).context("cannot create an epoll")?;
    let audit = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT];
    let children = Signals::read_by_signalfd(&audit).context("cannot be told of ended programs")?;
    poller
        .add(children.as_fd(), Token::Children.token(), Interest::READ)
        .context("cannot wait for ended programs")?;

    let mut listeners = Vec::new();
    let mut statistics = None;
    for socket in host().sockets()? {
        let protocol = match socket.role {
            SocketRole::Terminal(protocol) => protocol,
            // One gateway is enough to tell of.
            SocketRole::Statistics if ordinal == 0 => {
                statistics = Some(socket.listener);
                continue;
            }
            SocketRole::Statistics => continue,
        };
        let (Some(rules), Some(program)) = (rules.get(socket.rules), processes.get(socket.rules))
        else {
            continue;
        };
        listeners.push(Listener {
            socket: socket.listener,
            protocol,
            name: socket.name,
            rules: Rc::clone(rules),
            program: Arc::clone(program),
            paused: false,
        });
    }
    let supervisor = leaders::supervisor_of(ordinal);
    let shared_counts = SharedCounts::of(ordinal);
    let (registry, found) = DetachRegistry::new(&config, ordinal, &poller, shared_counts.clone())
        .context("cannot keep detached sessions")?;
    let orphaned = OrphanedSessions::before(ordinal, supervisor);
    let audit = Audit::new(
        &config,
        ordinal,
        listeners
            .iter()
            .map(|listener| audit::AuditSocket::of(&listener.name, &listener.rules))
            .collect(),
    );
    let grace = config.hangup_grace;
    let hello = Hello::of(ordinal, config.processes);
    let recorder = Recordings::new(listeners.iter().map(|listener| &*listener.rules), hello);
    let leaders = Leaders::of(ordinal);
    let listeners = Listeners::new(listeners, statistics);
    let descriptors = limit.map(|limit| limit.now);
    let mut cx =
        Context::new(config, ordinal, shared_counts, listeners, audit, descriptors, poller)?;
    cx.spawner.note_in(leaders.as_ref().map(Leaders::starting_word));
    let mut event_loop = GatewayLoop {
        core: Core {
            cx,
            sessions: Slab::new(),
            processes: ProcessTable::new(leaders, orphaned.grace(grace)),
        },
        pending: PendingConnections::default(),
        http_probes: HttpProbes::default(),
        commands: Slab::new(),
        control_clients: ControlClients::new(host().statistics_by_http()),
        registry,
        teardowns: TeardownQueue::default(),
        children,
        recorder,
        peers: Peers::of(ordinal),
        attach_searches: AttachSearches::default(),
    };
    orphaned.lines.into_iter().for_each(|line| {
        write_end_line(&mut event_loop.core.cx, event_loop.recorder.as_deref_mut(), line)
    });
    restore(&mut event_loop, found);
    if let Some(recorder) = &mut event_loop.recorder {
        recorder.all_restored(&mut event_loop.core.cx);
    }
    event_loop.core.cx.shared_counts.drop_unrestored();
    event_loop.core.processes.killer.schedule_grace(&mut event_loop.core.cx);
    for remark in fpty::sys::missing_features() {
        log(&format!("forkptyrouter: {remark}"));
    }
    event_loop.peers.listen(&event_loop.core.cx);
    event_loop.core.cx.start_accepting();
    if let Some(limit) = limit {
        // A few dozen are for the gateway itself.
        log(&format!(
            "forkptyrouter: up to {} sessions at once ({} descriptors)",
            limit.now.saturating_sub(64) / event_loop.core.cx.config.descriptors_of_a_session(),
            limit.now
        ));
    }
    Ok(event_loop)
}

/// Takes up the sessions of a gateway that was here before.
fn restore(event_loop: &mut GatewayLoop, found: RestoredSessions) {
    for (record, held) in found {
        let (id, mut is_done) = (record.id.clone(), false);
        event_loop.guarded(FaultDomain::Nobody, |event_loop| {
            fault_injection::panic_if_requested("adoption", || record.name.clone());
            event_loop.transitions().restore(record, held);
            is_done = true;
        });
        // Or the next gateway would panic as well.
        if let Some(registry) = event_loop.registry.as_mut().filter(|_| !is_done) {
            registry.unregister(&mut event_loop.core.cx, id);
        }
        event_loop.handle_outcomes();
    }
    if let Some(registry) = &mut event_loop.registry {
        registry.wake_in(&mut event_loop.core.cx, RETRY_DELAY);
    }
}
