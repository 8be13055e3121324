//! A command without a terminal: three streams between here and there.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::config::ClientConfig;
use super::connect::{Connection, client_variables, read_signals};
use super::decoder::{MAX_PAYLOAD, ServerDecoder, ServerEvent};
use super::outcome::{self, End};
use super::output_streams::OutputStreams;
use super::signals::FOREGROUND_POLL;
use super::state::EXTENDED_TIMEOUT;
use crate::error::{Error, Result};
use crate::proto::{
    self, END, END_OF_STREAM, EndKind, GatewayPacket, GatewayPacketDecoder, NOTICE, OFFER,
    SessionEnd, TAKEN, WINDOW_ADJUST, bounded_text, collect_payload, encode_bare, window,
};
use crate::sys::ReadOutcome;
use crate::sys::poll::PollSet;
use crate::sys::signal::{self, Signals};
use crate::sys::socket::Transport;
use crate::sys::{passable_stdio, stdio};

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// Limit of input that waits for a server that does not read, in bytes; beyond it no more
/// input is read.
const MAX_BACKLOG: usize = 256 * 1024;

/// Signals that are passed on.
const FORWARDED_SIGNALS: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// Input is read here; the window, in bytes that may be sent.
    Relayed(u32),
    /// Input has ended, or nobody reads it there, or the program has the descriptor
    /// itself.
    Done,
}

/// Progress of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The server has not answered.
    HelloSent(Instant),
    /// The command has not been started.
    Requested,
    /// The command runs, or has ended.
    Started,
}

/// The session of a command.
struct CommandSession<'a> {
    config: &'a ClientConfig,
    connection: Connection,
    signals: Signals,
    stage: Stage,
    decoder: ServerDecoder,
    packet_decoder: GatewayPacketDecoder,
    payload: Vec<u8>,
    /// Output of a server in plain mode.
    plain_output: Vec<u8>,
    input: Input,
    input_is_a_terminal: bool,
    outputs: OutputStreams,
    /// Signals that were passed on.
    forwarded: Vec<Signal>,
    ended: Option<SessionEnd>,
    buffer: Vec<u8>,
}

/// Runs the command to its end.
///
/// # Errors
/// The signals cannot be read, or the outputs are none.
pub fn run(config: &ClientConfig, connection: Connection) -> Result<End> {
    // A file that must not grow is an error to tell (SIGXFSZ).
    for signal in [Signal::SIGPIPE, Signal::SIGXFSZ] {
        signal::ignore(signal);
    }
    let signals = read_signals(config, &FORWARDED_SIGNALS)?;
    // There are none for a command.
    connection.stream.refuse_descriptors();
    let mut running = CommandSession {
        config,
        connection,
        signals,
        // A server that cannot run commands may say nothing at all.
        stage: Stage::HelloSent(Instant::now() + EXTENDED_TIMEOUT),
        decoder: ServerDecoder::after_hello(),
        packet_decoder: GatewayPacketDecoder::default(),
        payload: Vec::new(),
        plain_output: Vec::new(),
        input: Input::Relayed(0),
        input_is_a_terminal: stdio::stdin_is_a_terminal(),
        outputs: OutputStreams::new()?,
        forwarded: Vec::new(),
        ended: None,
        buffer: vec![0; BUFFER],
    };
    loop {
        if let Some(end) = running.run_once()? {
            let has_run = !end.ran_no_program();
            let for_a_person = outcome::is_for_a_person(config);
            if outcome::prints_anything(config, &end)
                && running.outputs.may_end_mid_line(has_run, for_a_person)
            {
                stdio::end_line();
            }
            return Ok(end);
        }
    }
}

impl CommandSession<'_> {
    fn run_once(&mut self) -> Result<Option<End>> {
        self.flush();
        if let Some(end) = self.check_end()? {
            return Ok(Some(end));
        }
        let mut polled = PollSet::default();
        let signals = polled.add(self.signals.as_fd(), true, false);
        let Connection { stream, to_server, has_ended, .. } = &self.connection;
        let server = (!has_ended).then(|| polled.add(stream.as_fd(), true, !to_server.is_empty()));
        let input = self.reads_input().then(|| polled.add(stdio::stdin(), true, false));
        // What is given up before would be passed as /dev/null.
        let outputs = match self.stage {
            Stage::Started => self.outputs.watch(&mut polled),
            Stage::HelloSent(_) | Stage::Requested => [None, None],
        };
        let timeout = self.timeout();
        let found = polled.wait(timeout);
        if found.readable(signals) {
            while let Some(received) = self.signals.next() {
                if let Some(end) = self.signal(received.signal) {
                    return Ok(Some(end));
                }
            }
        }
        if server.is_some_and(|at| found.readable(at)) {
            self.read_server()?;
        }
        if input.is_some_and(|at| found.readable(at)) {
            self.read_input();
        }
        self.outputs.handle_poll(&found, outputs);
        Ok(None)
    }

    fn timeout(&self) -> Option<Duration> {
        let asked = match self.stage {
            Stage::HelloSent(until) => Some(until),
            Stage::Requested | Stage::Started => None,
        };
        // No signal tells that we are in the foreground again.
        let waits = self.input_is_a_terminal && self.wants_input() && !self.reads_input();
        let looks = waits.then(|| Instant::now() + FOREGROUND_POLL);
        let when = self.outputs.deadline();
        let at = [asked, self.connection.next_ping, looks, when].into_iter().flatten().min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    fn flush(&mut self) {
        self.connection.ping(Instant::now());
        let mut packets = Vec::new();
        self.outputs.flush(&mut packets);
        self.connection.send(&packets);
        self.connection.flush();
    }

    /// Looks whether the command is over, and how it ended; now and then that asks
    /// whether anybody reads its output.
    fn check_end(&mut self) -> Result<Option<End>> {
        if let Stage::HelloSent(until) = self.stage {
            if Instant::now() >= until {
                return Ok(Some(End::NotExtended));
            }
        }
        if self.outputs.look_for_readers() {
            return Ok(Some(End::OutputClosed));
        }
        if !self.outputs.are_flushed() {
            return Ok(None);
        }
        if let Some(ended) = &self.ended {
            if let Some(why) = self.outputs.failure() {
                return Ok(Some(End::OutputFailed(why)));
            }
            // Who sent it, or closed the output, knows.
            let expected = self.forwarded.iter().any(|signal| *signal as u8 == ended.value);
            let expected = expected || ended.value == Signal::SIGPIPE as u8;
            if ended.ending == EndKind::Signal && expected {
                return Ok(Some(End::Signalled(ended.value)));
            }
            return Ok(Some(End::Ended(ended.clone())));
        }
        if !self.connection.has_ended {
            return Ok(None);
        }
        match self.stage {
            Stage::HelloSent(_) => outcome::end_in_plain_mode(&self.plain_output).map(Some),
            Stage::Requested | Stage::Started => {
                Ok(outcome::loss_reason(&self.connection.peer, true).map(End::Lost))
            }
        }
    }

    fn signal(&mut self, signal: Signal) -> Option<End> {
        let again = self.forwarded.contains(&signal);
        if matches!(self.stage, Stage::HelloSent(_)) || self.ended.is_some() || again {
            return Some(End::Signal(signal));
        }
        self.forwarded.push(signal);
        // Between 1 and 31.
        self.connection.send(&proto::encode_signal(signal as u8));
        None
    }

    fn read_server(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let Connection { stream, peer, .. } = &mut self.connection;
        let outcome = match stream.read_from(&mut buffer, peer) {
            ReadOutcome::Bytes(count) => self.handle_server_bytes(&buffer[..count]),
            ReadOutcome::WouldBlock => Ok(()),
            ReadOutcome::Eof | ReadOutcome::Closed => {
                self.connection.note_end();
                Ok(())
            }
        };
        self.buffer = buffer;
        outcome
    }

    fn handle_server_bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        if let Stage::HelloSent(_) = self.stage {
            let said = self.decoder.next(&mut bytes, &mut self.plain_output);
            if said != Some(ServerEvent::ExtendedMode) {
                // A refusal comes whole, and then the end; a prompt does not.
                let is_more =
                    self.decoder.is_undecided() || outcome::may_be_refusal(&self.plain_output);
                // Nothing more of it is of use.
                self.connection.has_ended |= !is_more;
                return Ok(());
            }
            self.request();
        }
        let mut packet_decoder = std::mem::take(&mut self.packet_decoder);
        let mut outcome = Ok(());
        while let Some(answer) = packet_decoder.next(&mut bytes) {
            let is_output =
                matches!(answer, GatewayPacket::Output(_) | GatewayPacket::ErrorOutput(_));
            if is_output && self.stage != Stage::Started {
                outcome = Err(Error::new(format!(
                    "the gateway at {} is too old to run commands",
                    self.config.address.to_string_lossy()
                )));
                break;
            }
            match answer {
                GatewayPacket::Output(bytes) => self.outputs.show(passable_stdio::OUTPUT, bytes),
                GatewayPacket::ErrorOutput(bytes) => {
                    self.outputs.show(passable_stdio::ERROR, bytes)
                }
                GatewayPacket::Hello(_) => {}
                GatewayPacket::Part(kind, part, last) => {
                    if let Some(payload) =
                        collect_payload(&mut self.payload, part, last, MAX_PAYLOAD)
                    {
                        self.handle_packet(kind, &payload);
                    }
                }
            }
        }
        self.packet_decoder = packet_decoder;
        outcome
    }

    /// Asks for the command, and passes what of our streams can be.
    fn request(&mut self) {
        self.stage = Stage::Requested;
        self.connection.start_pings();
        if self.connection.transport == Transport::Unix {
            self.pass_stdio();
        }
        let mut packets = client_variables(self.config, &[(proto::variables::TERMINAL, b"0")]);
        self.config.exec_request.encode(&mut packets);
        packets.extend(encode_bare(proto::VARIABLES, 0));
        self.connection.send(&packets);
    }

    fn pass_stdio(&mut self) {
        let numbers = [passable_stdio::INPUT, passable_stdio::OUTPUT, passable_stdio::ERROR];
        // Where the last line is to be the client's it has to know where the others end.
        let keeps_error = self.config.status_json;
        let can_be_passed = |number: &usize| {
            passable_stdio::can_be_passed(passable_stdio::standard_fd(*number), *number)
                && !(keeps_error && *number == passable_stdio::ERROR)
        };
        let passed: Vec<usize> = numbers.into_iter().filter(can_be_passed).collect();
        if passed.is_empty() || !self.connection.to_server.is_empty() {
            return;
        }
        let names: Vec<u8> = passed.iter().map(|number| b'0' + *number as u8).collect();
        let descriptors: Vec<_> = passed.into_iter().map(passable_stdio::standard_fd).collect();
        let mut packet = Vec::new();
        proto::encode_packet(OFFER, &names, &mut packet);
        // Where they cannot be sent everything is relayed.
        let written = self.connection.stream.write_with_descriptors(&packet, &descriptors);
        if let Some(rest) = written.taken().and_then(|taken| packet.get(taken..)) {
            let begun = rest.len() < packet.len();
            self.connection.send(if begun { rest } else { &[] });
        }
    }

    fn handle_packet(&mut self, kind: u8, payload: &[u8]) {
        match (kind, payload) {
            (TAKEN, names) => {
                self.stage = Stage::Started;
                if names.contains(&b'0') {
                    self.input = Input::Done;
                    passable_stdio::replace_by_null(passable_stdio::INPUT);
                }
                self.outputs.passed(names);
            }
            (WINDOW_ADJUST, payload) => {
                if let (Input::Relayed(room), Some((0, more))) = (self.input, window::read(payload))
                {
                    self.input = Input::Relayed(room.saturating_add(more));
                }
            }
            (END_OF_STREAM, [0]) if self.input != Input::Done => {
                self.input = Input::Done;
                // Whoever writes there learns that nobody reads.
                passable_stdio::replace_by_null(passable_stdio::INPUT);
            }
            (END_OF_STREAM, [number @ 1..=2]) => self.outputs.ended(usize::from(*number)),
            (NOTICE, text) => stdio::say(&format!("{} {}", self.config.name, bounded_text(text))),
            (END, payload) => self.ended = self.ended.take().or_else(|| SessionEnd::read(payload)),
            _ => {}
        }
    }

    fn wants_input(&self) -> bool {
        matches!(self.input, Input::Relayed(1..))
            && self.ended.is_none()
            && !self.connection.has_ended
            && self.connection.to_server.len() < MAX_BACKLOG
    }

    /// Whether input is to be read: in the background a terminal's input belongs to
    /// another job.
    fn reads_input(&self) -> bool {
        self.wants_input() && (!self.input_is_a_terminal || stdio::in_foreground())
    }

    fn read_input(&mut self) {
        let Input::Relayed(room) = self.input else {
            return;
        };
        let most = BUFFER.min(room as usize);
        match stdio::read_input(&mut self.buffer[..most]) {
            ReadOutcome::Bytes(count) => {
                let mut packets = Vec::with_capacity(count + 8);
                proto::encode_input(&self.buffer[..count], &mut packets);
                self.connection.send(&packets);
                // No more than there was room for.
                self.input = Input::Relayed(room - count as u32);
            }
            ReadOutcome::WouldBlock => {}
            ReadOutcome::Eof | ReadOutcome::Closed => {
                self.connection.send(&encode_bare(END_OF_STREAM, 0));
                self.input = Input::Done;
            }
        }
    }
}
