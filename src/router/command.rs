//! Commands without a terminal: three streams, passed to the program where
//! they can be, and else relayed through pipes.
//!
//! | file | subject |
//! | --- | --- |
//! | `command.rs` | a command from its start to its end |
//! | `wires.rs` | its client and its streams |
//! | `told.rs` | what is told of it |

mod told;
mod wires;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::admission::{BY_AN_OPERATOR, LIMIT_COMES, NOTICE, TIME_IS_OVER};
use super::attach::not_executable;
use super::closing::LastWord;
use super::context::{BUFFER, Context};
use super::doors::Newcomer;
use super::fault;
use super::greet::Opened;
use super::idle::{ENDS_SOON, Idleness, LAST_WORD};
use super::outcome::Outcome;
use super::programs::Programs;
use super::quiet::{UNANSWERED, UNANSWERED_LOOK};
use super::supervisor::leaders::Kind;
use super::table::{Key, Source, Table};
use super::timers::{CommandDue, Due};
use super::told::{Gone, Refusal, Rejection};
use super::whose::Whose;
use crate::session::Verdict;
use crate::session::command::Command;
use crate::session::greeting::Opening;
use fpty::ended::of_exit;
use fpty::error::reason;
use fpty::proto::{Ended, Ending, HEADER};
use fpty::relay::is_free;
use fpty::sys::Read;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::BootInstant;
use fpty::sys::peer::Passed;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::socket::Transport;
use fpty::sys::spawn::{self, Started};

use wires::{Planned, Wires, passed};

/// The commands without a terminal of a gateway.
#[derive(Default)]
pub struct Commands {
    running: Table<Commanded>,
    /// By their program, until it was reaped.
    by_program: HashMap<Pid, Key>,
}

impl Commands {
    /// One of whose client more is to be heard.
    pub fn hears_more(&mut self, key: Key) -> Option<(&mut Command, &mut Wires)> {
        self.running.get_mut(key).map(|one| (&mut one.command, &mut one.wires))
    }

    /// Whether this one has not ended.
    pub fn has(&self, key: Key) -> bool {
        self.running.has(key)
    }

    /// The programs of those that there are.
    pub fn programs(&self) -> impl Iterator<Item = Pid> {
        let theirs = self.by_program.iter().filter(|(_, key)| self.running.has(**key));
        theirs.map(|(program, _)| *program)
    }

    /// One is closed as it is.
    pub fn drop_one(&mut self, key: Key) {
        self.running.remove(key);
        self.by_program.retain(|_, other| *other != key);
    }
}

/// How soon it is looked again whether a program was executed that takes long
/// for it.
const EXECUTED: Duration = Duration::from_millis(10);

/// A command and what it is connected to.
pub struct Commanded {
    pub(super) command: Command,
    pub(super) wires: Wires,
    /// What the poller was told of the client.
    client_interest: Interest,
    /// What it was told of the streams; `None`: it does not have them.
    interests: [Option<Interest>; 3],
    /// Which streams come through here.
    relayed: [bool; 3],
    /// Its program was executed, and that was told.
    pub(super) begun: bool,
    /// Its program could not be executed, and that was told.
    pub(super) refused: bool,
    /// How its program ended.
    pub(super) exit: Option<Gone>,
    /// Where its client came in.
    door: u16,
}

impl Commands {
    /// Starts a command for a client that has said this.
    pub fn start(&mut self, cx: &mut Context, programs: &mut Programs, opened: Opened) {
        let Opened { newcomer, mut opening, arrived, .. } = opened;
        let shown = opening.request.shown();
        let outcome = cx
            .check_limits(&newcomer)
            .and_then(|()| start(cx, programs, newcomer.door, &mut opening, arrived));
        let (started, planned) = match outcome {
            Ok(started) => started,
            Err(why) => return cx.turn_back(newcomer, true, why),
        };
        let Newcomer { client, transport, door, seat, origin } = newcomer;
        let Planned { wires_input, wires_outputs, ends, relayed } = planned;
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
        fault::point("command-inserted");
        if let Some(limit) = cx.doors.rules(door).and_then(|rules| rules.max_time) {
            if limit > NOTICE {
                cx.after(limit - NOTICE, Due::Command(key, CommandDue::LimitSoon));
            }
            cx.after(limit, Due::Command(key, CommandDue::Limit));
        }
        self.by_program.insert(started, key);
        let Some(commanded) = self.running.get_mut(key) else {
            return;
        };
        commanded.pends(cx, key, seat.ok().flatten(), origin, shown);
        commanded.watch_idleness(cx, key);
        fault::point("command-noted");
        if let Err(error) = commanded.watch(key, &cx.poller) {
            let why = format!("cannot wait for the command: {}", reason(&error));
            cx.doors.log_refusal(&format!("forkptyrouter: command refused: {why}"));
            let origin = commanded.never_was(cx, key);
            cx.told.refused(&origin, Some(&commanded.wires.client), Refusal::Resources, &why);
            commanded.command.dismiss(Ending::Refused, &why, &mut commanded.wires);
            return self.close(cx, programs, key);
        }
        self.look_for_execution(cx, key);
        let Some(Commanded { command, wires, .. }) = self.running.get_mut(key) else {
            return;
        };
        command.begin(&taken, &opening.input, opening.input_ended, wires);
        if !cx.input.is_empty() {
            cx.hear_command(key, command, wires);
        }
        if let Some(line) = opening.variables.remark() {
            command.notice(&line, wires);
        }
        if transport == Transport::Tcp {
            cx.after(UNANSWERED_LOOK, Due::Command(key, CommandDue::Unanswered));
        }
        self.settle(cx, programs, key);
    }

    /// Does what is due for a command.
    pub fn comes_due(
        &mut self,
        cx: &mut Context,
        programs: &mut Programs,
        key: Key,
        due: CommandDue,
    ) {
        match due {
            CommandDue::Idle => self.idle(cx, key, false),
            CommandDue::IdleSoon => self.idle(cx, key, true),
            CommandDue::Unanswered => self.unanswered(cx, key),
            CommandDue::Dismissed => drop(self.end(cx, programs, key)),
            CommandDue::Executed => self.look_for_execution(cx, key),
            CommandDue::LimitSoon => self.limit_comes(cx, key),
            CommandDue::Limit => self.limit(cx, key),
        }
    }

    /// A command has begun when its program was executed.
    fn look_for_execution(&mut self, cx: &mut Context, key: Key) {
        let Some(commanded) = self.running.get_mut(key) else {
            return;
        };
        let program = commanded.wires.program;
        if !commanded.begun && program.is_some_and(|program| !cx.spawner.has_executed(program)) {
            return cx.after(EXECUTED, Due::Command(key, CommandDue::Executed));
        }
        commanded.has_begun(cx, key);
    }

    /// The client of a command said something, takes output again, or left.
    pub fn client_ready(&mut self, cx: &mut Context, key: Key, ready: Ready) {
        let Some(Commanded { command, wires, .. }) = self.running.get_mut(key) else {
            return;
        };
        if ready.write {
            command.client_writable(wires);
        }
        if command.is_behind() {
            // It is read again when that was heard, to its end.
        } else if ready.read {
            match wires.client.read_into(&mut cx.input) {
                Read::Bytes(_) => {
                    fault::strike("command", || &cx.input);
                    cx.hear_command(key, command, wires);
                }
                // It has a packet to say that there is no more input.
                Read::End | Read::Gone => command.client_left(),
                Read::Blocked => {}
            }
        } else if ready.hang_up {
            command.client_left();
        }
    }

    /// One of a command's streams has something, takes something, or was
    /// closed by the program.
    pub fn stream_ready(&mut self, cx: &mut Context, key: Key, number: u8, ready: Ready) {
        let Some(commanded) = self.running.get_mut(key) else {
            return;
        };
        let Commanded { command, wires, .. } = commanded;
        match number {
            0 if ready.hang_up => command.input_closed(wires),
            0 => command.input_writable(wires),
            _ if command.room(number) > 0 => {
                commanded.read_output(number, &mut cx.buffer[..]);
            }
            // Told again and again, asked for or not.
            _ => commanded.forget(number, &cx.poller),
        }
    }

    /// The program of a command has ended, or could not be executed.
    pub fn program_ended(
        &mut self,
        cx: &mut Context,
        key: Key,
        exit: Exit,
        failure: Option<Ended>,
    ) {
        let Some(commanded) = self.running.get_mut(key) else {
            return;
        };
        if let Some(program) = commanded.wires.program.take() {
            self.by_program.remove(&program);
        }
        match &failure {
            Some(why) => {
                let origin = commanded.never_was(cx, key);
                let client = Some(&commanded.wires.client);
                cx.told.refused(&origin, client, Refusal::of(why), &why.text);
            }
            None => commanded.exited(cx, key, exit),
        }
        let Commanded { command, wires, .. } = commanded;
        command.program_ended(failure.unwrap_or_else(|| of_exit(exit)), wires);
        cx.then(Outcome::SettleCommand(key));
    }

    /// A command's time is over before long.
    fn limit_comes(&mut self, cx: &mut Context, key: Key) {
        if let Some(Commanded { command, wires, .. }) = self.running.get_mut(key) {
            command.notice(LIMIT_COMES, wires);
            cx.then(Outcome::SettleCommand(key));
        }
    }

    /// A command's time is over.
    fn limit(&mut self, cx: &mut Context, key: Key) {
        self.dismiss(key, Ending::Limit, TIME_IS_OVER);
        cx.after(LAST_WORD, Due::Command(key, CommandDue::Dismissed));
        cx.then(Outcome::SettleCommand(key));
    }

    /// Looks whether a command has been idle for too long, or will have been before
    /// long.
    fn idle(&mut self, cx: &mut Context, key: Key, was_told: bool) {
        let Some(Commanded { command, wires, door, .. }) = self.running.get_mut(key) else {
            return;
        };
        let rules = cx.doors.rules(*door);
        let Some(timeout) = rules.and_then(|rules| rules.command_timeout) else {
            return;
        };
        let last = wires.traffic.as_ref().and_then(|traffic| traffic.last());
        let idle = last.map_or(timeout, BootInstant::elapsed);
        match Idleness::of(idle, timeout, was_told) {
            Idleness::Wait(wait) => cx.after(wait, Due::Command(key, CommandDue::Idle)),
            Idleness::WaitOfTold(wait) => cx.after(wait, Due::Command(key, CommandDue::IdleSoon)),
            Idleness::Tell(wait) => {
                command.notice(ENDS_SOON, wires);
                cx.after(wait, Due::Command(key, CommandDue::IdleSoon));
            }
            Idleness::Over => {
                let line = Idleness::line("command", timeout);
                command.dismiss(Ending::Idle, &line, wires);
                cx.after(LAST_WORD, Due::Command(key, CommandDue::Dismissed));
            }
        }
        cx.then(Outcome::SettleCommand(key));
    }

    /// A command ends, and its client is told why.
    pub fn dismiss(&mut self, key: Key, why: Ending, line: &str) {
        if let Some(Commanded { command, wires, .. }) = self.running.get_mut(key) {
            command.dismiss(why, line, wires);
        }
    }

    /// A command is to end at somebody's wish.
    pub fn end_at_wish(&mut self, cx: &mut Context, key: Key) {
        self.dismiss(key, Ending::Operator, BY_AN_OPERATOR);
        cx.after(LAST_WORD, Due::Command(key, CommandDue::Dismissed));
        cx.then(Outcome::SettleCommand(key));
    }

    /// Tells all clients why they end, at the gateway's own end.
    pub fn stop(&mut self, why: Ending, line: &str) {
        let keys: Vec<Key> = self.from(0).map(|(_, key)| key).collect();
        for key in keys {
            self.dismiss(key, why, line);
        }
    }

    /// A TCP client may have vanished while there was output for it.
    fn unanswered(&mut self, cx: &mut Context, key: Key) {
        let Some(Commanded { command, wires, .. }) = self.running.get_mut(key) else {
            return;
        };
        if wires.client.unanswered_for().is_some_and(|silence| silence >= UNANSWERED) {
            command.client_left();
            return cx.then(Outcome::SettleCommand(key));
        }
        cx.after(UNANSWERED_LOOK, Due::Command(key, CommandDue::Unanswered));
    }

    /// After anything that happened to a command: waits for what it needs now, or
    /// ends it.
    pub fn settle(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        let Some(commanded) = self.running.get_mut(key) else {
            return;
        };
        match commanded.command.verdict() {
            Verdict::Lives => commanded.watch_again(key, &cx.poller),
            Verdict::Over => self.close(cx, programs, key),
            Verdict::Abandoned | Verdict::Left | Verdict::Greets => {
                self.end(cx, programs, key);
            }
            Verdict::Starved => {
                let Commanded { command, wires, .. } = commanded;
                if !command.has_output() {
                    command.dismiss(Ending::Lost, "command ended: out of memory", wires);
                }
                cx.doors.log_refusal("forkptyrouter: command ended: out of memory");
                self.close(cx, programs, key);
            }
        }
    }

    /// A command ends for no fault of its own.
    pub fn end_panicked(&mut self, cx: &mut Context, programs: &mut Programs, key: Key, why: &str) {
        let Some(Commanded { command, wires, .. }) = self.running.get_mut(key) else {
            return;
        };
        // One that was reaped has no number any more.
        if let Some(program) = wires.program.take_if(|program| !programs.has(*program)) {
            self.by_program.remove(&program);
        }
        if !command.has_output() && command.dismissed().is_none() {
            command.dismiss(Ending::Lost, &format!("command ended: {why}"), wires);
        }
        self.close(cx, programs, key);
    }

    /// Ends one whose client was told how it ended.
    fn close(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        if let Some(commanded) = self.end(cx, programs, key) {
            let is_answered = commanded.command.is_answered();
            let Commanded { wires, .. } = *commanded;
            cx.close_when_read(wires.client, LastWord::Packet { is_answered });
        }
    }

    /// A program that still runs loses its client: its process group is hung
    /// up. Where it has ended, and something that it left behind had the
    /// outputs, that group is, too.
    fn end(
        &mut self,
        cx: &mut Context,
        programs: &mut Programs,
        key: Key,
    ) -> Option<Box<Commanded>> {
        let mut commanded = self.running.remove(key)?;
        commanded.closes(cx, key);
        let outputs_open = commanded.wires.outputs.iter().any(Option::is_some);
        match (commanded.wires.program, &commanded.wires.leader) {
            (Some(program), _) => {
                self.by_program.remove(&program);
                programs.hang_up_group(cx, program);
            }
            (None, Some(leader)) if outputs_open => drop(leader.signal_group(libc::SIGHUP)),
            _ => {}
        }
        Some(commanded)
    }
}

fn start(
    cx: &mut Context,
    programs: &mut Programs,
    door: u16,
    opening: &mut Opening,
    arrived: Passed,
) -> std::result::Result<(Pid, Planned), Rejection> {
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
    if !is_free(0) {
        return Err(refused(String::from("out of memory")));
    }
    let planned = Planned::new(passed, program.user())
        .map_err(|error| refused(format!("cannot make a pipe: {}", reason(&error))))?;
    let [input, output, error] = &planned.ends;
    let (Some(input), Some(output), Some(error)) = (input.as_fd(), output.as_fd(), error.as_fd())
    else {
        return Err(refused(String::from("a stream is missing")));
    };
    let streams = spawn::Streams::Apart([input, output, error]);
    let started = cx.spawner.spawn(&program, streams, environment);
    if let Ok(Started::Running(pid)) = &started {
        programs.started(*pid, Kind::Command);
    }
    fault::point("command-spawned");
    cx.tidy_up();
    match started {
        Ok(Started::Running(pid)) => Ok((pid, planned)),
        Ok(Started::NotExecuted(errno)) => Err(not_executable(&program, errno).into()),
        Err(error) => Err(refused(error.to_string())),
    }
}

impl Commanded {
    /// A command begins that may be idle only for so long.
    fn watch_idleness(&mut self, cx: &mut Context, key: Key) {
        let rules = cx.doors.rules(self.door);
        let Some(timeout) = rules.and_then(|rules| rules.command_timeout) else {
            return;
        };
        self.wires.traffic.get_or_insert_with(Box::default).note();
        if let Idleness::Wait(wait) = Idleness::of(Duration::ZERO, timeout, false) {
            cx.after(wait, Due::Command(key, CommandDue::Idle));
        }
    }

    fn watch(&mut self, key: Key, poller: &Poller) -> std::io::Result<()> {
        let token = Source::CommandClient(key).token();
        poller.add(self.wires.client.as_fd(), token, Interest::READ)?;
        if let Some(input) = &self.wires.input {
            // That it was closed is told uncalled for.
            let nothing = Interest::default();
            poller.add(input.as_fd(), Source::CommandStream(key, 0).token(), nothing)?;
            self.interests[0] = Some(nothing);
        }
        for (output, number) in self.wires.outputs.iter().zip(1..) {
            if let Some(output) = output {
                let token = Source::CommandStream(key, number).token();
                poller.add(output.as_fd(), token, Interest::READ)?;
                self.interests[usize::from(number)] = Some(Interest::READ);
            }
        }
        Ok(())
    }

    /// Waits for what is needed now.
    fn watch_again(&mut self, key: Key, poller: &Poller) {
        let wanted = self.command.client_interest();
        if wanted != self.client_interest {
            let token = Source::CommandClient(key).token();
            let _ = poller.change(self.wires.client.as_fd(), token, wanted);
            self.client_interest = wanted;
        }
        let input = self.wires.input.as_ref().map(AsFd::as_fd);
        let wanted = self.command.input_interest();
        watch_stream(input, key, 0, wanted, &mut self.interests[0], poller);
        for number in 1..=2 {
            let output = self.wires.outputs[usize::from(number - 1)].as_ref().map(AsFd::as_fd);
            let wanted = self.command.output_interest(number);
            let known = &mut self.interests[usize::from(number)];
            // What is hung up and not read would be told of without end.
            if known.is_some() || wanted.read {
                watch_stream(output, key, number, wanted, known, poller);
            }
        }
    }

    fn forget(&mut self, number: u8, poller: &Poller) {
        if let Some(output) = &self.wires.outputs[usize::from(number - 1)] {
            if self.interests[usize::from(number)].take().is_some() {
                let _ = poller.remove(output.as_fd());
            }
        }
    }

    /// Reads an output, and passes it on.
    fn read_output(&mut self, number: u8, buffer: &mut [u8]) {
        let Some(output) = &self.wires.outputs[usize::from(number - 1)] else {
            return;
        };
        let most = self.command.room(number).min(BUFFER - HEADER - 1);
        match output.read(&mut buffer[HEADER..HEADER + most]) {
            Read::Bytes(count) => {
                fault::strike("stream", || &buffer[HEADER..HEADER + count]);
                if let Some(traffic) = &mut self.wires.traffic {
                    traffic.gave_out(count);
                }
                let packet = &mut buffer[..HEADER + count];
                self.command.output_sent(number, packet, &mut self.wires);
            }
            Read::Blocked => {}
            Read::End | Read::Gone => self.command.output_ended(number, &mut self.wires),
        }
    }
}

fn watch_stream(
    stream: Option<BorrowedFd<'_>>,
    key: Key,
    number: u8,
    wanted: Interest,
    known: &mut Option<Interest>,
    poller: &Poller,
) {
    let Some(stream) = stream else {
        *known = None;
        return;
    };
    if *known == Some(wanted) {
        return;
    }
    let token = Source::CommandStream(key, number).token();
    let _ = match known {
        Some(_) => poller.change(stream, token, wanted),
        None => poller.add(stream, token, wanted),
    };
    *known = Some(wanted);
}
