//! Start of a command: the program is spawned, its streams and its client are registered.

use std::time::Duration;

use super::command_state::Command;
use super::commands::{Commands, LiveCommand};
use super::stdio::{ChildEnd, CommandIo, StdioPlan, passed};
use crate::connection::client_hello::ClientHello;
use crate::connection::handshake::ClientRequest;
use crate::connection::listeners::Connection;
use crate::event_loop::context::Context;
use crate::event_loop::fault_domain::FaultDomain;
use crate::event_loop::fault_injection;
use crate::event_loop::timers::{SessionTimer, Timer};
use crate::observe::audit::{RejectReason, Rejection};
use crate::process::process_table::ProcessTable;
use crate::process::supervisor::leaders::LeaderKind;
use crate::session::probes::TCP_STALL_INTERVAL;
use crate::session::session_ref::SessionRef;
use crate::session::timeouts::TimeLimited;
use fpty::backlog::has_free_memory;
use fpty::error::reason;
use fpty::proto::EndKind;
use fpty::sys::child::Pid;
use fpty::sys::peer_process::ReceivedFds;
use fpty::sys::pidfd::PidFd;
use fpty::sys::socket::Transport;
use fpty::sys::spawn::Streams;

impl Commands {
    /// Starts the command that a client has requested, or rejects the client.
    pub fn start(
        &mut self,
        cx: &mut Context,
        processes: &mut ProcessTable,
        client_request: ClientRequest,
    ) {
        let ClientRequest { connection, mut hello, received_fds, .. } = client_request;
        let shown = hello.request.shown();
        let outcome = cx
            .check_limits(&connection)
            .and_then(|()| execute(cx, processes, connection.listener, &mut hello, received_fds));
        let (started, plan) = match outcome {
            Ok(started) => started,
            Err(why) => return cx.reject(connection, true, why),
        };
        let Connection { client, transport, listener, permit, origin } = connection;
        let relayed = plan.relayed();
        let StdioPlan { our_input, our_outputs, child_ends } = plan;
        // The program has its own copies; the gateway's would keep the streams open.
        drop(child_ends);
        let taken: Vec<u8> =
            (b'0'..=b'2').zip(relayed).filter(|(_, relayed)| !relayed).map(|(n, _)| n).collect();
        let io = CommandIo {
            client,
            input: our_input,
            outputs: our_outputs,
            program: Some(started),
            leader: PidFd::open(started),
            byte_counts: None,
        };
        let key = self.insert(LiveCommand {
            command: Command::started(std::mem::take(&mut hello.decoder), relayed),
            io,
            client_interest: None,
            interests: [None; 3],
            relayed,
            is_started: false,
            is_rejected: false,
            exit: None,
            listener,
        });
        cx.panics.in_progress = Some(FaultDomain::Command(key));
        fault_injection::point("command-inserted");
        processes.assign(started, SessionRef::Command(key));
        let Some(live) = self.get_mut(key) else {
            return;
        };
        live.start_timers(cx, key, Duration::ZERO);
        live.set_pending(cx, key, permit.unwrap_or_default(), origin, shown);
        fault_injection::point("command-noted");
        if let Err(error) = live.register(key, &cx.poller) {
            let why = format!("cannot wait for the command: {}", reason(&error));
            cx.listeners.log_rejection(&format!("forkptyrouter: command refused: {why}"));
            let origin = live.abort(cx, key);
            cx.rejected(&origin, Some(&live.io.client), RejectReason::Resources, &why);
            live.terminate(EndKind::Refused, &why);
            return self.close(cx, processes, key);
        }
        live.check_started(cx, key);
        let LiveCommand { command, io, .. } = live;
        command.announce_streams(&taken, &hello.input, hello.input_ended, io);
        if !cx.input.is_empty() {
            cx.deliver_command_input(key, command, io);
        }
        if let Some(line) = hello.variables.truncation_notice() {
            command.notice(&line, io);
        }
        if transport == Transport::Tcp {
            cx.schedule(TCP_STALL_INTERVAL, Timer::Command(key, SessionTimer::TcpStalled));
        }
        self.settle(cx, processes, key);
    }
}

/// Spawns the requested program, on passed descriptors or pipes.
fn execute(
    cx: &mut Context,
    processes: &mut ProcessTable,
    listener: u16,
    hello: &mut ClientHello,
    received_fds: ReceivedFds,
) -> Result<(Pid, StdioPlan), Rejection> {
    let refused = |why: String| Rejection::because(RejectReason::Resources, why);
    let program = cx.authorize(listener, std::mem::take(&mut hello.request))?;
    let rules = cx.listeners.rules(listener);
    let environment = rules.map(|rules| rules.environment_of(&hello.variables)).unwrap_or_default();
    let passed = passed(&hello.offered_fds, received_fds)
        .map_err(|error| refused(format!("bad request: {error}")))?;
    // Bytes on passed descriptors are not seen, so they could not be told from idleness.
    let is_seen = rules.is_some_and(|rules| rules.command_timeout.is_some());
    let passes = cx.config.pass_stdio && !is_seen;
    let passed = if passes { passed } else { [None, None, None] };
    if !has_free_memory(0) {
        return Err(refused(String::from("out of memory")));
    }
    let plan = StdioPlan::new(passed, program.user())
        .map_err(|error| refused(format!("cannot make a pipe: {}", reason(&error))))?;
    let streams = Streams::Apart(plan.child_ends.each_ref().map(ChildEnd::as_fd));
    let pid = cx.spawn(processes, &program, streams, environment, LeaderKind::Command)?;
    fault_injection::point("command-spawned");
    Ok((pid, plan))
}
