//! The session as the client sees it: one loop that waits for both ends.

use std::time::{Duration, Instant};

use super::Client;
use super::decoder::Hearing;
use super::escape::Escapes;
use super::handover::Takeover;
use super::input::Input;
use super::line_position::Tail;
use super::outcome::{self, End};
use super::reattach::Coming;
use super::reconnect::Again;
use crate::backlog::Backlog;
use crate::proto::{self, Ended, Protocol};
use crate::sys::peer_process::{Passed, Peer};
use crate::sys::signal::Signals;
use crate::sys::socket::{Stream, Transport};
use crate::sys::stdio::{self, Failure, Output};
use crate::sys::termios::RawMode;
use crate::sys::{Size, pty};

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// How long input waits for the server to say which mode it speaks. A router
/// that knows only the plain one says nothing if its program does not.
const ASKED: Duration = Duration::from_millis(100);

/// So much input goes to a server that does not say it, in bytes, before it is
/// waited for longer, and how long: a router of ours that is busy, or stopped,
/// keeps no more of what comes before the request.
pub const EARLY: usize = 64 * 1024;
pub const ASKED_AT_LAST: Duration = Duration::from_secs(3);

/// How long one may take where only a server that can do more will do.
pub const ASKED_FOR_MORE: Duration = Duration::from_secs(10);

/// How often a TCP connection is kept busy: uWSGI's routers end idle ones
/// after a minute.
pub const PING: Duration = Duration::from_secs(20);

/// A session.
pub struct Session<'a> {
    pub(super) config: &'a Client,
    pub(super) stream: Stream,
    pub(super) transport: Transport,
    pub(super) signals: Signals,
    pub(super) output: Output,
    pub(super) failure: Failure,
    /// Restores the terminal when the session is dropped, a panic included.
    pub(super) terminal: Option<RawMode>,
    /// Whether the terminal's signals reach us.
    pub(super) terminal_is_ours: bool,
    pub(super) escapes: Option<Escapes>,
    pub(super) hearing: Hearing,
    pub(super) takeover: Takeover,
    /// Descriptors that came, until the packet that names them is complete.
    pub(super) arrived: Passed,
    /// Input that waits for the word how to send it.
    pub(super) held: Vec<u8>,
    /// Until then, where the server does not say which mode it speaks.
    pub(super) held_until: Option<Instant>,
    /// How much input went nevertheless, and until when there is a bound to that.
    pub(super) early: usize,
    /// That input, while it is little: for another attempt.
    pub(super) early_typed: Option<Vec<u8>>,
    pub(super) early_until: Option<Instant>,
    /// What the server has not taken yet: whole packets in uwsgi mode.
    pub(super) to_server: Backlog,
    /// What the terminal that is ours has not taken yet.
    pub(super) to_terminal: Backlog,
    /// What our output has not taken yet.
    pub(super) to_output: Backlog,
    pub(super) resize_due: bool,
    /// The size that was said last.
    pub(super) said_size: Option<Size>,
    pub(super) next_look: Option<Instant>,
    pub(super) input: Input,
    /// The first bytes of a server that speaks plainly, and the last.
    pub(super) first_bytes: Vec<u8>,
    pub(super) last_bytes: Vec<u8>,
    /// What may be a refusal, until then.
    pub(super) withheld: Option<(Vec<u8>, Instant)>,
    /// The last that was shown.
    pub(super) tail: Tail,
    pub(super) ended: Option<Ended>,
    pub(super) server_ended: bool,
    /// Who the server is, and how the connection to it failed.
    pub(super) peer: Peer,
    pub(super) next_ping: Option<Instant>,
    /// Where the session can be left and found again.
    pub(super) coming: Coming,
    /// By what it is found again if the connection breaks.
    pub(super) again: Again,
    pub(super) buffer: Vec<u8>,
    pub(super) shown: Vec<u8>,
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
        Self {
            escapes: config.escape.filter(|_| terminal.is_some()).map(Escapes::new),
            config,
            stream,
            transport,
            signals,
            output,
            failure: Failure::default(),
            terminal,
            terminal_is_ours: stdio::terminal_is_ours(),
            hearing: Hearing::plain(),
            takeover: Takeover::default(),
            arrived: Passed::default(),
            held: Vec::new(),
            held_until: None,
            early: 0,
            early_typed: Some(Vec::new()),
            early_until: None,
            to_server: Backlog::default(),
            to_terminal: Backlog::default(),
            to_output: Backlog::default(),
            resize_due: false,
            said_size: None,
            next_look: None,
            input: Input::Open,
            first_bytes: Vec::new(),
            last_bytes: Vec::new(),
            withheld: None,
            tail: Tail::default(),
            ended: None,
            server_ended: false,
            peer: Peer::default(),
            next_ping: None,
            coming: Coming::default(),
            again: Again::default(),
            buffer: vec![0; BUFFER],
            shown: Vec::new(),
        }
    }

    /// The server was asked whether it can do more; says how large the terminal
    /// is, which every server understands.
    pub fn greet(&mut self) {
        self.hearing = Hearing::asked();
        let patience = if self.needs_more() { ASKED_FOR_MORE } else { ASKED };
        self.held_until = Some(Instant::now() + patience);
        self.resize_due = true;
        self.say_the_size();
    }

    /// What is said of the end stands on a line of its own.
    pub(super) fn end_the_line(&mut self, end: &End) {
        let for_a_person = outcome::is_for_a_person(self.config);
        if outcome::speaks(self.config, end)
            && stdio::is_one_place()
            && self.tail.is_in_a_line(for_a_person)
        {
            self.show_at_last(b"\r\n");
        }
    }

    /// Runs it to the end of its connection.
    pub(super) fn run_on(&mut self) -> End {
        loop {
            if let Some(end) = self.flush().or_else(|| self.look_for_the_end()) {
                return end;
            }
            let ready = self.wait();
            let signalled = ready.signal.then(|| self.signals_came()).flatten();
            if let Some(end) = signalled {
                return end;
            }
            if ready.server {
                if let Some(end) = self.server_said() {
                    return end;
                }
            }
            if ready.terminal && !self.is_leaving() {
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

    /// Writes what waits, as far as it is taken, and does what is due.
    fn flush(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.held_until.is_some_and(|until| now >= until) {
            self.held_until = None;
            if self.needs_more() && self.hearing.is_undecided() {
                return Some(End::SpeaksPlainly);
            }
            self.early_until = Some(now + ASKED_AT_LAST);
            self.release_input();
        }
        if !self.needs_more() && self.withheld.as_ref().is_some_and(|(_, until)| now >= *until) {
            self.show_withheld();
        }
        if self.next_ping.is_some_and(|at| now >= at) {
            self.next_ping = Some(now + PING);
            self.send_packet(&proto::encode_bare(proto::PING, 0));
        }
        self.look(now);
        self.stay(now);
        self.say_the_size();
        if let Some(ours) = self.takeover.ours() {
            if !self.to_terminal.flush(|bytes| ours.write(bytes)) {
                self.to_terminal.clear();
            }
        }
        self.ask_to_leave();
        // After the last of the input is there, and before the rest is sent:
        // nothing would wake us for it again.
        self.tell_the_end_of_input();
        if !self.to_server.is_empty() {
            self.look_later(now);
        }
        if self.look_for_answer(now) {
            self.server_is_gone();
        }
        let (stream, peer) = (&self.stream, &mut self.peer);
        if !self.server_ended && !self.to_server.flush(|bytes| stream.write_to(bytes, peer).taken())
        {
            // What it said before it went is still to be read.
            self.to_server.clear();
        }
        let (output, failure) = (&self.output, &self.failure);
        let read = self.to_output.flush(|bytes| output.write_noting(bytes, failure).taken());
        if read { None } else { Some(self.output_ended()) }
    }

    pub(super) fn output_ended(&self) -> End {
        let why = self.failure.reason().map(|why| format!("standard output: {why}"));
        why.map_or(End::OutputClosed, End::OutputFailed)
    }

    /// The terminal's size may be another one.
    pub(super) fn size_changed(&mut self) {
        self.resize_due = self.config.protocol == Protocol::Uwsgi;
    }

    fn say_the_size(&mut self) {
        let nobody_hears = self.server_ended && self.takeover.ours().is_none();
        if !self.resize_due || self.takeover.is_taken() || nobody_hears || self.config.read_only {
            return;
        }
        self.resize_due = false;
        let Some(size) = pty::size_of_ours() else {
            return;
        };
        self.said_size = Some(size);
        self.set_size(size);
        self.coming.resized(size);
    }

    /// Gives the program a terminal of this size.
    pub(super) fn set_size(&mut self, size: Size) {
        match self.takeover.ours() {
            Some(ours) => ours.resize(size),
            None => self.send_packet(&proto::encode_rows_and_cols(size.rows, size.cols)),
        }
    }

    /// Sends a packet beside the input.
    pub(super) fn send_packet(&mut self, packet: &[u8]) {
        if !self.server_ended {
            self.to_server.push(packet);
        }
    }

    /// Whether only a server that speaks the extended mode will do.
    pub(super) fn needs_more(&self) -> bool {
        self.config.needs_more() || self.again.is_awaited()
    }

    /// Whether input is kept: the server has not said which mode it speaks, or
    /// the terminal is on its way to us.
    pub(super) fn holds_input(&self) -> bool {
        (self.hearing.is_undecided() && self.held_until.is_some()) || self.takeover.is_taken()
    }

    /// Whether the server has not said which mode it speaks for a while, and
    /// may yet.
    pub(super) fn may_agree(&self) -> bool {
        self.hearing.is_undecided() && self.early_until.is_some_and(|at| Instant::now() < at)
    }

    /// Whether the server knows only plain uwsgi mode, or raw mode.
    pub(super) fn speaks_plainly(&self) -> bool {
        !self.hearing.is_extended() && !self.holds_input()
    }

    /// Whether anybody is there who takes input.
    pub(super) fn is_going_on(&self) -> bool {
        self.ended.is_none() && (!self.server_ended || self.takeover.ours().is_some())
    }

    /// Writes output, or keeps what is not taken.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.tail.shown(bytes);
        let taken = match self.to_output.is_empty() {
            true => self.output.write_noting(bytes, &self.failure).taken(),
            false => Some(0),
        };
        // Where nobody takes it, the next flush says so.
        self.to_output.push(&bytes[taken.unwrap_or(0)..]);
    }
}
