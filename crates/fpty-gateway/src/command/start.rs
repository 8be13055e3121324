//! Start of a command: the program is spawned, its streams and its client are registered.

use std::time::Duration;

use super::command_state::Command;
use super::commands::{Commands, LiveCommand};
use super::stdio::{CommandIo, StdioPlan, passed};
use crate::connection::client_hello::Opening;
use crate::connection::handshake::Opened;
use crate::connection::listeners::Newcomer;
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::subject::Whose;
use crate::event_loop::timers::{Due, LifeDue};
use crate::observe::audit::{Refusal, Rejection};
use crate::process::supervisor::leaders::Kind;
use crate::process::table::Programs;
use crate::session::probes::TCP_STALL_INTERVAL;
use crate::session::timeouts::TimeLimited;
use fpty::backlog::is_free;
use fpty::error::reason;
use fpty::proto::Ending;
use fpty::sys::child::Pid;
use fpty::sys::peer_process::Passed;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::socket::Transport;
use fpty::sys::spawn::Streams;

impl Commands {
    /// Starts the command that a client has requested, or rejects the client.
    pub fn start(&mut self, cx: &mut Context, programs: &mut Programs, opened: Opened) {
        let Opened { newcomer, mut opening, arrived, .. } = opened;
        let shown = opening.request.shown();
        let outcome = cx
            .check_limits(&newcomer)
            .and_then(|()| execute(cx, programs, newcomer.door, &mut opening, arrived));
        let (started, plan) = match outcome {
            Ok(started) => started,
            Err(why) => return cx.reject(newcomer, true, why),
        };
        let Newcomer { client, transport, door, seat, origin } = newcomer;
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
        let key = self.running.insert(LiveCommand {
            command: Command::started(std::mem::take(&mut opening.decoder), relayed),
            io,
            client_interest: Interest::READ,
            interests: [None; 3],
            relayed,
            is_started: false,
            is_rejected: false,
            exit: None,
            door,
        });
        cx.faults.made = Some(Whose::Command(key));
        fault_injection::point("command-inserted");
        self.by_program.insert(started, key);
        let Some(live) = self.running.get_mut(key) else {
            return;
        };
        live.start_timers(cx, key, Duration::ZERO);
        live.set_pending(cx, key, seat.ok().flatten(), origin, shown);
        fault_injection::point("command-noted");
        if let Err(error) = live.register(key, &cx.poller) {
            let why = format!("cannot wait for the command: {}", reason(&error));
            cx.doors.log_refusal(&format!("forkptyrouter: command refused: {why}"));
            let origin = live.rejected(cx, key);
            cx.told.refused(origin, Some(&live.io.client), Refusal::Resources, &why);
            live.terminate(Ending::Refused, &why);
            return self.close(cx, programs, key);
        }
        live.check_started(cx, key);
        let LiveCommand { command, io, .. } = live;
        command.announce_streams(&taken, &opening.input, opening.input_ended, io);
        if !cx.input.is_empty() {
            cx.hear_command(key, command, io);
        }
        if let Some(line) = opening.variables.remark() {
            command.notice(&line, io);
        }
        if transport == Transport::Tcp {
            cx.after(TCP_STALL_INTERVAL, Due::Command(key, LifeDue::Unanswered));
        }
        self.settle(cx, programs, key);
    }
}

/// Spawns the requested program, on passed descriptors or pipes.
fn execute(
    cx: &mut Context,
    programs: &mut Programs,
    door: u16,
    opening: &mut Opening,
    arrived: Passed,
) -> Result<(Pid, StdioPlan), Rejection> {
    let refused = |why: String| Rejection::because(Refusal::Resources, why);
    let program = cx.granted(door, std::mem::take(&mut opening.request))?;
    let rules = cx.doors.rules(door);
    let environment =
        rules.map(|rules| rules.environment_of(&opening.variables)).unwrap_or_default();
    let passed = passed(&opening.offered, arrived)
        .map_err(|error| refused(format!("bad request: {error}")))?;
    // Bytes on passed descriptors are not seen, so they could not be told from idleness.
    let is_seen = rules.is_some_and(|rules| rules.command_timeout.is_some());
    let passes = cx.config.pass_stdio && !is_seen;
    let passed = if passes { passed } else { [None, None, None] };
    if !is_free(0) {
        return Err(refused(String::from("out of memory")));
    }
    let plan = StdioPlan::new(passed, program.user())
        .map_err(|error| refused(format!("cannot make a pipe: {}", reason(&error))))?;
    let [input, output, error] = &plan.child_ends;
    let (Some(input), Some(output), Some(error)) = (input.as_fd(), output.as_fd(), error.as_fd())
    else {
        return Err(refused(String::from("a stream is missing")));
    };
    let streams = Streams::Apart([input, output, error]);
    let pid = cx.spawn(programs, &program, streams, environment, Kind::Command)?;
    fault_injection::point("command-spawned");
    Ok((pid, plan))
}
