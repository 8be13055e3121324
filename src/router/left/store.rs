//! The gateway's end of what keeps its sessions.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::holder;
use super::record::{self, Held, Hello, Message, Received, Record};
use crate::uwsgi::log::log;
use crate::uwsgi::outlives::{self, Outlives};
use fpty::sys::Written;
use fpty::sys::socket::Stream;

/// How long it may take to say what it has.
const ANSWER: Duration = Duration::from_secs(3);

/// The connection.
pub struct Store {
    own: Option<Stream>,
    hello: Hello,
    grace: Option<Duration>,
    /// It is to write lines of the audit.
    has_audit: bool,
    /// There is nothing that keeps sessions, and can be nothing.
    given_up: bool,
    /// Sessions that are over, and of which that was not said.
    over: Vec<String>,
}

impl Store {
    /// Connects where it is `wanted`, or where the gateway before us has, and
    /// returns what that had.
    pub fn new(
        hello: Hello,
        grace: Option<Duration>,
        has_audit: bool,
        wanted: bool,
    ) -> (Self, Vec<(Record, Held)>) {
        let over = Vec::new();
        let mut store = Self { own: None, hello, grace, has_audit, given_up: false, over };
        let there_is_one = || {
            outlives::get().is_some_and(|outlives| outlives.count().load(Ordering::Acquire) != 0)
        };
        let left = if wanted || there_is_one() { store.connect() } else { Vec::new() };
        (store, left)
    }

    /// Connects if that was not worth it before; whether it has.
    pub fn connect_at_last(&mut self) -> bool {
        if self.own.is_some() || self.given_up {
            return false;
        }
        self.connect();
        self.own.is_some()
    }

    /// Connects; again, where what was connected to is gone.
    pub fn connect(&mut self) -> Vec<(Record, Held)> {
        self.own = None;
        let Some(outlives) = outlives::get() else {
            return Vec::new();
        };
        // One that was killed is replaced, by whichever gateway comes first.
        for _ in 0..2 {
            let number = outlives.count().load(Ordering::Acquire);
            if number == 0 {
                self.replace(outlives, number);
            }
            if let Some(left) = self.say_hello(outlives) {
                return left;
            }
            self.replace(outlives, number);
        }
        if let Some(left) = self.say_hello(outlives) {
            return left;
        }
        self.given_up = true;
        log("forkptyrouter: nothing keeps sessions: they end with their gateway");
        Vec::new()
    }

    fn replace(&self, outlives: &Outlives, number: i32) {
        let next = number.wrapping_add(1).max(1);
        let count = outlives.count();
        if count.compare_exchange(number, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            if let Some(theirs) = outlives.theirs() {
                let _ = holder::start(theirs, self.grace, self.has_audit);
            }
        }
    }

    fn say_hello(&mut self, outlives: &Outlives) -> Option<Vec<(Record, Held)>> {
        let to = outlives.ours()?;
        let (ours, theirs) = Stream::pair().ok()?;
        let Written::Bytes(_) = record::send_hello(&to, self.hello, &theirs) else {
            return None;
        };
        drop(theirs);
        let until = Instant::now() + ANSWER;
        let mut left = Vec::new();
        loop {
            match record::receive(&ours) {
                Received::Message(Message::Session(record, held)) => left.push((*record, held)),
                Received::Message(Message::Done) => break,
                Received::Message(_) | Received::Nonsense => {}
                Received::Nothing => {
                    let rest = until.saturating_duration_since(Instant::now());
                    if rest.is_zero() || !ours.wait_for_more(rest) {
                        return None;
                    }
                }
                Received::End => return None,
            }
        }
        self.own = Some(ours);
        Some(left)
    }

    /// The connection, where there is one.
    pub fn stream(&self) -> Option<&Stream> {
        self.own.as_ref()
    }

    /// Says how it is with a session.
    pub fn tell(&self, record: &Record, held: &[(u8, &dyn AsFd)]) -> Written {
        match &self.own {
            Some(own) => record::send_session(own, record, held),
            None => Written::Gone,
        }
    }

    /// Says that a session is over, now or when there is room.
    pub fn is_over(&mut self, id: String) {
        self.over.push(id);
        self.flush();
    }

    /// Whether something has to wait.
    pub fn waits(&self) -> bool {
        !self.over.is_empty()
    }

    /// Says what had to wait; whether something still has to.
    pub fn flush(&mut self) -> bool {
        let Some(own) = &self.own else {
            self.over.clear();
            return false;
        };
        while let Some(id) = self.over.last() {
            if record::send_over(own, id) == Written::Blocked {
                return true;
            }
            self.over.pop();
        }
        false
    }
}
