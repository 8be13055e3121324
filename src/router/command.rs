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

use super::GatewayLoop;
use super::admission::{LIMIT_COMES, NOTICE};
use super::closing::LastWord;
use super::context::BUFFER;
use super::doors::Newcomer;
use super::fault;
use super::quiet::{UNANSWERED, UNANSWERED_LOOK};
use super::recovery::Whose;
use super::supervisor::leaders::Kind;
use super::table::{Key, Source, Table};
use super::timers::Due;
use super::told::Subject;
use super::told::{Gone, Refusal};
use crate::session::Verdict;
use crate::session::command::Command;
use crate::session::greeting::Opening;
use fpty::ended::of_exit;
use fpty::error::reason;
use fpty::proto::{Ended, Ending, HEADER};
use fpty::relay::is_free;
use fpty::sys::Read;
use fpty::sys::child::{self, Exit, Pid};
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

/// A command and what it is connected to.
struct Commanded {
    command: Command,
    wires: Wires,
    /// What the poller was told of the client.
    client_interest: Interest,
    /// What it was told of the streams; `None`: it does not have them.
    interests: [Option<Interest>; 3],
    /// Which streams come through here.
    relayed: [bool; 3],
    /// Its program was executed, and that was told.
    begun: bool,
    /// Its program could not be executed, and that was told.
    refused: bool,
    /// How its program ended.
    exit: Option<Gone>,
    /// Where its client came in.
    door: u16,
}

impl GatewayLoop {
    /// Starts a command for a client that has said this.
    pub(super) fn command(&mut self, newcomer: Newcomer, mut opening: Opening, arrived: Passed) {
        let shown = opening.request.shown();
        let outcome = match self.is_full(&newcomer).or_else(|| self.is_never_recorded()) {
            Some(why) => Err(why),
            None => self.start_command(newcomer.door, &mut opening, arrived),
        };
        let (started, planned) = match outcome {
            Ok(started) => started,
            Err(why) => return self.turn_back(newcomer, true, why),
        };
        let Newcomer { client, transport, door, seat } = newcomer;
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
        let key = self.commands.running.insert(Commanded {
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
        self.faults.made = Some(Whose::Command(key));
        fault::point("command-inserted");
        self.inquirers.note_command(Subject::Command(key), shown);
        self.cx.seats.is_of(seat.ok().flatten(), Subject::Command(key));
        if let Some(limit) = self.cx.doors.rules(door).and_then(|rules| rules.max_time) {
            if limit > NOTICE {
                self.cx.after(limit - NOTICE, Due::CommandLimitSoon(key));
            }
            self.cx.after(limit, Due::CommandLimit(key));
        }
        self.commands.by_program.insert(started, key);
        let Some(commanded) = self.commands.running.get_mut(key) else {
            return;
        };
        if let Err(error) = commanded.watch(key, &self.cx.poller) {
            let why = format!("cannot wait for the command: {}", reason(&error));
            self.cx.doors.log_refusal(&format!("forkptyrouter: command refused: {why}"));
            self.cx.told.refused(Some(&commanded.wires.client), Refusal::Resources, &why);
            commanded.refused = true;
            commanded.command.dismiss(Ending::Refused, &why, &mut commanded.wires);
            return self.close_command(key);
        }
        self.note_command(key);
        fault::point("command-noted");
        let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) else {
            return;
        };
        command.begin(&taken, &opening.input, opening.input_ended, wires);
        if !self.cx.input.is_empty() {
            self.cx.hear_command(key, command, wires);
        }
        if let Some(line) = opening.variables.remark() {
            command.notice(&line, wires);
        }
        if transport == Transport::Tcp {
            self.cx.after(UNANSWERED_LOOK, Due::CommandUnanswered(key));
        }
        self.settle_command(key);
    }

    fn start_command(
        &mut self,
        door: u16,
        opening: &mut Opening,
        arrived: Passed,
    ) -> std::result::Result<(Pid, Planned), Ended> {
        let refused = |why: String| Ended::because(Ending::Refused, why);
        let program = self.granted(door, std::mem::take(&mut opening.request))?;
        let rules = self.cx.doors.rules(door);
        let environment =
            rules.map(|rules| rules.environment_of(&opening.variables)).unwrap_or_default();
        let passed = passed(&opening.offered, arrived)
            .map_err(|error| refused(format!("bad request: {error}")))?;
        let passed = if self.cx.config.pass_stdio { passed } else { [None, None, None] };
        if !is_free(0) {
            return Err(refused(String::from("out of memory")));
        }
        let planned = Planned::new(passed, program.user())
            .map_err(|error| refused(format!("cannot make a pipe: {}", reason(&error))))?;
        let [input, output, error] = &planned.ends;
        let (Some(input), Some(output), Some(error)) =
            (input.as_fd(), output.as_fd(), error.as_fd())
        else {
            return Err(refused(String::from("a stream is missing")));
        };
        let streams = spawn::Streams::Apart([input, output, error]);
        let started = self.cx.spawner.spawn(&program, streams, environment);
        if let Ok(Started::Running(pid)) = &started {
            self.programs.started(*pid, Key::NONE, Kind::Command);
        }
        fault::point("command-spawned");
        self.tidy_up();
        match started {
            Ok(Started::Running(pid)) => Ok((pid, planned)),
            Ok(Started::NotExecuted(errno)) => Err(super::attach::not_executable(&program, errno)),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// The client of a command said something, takes output again, or left.
    pub(super) fn command_client_ready(&mut self, key: Key, ready: Ready) {
        let keeps_time = self.cx.keeps_time;
        let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) else {
            return;
        };
        if let Some(traffic) = wires.traffic.as_mut().filter(|_| keeps_time) {
            traffic.note();
        }
        if ready.write {
            command.client_writable(wires);
        }
        if command.is_behind() {
            // It is read again when that was heard, to its end.
        } else if ready.read {
            match wires.client.read_into(&mut self.cx.input) {
                Read::Bytes(_) => {
                    fault::strike("command", || &self.cx.input);
                    self.cx.hear_command(key, command, wires);
                }
                // It has a packet to say that there is no more input.
                Read::End | Read::Gone => command.client_left(),
                Read::Blocked => {}
            }
        } else if ready.hang_up {
            command.client_left();
        }
        self.settle_command(key);
    }

    /// One of a command's streams has something, takes something, or was
    /// closed by the program.
    pub(super) fn command_stream_ready(&mut self, key: Key, number: u8, ready: Ready) {
        let Some(commanded) = self.commands.running.get_mut(key) else {
            return;
        };
        let Commanded { command, wires, .. } = commanded;
        if let Some(traffic) = wires.traffic.as_mut().filter(|_| self.cx.keeps_time) {
            traffic.note();
        }
        match number {
            0 if ready.hang_up => command.input_closed(wires),
            0 => command.input_writable(wires),
            _ if command.room(number) > 0 => {
                commanded.read_output(number, &mut self.cx.buffer[..]);
            }
            // Told again and again, asked for or not.
            _ => commanded.forget(number, &self.cx.poller),
        }
        self.settle_command(key);
    }

    /// A program has ended: whether it was a command's.
    pub(super) fn command_ended(&mut self, program: Pid, exit: Exit, failure: Option<Ended>) {
        let Some(key) = self.commands.of_program(program) else {
            return;
        };
        self.commands.by_program.remove(&program);
        self.note_command_ended(key, exit, failure.as_ref());
        let ended = failure.unwrap_or_else(|| of_exit(exit));
        let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) else {
            return;
        };
        wires.program = None;
        command.program_ended(ended, wires);
        self.settle_command(key);
    }

    /// A command's time is over before long.
    pub(super) fn command_limit_comes(&mut self, key: Key) {
        if let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) {
            command.notice(LIMIT_COMES, wires);
            self.settle_command(key);
        }
    }

    /// A command's time is over.
    pub(super) fn command_limit(&mut self, key: Key) {
        if let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) {
            command.dismiss(Ending::Limit, super::admission::TIME_IS_OVER, wires);
            self.settle_command(key);
        }
    }

    /// Tells a command's client why it ends, at the gateway's own end.
    pub(super) fn stop_command(&mut self, key: Key, why: Ending, line: &str) {
        if let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) {
            command.dismiss(why, line, wires);
        }
    }

    /// Ends a command at somebody's wish.
    pub(super) fn end_command(&mut self, key: Key, line: &str, last_word: Duration) {
        if let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) {
            command.dismiss(Ending::Operator, line, wires);
            self.cx.after(last_word, Due::CommandDismissed(key));
            self.settle_command(key);
        }
    }

    /// A TCP client may have vanished while there was output for it.
    pub(super) fn command_unanswered(&mut self, key: Key) {
        let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) else {
            return;
        };
        if wires.client.unanswered_for().is_some_and(|silence| silence >= UNANSWERED) {
            command.client_left();
            return self.settle_command(key);
        }
        self.cx.after(UNANSWERED_LOOK, Due::CommandUnanswered(key));
    }

    pub(super) fn settle_command(&mut self, key: Key) {
        let Some(commanded) = self.commands.running.get_mut(key) else {
            return;
        };
        match commanded.command.verdict() {
            Verdict::Lives => commanded.watch_again(key, &self.cx.poller),
            Verdict::Over => self.close_command(key),
            Verdict::Abandoned | Verdict::Left | Verdict::Greets => self.let_command_go(key),
            Verdict::Starved => {
                let Commanded { command, wires, .. } = commanded;
                if !command.has_output() {
                    command.dismiss(Ending::Lost, "command ended: out of memory", wires);
                }
                self.cx.doors.log_refusal("forkptyrouter: command ended: out of memory");
                self.close_command(key);
            }
        }
    }

    /// A command ends for no fault of its own.
    pub(super) fn end_panicked_command(&mut self, key: Key, why: &str) {
        let programs = &self.programs;
        let Some(Commanded { command, wires, .. }) = self.commands.running.get_mut(key) else {
            return;
        };
        // One that was reaped has no number any more.
        wires.program = wires.program.filter(|program| programs.has(*program));
        if !command.has_output() && command.dismissed().is_none() {
            command.dismiss(Ending::Lost, &format!("command ended: {why}"), wires);
        }
        self.close_command(key);
    }

    /// Closes everything: its client has left, or is let go.
    pub(super) fn let_command_go(&mut self, key: Key) {
        self.end_of_command(key);
    }

    /// The same, of one that was told how it ended.
    fn close_command(&mut self, key: Key) {
        if let Some(commanded) = self.end_of_command(key) {
            let is_answered = commanded.command.is_answered();
            let Commanded { wires, .. } = *commanded;
            self.cx.close_when_read(wires.client, LastWord::Packet { is_answered });
        }
    }

    /// A program that still runs loses its client: its process group is hung
    /// up. Where it has ended, and something that it left behind had the
    /// outputs, that group is, too.
    fn end_of_command(&mut self, key: Key) -> Option<Box<Commanded>> {
        self.tell_command_end(key);
        self.cx.seats.ended(Subject::Command(key));
        self.inquirers.forget(Subject::Command(key));
        let commanded = self.commands.running.remove(key)?;
        let outputs_open = commanded.wires.outputs.iter().any(Option::is_some);
        match (commanded.wires.program, &commanded.wires.leader) {
            (Some(program), _) => {
                self.commands.by_program.remove(&program);
                self.programs.client_left(program);
                if let Some(grace) = self.cx.config.hangup_grace {
                    self.cx.after(grace, Due::Outlived(program));
                }
                for signal in [libc::SIGHUP, libc::SIGCONT] {
                    child::signal_group(program, signal);
                }
            }
            (None, Some(leader)) if outputs_open => drop(leader.signal_group(libc::SIGHUP)),
            _ => {}
        }
        Some(commanded)
    }
}

impl Commanded {
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
