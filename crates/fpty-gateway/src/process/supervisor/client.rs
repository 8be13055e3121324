//! The gateway's end of the supervisor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::protocol::{self, Message, Received, Record, SessionFds};
use super::{leaders, link, server};
use crate::log::log;
use crate::process::ipc::Hello;
use crate::process::proof;
use fpty::sys::Written;
use fpty::sys::child::Pid;
use fpty::sys::pidfd::PidFd;
use fpty::sys::socket::Stream;
use fpty::sys::stdio;

/// How long it may take to say what it has, and how often is looked meanwhile
/// whether it is there.
const ANSWER: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(100);

/// How often one is started.
const STARTS: usize = 3;

/// What was found: sessions of a gateway before us.
pub type Found = Vec<(Record, SessionFds)>;

/// The connection.
pub struct Client {
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

impl Client {
    /// Connects where it is `wanted`, or where there is one, and returns what that
    /// has of the gateway before us.
    pub fn new(
        hello: Hello,
        grace: Option<Duration>,
        has_audit: bool,
        wanted: bool,
    ) -> (Self, Found) {
        let over = Vec::new();
        let mut client = Self { own: None, hello, grace, has_audit, given_up: false, over };
        let found = if wanted || link::is_held() { client.connect() } else { Vec::new() };
        (client, found)
    }

    /// Connects if that was not worth it before; whether it has.
    pub fn connect_at_last(&mut self) -> bool {
        if self.own.is_some() || self.given_up {
            return false;
        }
        self.connect();
        self.own.is_some()
    }

    /// Connects; to another one, where what was connected to is gone.
    pub fn connect(&mut self) -> Found {
        self.own = None;
        if !link::there_is_one() {
            return Vec::new();
        }
        for _ in 0..STARTS {
            if !link::is_held() {
                // Of several that begin at once all but one end at once.
                let Some(theirs) = link::theirs() else { break };
                let _ = server::start(theirs, self.grace);
            }
            if let Some(found) = self.say_hello() {
                return found;
            }
        }
        self.given_up = true;
        log("forkptyrouter: nothing keeps sessions: they end with their gateway");
        Vec::new()
    }

    fn say_hello(&mut self) -> Option<Found> {
        let to = link::ours()?;
        let (ours, theirs) = Stream::pair().ok()?;
        let log = stdio::stderr_copy().ok().filter(|_| self.has_audit);
        let log = log.as_ref().map(AsFd::as_fd);
        let Written::Bytes(_) = protocol::send_hello(&to, self.hello, &theirs, log) else {
            return None;
        };
        drop(theirs);
        let mut until = Instant::now() + ANSWER;
        let (mut found, mut was_there) = (Vec::new(), true);
        loop {
            match protocol::receive(&ours) {
                Received::Message(Message::Session(record, mut held)) => {
                    held.keep_in_memory(&record, true);
                    found.push((*record, held));
                    until = Instant::now() + ANSWER;
                }
                Received::Message(Message::Done) => break,
                Received::Message(_) | Received::Nonsense => {}
                Received::Nothing => {
                    if Instant::now() >= until {
                        end_silent();
                        return None;
                    }
                    // The hello waits for whoever hears it: that may be gone, or only
                    // just begin.
                    let is_there = link::is_held();
                    if !ours.wait_for_more(LOOK) && !is_there && !was_there {
                        return None;
                    }
                    was_there = is_there;
                }
                Received::End => return None,
            }
        }
        leaders::note_keeper(self.hello.ordinal, proof::keeper());
        self.own = Some(ours);
        Some(found)
    }

    /// The connection, where there is one.
    pub fn stream(&self) -> Option<&Stream> {
        self.own.as_ref()
    }

    /// Says how it is with a session.
    pub fn tell<T: AsFd>(&self, record: &Record, held: &SessionFds<T>) -> Written {
        match &self.own {
            Some(own) => protocol::send_session(own, record, held),
            None => Written::Gone,
        }
    }

    /// The next program whose session it could not keep; there are no other answers.
    pub fn could_not_be_kept(&self) -> Option<Pid> {
        match protocol::receive(self.own.as_ref()?) {
            Received::Message(Message::Lacks(program)) => Pid::new(program),
            _ => None,
        }
    }

    /// Says that a session is over, now or when there is room; whether that has to wait.
    pub fn tell_over(&mut self, id: String) -> bool {
        self.over.push(id);
        self.flush()
    }

    /// Says what had to wait; whether something still has to.
    pub fn flush(&mut self) -> bool {
        let Some(own) = &self.own else {
            self.over.clear();
            return false;
        };
        while let Some(id) = self.over.last() {
            if protocol::send_over(own, id) == Written::Blocked {
                return true;
            }
            self.over.pop();
        }
        false
    }
}

/// One that is there and says nothing (it was stopped) is in the way of the next.
fn end_silent() {
    let Some(pid) = link::holder() else {
        return;
    };
    // First opened, then asked again: the number is still its own.
    if let Some(process) = PidFd::open(pid).filter(|_| link::holder() == Some(pid)) {
        process.signal(libc::SIGKILL);
        // Its lock goes with it.
        let until = Instant::now() + LOOK;
        while link::is_held() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
