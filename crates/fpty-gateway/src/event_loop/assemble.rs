//! What there is when a gateway begins: its sockets, its parts, and what a
//! gateway that was here before has left.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::context::{Context, Made};
use super::run::GatewayLoop;
use super::slab::{Source, Table};
use crate::command::commands::Commands;
use crate::config::gateway_config::Router;
use crate::config::rules::Rules;
use crate::connection::handshake::Callers;
use crate::connection::http_probe::Beginnings;
use crate::connection::lingering_close::Closing;
use crate::connection::listeners::{Door, Doors};
use crate::connection::shared_counts::Tallies;
use crate::control::Inquirers;
use crate::control::attach_elsewhere::Seekers;
use crate::control::peers::Siblings;
use crate::detach::DetachRegistry;
use crate::host::{SocketRole, host};
use crate::log::log;
use crate::observe::audit::{self, Told};
use crate::observe::recording::Recorder;
use crate::process::ipc::Hello;
use crate::process::supervisor::after_gateway::LeftBehind;
use crate::process::supervisor::leaders::{self, Leaders};
use crate::process::table::{self, Programs};
use crate::session::teardown::TeardownQueue;
use fpty::error::{Context as _, Result};
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::signal::{Signals, block, own_dispositions};
use fpty::sys::spawn::{Program, Spawner};

/// A gateway as it begins.
///
/// # Errors
/// It cannot wait for anything.
pub fn assemble(ordinal: usize, config: Router) -> Result<GatewayLoop> {
    fpty::sys::forbid_inspection();
    fpty::sys::stdio::stderr_stays(config.processes > 1);
    if fpty::sys::has_root_group_only() {
        log("forkptyrouter: sessions have the group root: name a gid, not only a uid");
    }
    // The server's own gateways end by SIGTERM and SIGINT; so do we, when the
    // clients were told.
    own_dispositions(&[Signal::SIGTERM, Signal::SIGINT]);
    // A pipe raises it; what became of a write says it all.
    block(Signal::SIGPIPE);
    let limit = fpty::sys::raise_descriptor_limit().ok();
    let rules: Vec<Rc<Rules>> = config.all_rules().iter().cloned().map(Rc::new).collect();
    let programs: Vec<Arc<Program>> =
        rules.iter().map(|rules| Arc::new(table::of_rules(rules, limit))).collect();
    let poller = Poller::new(config.events as usize).context("cannot create an epoll")?;
    let told = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT];
    let children =
        Signals::instead_of_handlers(&told).context("cannot be told of ended programs")?;
    poller
        .add(children.as_fd(), Source::Children.token(), Interest::READ)
        .context("cannot wait for ended programs")?;

    let mut doors = Vec::new();
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
        let (Some(rules), Some(program)) = (rules.get(socket.rules), programs.get(socket.rules))
        else {
            continue;
        };
        doors.push(Door {
            listener: socket.listener,
            protocol,
            name: socket.name,
            rules: Rc::clone(rules),
            program: Arc::clone(program),
            rests: false,
        });
    }
    let keeper = leaders::keeper_of(ordinal);
    let tallies = Tallies::of(ordinal);
    let (registry, found) = DetachRegistry::new(&config, ordinal, &poller, tallies.clone())
        .context("cannot keep sessions that are left")?;
    let left_behind = LeftBehind::before(ordinal, keeper);
    let told = Told::new(
        &config,
        ordinal,
        doors.iter().map(|door| audit::Socket::of(&door.name, &door.rules)).collect(),
    );
    let grace = config.hangup_grace;
    let hello = Hello::of(ordinal, config.processes);
    let recorder = Recorder::new(doors.iter().map(|door| &*door.rules), hello);
    let leaders = Leaders::of(ordinal);
    let mut spawner = Spawner::new()?;
    spawner.note_in(leaders.as_ref().map(Leaders::starting));
    let mut router = GatewayLoop {
        cx: Context::new(Made {
            tallies,
            ordinal,
            config,
            spawner,
            doors: Doors::new(doors, statistics),
            told,
            closing: Closing::new(limit.map(|limit| limit.now)),
            poller,
        }),
        callers: Callers::default(),
        sessions: Table::new(),
        beginnings: Beginnings::default(),
        commands: Commands::default(),
        inquirers: Inquirers::new(host().statistics_by_http()),
        registry,
        teardowns: TeardownQueue::default(),
        programs: Programs::new(leaders, left_behind.grace(grace)),
        children,
        recorder,
        siblings: Siblings::of(ordinal),
        seekers: Seekers::default(),
    };
    left_behind.lines.into_iter().for_each(|line| router.transitions().tell_last_line(line));
    router.restore(found);
    if let Some(recorder) = &mut router.recorder {
        recorder.took_up(&mut router.cx);
    }
    router.cx.tallies.free_rest();
    router.programs.killing.wait_for_grace(&mut router.cx);
    for remark in fpty::sys::what_is_missing() {
        log(&format!("forkptyrouter: {remark}"));
    }
    router.siblings.hear(&router.cx);
    router.cx.open_doors();
    if let Some(limit) = limit {
        // A few dozen are for the gateway itself.
        log(&format!(
            "forkptyrouter: up to {} sessions at once ({} descriptors)",
            limit.now.saturating_sub(64) / router.cx.config.descriptors_of_a_session(),
            limit.now
        ));
    }
    Ok(router)
}
