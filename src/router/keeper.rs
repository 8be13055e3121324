//! A process that looks after the sessions whose terminals were handed over,
//! where the gateway cannot: they outlive it, and a reload of the instance.
//!
//! It is started by the first such session. For each it holds a pidfd of the
//! program and the client's connection. While the gateway lives it does
//! nothing. After that it tells clients how their programs ended, and kills
//! what has outlived its client. When the master ends, the instance has
//! stopped, and so do these sessions.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::fault;
use super::last_words::LastWords;
use super::told::Gone;
use fpty::ended::of_exit;
use fpty::proto::{Ended, Ending};
use fpty::sys::child::{Exit, Pid};
use fpty::sys::detached;
use fpty::sys::peer::{Arrived, Peer};
use fpty::sys::pidfd::PidFd;
use fpty::sys::poll::{Interest, Poller, Several};
use fpty::sys::sessions::{Leader, SessionKiller};
use fpty::sys::socket::Stream;
use fpty::sys::stdio::{self, Output};
use fpty::sys::{Read, Written};

/// How long whoever inherited an ended program may take to reap it, and how
/// often that is looked after.
const REAPED: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// Clients that have left by so long after the gateway did so before it.
const AT_ONCE: Duration = Duration::from_millis(20);

/// The gateway's end.
#[derive(Default)]
pub struct Keeper {
    channel: Option<Stream>,
}

impl Keeper {
    /// Entrusts it with a session. [`Written::Blocked`]: it is busy;
    /// [`Written::Gone`]: there is none, and can be none.
    /// It tells of the session's end by `last`, where nobody else can.
    pub fn keep(
        &mut self,
        leader: Pid,
        client: &Stream,
        grace: Option<Duration>,
        last: &LastWords,
    ) -> Written {
        let Some(program) = PidFd::open(leader) else {
            return Written::Gone;
        };
        let message = last.message(leader);
        let descriptors = [program.as_fd(), client.as_fd()];
        // One that was killed is replaced, once.
        for _ in 0..2 {
            if self.channel.is_none() {
                self.channel = start(grace, last.are_any());
            }
            let Some(channel) = &self.channel else {
                break;
            };
            match channel.write_with_descriptors(&message, &descriptors) {
                Written::Gone => self.channel = None,
                written => return written,
            }
        }
        Written::Gone
    }
}

/// Starts the process; it holds the log open only where it is to write there.
fn start(grace: Option<Duration>, with_log: bool) -> Option<Stream> {
    let (ours, theirs) = Stream::pair().ok()?;
    let mut kept: Vec<OwnedFd> = vec![theirs.into(), PidFd::parent()?.into()];
    if with_log {
        kept.extend(stdio::stderr_copy());
    }
    detached::run(c"fpty-keeper", kept, move |kept| {
        let _ = run(kept, grace);
    })
    .ok()?;
    Some(ours)
}

/// What an event is about.
const CHANNEL: u64 = 0;
const MASTER: u64 = 1;
/// The first session's program; its client is the next number.
const FIRST: u64 = 2;

/// A session that is kept.
struct Kept {
    program: PidFd,
    last: LastWords,
    /// `None`: it has left, or knows all.
    client: Option<Stream>,
    /// The program has ended, and its status is waited for.
    ended: Option<Instant>,
    /// Its session is killed then.
    killed: Option<Instant>,
}

struct Loop {
    poller: Poller,
    channel: Option<Stream>,
    log: Option<Output>,
    /// When the gateway ended.
    alone: Option<Instant>,
    grace: Option<Duration>,
    sessions: HashMap<u64, Kept>,
    next: u64,
}

/// The process's life: as long as there is a gateway, or a session.
fn run(mut kept: Vec<OwnedFd>, grace: Option<Duration>) -> std::io::Result<()> {
    let log = (kept.len() > 2).then(|| kept.pop()).flatten();
    let Ok([channel, master]) = <[OwnedFd; 2]>::try_from(kept) else {
        return Ok(());
    };
    // Two for each session.
    let _ = fpty::sys::raise_descriptor_limit();
    let mut state = Loop {
        poller: Poller::new(64)?,
        channel: Some(Stream::from(channel)),
        log: log.and_then(|log| Output::of(log.as_fd()).ok()),
        alone: None,
        grace,
        sessions: HashMap::new(),
        next: FIRST,
    };
    if let Some(channel) = &state.channel {
        state.poller.add(channel.as_fd(), CHANNEL, Interest::READ)?;
    }
    state.poller.add(master.as_fd(), MASTER, Interest::READ)?;
    while state.channel.is_some() || !state.sessions.is_empty() {
        let count = state.poller.wait(state.timeout())?;
        for index in 0..count {
            match state.poller.ready(index).token {
                CHANNEL => {
                    let _ = detached::guarded(|| state.receive());
                }
                MASTER => {
                    state.poller.remove(master.as_fd())?;
                    state.stop();
                }
                token => state.see_to(token),
            }
        }
        state.look();
    }
    Ok(())
}

impl Loop {
    /// Something happened to a session; if that panics it is let go, alone.
    fn see_to(&mut self, token: u64) {
        let is_program = token % 2 == FIRST % 2;
        let session = if is_program { token } else { token - 1 };
        let outcome = detached::guarded(|| match is_program {
            true => self.program_ended(session),
            false => self.client_left(session),
        });
        if outcome.is_err() {
            self.sessions.remove(&session);
        }
    }

    /// The gateway entrusts us with a session, or has ended.
    fn receive(&mut self) {
        loop {
            let Some(channel) = &self.channel else {
                return;
            };
            let mut message = [0; LastWords::LONGEST];
            let mut arrived = Arrived::default();
            match channel.read_with_descriptors(&mut message, &mut arrived, &mut Peer::default()) {
                Read::Bytes(count) => {
                    let pair = <[OwnedFd; 2]>::try_from(arrived.descriptors);
                    if let (Ok([program, client]), Some((leader, last))) =
                        (pair, LastWords::of(&message[..count]))
                    {
                        fault::strike("keeper", || &message[..count]);
                        self.add(leader, program, client, last);
                    }
                }
                Read::Blocked => return,
                Read::End | Read::Gone => return self.gateway_ended(),
            }
        }
    }

    fn add(&mut self, leader: Pid, program: OwnedFd, client: OwnedFd, last: LastWords) {
        let token = self.next;
        self.next += 2;
        let kept = Kept {
            program: PidFd::reopened(leader, program),
            last,
            client: Some(Stream::of_stranger(client)),
            ended: None,
            killed: None,
        };
        if self.poller.add(kept.program.as_fd(), token, Interest::READ).is_ok() {
            self.sessions.insert(token, kept);
        }
    }

    /// From here on clients that leave tell nobody else.
    fn gateway_ended(&mut self) {
        self.channel = None;
        self.alone = Some(Instant::now());
        for (token, kept) in &self.sessions {
            if let Some(client) = &kept.client {
                let _ = self.poller.add(client.as_fd(), token + 1, Interest::default());
            }
        }
    }

    fn program_ended(&mut self, token: u64) {
        let Some(kept) = self.sessions.get_mut(&token) else {
            return;
        };
        if self.channel.is_some() {
            // The gateway reaps it, and tells its client: ours is a copy.
            if let Some(client) = self.sessions.remove(&token).and_then(|kept| kept.client) {
                drop(OwnedFd::from(client));
            }
            return;
        }
        let _ = self.poller.remove(kept.program.as_fd());
        kept.ended = Some(Instant::now());
    }

    /// The client has left; its copy of the terminal was the last one, so the
    /// kernel has hung the program up.
    fn client_left(&mut self, token: u64) {
        let now = Instant::now();
        if let Some(kept) = self.sessions.get_mut(&token) {
            kept.client = None;
            // Those that had left before, the gateway has told of.
            let told = self.alone.is_some_and(|since| since.elapsed() < AT_ONCE);
            match told {
                true => kept.last = LastWords::default(),
                false => kept.last.say(&self.log, Gone::Hangup, None),
            }
            kept.killed = kept.killed.or(self.grace.map(|grace| now + grace));
        }
    }

    /// The instance has stopped.
    fn stop(&mut self) {
        let now = Instant::now();
        let told = Ended::because(Ending::Stopped, "the instance has stopped").packet();
        for kept in self.sessions.values_mut() {
            if let Some(client) = kept.client.take() {
                let _ = client.write(&told);
            }
            kept.last.say(&self.log, Gone::Lost, None);
            kept.program.signal(libc::SIGHUP);
            kept.program.signal(libc::SIGCONT);
            kept.killed = self.grace.map(|grace| now + grace);
        }
        if self.grace.is_none() {
            self.sessions.clear();
        }
    }

    /// Does what is due.
    fn look(&mut self) {
        let now = Instant::now();
        let over = take_those_over(&mut self.sessions, now);
        let mut outlived = Vec::new();
        for mut kept in over {
            match kept.ended {
                Some(_) => {
                    let _ = detached::guarded(|| tell(&mut kept, &self.log));
                }
                None => outlived.push(kept),
            }
        }
        // Those that have not ended are still their numbers' owners.
        outlived.retain(|kept| !kept.program.has_ended());
        if !outlived.is_empty() {
            let leaders = outlived.into_iter().map(|kept| Leader::from(kept.program));
            SessionKiller::new(leaders).step(usize::MAX);
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let ended = self.sessions.values().any(|kept| kept.ended.is_some());
        let killed = self.sessions.values().filter_map(|kept| kept.killed).min();
        let killed = killed.map(|at| at.saturating_duration_since(now));
        killed.into_iter().chain(ended.then_some(LOOK)).min()
    }
}

/// Takes out those that there is nothing to wait for any more.
fn take_those_over(sessions: &mut HashMap<u64, Kept>, now: Instant) -> Vec<Kept> {
    let over = |kept: &Kept| match kept.ended {
        // Whom nobody waits for need not be known.
        Some(at) => kept.client.is_none() || kept.program.exit().is_some() || now >= at + REAPED,
        None => kept.killed.is_some_and(|at| now >= at),
    };
    let tokens: Vec<u64> =
        sessions.iter().filter(|(_, kept)| over(kept)).map(|(token, _)| *token).collect();
    tokens.into_iter().filter_map(|token| sessions.remove(&token)).collect()
}

/// Whether a session's client has closed its connection.
fn has_left(kept: &Kept) -> bool {
    kept.client.as_ref().is_none_or(|client| {
        let mut polled = Several::default();
        let at = polled.add(client.as_fd(), false, false);
        polled.wait(Some(Duration::ZERO)).hung_up(at)
    })
}

/// Tells a client how its program ended.
fn tell(kept: &mut Kept, log: &Option<Output>) {
    let exit = kept.program.exit();
    let why = match exit {
        Some(Exit::Status(_)) => Gone::Exit,
        // The kernel hangs a program up whose client has left, and that may be
        // heard of first.
        Some(Exit::Signal { number: libc::SIGHUP, .. }) if has_left(kept) => Gone::Hangup,
        Some(Exit::Signal { .. }) => Gone::Signal,
        None => Gone::Lost,
    };
    kept.last.say(log, why, exit.filter(|_| why != Gone::Hangup));
    let ended = exit.map(of_exit).unwrap_or_else(|| {
        let why = "its gateway was killed, and this kernel does not tell a program's status";
        Ended::because(Ending::Lost, why)
    });
    if let Some(client) = &kept.client {
        let _ = client.write(&ended.packet());
    }
}
