//! Somebody at the shared terminal.

use std::time::Instant;

use nix::poll::PollFlags;

use super::fanout::{QUEUE_LIMIT, Scrollback};
use fpty::backlog::Backlog;
use fpty::fair_share::Who;
use fpty::proto::http_request::{ANSWER, Beginning, Begins, HELD};
use fpty::sys::Read;
use fpty::sys::private_fd::Private;
use fpty::sys::socket::Stream;
use fpty::terminal::Queries;

/// A connection, and what it is still to get.
pub struct Client {
    pub stream: Private<Stream>,
    /// Whose share of the places it has, and since when.
    pub who: Who,
    pub since: Instant,
    readonly: bool,
    queue: Backlog,
    /// It came in the midst of a sequence.
    joining: Option<Box<Queries>>,
    /// What may wait for it before it loses its place.
    limit: usize,
    state: State,
    /// Its first bytes, while they may be a web page's.
    first: Option<Box<Beginning>>,
    /// Until when they are held back.
    pub held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may type.
    Open,
    /// It has said all that it has to say, and waits for what comes of it.
    Silent,
    /// It will get what waits for it, and no more.
    Leaving,
    /// It was told that it cannot be here.
    Refused,
    /// It has left.
    Gone,
}

/// What came of a client's event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing for the terminal.
    Nothing,
    /// So many bytes for it.
    Input(usize),
    /// Bytes for it that were held back.
    First(Vec<u8>),
    /// A web page speaks.
    Web,
    /// The client will send no more; bytes that were held back.
    End(Vec<u8>),
}

impl Client {
    /// Somebody new, who is shown what was there before.
    pub fn new(stream: Private<Stream>, who: Who, readonly: bool, scrollback: &Scrollback) -> Self {
        let mut queue = Backlog::default();
        let joining = scrollback.replay(&mut queue);
        let limit = QUEUE_LIMIT + queue.len();
        let (since, state) = (Instant::now(), State::Open);
        let (first, held_until) = (Some(Box::default()), None);
        let mut client =
            Self { stream, who, since, readonly, queue, joining, limit, state, first, held_until };
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
    pub fn ready(&mut self, events: PollFlags, buffer: &mut [u8]) -> Heard {
        if events.contains(PollFlags::POLLOUT) {
            self.send();
        }
        let hung_up = events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        if !events.contains(PollFlags::POLLIN) {
            if hung_up {
                self.state = State::Gone;
            }
            return Heard::Nothing;
        }
        match self.stream.read(buffer) {
            Read::Bytes(_) if self.readonly => {}
            Read::Bytes(count) => return self.hear(&buffer[..count]),
            Read::Blocked => {}
            Read::Gone => self.state = State::Gone,
            // A UNIX socket that was closed is hung up as well; one whose
            // writing half was shut down is not.
            Read::End if hung_up => self.state = State::Gone,
            // It has nothing to say and nothing to wait for.
            Read::End if self.readonly => self.leave(),
            Read::End => {
                if self.state == State::Open {
                    self.state = State::Silent;
                }
                return Heard::End(self.take_held());
            }
        }
        Heard::Nothing
    }

    /// Looks at its first bytes, see [`fpty::proto::http_request`].
    fn hear(&mut self, bytes: &[u8]) -> Heard {
        let Some(first) = &mut self.first else {
            return Heard::Input(bytes.len());
        };
        let begins = first.hear(bytes);
        if begins == Begins::Web {
            return Heard::Web;
        }
        let is_held = begins == Begins::Likely && !first.is_released();
        let given = if is_held { Vec::new() } else { first.take().to_vec() };
        if begins == Begins::Plain {
            (self.first, self.held_until) = (None, None);
        } else if !first.is_released() {
            self.held_until.get_or_insert_with(|| Instant::now() + HELD);
        }
        Heard::First(given)
    }

    /// What was held back, where that was for long enough.
    pub fn take_held(&mut self) -> Vec<u8> {
        self.held_until = None;
        self.first.as_mut().map(|first| first.release().to_vec()).unwrap_or_default()
    }

    /// Gives it output.
    pub fn give(&mut self, output: &[u8]) {
        if matches!(self.state, State::Leaving | State::Refused) {
            return;
        }
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

    /// Whether it waits for what comes of its input.
    pub fn is_silent(&self) -> bool {
        self.state == State::Silent
    }

    /// A web page is told that this is nothing for it, and goes.
    pub fn refuse_web(&mut self) {
        if self.queue.is_empty() {
            let _ = self.stream.write(ANSWER);
        }
        self.state = State::Refused;
    }

    /// Whether it was told so.
    pub fn is_refused(&self) -> bool {
        self.state == State::Refused
    }

    /// It has to go at once.
    pub fn drop_it(&mut self) {
        self.state = State::Gone;
    }

    /// Nothing more is to come for it.
    pub fn leave(&mut self) {
        if self.state != State::Gone {
            self.state = State::Leaving;
        }
    }

    /// Whether more waits for it than may.
    pub fn is_behind(&self) -> bool {
        self.state != State::Gone && self.queue.len() > self.limit
    }

    /// Whether it is to be let go.
    pub fn is_done(&self) -> bool {
        match self.state {
            State::Gone => true,
            State::Leaving => self.queue.is_empty(),
            State::Open | State::Silent | State::Refused => false,
        }
    }

    fn send(&mut self) {
        if !self.queue.flush(|bytes| self.stream.write(bytes).taken()) {
            self.state = State::Gone;
        }
    }
}
