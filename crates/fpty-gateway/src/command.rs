//! Commands without a terminal: three streams, passed to the program where
//! they can be, and else relayed through pipes.
//!
//! | file | subject |
//! | --- | --- |
//! | `command.rs` | a command from its execution to its end |
//! | `start.rs` | how it begins |
//! | `wires.rs` | its client and its streams |
//! | `told.rs` | what is told of it |

pub(crate) mod session_view;
pub(crate) mod start;
pub mod state;
pub(crate) mod stdio;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::command::state::Command;
use crate::config::rules::Rules;
use crate::connection::lingering_close::LastWord;
use crate::event_loop::context::{BUFFER, Context};
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Source, Table};
use crate::event_loop::timers::{Due, LifeDue};
use crate::observe::audit::{Gone, Refusal};
use crate::process::table::Programs;
use crate::session::byte_counts::Traffic;
use crate::session::probes::{UNANSWERED, UNANSWERED_LOOK};
use crate::session::state::Verdict;
use crate::session::timeouts::{BY_AN_OPERATOR, Timed};
use fpty::exit_status::session_end;
use fpty::proto::{EndKind, HEADER, SessionEnd};
use fpty::sys::ReadOutcome;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::poll::{Interest, Poller, Ready};

use crate::command::stdio::Wires;

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
    pub(crate) command: Command,
    pub(crate) wires: Wires,
    /// What the poller was told of the client.
    client_interest: Interest,
    /// What it was told of the streams; `None`: it does not have them.
    interests: [Option<Interest>; 3],
    /// Which streams come through here.
    relayed: [bool; 3],
    /// Its program was executed, and that was told.
    pub(crate) begun: bool,
    /// Its program could not be executed, and that was told.
    pub(crate) refused: bool,
    /// How its program ended.
    pub(crate) exit: Option<Gone>,
    /// Where its client came in.
    door: u16,
}

impl Commands {
    /// Does what is due for a command.
    pub fn comes_due(&mut self, cx: &mut Context, programs: &mut Programs, key: Key, due: LifeDue) {
        let Some(commanded) = self.running.get_mut(key) else {
            return;
        };
        match due {
            LifeDue::Unanswered => commanded.unanswered(cx, key),
            LifeDue::Dismissed => return drop(self.end(cx, programs, key)),
            LifeDue::Executed => commanded.look_for_execution(cx, key),
            due => commanded.time_passes(cx, key, due),
        }
        self.settle(cx, programs, key);
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
                ReadOutcome::Bytes(_) => {
                    fault_injection::strike("command", || &cx.input);
                    cx.hear_command(key, command, wires);
                }
                // It has a packet to say that there is no more input.
                ReadOutcome::Eof | ReadOutcome::Closed => command.client_left(),
                ReadOutcome::WouldBlock => {}
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
        failure: Option<SessionEnd>,
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
                cx.told.refused(origin, client, Refusal::of(why), &why.text);
            }
            None => commanded.exited(cx, key, exit),
        }
        let Commanded { command, wires, .. } = commanded;
        command.program_ended(failure.unwrap_or_else(|| session_end(exit)), wires);
        cx.then(Outcome::SettleCommand(key));
    }

    /// A command is to end at somebody's wish.
    pub fn end_at_wish(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        if let Some(commanded) = self.running.get_mut(key) {
            commanded.end_with(cx, key, EndKind::Operator, BY_AN_OPERATOR);
            self.settle(cx, programs, key);
        }
    }

    /// Tells all clients why they end, at the gateway's own end.
    pub fn stop(&mut self, why: EndKind, line: &str) {
        let keys: Vec<Key> = self.from(0).map(|(_, key)| key).collect();
        for key in keys {
            if let Some(commanded) = self.running.get_mut(key) {
                commanded.dismiss(why, line);
            }
        }
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
                    command.dismiss(EndKind::Lost, "command ended: out of memory", wires);
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
            command.dismiss(EndKind::Lost, &format!("command ended: {why}"), wires);
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

impl Timed for Commanded {
    const WHAT: &'static str = "command";

    fn due(key: Key, due: LifeDue) -> Due {
        Due::Command(key, due)
    }

    fn timeout(rules: &Rules) -> Option<Duration> {
        rules.command_timeout
    }

    fn door(&self) -> u16 {
        self.door
    }

    fn traffic(&mut self) -> &mut Option<Box<Traffic>> {
        &mut self.wires.traffic
    }

    fn idle_for(&self) -> Option<Duration> {
        Some(self.wires.traffic.as_ref()?.last()?.elapsed())
    }

    fn notice(&mut self, line: &str) {
        self.command.notice(line, &mut self.wires);
    }

    fn dismiss(&mut self, why: EndKind, line: &str) {
        self.command.dismiss(why, line, &mut self.wires);
    }
}

impl Commanded {
    /// A command has begun when its program was executed.
    fn look_for_execution(&mut self, cx: &mut Context, key: Key) {
        let program = self.wires.program;
        if !self.begun && program.is_some_and(|program| !cx.spawner.has_executed(program)) {
            return cx.after(EXECUTED, Due::Command(key, LifeDue::Executed));
        }
        self.executed(cx, key);
    }

    /// A TCP client may have vanished while there was output for it.
    fn unanswered(&mut self, cx: &mut Context, key: Key) {
        match self.wires.client.unacknowledged_for() {
            Some(silence) if silence >= UNANSWERED => self.command.client_left(),
            _ => cx.after(UNANSWERED_LOOK, Due::Command(key, LifeDue::Unanswered)),
        }
    }

    fn watch(&mut self, key: Key, poller: &Poller) -> std::io::Result<()> {
        let token = Source::CommandClient(key).token();
        poller.add(self.wires.client.as_fd(), token, Interest::READ)?;
        self.watch_streams(key, poller)
    }

    /// Waits for what is needed now.
    fn watch_again(&mut self, key: Key, poller: &Poller) {
        let wanted = self.command.client_interest();
        if wanted != self.client_interest {
            let token = Source::CommandClient(key).token();
            let _ = poller.change(self.wires.client.as_fd(), token, wanted);
            self.client_interest = wanted;
        }
        let _ = self.watch_streams(key, poller);
    }

    fn watch_streams(&mut self, key: Key, poller: &Poller) -> std::io::Result<()> {
        let Self { command, wires, interests: [input, outputs @ ..], .. } = self;
        let stream = wires.input.as_ref().map(AsFd::as_fd);
        let mut watched = watch_stream(stream, key, 0, command.input_interest(), input, poller);
        for ((stream, known), number) in wires.outputs.iter().zip(outputs).zip(1..) {
            let wanted = command.output_interest(number);
            // What is hung up and not read would be told of without end.
            if known.is_some() || wanted.read {
                let stream = stream.as_ref().map(AsFd::as_fd);
                watched = watched.and(watch_stream(stream, key, number, wanted, known, poller));
            }
        }
        watched
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
            ReadOutcome::Bytes(count) => {
                fault_injection::strike("stream", || &buffer[HEADER..HEADER + count]);
                if let Some(traffic) = &mut self.wires.traffic {
                    traffic.gave_out(count);
                }
                let packet = &mut buffer[..HEADER + count];
                self.command.output_sent(number, packet, &mut self.wires);
            }
            ReadOutcome::WouldBlock => {}
            ReadOutcome::Eof | ReadOutcome::Closed => {
                self.command.output_ended(number, &mut self.wires)
            }
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
) -> std::io::Result<()> {
    let before = std::mem::replace(known, stream.map(|_| wanted));
    let (Some(stream), token) = (stream, Source::CommandStream(key, number).token()) else {
        return Ok(());
    };
    match before {
        Some(before) if before == wanted => Ok(()),
        Some(_) => poller.change(stream, token, wanted),
        // That an input was closed is told uncalled for.
        None => poller.add(stream, token, wanted),
    }
}
