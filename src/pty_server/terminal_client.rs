//! A client of the shared terminal, and the listening sockets that clients come from. What the
//! application forks has none of these descriptors.

use std::io;
use std::time::Instant;

use nix::poll::PollFlags;

use super::scrollback::{QUEUE_LIMIT, Scrollback};
use fpty::backlog::Backlog;
use fpty::fair_share::Principal;
use fpty::proto::http_request::{FORBIDDEN_RESPONSE, FirstBytes, HOLD_TIME, HttpProbe};
use fpty::sys::ReadOutcome;
use fpty::sys::private_fd::Private;
use fpty::sys::socket::{ListeningSocket, Stream};
use fpty::terminal::QueryFilter;
use fpty_gateway::host::Socket;

/// The number of the rules of a socket whose clients only view.
pub const READONLY: usize = 1;

/// A socket of the shared terminal.
pub struct Listener {
    /// The listening socket.
    pub socket: Private<ListeningSocket>,
    /// Whether its clients only view.
    pub readonly: bool,
}

impl Listener {
    /// The listening socket that the server has bound.
    pub fn of(socket: &Socket) -> Self {
        Self { socket: Private::of(socket.listener), readonly: socket.rules == READONLY }
    }
}

/// Accepts a connection, which no process that the application forks inherits: it would
/// hold the connection open. `None`: none is waiting.
///
/// # Errors
/// As accept(2).
pub fn accept(listener: &ListeningSocket) -> io::Result<Option<Private<Stream>>> {
    Private::open(|| listener.accept().map(|accepted| accepted.map(|(stream, _)| stream)))
}

/// A client: its connection, and the output that is queued for it.
pub struct Client {
    pub stream: Private<Stream>,
    /// The principal whose share of the places the client has, and since when.
    pub principal: Principal,
    pub since: Instant,
    readonly: bool,
    queue: Backlog,
    /// The filter of a client whose output begins in the midst of an escape sequence.
    query_filter: Option<Box<QueryFilter>>,
    /// Bytes that may be queued before the client is dropped.
    limit: usize,
    state: State,
    /// The first bytes, while they may be an HTTP request.
    http_probe: Option<Box<HttpProbe>>,
    /// Time until which the first bytes are held back.
    pub held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The client is read and written.
    Open,
    /// The client sends no more, and waits for the output of its input.
    HalfClosed,
    /// The client gets what is queued, and no more.
    Leaving,
    /// The client was refused, and has the reason.
    Rejected,
    /// The connection is over.
    Gone,
}

/// Result of a client's event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Nothing for the terminal.
    Nothing,
    /// So many bytes for the terminal, in the buffer.
    Input(usize),
    /// Bytes for the terminal that were held back.
    HeldInput(Vec<u8>),
    /// An HTTP request, as of a web page.
    Http,
    /// The client will send no more; bytes that were held back.
    Eof(Vec<u8>),
}

impl Client {
    /// A new client, which gets the scrollback first.
    pub fn new(
        stream: Private<Stream>,
        principal: Principal,
        readonly: bool,
        scrollback: &Scrollback,
    ) -> Self {
        let mut queue = Backlog::default();
        let query_filter = scrollback.replay(&mut queue);
        let mut client = Self {
            stream,
            principal,
            since: Instant::now(),
            readonly,
            limit: QUEUE_LIMIT + queue.len(),
            queue,
            query_filter,
            state: State::Open,
            http_probe: Some(Box::default()),
            held_until: None,
        };
        client.send();
        client
    }

    /// The events to wait for; input only where the terminal takes it.
    pub fn interest(&self, takes_input: bool) -> PollFlags {
        let mut events = PollFlags::empty();
        let is_heard = self.state == State::Open && (takes_input || self.readonly);
        events.set(PollFlags::POLLIN, is_heard);
        events.set(PollFlags::POLLOUT, !self.queue.is_empty());
        events
    }

    /// Handles what poll(2) found.
    pub fn ready(&mut self, events: PollFlags, buffer: &mut [u8]) -> ClientEvent {
        if events.contains(PollFlags::POLLOUT) {
            self.send();
        }
        let hung_up = events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        if !events.contains(PollFlags::POLLIN) {
            if hung_up {
                self.state = State::Gone;
            }
            return ClientEvent::Nothing;
        }
        match self.stream.read(buffer) {
            ReadOutcome::Bytes(_) if self.readonly => {}
            ReadOutcome::Bytes(count) => return self.classify_input(&buffer[..count]),
            ReadOutcome::WouldBlock => {}
            ReadOutcome::Closed => self.state = State::Gone,
            // poll(2) has POLLHUP for a UNIX socket whose other end was closed, and not for
            // one whose other end was shut down for writing alone.
            ReadOutcome::Eof if hung_up => self.state = State::Gone,
            // A viewer has no input whose output it could wait for.
            ReadOutcome::Eof if self.readonly => self.leave(),
            ReadOutcome::Eof => {
                if self.state == State::Open {
                    self.state = State::HalfClosed;
                }
                return ClientEvent::Eof(self.take_held());
            }
        }
        ClientEvent::Nothing
    }

    /// Looks at the first bytes of a client, see [`fpty::proto::http_request`].
    fn classify_input(&mut self, bytes: &[u8]) -> ClientEvent {
        let Some(http_probe) = &mut self.http_probe else {
            return ClientEvent::Input(bytes.len());
        };
        let begins = http_probe.feed(bytes);
        if begins == FirstBytes::Http {
            return ClientEvent::Http;
        }
        let is_held = begins == FirstBytes::MaybeHttp && !http_probe.is_released();
        let given = if is_held { Vec::new() } else { http_probe.take().to_vec() };
        if begins == FirstBytes::Terminal {
            (self.http_probe, self.held_until) = (None, None);
        } else if !http_probe.is_released() {
            self.held_until.get_or_insert_with(|| Instant::now() + HOLD_TIME);
        }
        ClientEvent::HeldInput(given)
    }

    /// The first bytes that were held back; no more are from now on.
    pub fn take_held(&mut self) -> Vec<u8> {
        self.held_until = None;
        self.http_probe.as_mut().map(|http_probe| http_probe.release().to_vec()).unwrap_or_default()
    }

    /// Queues output, and writes as much as the client takes.
    pub fn send_output(&mut self, output: &[u8]) {
        if matches!(self.state, State::Leaving | State::Rejected) {
            return;
        }
        match &mut self.query_filter {
            None => self.queue.push(output),
            Some(queries) => {
                let mut through = Vec::new();
                queries.filter(output, &mut through);
                self.queue.push(&through);
                if !queries.is_undecided() {
                    self.query_filter = None;
                }
            }
        }
        self.send();
    }

    /// Whether the client sends no more and waits for the output of its input.
    pub fn is_half_closed(&self) -> bool {
        self.state == State::HalfClosed
    }

    /// Refuses an HTTP request by an HTTP response.
    pub fn reject_http(&mut self) {
        if self.queue.is_empty() {
            let _ = self.stream.write(FORBIDDEN_RESPONSE);
        }
        self.state = State::Rejected;
    }

    /// Whether an HTTP request was refused.
    pub fn is_rejected(&self) -> bool {
        self.state == State::Rejected
    }

    /// Ends the connection at once.
    pub fn disconnect(&mut self) {
        self.state = State::Gone;
    }

    /// Ends the connection when the client has what is queued.
    pub fn leave(&mut self) {
        if self.state != State::Gone {
            self.state = State::Leaving;
        }
    }

    /// Whether more is queued than may be.
    pub fn is_over_limit(&self) -> bool {
        self.state != State::Gone && self.queue.len() > self.limit
    }

    /// Whether the connection is over.
    pub fn is_finished(&self) -> bool {
        match self.state {
            State::Gone => true,
            State::Leaving => self.queue.is_empty(),
            State::Open | State::HalfClosed | State::Rejected => false,
        }
    }

    fn send(&mut self) {
        if !self.queue.flush(|bytes| self.stream.write(bytes).taken()) {
            self.state = State::Gone;
        }
    }
}
