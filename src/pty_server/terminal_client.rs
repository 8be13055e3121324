//! A client of the shared terminal.

use std::time::Instant;

use nix::poll::PollFlags;

use super::scrollback::{QUEUE_LIMIT, Scrollback};
use fpty::backlog::Backlog;
use fpty::fair_share::Principal;
use fpty::proto::http_request::{FORBIDDEN_RESPONSE, FirstBytes, HOLD_TIME, HttpProbe};
use fpty::sys::ReadOutcome;
use fpty::sys::private_fd::Private;
use fpty::sys::socket::Stream;
use fpty::terminal::QueryFilter;

/// A connection, and what it is still to get.
pub struct Client {
    pub stream: Private<Stream>,
    /// Whose share of the places it has, and since when.
    pub principal: Principal,
    pub since: Instant,
    readonly: bool,
    queue: Backlog,
    /// It came in the midst of a sequence.
    query_filter: Option<Box<QueryFilter>>,
    /// What may wait for it before it loses its place.
    limit: usize,
    state: State,
    /// Its first bytes, while they may be a web page's.
    http_probe: Option<Box<HttpProbe>>,
    /// Until when they are held back.
    pub held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may type.
    Open,
    /// It has said all that it has to say, and waits for what comes of it.
    HalfClosed,
    /// It will get what waits for it, and no more.
    Leaving,
    /// It was told that it cannot be here.
    Rejected,
    /// It has left.
    Gone,
}

/// What came of a client's event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Nothing for the terminal.
    Nothing,
    /// So many bytes for it.
    Input(usize),
    /// Bytes for it that were held back.
    HeldInput(Vec<u8>),
    /// A web page speaks.
    Http,
    /// The client will send no more; bytes that were held back.
    Eof(Vec<u8>),
}

impl Client {
    /// Somebody new, who is shown what was there before.
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

    /// What to wait for; input only where the terminal takes it.
    pub fn interest(&self, takes_input: bool) -> PollFlags {
        let mut events = PollFlags::empty();
        let is_heard = self.state == State::Open && (takes_input || self.readonly);
        events.set(PollFlags::POLLIN, is_heard);
        events.set(PollFlags::POLLOUT, !self.queue.is_empty());
        events
    }

    /// Takes what the poll said.
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
            // A UNIX socket that was closed is hung up as well; one whose
            // writing half was shut down is not.
            ReadOutcome::Eof if hung_up => self.state = State::Gone,
            // It has nothing to say and nothing to wait for.
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

    /// Looks at its first bytes, see [`fpty::proto::http_request`].
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

    /// What was held back, where that was for long enough.
    pub fn take_held(&mut self) -> Vec<u8> {
        self.held_until = None;
        self.http_probe.as_mut().map(|http_probe| http_probe.release().to_vec()).unwrap_or_default()
    }

    /// Gives it output.
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

    /// Whether it waits for what comes of its input.
    pub fn is_half_closed(&self) -> bool {
        self.state == State::HalfClosed
    }

    /// A web page is told that this is nothing for it, and goes.
    pub fn reject_http(&mut self) {
        if self.queue.is_empty() {
            let _ = self.stream.write(FORBIDDEN_RESPONSE);
        }
        self.state = State::Rejected;
    }

    /// Whether it was told so.
    pub fn is_rejected(&self) -> bool {
        self.state == State::Rejected
    }

    /// It has to go at once.
    pub fn disconnect(&mut self) {
        self.state = State::Gone;
    }

    /// Nothing more is to come for it.
    pub fn leave(&mut self) {
        if self.state != State::Gone {
            self.state = State::Leaving;
        }
    }

    /// Whether more waits for it than may.
    pub fn is_over_limit(&self) -> bool {
        self.state != State::Gone && self.queue.len() > self.limit
    }

    /// Whether it is to be let go.
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
