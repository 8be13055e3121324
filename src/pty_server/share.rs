//! Everything that happens at the shared terminal, on a thread of its own.
//!
//! The worker writes to this terminal, so nothing here may ever wait for
//! anybody: not for a client, not for the log, not for a program that does
//! not read.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::fanout::{QUEUE_LIMIT, Scrollback};
use fpty::error::reason;
use fpty::relay::{Backlog, Queries};
use fpty::sys::Read;
use fpty::sys::pty::{Master, Slave};
use fpty::sys::socket::{Listener, Stream};
use fpty::sys::stdio::{self, Output};

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// What may wait for the log; the rest is lost to it.
const LOG_LIMIT: usize = 256 * 1024;

/// How long nobody is accepted after running out of descriptors.
const PAUSE_MILLIS: u16 = 200;

/// A socket of the shared terminal.
pub struct Door {
    /// Where clients come from.
    pub listener: Listener,
    /// Whether they only watch.
    pub readonly: bool,
}

/// Somebody at the terminal.
struct Client {
    stream: Stream,
    readonly: bool,
    queue: Backlog,
    /// It came in the midst of a sequence.
    joining: Option<Box<Queries>>,
    /// What may wait for it before it loses its place.
    limit: usize,
    /// It will get what waits for it, and no more.
    leaving: bool,
    gone: bool,
}

/// The shared terminal.
pub struct Share {
    doors: Vec<Door>,
    master: Master,
    scrollback: Scrollback,
    clients: Vec<Client>,
    /// Input that the terminal has not taken: then nobody's is read.
    input: Backlog,
    errors: Output,
    log: Option<(Output, Backlog)>,
    original_input: Option<OwnedFd>,
    paused: bool,
    buffer: Vec<u8>,
}

/// Who a descriptor in the poll belongs to.
#[derive(Clone, Copy)]
enum Who {
    Terminal,
    Door(usize),
    Client(usize),
    Log,
    OriginalInput,
}

impl Share {
    /// The terminal and those who may come to it.
    pub fn new(
        doors: Vec<Door>,
        master: Master,
        scrollback: usize,
        errors: Output,
        log: Option<Output>,
        original_input: Option<OwnedFd>,
    ) -> Self {
        Self {
            doors,
            master,
            scrollback: Scrollback::new(scrollback),
            clients: Vec::new(),
            input: Backlog::default(),
            errors,
            log: log.map(|log| (log, Backlog::default())),
            original_input,
            paused: false,
            buffer: vec![0; BUFFER],
        }
    }

    /// A line for the server's log, as far as that takes it: the process's
    /// own standard error is the terminal by now.
    pub fn log(&self, line: &str) {
        let _ = self.errors.write(format!("pty: {line}\n").as_bytes());
    }

    /// Serves for as long as the process lives. The slave is held open, or
    /// the terminal would end when the worker closes its own.
    pub fn run(mut self, _slave: Arc<Slave>) {
        loop {
            for (who, events) in self.wait() {
                match who {
                    Who::Terminal => self.terminal(events),
                    Who::Door(index) => self.accept(index),
                    Who::Client(index) => self.client(index, events),
                    Who::Log => self.write_log(),
                    Who::OriginalInput => self.original_input(),
                }
            }
            self.part();
        }
    }

    fn wait(&mut self) -> Vec<(Who, PollFlags)> {
        let takes_input = self.input.is_empty();
        let mut who = Vec::with_capacity(self.clients.len() + 4);
        let mut polled = Vec::with_capacity(self.clients.len() + 4);
        let mut terminal = PollFlags::POLLIN;
        terminal.set(PollFlags::POLLOUT, !takes_input);
        who.push(Who::Terminal);
        polled.push(PollFd::new(self.master.as_fd(), terminal));
        if !self.paused {
            for (index, door) in self.doors.iter().enumerate() {
                who.push(Who::Door(index));
                polled.push(PollFd::new(door.listener.as_fd(), PollFlags::POLLIN));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, (takes_input || client.readonly) && !client.leaving);
            events.set(PollFlags::POLLOUT, !client.queue.is_empty());
            who.push(Who::Client(index));
            polled.push(PollFd::new(client.stream.as_fd(), events));
        }
        if let Some((log, _)) = self.log.as_ref().filter(|(_, queue)| !queue.is_empty()) {
            who.push(Who::Log);
            polled.push(PollFd::new(log.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(input) = self.original_input.as_ref().filter(|_| takes_input) {
            who.push(Who::OriginalInput);
            polled.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match self.paused {
            true => PollTimeout::from(PAUSE_MILLIS),
            false => PollTimeout::NONE,
        };
        if nix::poll::poll(&mut polled, timeout) == Ok(0) {
            self.paused = false;
            return Vec::new();
        }
        who.into_iter()
            .zip(polled.iter().map(|polled| polled.revents().unwrap_or(PollFlags::empty())))
            .filter(|(_, events)| !events.is_empty())
            .collect()
    }

    fn terminal(&mut self, events: PollFlags) {
        if events.contains(PollFlags::POLLOUT) {
            self.flush_input();
        }
        if let Read::Bytes(count) = self.master.read(&mut self.buffer) {
            let output = &self.buffer[..count];
            self.scrollback.push(output);
            for client in &mut self.clients {
                client.give(output);
            }
            if let Some((_, queue)) = &mut self.log {
                let room = LOG_LIMIT.saturating_sub(queue.len());
                queue.push(&output[..count.min(room)]);
                self.write_log();
            }
        }
    }

    fn write_log(&mut self) {
        let written =
            |(log, queue): &mut (Output, Backlog)| queue.flush(|bytes| log.write(bytes).taken());
        if !self.log.as_mut().is_none_or(written) {
            self.log = None;
        }
    }

    fn accept(&mut self, index: usize) {
        let door = &self.doors[index];
        match door.listener.accept() {
            Ok(Some((stream, _))) => {
                let mut client = Client {
                    stream,
                    readonly: door.readonly,
                    queue: Backlog::default(),
                    joining: None,
                    limit: QUEUE_LIMIT,
                    leaving: false,
                    gone: false,
                };
                client.joining = self.scrollback.replay(&mut client.queue);
                client.limit += client.queue.len();
                client.send();
                self.clients.push(client);
            }
            Ok(None) => {}
            Err(error) => {
                self.paused = true;
                self.log(&format!("cannot take a connection: {}", reason(&error)));
            }
        }
    }

    fn client(&mut self, index: usize, events: PollFlags) {
        let client = &mut self.clients[index];
        if events.contains(PollFlags::POLLOUT) {
            client.send();
        }
        if events.contains(PollFlags::POLLIN) {
            match client.stream.read(&mut self.buffer) {
                Read::Bytes(_) if client.readonly => {}
                Read::Bytes(count) => self.give_input(count),
                Read::Blocked => {}
                Read::End => client.leaving = true,
                Read::Gone => client.gone = true,
            }
        } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            client.gone = true;
        }
    }

    fn original_input(&mut self) {
        let Some(input) = &self.original_input else {
            return;
        };
        match stdio::read(input, &mut self.buffer) {
            Read::Bytes(count) => self.give_input(count),
            Read::Blocked => {}
            // Readable for ever, were it still asked.
            Read::End | Read::Gone => self.original_input = None,
        }
    }

    /// Gives the terminal what is in the buffer.
    fn give_input(&mut self, count: usize) {
        self.input.push(&self.buffer[..count]);
        self.flush_input();
    }

    fn flush_input(&mut self) {
        if !self.input.flush(|bytes| self.master.write(bytes).taken()) {
            self.input.clear();
        }
    }

    /// Lets go of those who left, and of those who do not read.
    fn part(&mut self) {
        let behind = self.clients.iter().filter(|client| client.is_behind()).count();
        for _ in 0..behind {
            self.log(&format!(
                "a client that does not read was dropped: {QUEUE_LIMIT} bytes waited for it"
            ));
        }
        self.clients.retain(|client| {
            let done = client.leaving && client.queue.is_empty();
            !(client.gone || client.is_behind() || done)
        });
    }
}

impl Client {
    fn give(&mut self, output: &[u8]) {
        match &mut self.joining {
            None => self.queue.push(output),
            Some(queries) => {
                let mut through = Vec::new();
                queries.pass(output, &mut through);
                self.queue.push(&through);
                if !queries.is_undecided() {
                    self.joining = None;
                }
            }
        }
        self.send();
    }

    fn send(&mut self) {
        self.gone |= !self.queue.flush(|bytes| self.stream.write(bytes).taken());
    }

    fn is_behind(&self) -> bool {
        !self.gone && self.queue.len() > self.limit
    }
}
