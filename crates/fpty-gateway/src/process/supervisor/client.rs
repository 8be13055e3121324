//! The gateway's end of the supervisor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::protocol::{self, Message, Received, SessionFds, SessionRecord};
use super::{leaders, link, server};
use crate::log::log;
use crate::process::ipc::Hello;
use crate::process::proof;
use fpty::sys::WriteOutcome;
use fpty::sys::child::Pid;
use fpty::sys::pidfd::PidFd;
use fpty::sys::socket::Stream;
use fpty::sys::stdio;

/// How long it may take to say what it has, and how often is looked meanwhile
/// whether it is there.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How often one is started.
const START_ATTEMPTS: usize = 3;

/// What was found: sessions of a gateway before us.
pub type RestoredSessions = Vec<(SessionRecord, SessionFds)>;

/// The connection.
pub struct SupervisorClient {
    connection: Option<Stream>,
    hello: Hello,
    grace: Option<Duration>,
    /// It is to write lines of the audit.
    has_audit: bool,
    /// There is nothing that keeps sessions, and can be nothing.
    is_unavailable: bool,
    /// Sessions that are over, and of which that was not said.
    ended_ids: Vec<String>,
}

impl SupervisorClient {
    /// Connects where it is `wanted`, or where there is one, and returns what that
    /// has of the gateway before us.
    pub fn new(
        hello: Hello,
        grace: Option<Duration>,
        has_audit: bool,
        wanted: bool,
    ) -> (Self, RestoredSessions) {
        let ended_ids = Vec::new();
        let mut client =
            Self { connection: None, hello, grace, has_audit, is_unavailable: false, ended_ids };
        let found = if wanted || link::is_running() { client.connect() } else { Vec::new() };
        (client, found)
    }

    /// Connects if that was not worth it before; whether it has.
    pub fn connect_if_needed(&mut self) -> bool {
        if self.connection.is_some() || self.is_unavailable {
            return false;
        }
        self.connect();
        self.connection.is_some()
    }

    /// Connects; to another one, where what was connected to is gone.
    pub fn connect(&mut self) -> RestoredSessions {
        self.connection = None;
        if !link::is_available() {
            return Vec::new();
        }
        for _ in 0..START_ATTEMPTS {
            if !link::is_running() {
                // Of several that begin at once all but one end at once.
                let Some(theirs) = link::supervisor_end() else { break };
                let _ = server::start(theirs, self.grace);
            }
            if let Some(found) = self.handshake() {
                return found;
            }
        }
        self.is_unavailable = true;
        log("forkptyrouter: nothing keeps sessions: they end with their gateway");
        Vec::new()
    }

    fn handshake(&mut self) -> Option<RestoredSessions> {
        let to = link::gateway_end()?;
        let (ours, theirs) = Stream::pair().ok()?;
        let log = stdio::stderr_copy().ok().filter(|_| self.has_audit);
        let log = log.as_ref().map(AsFd::as_fd);
        let WriteOutcome::Bytes(_) = protocol::send_hello(&to, self.hello, &theirs, log) else {
            return None;
        };
        drop(theirs);
        let mut until = Instant::now() + HANDSHAKE_TIMEOUT;
        let (mut found, mut was_there) = (Vec::new(), true);
        loop {
            match protocol::receive(&ours) {
                Received::Message(Message::Session(record, mut fds)) => {
                    fds.close_ring_fd(&record, true);
                    found.push((*record, fds));
                    until = Instant::now() + HANDSHAKE_TIMEOUT;
                }
                Received::Message(Message::Done) => break,
                Received::Message(_) | Received::Invalid => {}
                Received::Blocked => {
                    if Instant::now() >= until {
                        kill_unresponsive();
                        return None;
                    }
                    // The hello waits for whoever hears it: that may be gone, or only
                    // just begin.
                    let is_there = link::is_running();
                    if !ours.wait_for_more(CHECK_INTERVAL) && !is_there && !was_there {
                        return None;
                    }
                    was_there = is_there;
                }
                Received::Closed => return None,
            }
        }
        leaders::note_supervisor(self.hello.ordinal, proof::keeper());
        self.connection = Some(ours);
        Some(found)
    }

    /// The connection, where there is one.
    pub fn stream(&self) -> Option<&Stream> {
        self.connection.as_ref()
    }

    /// Says how it is with a session.
    pub fn send_session<T: AsFd>(
        &self,
        record: &SessionRecord,
        fds: &SessionFds<T>,
    ) -> WriteOutcome {
        match &self.connection {
            Some(connection) => protocol::send_session(connection, record, fds),
            None => WriteOutcome::Closed,
        }
    }

    /// The next program whose session it could not keep; there are no other answers.
    pub fn next_rejected(&self) -> Option<Pid> {
        match protocol::receive(self.connection.as_ref()?) {
            Received::Message(Message::NotKept(program)) => Pid::new(program),
            _ => None,
        }
    }

    /// Says that a session is over, now or when there is room; whether that has to wait.
    pub fn send_ended(&mut self, id: String) -> bool {
        self.ended_ids.push(id);
        self.flush()
    }

    /// Says what had to wait; whether something still has to.
    pub fn flush(&mut self) -> bool {
        let Some(connection) = &self.connection else {
            self.ended_ids.clear();
            return false;
        };
        while let Some(id) = self.ended_ids.last() {
            if protocol::send_ended(connection, id) == WriteOutcome::WouldBlock {
                return true;
            }
            self.ended_ids.pop();
        }
        false
    }
}

/// One that is there and says nothing (it was stopped) is in the way of the next.
fn kill_unresponsive() {
    let Some(pid) = link::supervisor_pid() else {
        return;
    };
    // First opened, then asked again: the number is still its own.
    if let Some(process) = PidFd::open(pid).filter(|_| link::supervisor_pid() == Some(pid)) {
        process.signal(libc::SIGKILL);
        // Its lock goes with it.
        let until = Instant::now() + CHECK_INTERVAL;
        while link::is_running() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
