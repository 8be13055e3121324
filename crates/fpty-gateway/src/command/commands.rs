//! Commands of a gateway: events of their streams, timers and teardown; what lists show.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::command_state::Command;
use super::stdio::CommandIo;
use crate::config::rules::Rules;
use crate::connection::lingering_close::CloseNotice;
use crate::control::session_view::SessionView;
use crate::event_loop::context::{BUFFER, Context};
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::{Key, Slab, Token};
use crate::event_loop::timers::{SessionTimer, Timer};
use crate::observe::audit::{ByteTotals, EndReason, RejectReason, SessionInfo};
use crate::process::process_table::ProcessTable;
use crate::session::byte_counts::ByteCounts;
use crate::session::probes::{TCP_STALL_INTERVAL, TCP_STALL_TIMEOUT};
use crate::session::state::NextAction;
use crate::session::timeouts::{ENDED_BY_OPERATOR, TimeLimited};
use fpty::exit_status::session_end;
use fpty::proto::{EndKind, HEADER, SessionEnd};
use fpty::sys::ReadOutcome;
use fpty::sys::child::Exit;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::socket::Stream;

/// The live commands of a gateway.
pub type Commands = Slab<LiveCommand>;

/// Interval of checks whether a slow program has been executed.
const EXEC_POLL: Duration = Duration::from_millis(10);

/// A command with its descriptors and what the event loop keeps of it.
pub struct LiveCommand {
    pub(crate) command: Command,
    pub(crate) io: CommandIo,
    /// Interests that the poller has in the client's connection and in the streams; `None`: not
    /// registered.
    pub(super) client_interest: Option<Interest>,
    pub(super) interests: [Option<Interest>; 3],
    /// The streams that are relayed.
    pub(super) relayed: [bool; 3],
    /// The program was executed, and the observers were told.
    pub(crate) is_started: bool,
    /// The program could not be executed, and the observers were told.
    pub(crate) is_rejected: bool,
    /// The end of the program.
    pub(crate) exit: Option<EndReason>,
    /// The socket where the client came in, by its index.
    pub(super) listener: u16,
}

impl Commands {
    /// Handles a timer of a command.
    pub fn timer_fired(
        &mut self,
        cx: &mut Context,
        processes: &mut ProcessTable,
        key: Key,
        due: SessionTimer,
    ) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        match due {
            SessionTimer::TcpStalled => live.check_tcp_stall(cx, key),
            SessionTimer::NoticeTimeout => return drop(self.end(cx, processes, key)),
            SessionTimer::ExecCheck => live.check_started(cx, key),
            due => live.on_time_limit(cx, key, due),
        }
        self.settle(cx, processes, key);
    }

    /// Handles an event of the client's connection: input, room for output, hang-up.
    pub fn client_ready(&mut self, cx: &mut Context, key: Key, ready: Ready) {
        let Some(LiveCommand { command, io, .. }) = self.get_mut(key) else {
            return;
        };
        if ready.write {
            command.client_writable(io);
        }
        if command.has_deferred_input() {
            // Deferred input is handled first, then the connection is read to its end.
        } else if ready.read {
            match io.client.read_into(&mut cx.input) {
                ReadOutcome::Bytes(_) => {
                    fault_injection::panic_if_requested("command", || &cx.input);
                    cx.deliver_command_input(key, command, io);
                }
                // The end of the input has a packet of its own.
                ReadOutcome::Eof | ReadOutcome::Closed => command.client_disconnected(),
                ReadOutcome::WouldBlock => {}
            }
        } else if ready.hang_up {
            command.client_disconnected();
        }
    }

    /// Handles an event of a stream: output, room for input, or closed by the program.
    pub fn stream_ready(&mut self, cx: &mut Context, key: Key, number: u8, ready: Ready) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        let LiveCommand { command, io, .. } = live;
        match number {
            0 if ready.hang_up => command.input_closed(io),
            0 => command.input_writable(io),
            _ if command.room(number) > 0 => {
                live.read_output(number, &mut cx.buffer[..]);
            }
            // A level-triggered hang-up is reported without end, asked for or not.
            _ => live.unregister_stream(number, &cx.poller),
        }
    }

    /// The program of a command was reaped, or could not be executed.
    pub fn program_ended(
        &mut self,
        cx: &mut Context,
        key: Key,
        exit: Exit,
        failure: Option<SessionEnd>,
    ) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        live.io.program = None;
        match &failure {
            Some(why) => {
                let origin = live.abort(cx, key);
                let client = Some(&live.io.client);
                cx.rejected(&origin, client, RejectReason::of(why), &why.text);
            }
            None => live.exited(cx, key, exit),
        }
        let LiveCommand { command, io, .. } = live;
        command.program_ended(failure.unwrap_or_else(|| session_end(exit)), io);
        cx.push_outcome(Outcome::SettleCommand(key));
    }

    /// Ends a command at the operator's wish.
    pub fn end_by_operator(&mut self, cx: &mut Context, processes: &mut ProcessTable, key: Key) {
        if let Some(live) = self.get_mut(key) {
            live.terminate_with(cx, key, EndKind::Operator, ENDED_BY_OPERATOR);
            self.settle(cx, processes, key);
        }
    }

    /// Notifies all clients that the gateway ends.
    pub fn stop(&mut self, why: EndKind, line: &str) {
        let keys: Vec<Key> = self.iter_from(0).map(|(_, key)| key).collect();
        for key in keys {
            if let Some(live) = self.get_mut(key) {
                live.terminate(why, line);
            }
        }
    }

    /// Settles a command after an event: updates the poller's interests, or ends it.
    pub fn settle(&mut self, cx: &mut Context, processes: &mut ProcessTable, key: Key) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        match live.command.next_action() {
            NextAction::Wait => drop(live.register(key, &cx.poller)),
            NextAction::Close => self.close(cx, processes, key),
            NextAction::HangUp | NextAction::Detach | NextAction::LateHello => {
                self.end(cx, processes, key);
            }
            NextAction::OutOfMemory => {
                let LiveCommand { command, io, .. } = live;
                if !command.has_output() {
                    command.terminate(EndKind::Lost, "command ended: out of memory", io);
                }
                cx.listeners.log_rejection("forkptyrouter: command ended: out of memory");
                self.close(cx, processes, key);
            }
        }
    }

    /// Ends a command that a panic was about.
    pub fn end_panicked(
        &mut self,
        cx: &mut Context,
        processes: &mut ProcessTable,
        key: Key,
        why: &str,
    ) {
        let Some(LiveCommand { command, io, .. }) = self.get_mut(key) else {
            return;
        };
        // The number of a process that was reaped may be another process's.
        io.program.take_if(|program| !processes.has(*program));
        if !command.has_output() && command.termination().is_none() {
            command.terminate(EndKind::Lost, &format!("command ended: {why}"), io);
        }
        self.close(cx, processes, key);
    }

    /// The client of a command that has started and goes on.
    pub fn client_of(&self, key: Key) -> Option<&Stream> {
        let live = self.get(key)?;
        let goes_on = live.is_started && live.command.termination().is_none();
        goes_on.then_some(&live.io.client)
    }

    /// A command as lists show it.
    pub fn view(&self, key: Key, info: Option<&SessionInfo>) -> Option<SessionView<'_>> {
        let live = self.get(key)?;
        let byte_counts = live.io.byte_counts.as_ref();
        let is_handed_over = live.relayed != [true; 3];
        // Bytes on passed descriptors are not seen.
        let idle = match byte_counts.and_then(|byte_counts| byte_counts.last_activity()) {
            Some(last) => Some(last.elapsed()),
            None if is_handed_over => None,
            None => info.map(|info| info.started.elapsed()),
        };
        Some(SessionView {
            client: &live.io.client,
            listener: live.listener,
            pid: live.io.program,
            master: None,
            idle,
            is_handed_over,
            bytes: live.bytes(),
        })
    }

    /// Closes a command whose client was sent END.
    pub(super) fn close(&mut self, cx: &mut Context, processes: &mut ProcessTable, key: Key) {
        if let Some(live) = self.end(cx, processes, key) {
            let is_answered = live.command.awaits_window_update();
            let LiveCommand { io, .. } = *live;
            cx.close_lingering(io.client, CloseNotice::Packet { is_answered });
        }
    }

    /// Ends a command. A program that still runs gets SIGHUP, with its process group. Where it has
    /// ended, and a process that it left behind has the outputs open, the group gets it, too.
    fn end(
        &mut self,
        cx: &mut Context,
        processes: &mut ProcessTable,
        key: Key,
    ) -> Option<Box<LiveCommand>> {
        let mut live = self.remove(key)?;
        live.mark_closed(cx, key);
        let outputs_open = live.io.outputs.iter().any(Option::is_some);
        match (live.io.program, &live.io.leader) {
            (Some(program), _) => processes.hang_up_group(cx, program),
            (None, Some(leader)) if outputs_open => drop(leader.signal_group(libc::SIGHUP)),
            _ => {}
        }
        Some(live)
    }
}

impl TimeLimited for LiveCommand {
    const WHAT: &'static str = "command";

    fn due(key: Key, due: SessionTimer) -> Timer {
        Timer::Command(key, due)
    }

    fn timeout(rules: &Rules) -> Option<Duration> {
        rules.command_timeout
    }

    fn listener(&self) -> u16 {
        self.listener
    }

    fn byte_counts(&mut self) -> &mut Option<Box<ByteCounts>> {
        &mut self.io.byte_counts
    }

    fn idle_for(&self) -> Option<Duration> {
        Some(self.io.byte_counts.as_ref()?.last_activity()?.elapsed())
    }

    fn notice(&mut self, line: &str) {
        self.command.notice(line, &mut self.io);
    }

    fn terminate(&mut self, why: EndKind, line: &str) {
        self.command.terminate(why, line, &mut self.io);
    }
}

impl LiveCommand {
    /// Bytes of input and output that were relayed; `None`: not all of them were.
    pub fn bytes(&self) -> ByteTotals {
        let (input, output) =
            self.io.byte_counts.as_ref().map(|byte_counts| byte_counts.bytes()).unzip();
        let [input_relayed, output_relayed, error_relayed] = self.relayed;
        (input.filter(|_| input_relayed), output.filter(|_| output_relayed && error_relayed))
    }

    /// Checks whether the program has been executed: then the command has started.
    pub(super) fn check_started(&mut self, cx: &mut Context, key: Key) {
        let program = self.io.program;
        if !self.is_started && program.is_some_and(|program| !cx.spawner.has_executed(program)) {
            return cx.schedule(EXEC_POLL, Timer::Command(key, SessionTimer::ExecCheck));
        }
        self.mark_started(cx, key);
    }

    /// Checks whether output over TCP is acknowledged: the peer's machine may have vanished.
    fn check_tcp_stall(&mut self, cx: &mut Context, key: Key) {
        match self.io.client.unacknowledged_for() {
            Some(silence) if silence >= TCP_STALL_TIMEOUT => self.command.client_disconnected(),
            _ => cx.schedule(TCP_STALL_INTERVAL, Timer::Command(key, SessionTimer::TcpStalled)),
        }
    }

    /// Registers the client and the streams, or updates the poller's interests.
    ///
    /// # Errors
    /// epoll_ctl(2) fails.
    pub(super) fn register(&mut self, key: Key, poller: &Poller) -> std::io::Result<()> {
        let Self { command, io, client_interest, interests: [input, outputs @ ..], .. } = self;
        let (client, token) = (Some(io.client.as_fd()), Token::CommandClient(key));
        let mut watched =
            set_interest(client, token, command.client_interest(), client_interest, poller);
        let (stream, token) = (io.input.as_ref().map(AsFd::as_fd), Token::CommandStream(key, 0));
        watched = watched.and(set_interest(stream, token, command.input_interest(), input, poller));
        for ((stream, known), number) in io.outputs.iter().zip(outputs).zip(1..) {
            let wanted = command.output_interest(number);
            // A hang-up that is not read would be reported without end.
            if known.is_some() || wanted.read {
                let (stream, token) =
                    (stream.as_ref().map(AsFd::as_fd), Token::CommandStream(key, number));
                watched = watched.and(set_interest(stream, token, wanted, known, poller));
            }
        }
        watched
    }

    fn unregister_stream(&mut self, number: u8, poller: &Poller) {
        if let Some(output) = &self.io.outputs[usize::from(number - 1)] {
            if self.interests[usize::from(number)].take().is_some() {
                let _ = poller.remove(output.as_fd());
            }
        }
    }

    /// Reads an output, and passes it on.
    fn read_output(&mut self, number: u8, buffer: &mut [u8]) {
        let Some(output) = &self.io.outputs[usize::from(number - 1)] else {
            return;
        };
        let most = self.command.room(number).min(BUFFER - HEADER - 1);
        match output.read(&mut buffer[HEADER..HEADER + most]) {
            ReadOutcome::Bytes(count) => {
                fault_injection::panic_if_requested("stream", || &buffer[HEADER..HEADER + count]);
                if let Some(byte_counts) = &mut self.io.byte_counts {
                    byte_counts.count_output(count);
                }
                let packet = &mut buffer[..HEADER + count];
                self.command.output_sent(number, packet, &mut self.io);
            }
            ReadOutcome::WouldBlock => {}
            ReadOutcome::Eof | ReadOutcome::Closed => self.command.output_eof(number, &mut self.io),
        }
    }
}

fn set_interest(
    stream: Option<BorrowedFd<'_>>,
    token: Token,
    wanted: Interest,
    known: &mut Option<Interest>,
    poller: &Poller,
) -> std::io::Result<()> {
    let before = std::mem::replace(known, stream.map(|_| wanted));
    let Some(stream) = stream else { return Ok(()) };
    match before {
        Some(before) if before == wanted => Ok(()),
        Some(_) => poller.change(stream, token.token(), wanted),
        // A closed input is reported unasked (epoll_ctl(2), EPOLLERR).
        None => poller.add(stream, token.token(), wanted),
    }
}
