//! The session as the client sees it: one loop that waits for both ends.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::escape::Escapes;
use super::hearing::{Hearing, Said};
use super::outcome::End;
use super::takeover::Takeover;
use super::typing::{Held, Input};
use super::{Client, introduction};
use crate::proto::{self, Ended, Protocol};
use crate::relay::Backlog;
use crate::sys::peer::{Arrived, Sender};
use crate::sys::signal::Signals;
use crate::sys::socket::{Stream, Transport};
use crate::sys::stdio::{self, Failure, Output};
use crate::sys::termios::RawMode;
use crate::sys::{Read, pty};

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// How long input waits for the server to say which mode it speaks. A router
/// that knows only the plain one says nothing if its program does not.
const ASKED: Duration = Duration::from_millis(100);

/// How often a TCP connection is kept busy: uWSGI's routers end idle ones
/// after a minute.
const PING: Duration = Duration::from_secs(20);

/// How a router begins that refuses a session and speaks plainly.
const REFUSED: &[u8] = b"forkptyrouter: session refused: ";

/// A session.
pub struct Session<'a> {
    pub(super) config: &'a Client,
    pub(super) stream: Stream,
    transport: Transport,
    signals: Signals,
    output: Output,
    failure: Failure,
    /// Restores the terminal when the session is dropped, a panic included.
    pub(super) terminal: Option<RawMode>,
    /// Whether the terminal's signals would reach others, so that its keys
    /// are to be looked for in what is typed.
    pub(super) finds_keys: bool,
    pub(super) escapes: Option<Escapes>,
    pub(super) hearing: Hearing,
    pub(super) takeover: Takeover,
    /// Descriptors that came, until the packet that names them is complete.
    arrived: Arrived,
    /// Input that waits for the word how to send it.
    pub(super) held: Held,
    /// Until then, where the server does not say which mode it speaks.
    held_until: Option<Instant>,
    /// What the server has not taken yet: whole packets in uwsgi mode.
    pub(super) to_server: Backlog,
    /// What the terminal that is ours has not taken yet.
    pub(super) to_terminal: Backlog,
    /// What our output has not taken yet.
    to_output: Backlog,
    resize_due: bool,
    pub(super) input: Input,
    /// The first bytes of a server that speaks plainly.
    first_bytes: Vec<u8>,
    ended: Option<Ended>,
    server_ended: bool,
    lost: Option<&'static str>,
    sender: Option<Sender>,
    next_ping: Option<Instant>,
    pub(super) buffer: Vec<u8>,
    shown: Vec<u8>,
}

impl<'a> Session<'a> {
    /// A session just connected.
    pub fn new(
        config: &'a Client,
        stream: Stream,
        transport: Transport,
        signals: Signals,
        output: Output,
        terminal: Option<RawMode>,
    ) -> Self {
        let finds_keys = config.isig && terminal.is_some() && !stdio::terminal_is_ours();
        Self {
            escapes: config.escape.filter(|_| terminal.is_some()).map(Escapes::new),
            config,
            stream,
            transport,
            signals,
            output,
            failure: Failure::default(),
            terminal,
            finds_keys,
            hearing: Hearing::plain(),
            takeover: Takeover::default(),
            arrived: Arrived::default(),
            held: Held::default(),
            held_until: None,
            to_server: Backlog::default(),
            to_terminal: Backlog::default(),
            to_output: Backlog::default(),
            resize_due: false,
            input: Input::Open,
            first_bytes: Vec::new(),
            ended: None,
            server_ended: false,
            lost: None,
            sender: None,
            next_ping: None,
            buffer: vec![0; BUFFER],
            shown: Vec::new(),
        }
    }

    /// Asks the server whether it can do more, and says how large the terminal
    /// is, which every server understands.
    pub fn greet(&mut self) {
        self.hearing = Hearing::asked();
        self.held_until = Some(Instant::now() + ASKED);
        self.to_server.push(&proto::encode_bare(proto::HELLO, proto::VERSION));
        self.resize_due = true;
        self.say_the_size();
    }

    /// Runs it to its end.
    pub fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.flush().or_else(|| self.is_over()) {
                return end;
            }
            let ready = self.wait();
            if ready.signal {
                while let Some(arrived) = self.signals.next() {
                    if let Some(end) = self.signal(arrived) {
                        return end;
                    }
                }
            }
            if ready.server {
                if let Some(end) = self.server_said() {
                    return end;
                }
            }
            if ready.terminal {
                self.terminal_said();
            }
            if ready.input {
                if let Some(end) = self.typed() {
                    return end;
                }
            }
            if ready.output_closed {
                return End::OutputClosed;
            }
        }
    }

    /// Waits until one of the ends has something, or takes something.
    fn wait(&mut self) -> Ready {
        let timeout = self.timeout();
        let reads_output = self.to_output.is_empty();
        let mut server = PollFlags::empty();
        server.set(PollFlags::POLLIN, !self.server_ended && reads_output);
        server.set(PollFlags::POLLOUT, !self.to_server.is_empty());
        let mut output = PollFlags::empty();
        output.set(PollFlags::POLLOUT, !reads_output);
        let ours = self.takeover.ours();
        let mut terminal = PollFlags::empty();
        terminal.set(PollFlags::POLLIN, reads_output && ours.is_some_and(|t| t.is_open()));
        terminal.set(PollFlags::POLLOUT, !self.to_terminal.is_empty());

        // An end that is not waited for is left out: poll(2) tells a hang-up
        // uncalled for, again and again.
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // Output that is a pipe whose reader has gone is worth knowing even
        // while there is nothing to write.
        polled.push(PollFd::new(self.output.as_fd(), output));
        let mut add = |fd, flags: PollFlags| {
            (!flags.is_empty()).then(|| {
                polled.push(PollFd::new(fd, flags));
                polled.len() - 1
            })
        };
        let server_at = add(self.stream.as_fd(), server);
        let mut input = PollFlags::empty();
        input.set(PollFlags::POLLIN, self.reads_input());
        let input_at = add(stdio::stdin(), input);
        let terminal_at = ours.and_then(|ours| add(ours.as_fd(), terminal));
        if let Some(program) = ours.and_then(|ours| ours.program()).filter(|_| self.server_ended) {
            // Then the timeout is short.
            if timeout.is_none() {
                add(program, PollFlags::POLLIN);
            }
        }
        let timeout = timeout.map_or(PollTimeout::NONE, |wait| {
            let millis = u16::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u16::MAX);
            PollTimeout::from(millis)
        });
        let _ = nix::poll::poll(&mut polled, timeout);
        let at =
            |index: Option<usize>| index.is_some_and(|index| polled[index].any() == Some(true));
        // A pipe says POLLERR, a socket and a terminal POLLHUP.
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let output_closed = polled[1].revents().is_some_and(|events| events.intersects(gone));
        Ready {
            signal: at(Some(0)),
            server: server.contains(PollFlags::POLLIN) && at(server_at),
            input: at(input_at),
            terminal: terminal.contains(PollFlags::POLLIN) && at(terminal_at),
            output_closed,
        }
    }

    /// How long until something is to be done without anybody's doing.
    fn timeout(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let server_ended = self.server_ended;
        let terminal = self.takeover.ours_mut().and_then(|ours| ours.when(server_ended));
        let held = self
            .held_until
            .filter(|_| !self.held.is_empty() || matches!(self.input, Input::Ended(..)));
        let quiet = self.quiet_in().filter(|_| self.speaks_plainly()).map(|wait| now + wait);
        [terminal, held, quiet, self.next_ping]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now))
    }

    /// Writes what waits, as far as it is taken, and does what is due.
    fn flush(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.held_until.is_some_and(|until| now >= until) {
            self.held_until = None;
            self.release_input();
        }
        if self.next_ping.is_some_and(|at| now >= at) {
            self.next_ping = Some(now + PING);
            self.send_packet(&proto::encode_bare(proto::PING, 0));
        }
        self.say_the_size();
        self.tell_the_end_of_input();
        if !self.server_ended && !self.to_server.flush(|bytes| self.stream.write(bytes).taken()) {
            // What it said before it went is still to be read.
            self.to_server.clear();
        }
        if let Some(ours) = self.takeover.ours() {
            if !self.to_terminal.flush(|bytes| ours.write(bytes)) {
                self.to_terminal.clear();
            }
        }
        let (output, failure) = (&self.output, &self.failure);
        let read = self.to_output.flush(|bytes| output.write_noting(bytes, failure).taken());
        if read { None } else { Some(self.output_ended()) }
    }

    fn output_ended(&self) -> End {
        self.failure.reason().map_or(End::OutputClosed, End::OutputFailed)
    }

    /// The terminal's size may be another one.
    pub(super) fn size_changed(&mut self) {
        self.resize_due = self.config.protocol == Protocol::Uwsgi;
    }

    fn say_the_size(&mut self) {
        if !self.resize_due || self.takeover.is_taken() {
            return;
        }
        if let Some(ours) = self.takeover.ours() {
            self.resize_due = false;
            if let Some(size) = pty::size_of_ours() {
                ours.resize(size);
            }
        } else if !self.server_ended {
            self.resize_due = false;
            if let Some(size) = pty::size_of_ours() {
                self.to_server.push(&proto::encode_rows_and_cols(size.rows, size.cols));
            }
        }
    }

    /// Sends a packet beside the input.
    pub(super) fn send_packet(&mut self, packet: &[u8]) {
        if !self.server_ended {
            self.to_server.push(packet);
        }
    }

    /// Whether input is kept: the server has not said which mode it speaks, or
    /// the terminal is on its way to us.
    pub(super) fn holds_input(&self) -> bool {
        (self.hearing.is_undecided() && self.held_until.is_some()) || self.takeover.is_taken()
    }

    /// Whether the server knows only plain uwsgi mode, or raw mode.
    pub(super) fn speaks_plainly(&self) -> bool {
        !self.hearing.is_extended() && !self.holds_input()
    }

    /// Whether anybody is there who takes input.
    pub(super) fn is_going_on(&self) -> bool {
        self.ended.is_none() && (!self.server_ended || self.takeover.ours().is_some())
    }

    fn server_said(&mut self) -> Option<End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = match self.hearing.is_extended() && self.takeover.ours().is_none() {
            true => {
                self.stream.read_with_descriptors(&mut buffer, &mut self.arrived, &mut self.sender)
            }
            false => self.stream.read_noting_sender(&mut buffer, &mut self.sender),
        };
        let end = match read {
            Read::Bytes(count) => self.heard(&buffer[..count]),
            Read::Blocked => None,
            Read::End => {
                self.server_is_gone(None);
                None
            }
            Read::Gone => {
                self.server_is_gone(Some("reset by the server"));
                None
            }
        };
        self.buffer = buffer;
        end
    }

    fn server_is_gone(&mut self, how: Option<&'static str>) {
        self.server_ended = true;
        self.next_ping = None;
        self.lost = how;
        self.to_server.clear();
        let rest = self.hearing.rest();
        self.show(&rest);
        // Who has not had the word to go on never will.
        if self.takeover.is_taken() {
            self.takeover = Takeover::default();
        }
    }

    fn heard(&mut self, mut bytes: &[u8]) -> Option<End> {
        if let Input::Ended(_, heard) = &mut self.input {
            *heard = Instant::now();
        }
        let mut output = std::mem::take(&mut self.shown);
        let mut end = None;
        loop {
            output.clear();
            let said = self.hearing.next(&mut bytes, &mut output);
            if !self.hearing.is_extended() && self.first_bytes.len() < 1024 {
                self.first_bytes.extend(output.iter().take(1024));
            }
            self.show(&output);
            let Some(said) = said else {
                break;
            };
            if let Err(why) = self.obey(said) {
                end = Some(End::Lost(why.to_string()));
                break;
            }
        }
        self.shown = output;
        if !self.hearing.is_undecided() && self.held_until.take().is_some() {
            self.release_input();
        }
        let unasked = !self.arrived.descriptors.is_empty() || self.arrived.truncated;
        if end.is_none() && unasked && !self.hearing.may_be_in_an_offer() {
            end = Some(End::Lost(String::from("the router sent descriptors without an offer")));
        }
        end
    }

    fn obey(&mut self, said: Said) -> crate::error::Result<()> {
        match said {
            Said::Agreed => {
                if let Some(terminal) = &mut self.terminal {
                    // The other end's terminal does what keys do.
                    terminal.without_signals();
                }
                let can_take = self.transport == Transport::Unix;
                self.to_server.push(&introduction(self.config, can_take));
                if self.transport == Transport::Tcp {
                    self.next_ping = Some(Instant::now() + PING);
                }
            }
            Said::Ended(ended) => {
                // The first one counts.
                if self.ended.is_none() {
                    self.ended = Some(ended);
                    if let Some(ours) = self.takeover.ours_mut() {
                        ours.program_ended();
                    }
                }
            }
            Said::Notice(text) => self.notice(&text),
            Said::Offer(names) => {
                self.takeover.offered(&names, std::mem::take(&mut self.arrived))?;
                self.send_packet(&proto::encode_bare(proto::TAKEN, 0));
            }
            Said::Go => {
                self.takeover.go()?;
                self.release_input();
                // It may have changed on the way.
                self.size_changed();
            }
        }
        Ok(())
    }

    /// Says something beside the output, on a line of its own.
    fn notice(&self, text: &str) {
        let name = self.config.name;
        match self.terminal {
            Some(_) => stdio::say(&format!("\r\n{name} {text}\r")),
            None => stdio::say(&format!("{name} {text}")),
        }
    }

    /// The terminal that is ours has something.
    fn terminal_said(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(ours) = self.takeover.ours_mut() {
            let count = ours.read(&mut buffer);
            self.show(&buffer[..count]);
        }
        self.buffer = buffer;
    }

    /// Writes output, or keeps what is not taken.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let taken = match self.to_output.is_empty() {
            true => self.output.write_noting(bytes, &self.failure).taken(),
            false => Some(0),
        };
        // Where nobody takes it, the next flush says so.
        self.to_output.push(&bytes[taken.unwrap_or(0)..]);
    }

    /// Whether it is over, and how it ended.
    fn is_over(&mut self) -> Option<End> {
        if !self.to_output.is_empty() {
            return None;
        }
        let server_ended = self.server_ended;
        match (&self.ended, self.takeover.ours_mut()) {
            (Some(ended), None) => Some(End::Told(ended.clone())),
            (Some(ended), Some(ours)) => {
                let ended = ended.clone();
                ours.is_drained().then_some(End::Told(ended))
            }
            (None, Some(ours)) if server_ended => ours.ended_alone().map(End::Told),
            (None, None) if server_ended => Some(self.how_it_ended()),
            _ => None,
        }
    }

    /// Whether the session came to its end, or the server to its own, where
    /// the server has not said so.
    fn how_it_ended(&self) -> End {
        if let Some(why) = self.lost {
            return End::Lost(why.to_owned());
        }
        let gone = self.sender.as_ref().is_some_and(Sender::has_ended);
        if gone || self.hearing.is_extended() {
            let why = if gone { "the server is gone" } else { "it ended without a word" };
            return End::Lost(why.to_owned());
        }
        let line = self.first_bytes.strip_suffix(b"\r\n").unwrap_or_default();
        if line.starts_with(REFUSED) && !line.contains(&b'\n') {
            return End::Refused;
        }
        End::Normal
    }
}

/// What a wait found.
struct Ready {
    signal: bool,
    server: bool,
    input: bool,
    terminal: bool,
    output_closed: bool,
}
