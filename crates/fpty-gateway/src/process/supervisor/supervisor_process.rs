//! The supervisor process: it keeps the descriptors of sessions that can be detached, and of
//! those whose terminal was handed over for good. It outlives gateways, and a reload of the
//! instance. A gateway registers each such session; one that starts gets those of its
//! predecessor. While there is no gateway the supervisor reports how programs ended, and
//! hangs up what outlives its client. When the instance has stopped it ends all of them, and
//! what else gateways have left.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::end_record::write_line;
use super::grace::{Grace, hang_up_foreground};
use super::leftovers::{OrphanedSessions, Supervision};
use super::orphan_sessions::Orphan;
use super::supervisor_protocol::{self, Message, Received, SessionFds, SessionRecord};
use crate::event_loop::fault_injection;
use crate::observe::audit::EndReason;
use crate::process::gateway_token;
use crate::process::ipc::Hello;
use crate::process::shared_memory;
use fpty::proto::{EndKind, SessionEnd};
use fpty::sys::child::Pid;
use fpty::sys::clock;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::process_session::SessionLeader;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;
use fpty::sys::stdio::Output;
use fpty::sys::{WriteOutcome, daemonize, process_lock};

/// The timeout of handing sessions over to a gateway, and the interval of retries.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Descriptors that are reserved for registrations.
const RESERVE: i32 = 32;

/// How long gateways may take to end after their master.
const GATEWAY_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts the supervisor, at its end of the socket pair. Where one runs already it ends at
/// once.
///
/// # Errors
/// As fork(2) and dup(2).
pub fn start(theirs: OwnedFd, grace: Option<Duration>) -> std::io::Result<()> {
    let page = gateway_token::page().ok_or(std::io::ErrorKind::NotFound)?.try_clone_to_owned()?;
    let mut kept = vec![theirs, page];
    kept.extend(PidFd::parent().map(OwnedFd::from));
    daemonize::spawn(c"fpty-supervisor", kept, move |kept| {
        let _ = run(kept, grace);
    })
}

/// Tokens of the poller; above them are gateways.
const REGISTRATIONS: u64 = 0;
const MASTER: u64 = 1;

/// A gateway's connection.
struct Gateway {
    stream: Stream,
    ordinal: usize,
}

/// A session, as its gateway has sent it.
pub(crate) struct SupervisedSession {
    pub record: SessionRecord,
    pub fds: SessionFds,
    /// The ordinal of the gateway of the session, or of its last one.
    pub ordinal: usize,
    /// The session has no gateway.
    pub orphan: Option<Orphan>,
}

/// The supervisor: its gateways, and the sessions that it keeps for them.
pub(crate) struct Supervisor {
    pub poller: Poller,
    registrations: Stream,
    gateways: HashMap<u64, Gateway>,
    next: u64,
    pub sessions: HashMap<String, SupervisedSession>,
    /// The log for audit lines: the last gateway's, as after a reload the log may be
    /// another one.
    pub log: Option<Output>,
    /// Orphaned sessions, by the tokens of their programs; a client has its program's token
    /// plus one.
    pub orphan_tokens: HashMap<u64, String>,
    /// Programs that were hung up.
    pub grace: Grace,
}

fn run(kept: Vec<OwnedFd>, grace: Option<Duration>) -> std::io::Result<()> {
    fpty::sys::forbid_ptrace();
    let mut kept = kept.into_iter();
    let (Some(registrations), Some(page)) = (kept.next().map(Stream::from), kept.next()) else {
        return Ok(());
    };
    if !process_lock::take(&page) {
        return Ok(());
    }
    gateway_token::register_supervisor();
    // Four for each session, two where nobody is attached.
    let _ = fpty::sys::raise_descriptor_limit();
    let master = kept.next();
    let poller = Poller::new(64)?;
    poller.add(registrations.as_fd(), REGISTRATIONS, Interest::READ)?;
    if let Some(master) = &master {
        poller.add(master.as_fd(), MASTER, Interest::READ)?;
    }
    let mut supervisor = Supervisor {
        poller,
        registrations,
        gateways: HashMap::new(),
        next: MASTER + 1,
        sessions: HashMap::new(),
        log: None,
        orphan_tokens: HashMap::new(),
        grace: Grace::new(grace),
    };
    supervisor.serve()?;
    supervisor.stop();
    Ok(())
}

impl Supervisor {
    /// Serves until the instance has stopped.
    fn serve(&mut self) -> std::io::Result<()> {
        loop {
            let wait =
                daemonize::catch_panic(|| self.look_after_orphans()).unwrap_or(Some(RETRY_DELAY));
            let count = self.poller.wait(wait)?;
            for index in 0..count {
                match self.poller.ready(index).token {
                    REGISTRATIONS => {
                        // One that panics over a hello has heard it: the others go on.
                        if !daemonize::catch_panic(|| self.accept_gateways()).unwrap_or(true) {
                            return Ok(());
                        }
                    }
                    MASTER => return Ok(()),
                    token if self.gateways.contains_key(&token) => {
                        let _ = daemonize::catch_panic(|| self.receive(token));
                    }
                    token => {
                        let _ = daemonize::catch_panic(|| self.orphan_ready(token));
                    }
                }
            }
        }
    }

    /// Accepts registrations of gateways. Returns false when none can come any more.
    fn accept_gateways(&mut self) -> bool {
        loop {
            match supervisor_protocol::receive_hello(&self.registrations) {
                Received::Message(Message::Hello(hello, own, log)) => {
                    let log = log.and_then(|log| Output::of(log.as_fd()).ok());
                    self.log = log.or(self.log.take());
                    self.hand_over_sessions(hello, own.into());
                }
                Received::Message(_) | Received::Invalid => {}
                Received::Blocked => return true,
                Received::Closed => return false,
            }
        }
    }

    fn hand_over_sessions(&mut self, hello: Hello, stream: Stream) {
        // What the one before it had said last.
        self.receive_all();
        let until = clock::now() + HANDOVER_TIMEOUT;
        let say = |say: &dyn Fn(&Stream) -> WriteOutcome| loop {
            match say(&stream) {
                WriteOutcome::Bytes(_) => return true,
                WriteOutcome::WouldBlock if clock::now() < until => {
                    stream.wait_for_room(RETRY_DELAY)
                }
                WriteOutcome::WouldBlock | WriteOutcome::Closed => return false,
            }
        };
        for supervised in self.sessions.values_mut() {
            let is_served = self.gateways.values().any(|other| other.ordinal == supervised.ordinal);
            if is_served || !hello.succeeds(supervised.ordinal) {
                continue;
            }
            let SupervisedSession { record, fds, .. } = &mut *supervised;
            if !fds
                .with_ring_fd(|fds| say(&|to| supervisor_protocol::send_session(to, record, fds)))
            {
                return;
            }
            supervised.ordinal = hello.ordinal;
            if let Some(orphan) = supervised.orphan.take() {
                orphan.forget(&self.poller, &mut self.orphan_tokens, &supervised.fds);
            }
        }
        if !say(&|to| supervisor_protocol::send_done(to)) {
            return;
        }
        let token = self.token();
        if self.poller.add(stream.as_fd(), token, Interest::READ).is_ok() {
            self.gateways.insert(token, Gateway { stream, ordinal: hello.ordinal });
        }
    }

    /// A fresh token, and the one behind it.
    pub(crate) fn token(&mut self) -> u64 {
        self.next += 2;
        self.next - 2
    }

    fn receive_all(&mut self) {
        let tokens: Vec<u64> = self.gateways.keys().copied().collect();
        tokens.into_iter().for_each(|token| self.receive(token));
    }

    /// Receives from a gateway. One that has ended leaves its sessions orphaned.
    fn receive(&mut self, token: u64) {
        while let Some(gateway) = self.gateways.get(&token) {
            match supervisor_protocol::receive(&gateway.stream) {
                Received::Message(Message::Session(record, fds)) => {
                    let (ordinal, id, program) = (gateway.ordinal, record.id.clone(), record.pid);
                    let kept = daemonize::catch_panic(|| self.keep(*record, fds, ordinal));
                    if !kept.unwrap_or(false) {
                        self.reject(token, &id, program);
                    }
                }
                Received::Message(Message::Truncated(record)) => {
                    self.reject(token, &record.id, record.pid);
                }
                Received::Message(Message::Ended(id)) => {
                    self.sessions.remove(&id);
                }
                Received::Message(_) | Received::Invalid => {}
                Received::Blocked => return,
                Received::Closed => {
                    let ordinal = gateway.ordinal;
                    self.gateways.remove(&token);
                    if !self.gateways.values().any(|other| other.ordinal == ordinal) {
                        self.orphan_sessions(ordinal);
                    }
                }
            }
        }
    }

    /// Keeps a session. Returns whether there was room for it.
    fn keep(&mut self, record: SessionRecord, mut fds: SessionFds, ordinal: usize) -> bool {
        fault_injection::panic_if_requested("holder", || record.name.clone());
        if record.bound {
            fault_injection::panic_if_requested("keeper", || {
                serde_json::to_vec(&record.history).unwrap_or_default()
            });
        }
        // Or nobody could say hello any more.
        if fds.tagged().any(|(_, fd)| fpty::sys::is_near_descriptor_limit(fd, RESERVE)) {
            return false;
        }
        fds.close_ring_fd(&record, false);
        if record.ended.is_none() {
            // Of one that was reaped there is no other.
            let before = self.sessions.get_mut(&record.id);
            fds.program = fds.program.or_else(|| before?.fds.program.take());
        }
        let supervised = SupervisedSession { record, fds, ordinal, orphan: None };
        self.sessions.insert(supervised.record.id.clone(), supervised);
        true
    }

    /// Reports that a session could not be kept, unless its state before is kept, which is
    /// as good.
    fn reject(&self, token: u64, id: &str, program: i32) {
        if let Some(gateway) = self.gateways.get(&token) {
            if !self.sessions.contains_key(id) {
                let _ = supervisor_protocol::send_not_kept(&gateway.stream, program);
            }
        }
    }

    /// The instance has stopped: ends all sessions.
    fn stop(mut self) {
        // Gateways end with their master, and what they said last is heard.
        let until = clock::now() + GATEWAY_END_TIMEOUT;
        self.receive_all();
        while !self.gateways.is_empty() && clock::now() < until {
            std::thread::sleep(RETRY_DELAY);
            self.receive_all();
        }
        // What is ours stands below.
        let left = OrphanedSessions::of(0..shared_memory::gateways(), Supervision::Supervisor);
        left.lines.iter().for_each(|line| write_line(&self.log, line));
        left.leaders().for_each(|leader| self.grace.add(leader));
        let told = SessionEnd::new(EndKind::Stopped, "the instance has stopped").packet();
        for (_, mut supervised) in self.sessions.drain() {
            let SessionFds { master, program, client, .. } = supervised.fds;
            if let Some(client) = client.map(Stream::of_stranger) {
                let _ = client.write(&told);
            }
            if supervised.record.ended.is_some() {
                continue;
            }
            // The master has written its own copy while it had a log.
            if !gateway_token::are_ends_written() {
                supervised.record.last.write_line(&self.log, EndReason::Lost, None);
            }
            let master = master.and_then(|master| Master::returned(master, true).ok());
            if let (Some(fd), Some(pid)) = (program, Pid::new(supervised.record.pid)) {
                let program = PidFd::reopened(pid, fd);
                if let Some(master) = &master {
                    hang_up_foreground(master, &program);
                }
                self.grace.hang_up(SessionLeader::from(program));
            }
            // Clients may keep it.
            if let Some(master) = master {
                master.hang_up();
            }
        }
        self.grace.end_all();
    }
}
