//! A command begins: its program is started, and its streams and its client are
//! waited for.

use std::time::Duration;

use super::state::Command;
use super::stdio::{Planned, Wires, passed};
use super::{Commanded, Commands};
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
use crate::session::probes::UNANSWERED_LOOK;
use crate::session::timeouts::Timed;
use fpty::backlog::has_free_memory;
use fpty::error::reason;
use fpty::proto::EndKind;
use fpty::sys::child::Pid;
use fpty::sys::peer_process::ReceivedFds;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::Interest;
use fpty::sys::socket::Transport;
use fpty::sys::spawn::Streams;

impl Commands {
    /// Starts a command for a client that has said this.
    pub fn start(&mut self, cx: &mut Context, programs: &mut Programs, opened: Opened) {
        let Opened { newcomer, mut opening, arrived, .. } = opened;
        let shown = opening.request.shown();
        let outcome = cx
            .check_limits(&newcomer)
            .and_then(|()| execute(cx, programs, newcomer.door, &mut opening, arrived));
        let (started, planned) = match outcome {
            Ok(started) => started,
            Err(why) => return cx.turn_back(newcomer, true, why),
        };
        let Newcomer { client, transport, door, seat, origin } = newcomer;
        let relayed = planned.relayed();
        let Planned { wires_input, wires_outputs, ends } = planned;
        // The program has its own; ours would keep the streams open.
        drop(ends);
        let taken: Vec<u8> =
            (b'0'..=b'2').zip(relayed).filter(|(_, relayed)| !relayed).map(|(n, _)| n).collect();
        let wires = Wires {
            client,
            input: wires_input,
            outputs: wires_outputs,
            program: Some(started),
            leader: PidFd::open(started),
            traffic: None,
        };
        let key = self.running.insert(Commanded {
            command: Command::started(std::mem::take(&mut opening.decoder), relayed),
            wires,
            client_interest: Interest::READ,
            interests: [None; 3],
            relayed,
            begun: false,
            refused: false,
            exit: None,
            door,
        });
        cx.faults.made = Some(Whose::Command(key));
        fault_injection::point("command-inserted");
        self.by_program.insert(started, key);
        let Some(commanded) = self.running.get_mut(key) else {
            return;
        };
        commanded.watch_time(cx, key, Duration::ZERO);
        commanded.pends(cx, key, seat.ok().flatten(), origin, shown);
        fault_injection::point("command-noted");
        if let Err(error) = commanded.watch(key, &cx.poller) {
            let why = format!("cannot wait for the command: {}", reason(&error));
            cx.doors.log_refusal(&format!("forkptyrouter: command refused: {why}"));
            let origin = commanded.never_was(cx, key);
            cx.told.refused(origin, Some(&commanded.wires.client), Refusal::Resources, &why);
            commanded.dismiss(EndKind::Refused, &why);
            return self.close(cx, programs, key);
        }
        commanded.look_for_execution(cx, key);
        let Commanded { command, wires, .. } = commanded;
        command.begin(&taken, &opening.input, opening.input_ended, wires);
        if !cx.input.is_empty() {
            cx.hear_command(key, command, wires);
        }
        if let Some(line) = opening.variables.truncation_notice() {
            command.notice(&line, wires);
        }
        if transport == Transport::Tcp {
            cx.after(UNANSWERED_LOOK, Due::Command(key, LifeDue::Unanswered));
        }
        self.settle(cx, programs, key);
    }
}

/// Starts the program that is asked for, on streams that were passed, or pipes.
fn execute(
    cx: &mut Context,
    programs: &mut Programs,
    door: u16,
    opening: &mut Opening,
    arrived: ReceivedFds,
) -> Result<(Pid, Planned), Rejection> {
    let refused = |why: String| Rejection::because(Refusal::Resources, why);
    let program = cx.granted(door, std::mem::take(&mut opening.request))?;
    let rules = cx.doors.rules(door);
    let environment =
        rules.map(|rules| rules.environment_of(&opening.variables)).unwrap_or_default();
    let passed = passed(&opening.offered, arrived)
        .map_err(|error| refused(format!("bad request: {error}")))?;
    // What is passed is not seen, and so could not be told from idleness.
    let is_seen = rules.is_some_and(|rules| rules.command_timeout.is_some());
    let passes = cx.config.pass_stdio && !is_seen;
    let passed = if passes { passed } else { [None, None, None] };
    if !has_free_memory(0) {
        return Err(refused(String::from("out of memory")));
    }
    let planned = Planned::new(passed, program.user())
        .map_err(|error| refused(format!("cannot make a pipe: {}", reason(&error))))?;
    let [input, output, error] = &planned.ends;
    let (Some(input), Some(output), Some(error)) = (input.as_fd(), output.as_fd(), error.as_fd())
    else {
        return Err(refused(String::from("a stream is missing")));
    };
    let streams = Streams::Apart([input, output, error]);
    let pid = cx.spawn(programs, &program, streams, environment, Kind::Command)?;
    fault_injection::point("command-spawned");
    Ok((pid, planned))
}
