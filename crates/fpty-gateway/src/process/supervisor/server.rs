//! The supervisor: a process that keeps the descriptors of sessions that can be
//! left, and of those whose terminal their client has, where the gateways cannot: it
//! outlives them, and a reload of the instance. A gateway tells it of each such
//! session, and one that begins is told of those that the one before it had. While
//! there is no gateway it tells how their programs ended, and sees to it that
//! nothing outlives a client. When the instance has stopped, it ends them all, and
//! what else gateways have left.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::after_gateway::{Kept, LeftBehind};
use super::end_record::say;
use super::grace::{Grace, hang_up_foreground};
use super::orphans::Orphan;
use super::protocol::{self, Message, Received, Record, SessionFds};
use crate::event_loop::fault_injection;
use crate::observe::audit::Gone;
use crate::process::ipc::Hello;
use crate::process::proof;
use crate::process::shared_memory;
use fpty::proto::{Ended, Ending};
use fpty::sys::child::Pid;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::process_session::Leader;
use fpty::sys::pty::Master;
use fpty::sys::socket::Stream;
use fpty::sys::stdio::Output;
use fpty::sys::{Written, daemonize, process_lock};

/// How long a gateway that begins may take to be told all, and how often it is
/// tried.
const TELLING: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

/// Descriptors that are not for sessions.
const RESERVE: i32 = 32;

/// How long gateways may take to end when their master has.
const ENDING: Duration = Duration::from_secs(1);

/// Starts the process, at the other end of what gateways say hello by. Where there
/// is one already it ends at once.
///
/// # Errors
/// There can be no more processes or descriptors.
pub fn start(theirs: OwnedFd, grace: Option<Duration>) -> std::io::Result<()> {
    let page = proof::page().ok_or(std::io::ErrorKind::NotFound)?.try_clone_to_owned()?;
    let mut kept = vec![theirs, page];
    kept.extend(PidFd::parent().map(OwnedFd::from));
    daemonize::run(c"fpty-supervisor", kept, move |kept| {
        let _ = run(kept, grace);
    })
}

/// What an event is about; above that it is a gateway.
const HELLOS: u64 = 0;
const MASTER: u64 = 1;

/// A gateway's connection.
struct Gateway {
    stream: Stream,
    ordinal: usize,
}

/// A session, as a gateway has told of it.
pub(crate) struct Stored {
    pub record: Record,
    pub held: SessionFds,
    ordinal: usize,
    /// Nobody else looks after it.
    pub orphan: Option<Orphan>,
}

impl Stored {
    /// Whether it is, or was, of the gateway of this number.
    pub fn is_of(&self, ordinal: usize) -> bool {
        self.ordinal == ordinal
    }

    /// The number of the gateway that it is, or was, of.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }
}

pub(crate) struct Supervisor {
    pub poller: Poller,
    hellos: Stream,
    gateways: HashMap<u64, Gateway>,
    next: u64,
    pub sessions: HashMap<String, Stored>,
    /// Where lines of the audit go: the last gateway's, as after a reload the log may
    /// be another one.
    pub log: Option<Output>,
    /// Orphans' sessions, by the tokens of their programs; their clients have the
    /// next one.
    pub watched: HashMap<u64, String>,
    /// Programs that have lost their client.
    pub grace: Grace,
}

fn run(kept: Vec<OwnedFd>, grace: Option<Duration>) -> std::io::Result<()> {
    fpty::sys::forbid_inspection();
    let mut kept = kept.into_iter();
    let (Some(hellos), Some(page)) = (kept.next().map(Stream::from), kept.next()) else {
        return Ok(());
    };
    if !process_lock::take(&page) {
        return Ok(());
    }
    proof::i_keep();
    // Four for each session, two where nobody is attached.
    let _ = fpty::sys::raise_descriptor_limit();
    let master = kept.next();
    let poller = Poller::new(64)?;
    poller.add(hellos.as_fd(), HELLOS, Interest::READ)?;
    if let Some(master) = &master {
        poller.add(master.as_fd(), MASTER, Interest::READ)?;
    }
    let mut supervisor = Supervisor {
        poller,
        hellos,
        gateways: HashMap::new(),
        next: MASTER + 1,
        sessions: HashMap::new(),
        log: None,
        watched: HashMap::new(),
        grace: Grace::new(grace),
    };
    supervisor.serve()?;
    supervisor.stop();
    Ok(())
}

impl Supervisor {
    /// Until the instance has stopped.
    fn serve(&mut self) -> std::io::Result<()> {
        loop {
            let wait = daemonize::guarded(|| self.look_after_orphans()).unwrap_or(Some(AGAIN));
            let count = self.poller.wait(wait)?;
            for index in 0..count {
                match self.poller.ready(index).token {
                    HELLOS => {
                        // One that panics over a hello has heard it: the others go on.
                        if !daemonize::guarded(|| self.hear_hellos()).unwrap_or(true) {
                            return Ok(());
                        }
                    }
                    MASTER => return Ok(()),
                    token if self.gateways.contains_key(&token) => {
                        let _ = daemonize::guarded(|| self.hear(token));
                    }
                    token => {
                        let _ = daemonize::guarded(|| self.orphan_ready(token));
                    }
                }
            }
        }
    }

    /// Gateways begin. Returns false when none ever will again.
    fn hear_hellos(&mut self) -> bool {
        loop {
            match protocol::receive_hello(&self.hellos) {
                Received::Message(Message::Hello(hello, own, log)) => {
                    let log = log.and_then(|log| Output::of(log.as_fd()).ok());
                    self.log = log.or(self.log.take());
                    self.begins(hello, own.into());
                }
                Received::Message(_) | Received::Nonsense => {}
                Received::Nothing => return true,
                Received::End => return false,
            }
        }
    }

    fn begins(&mut self, hello: Hello, stream: Stream) {
        // What the one before it had said last.
        self.hear_all();
        let until = Instant::now() + TELLING;
        let say = |say: &dyn Fn(&Stream) -> Written| loop {
            match say(&stream) {
                Written::Bytes(_) => return true,
                Written::Blocked if Instant::now() < until => stream.wait_for_room(AGAIN),
                Written::Blocked | Written::Gone => return false,
            }
        };
        for stored in self.sessions.values_mut() {
            let is_served = self.gateways.values().any(|other| other.ordinal == stored.ordinal);
            if is_served || !hello.has_place_of(stored.ordinal) {
                continue;
            }
            let Stored { record, held, .. } = &mut *stored;
            if !held.lend(|held| say(&|to| protocol::send_session(to, record, held))) {
                return;
            }
            stored.ordinal = hello.ordinal;
            if let Some(orphan) = stored.orphan.take() {
                orphan.forget(&self.poller, &mut self.watched, &stored.held);
            }
        }
        if !say(&|to| protocol::send_done(to)) {
            return;
        }
        let token = self.token();
        if self.poller.add(stream.as_fd(), token, Interest::READ).is_ok() {
            self.gateways.insert(token, Gateway { stream, ordinal: hello.ordinal });
        }
    }

    /// A number that nobody had, and the next one.
    pub(crate) fn token(&mut self) -> u64 {
        self.next += 2;
        self.next - 2
    }

    fn hear_all(&mut self) {
        let tokens: Vec<u64> = self.gateways.keys().copied().collect();
        tokens.into_iter().for_each(|token| self.hear(token));
    }

    /// A gateway says something, or has ended: its sessions wait for the next.
    fn hear(&mut self, token: u64) {
        while let Some(gateway) = self.gateways.get(&token) {
            match protocol::receive(&gateway.stream) {
                Received::Message(Message::Session(record, held)) => {
                    let (ordinal, id, program) = (gateway.ordinal, record.id.clone(), record.pid);
                    let kept = daemonize::guarded(|| self.keep(*record, held, ordinal));
                    if !kept.unwrap_or(false) {
                        self.lacks(token, &id, program);
                    }
                }
                Received::Message(Message::Cut(record)) => {
                    self.lacks(token, &record.id, record.pid);
                }
                Received::Message(Message::Over(id)) => {
                    self.sessions.remove(&id);
                }
                Received::Message(_) | Received::Nonsense => {}
                Received::Nothing => return,
                Received::End => {
                    let ordinal = gateway.ordinal;
                    self.gateways.remove(&token);
                    if !self.gateways.values().any(|other| other.ordinal == ordinal) {
                        self.orphan_sessions(ordinal);
                    }
                }
            }
        }
    }

    /// Keeps a session; whether there is room for it.
    fn keep(&mut self, record: Record, mut held: SessionFds, ordinal: usize) -> bool {
        fault_injection::strike("holder", || record.name.clone());
        if record.bound {
            fault_injection::strike("keeper", || {
                serde_json::to_vec(&record.story).unwrap_or_default()
            });
        }
        // Or nobody could say hello any more.
        if held.named().any(|(_, fd)| fpty::sys::is_one_of_the_last(fd, RESERVE)) {
            return false;
        }
        held.keep_in_memory(&record, false);
        if record.ended.is_none() {
            // Of one that was reaped there is no other.
            let before = self.sessions.get_mut(&record.id);
            held.program = held.program.or_else(|| before?.held.program.take());
        }
        let stored = Stored { record, held, ordinal, orphan: None };
        self.sessions.insert(stored.record.id.clone(), stored);
        true
    }

    /// A session could not be kept, and its gateway is told so; unless we have it as it
    /// was before, which is as good.
    fn lacks(&self, token: u64, id: &str, program: i32) {
        if let Some(gateway) = self.gateways.get(&token) {
            if !self.sessions.contains_key(id) {
                let _ = protocol::send_lacks(&gateway.stream, program);
            }
        }
    }

    /// The instance has stopped, and so do its sessions.
    fn stop(mut self) {
        // Gateways end with their master, and what they said last is heard.
        let until = Instant::now() + ENDING;
        self.hear_all();
        while !self.gateways.is_empty() && Instant::now() < until {
            std::thread::sleep(AGAIN);
            self.hear_all();
        }
        // What is ours stands below.
        let left = LeftBehind::of(0..shared_memory::gateways(), Kept::Elsewhere);
        left.lines.iter().for_each(|line| say(&self.log, line));
        left.leaders().for_each(|leader| self.grace.add(leader));
        let told = Ended::because(Ending::Stopped, "the instance has stopped").packet();
        for (_, mut stored) in self.sessions.drain() {
            let SessionFds { master, program, client, .. } = stored.held;
            if let Some(client) = client.map(Stream::of_stranger) {
                let _ = client.write(&told);
            }
            if stored.record.ended.is_some() {
                continue;
            }
            // The master has written its own copy while it had a log.
            if !proof::are_ends_told() {
                stored.record.last.say(&self.log, Gone::Lost, None);
            }
            let master = master.and_then(|master| Master::given_back(master, true).ok());
            if let (Some(fd), Some(pid)) = (program, Pid::new(stored.record.pid)) {
                let program = PidFd::reopened(pid, fd);
                if let Some(master) = &master {
                    hang_up_foreground(master, &program);
                }
                self.grace.hang_up(Leader::from(program));
            }
            // Clients may keep it.
            if let Some(master) = master {
                master.hang_up();
            }
        }
        self.grace.end_all();
    }
}
