//! A command without a terminal: three streams between here and there.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::decoder::{Hearing, Said};
use super::outcome::{self, End};
use super::output_streams::Outputs;
use super::session::{ASKED_FOR_MORE, PING};
use super::signals::LOOK;
use super::{Client, events, introduction, read_signals};
use crate::backlog::Backlog;
use crate::error::{Error, Result};
use crate::proto::{
    self, Answer, AnswerDecoder, END_OF_STREAM, ENDED, Ended, Ending, NOTICE, OFFER, TAKEN, WINDOW,
    collect, encode_bare, text_of, window,
};
use crate::sys::Read;
use crate::sys::peer_process::Peer;
use crate::sys::poll::Several;
use crate::sys::signal::{self, Signals};
use crate::sys::socket::{Stream, Transport};
use crate::sys::{stdio, stdio_pass};

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// How long a server may take to answer the hello: one that cannot run
/// commands may say nothing at all.
const PATIENCE: Duration = ASKED_FOR_MORE;

/// What may wait for a server that does not read, in bytes, before no more
/// input is read.
const LIMIT: usize = 256 * 1024;

/// The longest payload that is collected.
const LONGEST: usize = 2048;

/// Signals that are passed on.
const SIGNALS: [Signal; 6] = [
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
    /// It is read here, and so many bytes may be sent.
    Relayed(u32),
    /// It has ended, or nobody reads it there, or the program has it itself.
    Done,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The server has not answered.
    Asked(Instant),
    /// The command has not been started.
    Requested,
    /// It runs, or has ended.
    Started,
}

/// A command.
struct Running<'a> {
    config: &'a Client,
    stream: Stream,
    transport: Transport,
    peer: Peer,
    signals: Signals,
    stage: Stage,
    hearing: Hearing,
    decoder: AnswerDecoder,
    payload: Vec<u8>,
    /// What a server says that speaks plainly.
    plain: Vec<u8>,
    input: Input,
    input_is_a_terminal: bool,
    outputs: Outputs,
    to_server: Backlog,
    /// Signals that were passed on.
    passed_on: Vec<Signal>,
    ended: Option<Ended>,
    server_ended: bool,
    next_ping: Option<Instant>,
    buffer: Vec<u8>,
}

/// Runs it to its end.
///
/// # Errors
/// The signals cannot be read, or the outputs are none.
pub fn run(config: &Client, stream: Stream, transport: Transport) -> Result<End> {
    // A file that must not grow is an error to tell (SIGXFSZ).
    for signal in [Signal::SIGPIPE, Signal::SIGXFSZ] {
        signal::ignore(signal);
    }
    let signals = read_signals(config, &SIGNALS)?;
    // There are none for a command.
    stream.refuse_descriptors();
    let mut running = Running {
        config,
        stream,
        transport,
        peer: Peer::default(),
        signals,
        stage: Stage::Asked(Instant::now() + PATIENCE),
        hearing: Hearing::asked(),
        decoder: AnswerDecoder::default(),
        payload: Vec::new(),
        plain: Vec::new(),
        input: Input::Relayed(0),
        input_is_a_terminal: stdio::stdin_is_a_terminal(),
        outputs: Outputs::new()?,
        to_server: Backlog::default(),
        passed_on: Vec::new(),
        ended: None,
        server_ended: false,
        next_ping: None,
        buffer: vec![0; BUFFER],
    };
    loop {
        if let Some(end) = running.turn()? {
            let has_run = !end.is_without_a_program();
            let for_a_person = outcome::is_for_a_person(config);
            if outcome::speaks(config, &end)
                && running.outputs.may_end_in_a_line(has_run, for_a_person)
            {
                stdio::end_the_line();
            }
            return Ok(end);
        }
    }
}

impl Running<'_> {
    fn turn(&mut self) -> Result<Option<End>> {
        self.flush();
        if let Some(end) = self.look_for_the_end()? {
            return Ok(Some(end));
        }
        let mut polled = Several::default();
        let signals = polled.add(self.signals.as_fd(), true, false);
        let waits = !self.to_server.is_empty();
        let server = (!self.server_ended).then(|| polled.add(self.stream.as_fd(), true, waits));
        let input = self.reads_input().then(|| polled.add(stdio::stdin(), true, false));
        // What is given up before would be passed as /dev/null.
        let outputs = match self.stage {
            Stage::Started => self.outputs.watch(&mut polled),
            Stage::Asked(_) | Stage::Requested => [None, None],
        };
        let timeout = self.timeout();
        let found = polled.wait(timeout);
        if found.readable(signals) {
            while let Some(arrived) = self.signals.next() {
                if let Some(end) = self.signal(arrived.signal) {
                    return Ok(Some(end));
                }
            }
        }
        if server.is_some_and(|at| found.readable(at)) {
            self.server_said()?;
        }
        if input.is_some_and(|at| found.readable(at)) {
            self.read_input();
        }
        self.outputs.look(&found, outputs);
        Ok(None)
    }

    fn timeout(&self) -> Option<Duration> {
        let asked = match self.stage {
            Stage::Asked(until) => Some(until),
            Stage::Requested | Stage::Started => None,
        };
        // No signal tells that we are in the foreground again.
        let waits = self.input_is_a_terminal && self.wants_input() && !self.reads_input();
        let looks = waits.then(|| Instant::now() + LOOK);
        let when = self.outputs.when();
        let at = [asked, self.next_ping, looks, when].into_iter().flatten().min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    fn flush(&mut self) {
        let now = Instant::now();
        if self.next_ping.is_some_and(|at| now >= at) {
            self.next_ping = Some(now + PING);
            self.to_server.push(&encode_bare(proto::PING, 0));
        }
        let mut packets = Vec::new();
        self.outputs.flush(&mut packets);
        if !self.server_ended {
            self.to_server.push(&packets);
            let (stream, peer) = (&self.stream, &mut self.peer);
            if !self.to_server.flush(|bytes| stream.write_to(bytes, peer).taken()) {
                // What it said before it went is still to be read.
                self.to_server.clear();
            }
        }
    }

    /// Looks whether it is over, and how it ended; now and then that asks whether
    /// anybody reads what it says.
    fn look_for_the_end(&mut self) -> Result<Option<End>> {
        if let Stage::Asked(until) = self.stage {
            if Instant::now() >= until {
                return Ok(Some(End::SpeaksPlainly));
            }
        }
        if self.outputs.look_whether_nobody_reads() {
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
            let expected = self.passed_on.iter().any(|signal| *signal as u8 == ended.value);
            let expected = expected || ended.value == Signal::SIGPIPE as u8;
            if ended.ending == Ending::Signal && expected {
                return Ok(Some(End::Signalled(ended.value)));
            }
            return Ok(Some(End::Told(ended.clone())));
        }
        if !self.server_ended {
            return Ok(None);
        }
        match self.stage {
            Stage::Asked(_) => events::ended_plainly(&self.plain).map(Some),
            Stage::Requested | Stage::Started => {
                Ok(outcome::why_lost(&self.peer, true).map(End::Lost))
            }
        }
    }

    fn signal(&mut self, signal: Signal) -> Option<End> {
        let again = self.passed_on.contains(&signal);
        if matches!(self.stage, Stage::Asked(_)) || self.ended.is_some() || again {
            return Some(End::Signal(signal));
        }
        self.passed_on.push(signal);
        // Between 1 and 31.
        self.to_server.push(&proto::encode_signal(signal as u8));
        None
    }

    fn server_said(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.stream.read_from(&mut buffer, &mut self.peer);
        let outcome = match read {
            Read::Bytes(count) => self.heard(&buffer[..count]),
            Read::Blocked => Ok(()),
            Read::End | Read::Gone => {
                self.server_ended = true;
                self.next_ping = None;
                self.to_server.clear();
                Ok(())
            }
        };
        self.buffer = buffer;
        outcome
    }

    fn heard(&mut self, mut bytes: &[u8]) -> Result<()> {
        if let Stage::Asked(_) = self.stage {
            let mut plain = std::mem::take(&mut self.plain);
            let said = self.hearing.next(&mut bytes, &mut plain);
            self.plain = plain;
            if said != Some(Said::Agreed) {
                // A refusal comes whole, and then the end; a prompt does not.
                let is_more = self.hearing.is_undecided() || events::may_be_refusal(&self.plain);
                // Nothing more of it is of use.
                self.server_ended |= !is_more;
                return Ok(());
            }
            self.request();
        }
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut outcome = Ok(());
        while let Some(answer) = decoder.next(&mut bytes) {
            let is_output = matches!(answer, Answer::Output(_) | Answer::ErrorOutput(_));
            if is_output && self.stage != Stage::Started {
                outcome = Err(Error::new(format!(
                    "the router at {} is too old to run commands",
                    self.config.address.to_string_lossy()
                )));
                break;
            }
            match answer {
                Answer::Output(bytes) => self.outputs.show(stdio_pass::OUTPUT, bytes),
                Answer::ErrorOutput(bytes) => self.outputs.show(stdio_pass::ERROR, bytes),
                Answer::Hello(_) => {}
                Answer::Part(kind, part, last) => {
                    if let Some(payload) = collect(&mut self.payload, part, last, LONGEST) {
                        self.told(kind, &payload);
                    }
                }
            }
        }
        self.decoder = decoder;
        outcome
    }

    /// Asks for the command, and passes what of our streams can be.
    fn request(&mut self) {
        self.stage = Stage::Requested;
        if self.transport == Transport::Tcp {
            self.next_ping = Some(Instant::now() + PING);
        } else {
            self.pass();
        }
        let mut packets = introduction(self.config, &[(proto::variables::TERMINAL, b"0")]);
        self.config.wanted.encode(&mut packets);
        packets.extend(encode_bare(proto::VARIABLES, 0));
        self.to_server.push(&packets);
    }

    fn pass(&mut self) {
        let numbers = [stdio_pass::INPUT, stdio_pass::OUTPUT, stdio_pass::ERROR];
        let passed =
            numbers.into_iter().filter(|n| stdio_pass::may_be_passed(stdio_pass::own(*n), *n));
        // Where its last line is to be ours we have to know where the others end.
        let is_ours = self.config.status_json;
        let passed = passed.filter(|number| !(is_ours && *number == stdio_pass::ERROR));
        let passed: Vec<usize> = passed.collect();
        if passed.is_empty() || !self.to_server.is_empty() {
            return;
        }
        let names: Vec<u8> = passed.iter().map(|number| b'0' + *number as u8).collect();
        let descriptors: Vec<_> = passed.into_iter().map(stdio_pass::own).collect();
        let mut packet = Vec::new();
        proto::encode_packet(OFFER, &names, &mut packet);
        // Where they cannot be sent everything is relayed.
        let written = self.stream.write_with_descriptors(&packet, &descriptors);
        if let Some(rest) = written.taken().and_then(|taken| packet.get(taken..)) {
            let begun = rest.len() < packet.len();
            self.to_server.push(if begun { rest } else { &[] });
        }
    }

    fn told(&mut self, kind: u8, payload: &[u8]) {
        match (kind, payload) {
            (TAKEN, names) => {
                self.stage = Stage::Started;
                if names.contains(&b'0') {
                    self.input = Input::Done;
                    stdio_pass::give_up(stdio_pass::INPUT);
                }
                self.outputs.passed(names);
            }
            (WINDOW, payload) => {
                if let (Input::Relayed(room), Some((0, more))) = (self.input, window::read(payload))
                {
                    self.input = Input::Relayed(room.saturating_add(more));
                }
            }
            (END_OF_STREAM, [0]) if self.input != Input::Done => {
                self.input = Input::Done;
                // Whoever writes there learns that nobody reads.
                stdio_pass::give_up(stdio_pass::INPUT);
            }
            (END_OF_STREAM, [number @ 1..=2]) => self.outputs.ended(usize::from(*number)),
            (NOTICE, text) => stdio::say(&format!("{} {}", self.config.name, text_of(text))),
            (ENDED, payload) => self.ended = self.ended.take().or_else(|| Ended::read(payload)),
            _ => {}
        }
    }

    fn wants_input(&self) -> bool {
        matches!(self.input, Input::Relayed(1..))
            && self.ended.is_none()
            && !self.server_ended
            && self.to_server.len() < LIMIT
    }

    /// In the background a terminal's input is somebody else's.
    fn reads_input(&self) -> bool {
        self.wants_input() && (!self.input_is_a_terminal || stdio::in_foreground())
    }

    fn read_input(&mut self) {
        let Input::Relayed(room) = self.input else {
            return;
        };
        let most = BUFFER.min(room as usize);
        match stdio::read_input(&mut self.buffer[..most]) {
            Read::Bytes(count) => {
                let mut packets = Vec::with_capacity(count + 8);
                proto::encode_input(&self.buffer[..count], &mut packets);
                self.to_server.push(&packets);
                // No more than there was room for.
                self.input = Input::Relayed(room - count as u32);
            }
            Read::Blocked => {}
            Read::End | Read::Gone => {
                self.to_server.push(&encode_bare(END_OF_STREAM, 0));
                self.input = Input::Done;
            }
        }
    }
}
