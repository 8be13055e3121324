//! A process that keeps the descriptors of sessions that can be left, and of
//! those whose terminal their client has, where the gateways cannot: it outlives
//! them, and a reload of the instance. A gateway tells it of each such session,
//! and one that begins is told of those that the one before it had. While there
//! is no gateway it tells the clients of the latter how their programs ended, and
//! sees to it that nothing outlives a client. When the instance has stopped, it
//! ends them all.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::super::fault;
use super::orphans::{self, Orphan};
use super::record::{self, Held, Hello, Message, Received, Record};
use crate::router::told::Gone;
use fpty::proto::{Ended, Ending};
use fpty::sys::Written;
use fpty::sys::child::Pid;
use fpty::sys::detached;
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller};
use fpty::sys::pty::Master;
use fpty::sys::sessions::{Leader, SessionKiller};
use fpty::sys::socket::Stream;
use fpty::sys::stdio::{self, Output};

/// How long a gateway that begins may take to be told all.
const TELLING: Duration = Duration::from_secs(5);

/// How often programs are looked after that were told to end.
const LOOK: Duration = Duration::from_millis(50);

/// Starts the process, at the other end of what gateways say hello by; it holds
/// the log open only where it is to write lines of the audit there.
pub fn start(theirs: OwnedFd, grace: Option<Duration>, has_audit: bool) -> std::io::Result<()> {
    let mut kept = vec![theirs];
    let log = stdio::stderr_copy().ok().filter(|_| has_audit);
    let has_log = log.is_some();
    kept.extend(log);
    kept.extend(PidFd::parent().map(OwnedFd::from));
    detached::run(c"fpty-holder", kept, move |kept| {
        let _ = run(kept, grace, has_log);
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

pub(super) struct Stored {
    pub record: Record,
    pub held: Held,
    ordinal: usize,
    /// Nobody else looks after it.
    pub orphan: Option<Orphan>,
}

impl Stored {
    /// Whether it is, or was, of the gateway of this number.
    pub fn is_of(&self, ordinal: usize) -> bool {
        self.ordinal == ordinal
    }
}

pub(super) struct Holder {
    pub poller: Poller,
    hellos: Stream,
    gateways: HashMap<u64, Gateway>,
    next: u64,
    pub sessions: HashMap<String, Stored>,
    pub log: Option<Output>,
    pub grace: Option<Duration>,
    /// Orphans' sessions, by the tokens of their programs; their clients have the
    /// next one.
    pub watched: HashMap<u64, String>,
    /// Programs that have lost their client, and are killed then.
    pub doomed: Vec<(Instant, PidFd)>,
}

fn run(kept: Vec<OwnedFd>, grace: Option<Duration>, has_log: bool) -> std::io::Result<()> {
    fpty::sys::forbid_inspection();
    // Four for each session.
    let _ = fpty::sys::raise_descriptor_limit();
    let mut kept = kept.into_iter();
    let Some(hellos) = kept.next().map(Stream::from) else {
        return Ok(());
    };
    let log = if has_log { kept.next() } else { None };
    let master = kept.next();
    let poller = Poller::new(64)?;
    poller.add(hellos.as_fd(), HELLOS, Interest::READ)?;
    if let Some(master) = &master {
        poller.add(master.as_fd(), MASTER, Interest::READ)?;
    }
    let mut holder = Holder {
        poller,
        hellos,
        gateways: HashMap::new(),
        next: MASTER + 1,
        sessions: HashMap::new(),
        log: log.and_then(|log| Output::of(log.as_fd()).ok()),
        grace,
        watched: HashMap::new(),
        doomed: Vec::new(),
    };
    loop {
        let wait = detached::guarded(|| holder.look_at_orphans()).unwrap_or(Some(LOOK));
        let count = holder.poller.wait(wait)?;
        for index in 0..count {
            match holder.poller.ready(index).token {
                HELLOS => {
                    // One that panics over a hello has heard it: the others go on.
                    if !detached::guarded(|| holder.hear_hellos()).unwrap_or(true) {
                        holder.stop(grace);
                        return Ok(());
                    }
                }
                MASTER => {
                    holder.stop(grace);
                    return Ok(());
                }
                token if holder.gateways.contains_key(&token) => {
                    let _ = detached::guarded(|| holder.hear(token));
                }
                token => {
                    let _ = detached::guarded(|| holder.orphan_ready(token));
                }
            }
        }
    }
}

impl Holder {
    /// Gateways begin. Returns false when none ever will again.
    fn hear_hellos(&mut self) -> bool {
        loop {
            match record::receive_hello(&self.hellos) {
                Received::Message(Message::Hello(hello, own)) => self.begins(hello, own.into()),
                Received::Message(_) | Received::Nonsense => {}
                Received::Nothing => return true,
                Received::End => return false,
            }
        }
    }

    fn begins(&mut self, hello: Hello, stream: Stream) {
        // What the one before it had said last.
        let tokens: Vec<u64> = self.gateways.keys().copied().collect();
        for token in tokens {
            self.hear(token);
        }
        let count = hello.count.max(1);
        let until = Instant::now() + TELLING;
        let say = |say: &dyn Fn(&Stream) -> Written| loop {
            match say(&stream) {
                Written::Bytes(_) => return true,
                Written::Blocked if Instant::now() < until => stream.wait_for_room(LOOK),
                Written::Blocked | Written::Gone => return false,
            }
        };
        for stored in self.sessions.values_mut() {
            let is_served = self.gateways.values().any(|other| other.ordinal == stored.ordinal);
            if is_served || stored.ordinal % count != hello.ordinal {
                continue;
            }
            if !say(&|to| record::send_held(to, &stored.record, &stored.held)) {
                return;
            }
            stored.ordinal = hello.ordinal;
            if let Some(orphan) = stored.orphan.take() {
                self.watched.remove(&orphan.token);
                orphans::forget(&self.poller, &stored.held);
            }
        }
        if !say(&|to| record::send_done(to)) {
            return;
        }
        let token = self.token();
        if self.poller.add(stream.as_fd(), token, Interest::READ).is_ok() {
            self.gateways.insert(token, Gateway { stream, ordinal: hello.ordinal });
        }
    }

    /// A number that nobody had, and the next one.
    pub(super) fn token(&mut self) -> u64 {
        self.next += 2;
        self.next - 2
    }

    /// A gateway says something, or has ended: its sessions wait for the next.
    fn hear(&mut self, token: u64) {
        while let Some(gateway) = self.gateways.get(&token) {
            match record::receive(&gateway.stream) {
                Received::Message(Message::Session(record, held)) => {
                    let ordinal = gateway.ordinal;
                    fault::strike("holder", || record.name.clone());
                    if let Some(bound) = &record.bound {
                        fault::strike("keeper", || {
                            bound.said.clone().map(Option::unwrap_or_default).concat()
                        });
                    }
                    let stored = Stored { record: *record, held, ordinal, orphan: None };
                    self.sessions.insert(stored.record.id.clone(), stored);
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
                        self.are_orphans(ordinal);
                    }
                }
            }
        }
    }

    /// The instance has stopped, and so do its sessions.
    fn stop(&mut self, grace: Option<Duration>) {
        let tokens: Vec<u64> = self.gateways.keys().copied().collect();
        for token in tokens {
            self.hear(token);
        }
        let told = Ended::because(Ending::Stopped, "the instance has stopped").packet();
        let mut programs: Vec<PidFd> = self.doomed.drain(..).map(|(_, program)| program).collect();
        for (_, mut stored) in self.sessions.drain() {
            let Held { master, program, client, .. } = stored.held;
            if let Some(client) = client.map(Stream::of_stranger) {
                let _ = client.write(&told);
            }
            if let Some(bound) = &mut stored.record.bound {
                bound.last.say(&self.log, Gone::Lost, None);
            }
            if let (Some(fd), Some(pid)) = (program, Pid::new(stored.record.pid)) {
                let program = PidFd::reopened(pid, fd);
                program.signal(libc::SIGHUP);
                program.signal(libc::SIGCONT);
                programs.push(program);
            }
            // Clients may keep it.
            if let Some(Ok(master)) = master.map(|master| Master::given_back(master, true)) {
                master.hang_up();
            }
        }
        let Some(grace) = grace else {
            return;
        };
        let until = Instant::now() + grace;
        while Instant::now() < until && !programs.is_empty() {
            std::thread::sleep(LOOK);
            programs.retain(|program| !program.has_ended());
        }
        programs.retain(|program| !program.has_ended());
        if !programs.is_empty() {
            let leaders = programs.into_iter().map(Leader::from);
            SessionKiller::new(leaders).step(usize::MAX);
        }
    }
}
