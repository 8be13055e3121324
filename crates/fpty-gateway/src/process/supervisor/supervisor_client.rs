//! The gateway's end of the connection to the supervisor.

use std::os::fd::AsFd;
use std::time::Duration;

use super::supervisor_protocol::{self, Message, Received, SessionFds, SessionRecord};
use super::{leaders, supervisor_link, supervisor_process};
use crate::log::log;
use crate::process::gateway_token;
use crate::process::ipc::Hello;
use fpty::sys::WriteOutcome;
use fpty::sys::child::Pid;
use fpty::sys::clock;
use fpty::sys::pidfd::PidFd;
use fpty::sys::socket::Stream;
use fpty::sys::stdio;

/// The timeout of the handshake, and the interval of checks whether a supervisor runs.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How often a supervisor is started.
const START_ATTEMPTS: usize = 3;

/// Sessions of the gateway before, with their descriptors.
pub type RestoredSessions = Vec<(SessionRecord, SessionFds)>;

/// The connection to the supervisor.
pub struct SupervisorClient {
    connection: Option<Stream>,
    hello: Hello,
    grace: Option<Duration>,
    /// The supervisor is to write audit lines.
    has_audit: bool,
    /// No supervisor can be started.
    is_unavailable: bool,
    /// Ids of ended sessions that were not sent.
    ended_ids: Vec<String>,
}

impl SupervisorClient {
    /// Connects where a supervisor is `wanted`, or runs. Returns the sessions of the
    /// gateway before.
    pub fn new(
        hello: Hello,
        grace: Option<Duration>,
        has_audit: bool,
        wanted: bool,
    ) -> (Self, RestoredSessions) {
        let ended_ids = Vec::new();
        let mut client =
            Self { connection: None, hello, grace, has_audit, is_unavailable: false, ended_ids };
        let found =
            if wanted || supervisor_link::is_running() { client.connect() } else { Vec::new() };
        (client, found)
    }

    /// Connects, if not connected yet. Returns whether it has.
    pub fn connect_if_needed(&mut self) -> bool {
        if self.connection.is_some() || self.is_unavailable {
            return false;
        }
        self.connect();
        self.connection.is_some()
    }

    /// Connects anew. Returns the sessions that the supervisor has.
    pub fn connect(&mut self) -> RestoredSessions {
        self.connection = None;
        if !supervisor_link::is_available() {
            return Vec::new();
        }
        for _ in 0..START_ATTEMPTS {
            if !supervisor_link::is_running() {
                // Of several that begin at once all but one end at once.
                let Some(theirs) = supervisor_link::supervisor_end() else { break };
                let _ = supervisor_process::start(theirs, self.grace);
            }
            if let Some(found) = self.handshake() {
                return found;
            }
        }
        self.is_unavailable = true;
        log("forkptyrouter: no supervisor: sessions end with their gateway");
        Vec::new()
    }

    fn handshake(&mut self) -> Option<RestoredSessions> {
        let to = supervisor_link::gateway_end()?;
        let (ours, theirs) = Stream::pair().ok()?;
        let log = stdio::stderr().try_clone_to_owned().ok().filter(|_| self.has_audit);
        let log = log.as_ref().map(AsFd::as_fd);
        let WriteOutcome::Bytes(_) = supervisor_protocol::send_hello(&to, self.hello, &theirs, log)
        else {
            return None;
        };
        drop(theirs);
        let mut until = clock::now() + HANDSHAKE_TIMEOUT;
        let (mut found, mut was_there) = (Vec::new(), true);
        loop {
            match supervisor_protocol::receive(&ours) {
                Received::Message(Message::Session(record, mut fds)) => {
                    fds.close_ring_fd(&record, true);
                    found.push((*record, fds));
                    until = clock::now() + HANDSHAKE_TIMEOUT;
                }
                Received::Message(Message::Done) => break,
                Received::Message(_) | Received::Invalid => {}
                Received::Blocked => {
                    if clock::now() >= until {
                        kill_unresponsive();
                        return None;
                    }
                    // The hello waits for whoever hears it: that may be gone, or only
                    // just begin.
                    let is_there = supervisor_link::is_running();
                    if !ours.wait_for_more(CHECK_INTERVAL) && !is_there && !was_there {
                        return None;
                    }
                    was_there = is_there;
                }
                Received::Closed => return None,
            }
        }
        leaders::note_supervisor(self.hello.ordinal, gateway_token::supervisor_generation());
        self.connection = Some(ours);
        Some(found)
    }

    /// The stream, where connected.
    pub fn stream(&self) -> Option<&Stream> {
        self.connection.as_ref()
    }

    /// Sends the state of a session.
    pub fn send_session<T: AsFd>(
        &self,
        record: &SessionRecord,
        fds: &SessionFds<T>,
    ) -> WriteOutcome {
        match &self.connection {
            Some(connection) => supervisor_protocol::send_session(connection, record, fds),
            None => WriteOutcome::Closed,
        }
    }

    /// The next program whose session the supervisor could not keep; it sends nothing else.
    pub fn next_rejected(&self) -> Option<Pid> {
        match supervisor_protocol::receive(self.connection.as_ref()?) {
            Received::Message(Message::NotKept(program)) => Pid::new(program),
            _ => None,
        }
    }

    /// Sends that a session has ended, now or when there is room. Returns whether that has
    /// to wait.
    pub fn send_ended(&mut self, id: String) -> bool {
        self.ended_ids.push(id);
        self.flush()
    }

    /// Sends what had to wait. Returns whether something still has to.
    pub fn flush(&mut self) -> bool {
        let Some(connection) = &self.connection else {
            self.ended_ids.clear();
            return false;
        };
        while let Some(id) = self.ended_ids.last() {
            if supervisor_protocol::send_ended(connection, id) == WriteOutcome::WouldBlock {
                return true;
            }
            self.ended_ids.pop();
        }
        false
    }
}

/// Kills a supervisor that does not answer (it was stopped): it would be in the way of the
/// next.
fn kill_unresponsive() {
    let Some(pid) = supervisor_link::supervisor_pid() else {
        return;
    };
    // First opened, then asked again: the number is still its own.
    if let Some(process) =
        PidFd::open(pid).filter(|_| supervisor_link::supervisor_pid() == Some(pid))
    {
        process.signal(libc::SIGKILL);
        // Its lock goes with it.
        let until = clock::now() + CHECK_INTERVAL;
        while supervisor_link::is_running() && clock::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
