//! The thread of the shared terminal: poll, relay, clients.
//!
//! The worker writes to this terminal, so the thread never waits for anything: not for a
//! client, not for the log, not for a program that does not read.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::half_close::HalfClose;
use super::scrollback::{QUEUE_LIMIT, Scrollback};
use super::tee::LogTee;
use super::terminal_client::{Client, ClientEvent, Listener, accept};
use super::unavailable::RejectedClients;
use fpty::backlog::Backlog;
use fpty::error::reason;
use fpty::fair_share;
use fpty::proto::http_request::HTTP_REJECTED;
use fpty::sys::ReadOutcome;
use fpty::sys::private_fd::Private;
use fpty::sys::pty::{Master, Slave};
use fpty::sys::stdio::{self, Output};
use fpty::text::shown;

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// How often the terminal is read before half-closed clients end: more than the
/// terminal holds.
const DRAIN_READS: usize = 64;

/// Clients at once, and of one user. Beyond the first whoever has the most
/// loses the oldest of them.
const MAX_CLIENTS: usize = 256;
const MAX_CLIENTS_PER_USER: usize = 64;

/// How long nobody is accepted after running out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The shared terminal.
pub struct SharedTerminal {
    listeners: Vec<Listener>,
    master: Private<Master>,
    scrollback: Scrollback,
    clients: Vec<Client>,
    /// Clients that were refused, until they have read the reason.
    rejected: RejectedClients,
    /// Input that the terminal has not taken; no client is read meanwhile.
    input: Backlog,
    errors: Output,
    log: Option<LogTee>,
    original_input: Option<OwnedFd>,
    /// No connection is accepted until then.
    paused: Option<Instant>,
    /// Some client is half-closed.
    half_close: Option<HalfClose>,
    buffer: Vec<u8>,
}

/// The owner of a polled descriptor.
#[derive(Clone, Copy)]
enum PollSource {
    Terminal,
    Listener(usize),
    Client(usize),
    Log,
    OriginalInput,
}

impl SharedTerminal {
    /// A terminal without clients.
    pub fn new(
        listeners: Vec<Listener>,
        master: Private<Master>,
        scrollback: usize,
        errors: Output,
        log: Option<LogTee>,
        original_input: Option<OwnedFd>,
    ) -> Self {
        Self {
            listeners,
            master,
            scrollback: Scrollback::new(scrollback),
            clients: Vec::new(),
            rejected: RejectedClients::new(),
            input: Backlog::default(),
            errors,
            log,
            original_input,
            paused: None,
            half_close: None,
            buffer: vec![0; BUFFER],
        }
    }

    /// A line for the server's log, as far as that takes it: the process's
    /// own standard error is the terminal by now.
    pub fn log(&self, line: &str) {
        let _ = self.errors.write(format!("pty: {}\n", shown(line)).as_bytes());
    }

    /// Serves for as long as the process lives. The slave is held open, or
    /// the terminal would end when the worker closes its own.
    pub fn run(mut self, slave: Arc<Slave>) {
        loop {
            for (source, events) in self.wait() {
                match source {
                    PollSource::Terminal => self.terminal(events),
                    PollSource::Listener(index) => self.accept(index),
                    PollSource::Client(index) => self.client(index, events),
                    PollSource::Log => self.flush_log(),
                    PollSource::OriginalInput => self.original_input(),
                }
            }
            self.rejected.expire();
            self.handle_deadlines(&slave);
            self.drop_finished();
        }
    }

    fn wait(&mut self) -> Vec<(PollSource, PollFlags)> {
        let takes_input = self.input.is_empty();
        let mut sources = Vec::with_capacity(self.clients.len() + 4);
        let mut polled = Vec::with_capacity(self.clients.len() + 4);
        let mut add = |source, fd, events| {
            sources.push(source);
            polled.push(PollFd::new(fd, events));
        };
        let mut terminal = PollFlags::POLLIN;
        terminal.set(PollFlags::POLLOUT, !takes_input);
        add(PollSource::Terminal, self.master.as_fd(), terminal);
        for (index, listener) in self.listeners.iter().enumerate() {
            if self.paused.is_none() {
                add(PollSource::Listener(index), listener.socket.as_fd(), PollFlags::POLLIN);
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            add(PollSource::Client(index), client.stream.as_fd(), client.interest(takes_input));
        }
        if let Some(log) = self.log.as_ref().and_then(LogTee::awaited) {
            add(PollSource::Log, log, PollFlags::POLLOUT);
        }
        if let Some(input) = self.original_input.as_ref().filter(|_| takes_input) {
            add(PollSource::OriginalInput, input.as_fd(), PollFlags::POLLIN);
        }
        if !matches!(nix::poll::poll(&mut polled, self.timeout()), Ok(1..)) {
            return Vec::new();
        }
        sources
            .into_iter()
            .zip(polled.iter().map(|polled| polled.revents().unwrap_or(PollFlags::empty())))
            .filter(|(_, events)| !events.is_empty())
            .collect()
    }

    /// The deadlines: connections are accepted again, the log gets the beginning of a
    /// line, half-closed clients are checked, first bytes are held back no more.
    fn deadlines(&self) -> [Option<Instant>; 4] {
        [
            self.paused,
            self.log.as_ref().and_then(LogTee::due),
            self.half_close.as_ref().map(HalfClose::due),
            self.clients.iter().filter_map(|client| client.held_until).min(),
        ]
    }

    /// The time until something is due.
    fn timeout(&self) -> PollTimeout {
        let Some(due) = self.deadlines().into_iter().flatten().min() else {
            return PollTimeout::NONE;
        };
        // Rounded up, or poll(2) would return at once throughout the last millisecond.
        let left = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn handle_deadlines(&mut self, slave: &Slave) {
        let now = Instant::now();
        let [paused, log, half_close, held] =
            self.deadlines().map(|due| due.is_some_and(|due| due <= now));
        if held {
            self.release_held_input(now);
        }
        if paused {
            self.paused = None;
        }
        if log {
            self.flush_log();
        }
        if half_close {
            self.finish_half_closed(slave);
        }
    }

    /// Ends half-closed clients when the programs on the terminal have read all input and
    /// all output was read from the terminal.
    fn finish_half_closed(&mut self, slave: &Slave) {
        if !self.clients.iter().any(Client::is_half_closed) {
            self.half_close = None;
            return;
        }
        let delivered = self.input.is_empty();
        if !self.half_close.as_mut().is_some_and(|half_close| half_close.check(slave, delivered)) {
            return;
        }
        for _ in 0..DRAIN_READS {
            if !self.read_terminal() {
                break;
            }
        }
        self.clients.iter_mut().filter(|client| client.is_half_closed()).for_each(Client::leave);
        self.half_close = None;
    }

    fn terminal(&mut self, events: PollFlags) {
        if events.contains(PollFlags::POLLOUT) {
            self.flush_input();
        }
        self.read_terminal();
    }

    /// Passes output on; returns whether there was any.
    fn read_terminal(&mut self) -> bool {
        let ReadOutcome::Bytes(count) = self.master.read(&mut self.buffer) else {
            return false;
        };
        let output = &self.buffer[..count];
        if let Some(half_close) = &mut self.half_close {
            half_close.note_output();
        }
        self.scrollback.push(output);
        for client in &mut self.clients {
            client.send_output(output);
        }
        self.log.take_if(|log| !log.push(output));
        true
    }

    fn flush_log(&mut self) {
        self.log.take_if(|log| !log.flush());
    }

    fn accept(&mut self, index: usize) {
        let listener = &self.listeners[index];
        match accept(&listener.socket) {
            Ok(Some(stream)) => {
                let principal = fair_share::Principal::of(&stream);
                if self.clients.iter().filter(|client| client.principal == principal).count()
                    >= MAX_CLIENTS_PER_USER
                {
                    let why = "too many clients of yours are at this terminal";
                    self.rejected.reject(stream, why);
                    return;
                }
                let places = self.clients.iter().enumerate();
                let places = places.map(|(index, client)| (index, client.principal, client.since));
                if let Some(index) =
                    fair_share::to_evict(places, principal, MAX_CLIENTS_PER_USER, MAX_CLIENTS)
                {
                    self.clients[index].disconnect();
                }
                self.clients.push(Client::new(
                    stream,
                    principal,
                    listener.readonly,
                    &self.scrollback,
                ));
            }
            Ok(None) => {}
            Err(error) => {
                self.paused = Some(Instant::now() + ACCEPT_PAUSE);
                self.log(&format!("cannot take a connection: {}", reason(&error)));
            }
        }
    }

    fn client(&mut self, index: usize, events: PollFlags) {
        match self.clients[index].ready(events, &mut self.buffer) {
            ClientEvent::Nothing => {}
            ClientEvent::Input(count) => self.write_input(count),
            ClientEvent::HeldInput(bytes) => self.write_held_input(&bytes),
            ClientEvent::Http => self.reject_http(index),
            ClientEvent::Eof(bytes) => {
                self.write_held_input(&bytes);
                self.half_close = Some(HalfClose::new());
            }
        }
    }

    fn original_input(&mut self) {
        let Some(input) = &self.original_input else {
            return;
        };
        match stdio::read(input, &mut self.buffer) {
            ReadOutcome::Bytes(count) => self.write_input(count),
            ReadOutcome::WouldBlock => {}
            // poll(2) would find its end readable for ever.
            ReadOutcome::Eof | ReadOutcome::Closed => self.original_input = None,
        }
    }

    fn reject_http(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.reject_http();
        let source = client.principal;
        self.log(&format!("{source} was refused: {HTTP_REJECTED}"));
    }

    fn write_held_input(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
        self.flush_input();
    }

    /// First bytes that were held back for long enough are no web page's.
    fn release_held_input(&mut self, now: Instant) {
        for index in 0..self.clients.len() {
            if self.clients[index].held_until.is_some_and(|until| until <= now) {
                let bytes = self.clients[index].take_held();
                self.write_held_input(&bytes);
            }
        }
    }

    /// Gives the terminal what is in the buffer.
    fn write_input(&mut self, count: usize) {
        self.input.push(&self.buffer[..count]);
        self.flush_input();
    }

    fn flush_input(&mut self) {
        if !self.input.flush(|bytes| self.master.write(bytes).taken()) {
            self.input.clear();
        }
    }

    /// Drops clients whose connection is over, and those that do not read.
    fn drop_finished(&mut self) {
        for _ in self.clients.iter().filter(|client| client.is_over_limit()) {
            self.log(&format!(
                "a client that does not read was dropped: {QUEUE_LIMIT} bytes waited for it"
            ));
        }
        while let Some(index) = self.clients.iter().position(Client::is_rejected) {
            self.rejected.close_lingering(self.clients.swap_remove(index).stream);
        }
        self.clients.retain(|client| !client.is_over_limit() && !client.is_finished());
    }
}
