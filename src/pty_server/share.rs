//! Everything that happens at the shared terminal, on a thread of its own.
//!
//! The worker writes to this terminal, so nothing here may ever wait for
//! anybody: not for a client, not for the log, not for a program that does
//! not read.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::absence::Refused;
use super::client::{Client, Heard};
use super::ending::Ending;
use super::fanout::{QUEUE_LIMIT, Scrollback};
use super::log_copy::LogCopy;
use fpty::backlog::Backlog;
use fpty::error::reason;
use fpty::fair_share;
use fpty::proto::http_request::WHY;
use fpty::sys::Read;
use fpty::sys::private_fd::Private;
use fpty::sys::pty::{Master, Slave};
use fpty::sys::socket::{Listener, Stream};
use fpty::sys::stdio::{self, Output};
use fpty::text::shown;

/// Bytes of one read.
const BUFFER: usize = 64 * 1024;

/// How often the terminal is read before whoever waits for the last of its
/// output is let go: more than it holds.
const LAST_READS: usize = 64;

/// Clients at once, and of one user. Beyond the first whoever has the most
/// loses the oldest of them.
const CLIENTS: usize = 256;
const CLIENTS_OF_ONE: usize = 64;

/// How long nobody is accepted after running out of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// A socket of the shared terminal.
pub struct Door {
    /// Where clients come from.
    pub listener: Private<Listener>,
    /// Whether they only watch.
    pub readonly: bool,
}

/// The shared terminal.
pub struct Share {
    doors: Vec<Door>,
    master: Private<Master>,
    scrollback: Scrollback,
    clients: Vec<Client>,
    /// Those who could not come in, until they have read that.
    refused: Refused<Private<Stream>>,
    /// Input that the terminal has not taken: then nobody's is read.
    input: Backlog,
    errors: Output,
    log: Option<LogCopy>,
    original_input: Option<OwnedFd>,
    /// Nobody is accepted until then.
    paused: Option<Instant>,
    /// Clients have said all that they have to say.
    ending: Option<Ending>,
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
        master: Private<Master>,
        scrollback: usize,
        errors: Output,
        log: Option<LogCopy>,
        original_input: Option<OwnedFd>,
    ) -> Self {
        Self {
            doors,
            master,
            scrollback: Scrollback::new(scrollback),
            clients: Vec::new(),
            refused: Refused::new(),
            input: Backlog::default(),
            errors,
            log,
            original_input,
            paused: None,
            ending: None,
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
            for (who, events) in self.wait() {
                match who {
                    Who::Terminal => self.terminal(events),
                    Who::Door(index) => self.accept(index),
                    Who::Client(index) => self.client(index, events),
                    Who::Log => self.flush_log(),
                    Who::OriginalInput => self.original_input(),
                }
            }
            self.refused.look();
            self.look_at_the_clock(&slave);
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
        if self.paused.is_none() {
            for (index, door) in self.doors.iter().enumerate() {
                who.push(Who::Door(index));
                polled.push(PollFd::new(door.listener.as_fd(), PollFlags::POLLIN));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            who.push(Who::Client(index));
            polled.push(PollFd::new(client.stream.as_fd(), client.interest(takes_input)));
        }
        if let Some(log) = self.log.as_ref().and_then(LogCopy::awaited) {
            who.push(Who::Log);
            polled.push(PollFd::new(log, PollFlags::POLLOUT));
        }
        if let Some(input) = self.original_input.as_ref().filter(|_| takes_input) {
            who.push(Who::OriginalInput);
            polled.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        if !matches!(nix::poll::poll(&mut polled, self.timeout()), Ok(1..)) {
            return Vec::new();
        }
        who.into_iter()
            .zip(polled.iter().map(|polled| polled.revents().unwrap_or(PollFlags::empty())))
            .filter(|(_, events)| !events.is_empty())
            .collect()
    }

    /// When what is to be done that no descriptor tells of: people are accepted again,
    /// the log gets half a line, those who are silent are looked after, and first
    /// bytes are held back no more.
    fn dues(&self) -> [Option<Instant>; 4] {
        [
            self.paused,
            self.log.as_ref().and_then(LogCopy::due),
            self.ending.as_ref().map(Ending::due),
            self.clients.iter().filter_map(|client| client.held_until).min(),
        ]
    }

    /// The time until something is due.
    fn timeout(&self) -> PollTimeout {
        let Some(due) = self.dues().into_iter().flatten().min() else {
            return PollTimeout::NONE;
        };
        // Rounded up, or the last millisecond would be spent asking.
        let left = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn look_at_the_clock(&mut self, slave: &Slave) {
        let now = Instant::now();
        let [paused, log, ending, held] = self.dues().map(|due| due.is_some_and(|due| due <= now));
        if held {
            self.give_what_was_held(now);
        }
        if paused {
            self.paused = None;
        }
        if log {
            self.flush_log();
        }
        if ending {
            self.look_for_ends(slave);
        }
    }

    /// Lets those go who have said all they have to say, when whoever reads
    /// it has come to its end and they have all that it said.
    fn look_for_ends(&mut self, slave: &Slave) {
        if !self.clients.iter().any(Client::is_silent) {
            self.ending = None;
            return;
        }
        let delivered = self.input.is_empty();
        if !self.ending.as_mut().is_some_and(|ending| ending.look(slave, delivered)) {
            return;
        }
        for _ in 0..LAST_READS {
            if !self.read_terminal() {
                break;
            }
        }
        self.clients.iter_mut().filter(|client| client.is_silent()).for_each(Client::leave);
        self.ending = None;
    }

    fn terminal(&mut self, events: PollFlags) {
        if events.contains(PollFlags::POLLOUT) {
            self.flush_input();
        }
        self.read_terminal();
    }

    /// Passes output on; returns whether there was any.
    fn read_terminal(&mut self) -> bool {
        let Read::Bytes(count) = self.master.read(&mut self.buffer) else {
            return false;
        };
        let output = &self.buffer[..count];
        if let Some(ending) = &mut self.ending {
            ending.note_output();
        }
        self.scrollback.push(output);
        for client in &mut self.clients {
            client.give(output);
        }
        self.log.take_if(|log| !log.give(output));
        true
    }

    fn flush_log(&mut self) {
        self.log.take_if(|log| !log.flush());
    }

    fn accept(&mut self, index: usize) {
        let door = &self.doors[index];
        match super::accept(&door.listener) {
            Ok(Some(stream)) => {
                let who = fair_share::Who::of(&stream);
                if self.clients.iter().filter(|client| client.who == who).count() >= CLIENTS_OF_ONE
                {
                    let why = "too many clients of yours are at this terminal";
                    self.refused.refuse(stream, why);
                    return;
                }
                let places = self.clients.iter().enumerate();
                let places = places.map(|(index, client)| (index, client.who, client.since));
                if let Some(index) = fair_share::in_the_way(places, who, CLIENTS_OF_ONE, CLIENTS) {
                    self.clients[index].drop_it();
                }
                self.clients.push(Client::new(stream, who, door.readonly, &self.scrollback));
            }
            Ok(None) => {}
            Err(error) => {
                self.paused = Some(Instant::now() + PAUSE);
                self.log(&format!("cannot take a connection: {}", reason(&error)));
            }
        }
    }

    fn client(&mut self, index: usize, events: PollFlags) {
        match self.clients[index].ready(events, &mut self.buffer) {
            Heard::Nothing => {}
            Heard::Input(count) => self.give_input(count),
            Heard::First(bytes) => self.give_held(&bytes),
            Heard::Web => self.refuse_web(index),
            Heard::End(bytes) => {
                self.give_held(&bytes);
                self.ending = Some(Ending::new());
            }
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

    fn refuse_web(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.refuse_web();
        let who = client.who;
        self.log(&format!("{who} was refused: {WHY}"));
    }

    fn give_held(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
        self.flush_input();
    }

    /// First bytes that were held back for long enough are no web page's.
    fn give_what_was_held(&mut self, now: Instant) {
        for index in 0..self.clients.len() {
            if self.clients[index].held_until.is_some_and(|until| until <= now) {
                let bytes = self.clients[index].take_held();
                self.give_held(&bytes);
            }
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
        for _ in self.clients.iter().filter(|client| client.is_behind()) {
            self.log(&format!(
                "a client that does not read was dropped: {QUEUE_LIMIT} bytes waited for it"
            ));
        }
        while let Some(index) = self.clients.iter().position(Client::is_refused) {
            self.refused.close_when_read(self.clients.swap_remove(index).stream);
        }
        self.clients.retain(|client| !client.is_behind() && !client.is_done());
    }
}
