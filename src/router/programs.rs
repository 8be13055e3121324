//! The programs of the sessions: which run, which have outlived their client,
//! and how they ended.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::supervisor::grace::Grace;
use super::supervisor::leaders::{Kind, Leaders, Listed};
use super::table::Key;
use crate::config::rules::Rules;
use crate::uwsgi::server;
use fpty::sys::DescriptorLimit;
use fpty::sys::child::{self, Exit, Pid};
use fpty::sys::foreground::{Foreground, HangUps};
use fpty::sys::pidfd::PidFd;
use fpty::sys::pty::Master;
use fpty::sys::sessions::{Leader, SessionKiller};
use fpty::sys::spawn::Program;
use fpty::sys::terminal_users::TerminalUsers;

/// Members of sessions that are looked for at once.
const AT_ONCE: usize = 64;

/// With more programs than these the kernel is not asked at once which have
/// ended: it would look through all.
const MANY: usize = 64;

/// The program of a socket's sessions.
pub fn of_rules(rules: &Rules, limit: Option<DescriptorLimit>) -> Program {
    let mut environment = fpty::sys::environment::for_sessions();
    if let Some(identity) = &rules.identity {
        environment = fpty::sys::spawn::with_variables(environment, &identity.environment);
    }
    environment = fpty::sys::spawn::with_variables(environment, &rules.environment);
    let program = Program::from_command(&rules.command, &server::shell())
        .environment(environment)
        .descriptor_limit(limit)
        .in_folder(rules.folder.clone());
    // Who is it already needs no right to become it.
    match rules.identity.as_ref().filter(|identity| !identity.is_ours()) {
        Some(identity) => program.as_user(identity.uid, identity.gid, &identity.groups),
        None => program,
    }
}

/// A program that has not been reaped. There is one for each session, so it
/// is kept small.
struct Running {
    /// The session that has it; one that is over: its client has left. `None`: a
    /// command's, or the session is still to come.
    session: Option<Key>,
    listed: Option<Listed>,
}

/// All programs of a gateway that have not been reaped.
pub struct Programs {
    running: HashMap<Pid, Running>,
    /// Those whose client has left, and when it did.
    left: HashMap<Pid, Instant>,
    /// Leaders whose sessions are to be killed.
    outlived: Vec<Leader>,
    killing: Option<SessionKiller>,
    /// Foreground groups whose members are to be hung up one by one.
    hang_ups: HangUps,
    /// Terminals whose users are signalled one by one.
    users: TerminalUsers,
    /// And those that are killed then.
    doomed: Vec<(Instant, Master)>,
    /// Where the session leaders are listed for whoever comes after us.
    leaders: Option<Leaders>,
    /// Those of sessions that we have taken up.
    restored: HashMap<Pid, Listed>,
    /// Those that are not our children and were told to end.
    grace: Grace,
    is_init: bool,
    /// Ended programs are looked for before long.
    pub(super) reap_is_due: bool,
}

impl Programs {
    /// None yet of ours; some may be left of a gateway that was here before.
    pub fn new(leaders: Option<Leaders>, left_behind: Grace) -> Self {
        Self {
            running: HashMap::new(),
            left: HashMap::new(),
            outlived: Vec::new(),
            killing: None,
            hang_ups: HangUps::default(),
            users: TerminalUsers::default(),
            doomed: Vec::new(),
            leaders,
            restored: HashMap::new(),
            grace: left_behind,
            is_init: std::process::id() == 1,
            reap_is_due: false,
        }
    }

    /// A program has been started.
    pub fn started(&mut self, leader: Pid, kind: Kind) {
        let listed = self.leaders.as_mut().and_then(|leaders| leaders.add(leader, kind));
        self.running.insert(leader, Running { session: None, listed });
    }

    /// A session has it: a new one, or that of somebody who has come back to it.
    pub fn belongs_to(&mut self, leader: Pid, session: Key) {
        if let Some(running) = self.running.get_mut(&leader) {
            running.session = Some(session);
        }
    }

    /// The supervisor looks after it when this gateway has ended.
    pub fn entrusted(&mut self, leader: Pid) {
        let running = self.running.get(&leader).and_then(|running| running.listed);
        let listed = running.or_else(|| self.restored.get(&leader).copied());
        if let (Some(leaders), Some(listed)) = (&self.leaders, listed) {
            leaders.keep(listed, true);
        }
    }

    /// The supervisor could not do so: whose program it is.
    pub fn not_entrusted(&mut self, leader: Pid) -> Option<Key> {
        let running = self.running.get(&leader)?;
        if let (Some(leaders), Some(listed)) = (&self.leaders, running.listed) {
            leaders.keep(listed, false);
        }
        running.session
    }

    /// A program that a gateway before us has started goes on.
    pub fn restored(&mut self, leader: Pid) {
        let add = |leaders: &mut Leaders| leaders.add(leader, Kind::Terminal);
        if let Some(listed) = self.leaders.as_mut().and_then(add) {
            self.restored.insert(leader, listed);
        }
        self.entrusted(leader);
    }

    /// There is no supervisor any more.
    pub fn nothing_is_entrusted(&self) {
        let running = self.running.values().filter_map(|running| running.listed);
        for listed in running.chain(self.restored.values().copied()) {
            if let Some(leaders) = &self.leaders {
                leaders.keep(listed, false);
            }
        }
    }

    /// Whether it has not been reaped.
    pub fn has(&self, leader: Pid) -> bool {
        self.running.contains_key(&leader)
    }

    /// Whether it is this session's, and was not reaped.
    pub fn is_of(&self, leader: Pid, session: Key) -> bool {
        self.running.get(&leader).is_some_and(|running| running.session == Some(session))
    }

    /// Whether there are so many that looking through them takes a while.
    pub fn are_many(&self) -> bool {
        self.running.len() > MANY
    }

    /// Reaps one that has ended: which, whose it was, and how it ended.
    pub fn reap(&mut self) -> Option<(Pid, Option<Key>, Exit)> {
        // Where none is left, asking for one more is a system call for nothing:
        // unless we are the first process of a PID namespace, whose orphans
        // are ours to reap.
        while self.is_init || !self.running.is_empty() {
            let (pid, exit) = child::reap_any()?;
            if let Some(ended) = self.reaped(pid, exit) {
                return Some(ended);
            }
        }
        None
    }

    /// Reaps this one, if it has ended.
    pub fn reap_one(&mut self, leader: Pid) -> Option<(Pid, Option<Key>, Exit)> {
        let (pid, exit) = child::reap_one(leader)?;
        self.reaped(pid, exit)
    }

    fn reaped(&mut self, pid: Pid, exit: Exit) -> Option<(Pid, Option<Key>, Exit)> {
        let Running { session, listed } = self.running.remove(&pid)?;
        if let (Some(leaders), Some(listed)) = (&mut self.leaders, listed) {
            leaders.remove(listed);
        }
        self.hang_ups.forget(pid);
        if self.left.remove(&pid).is_some() {
            self.outlived.retain(|leader| leader.pid() != pid);
            if let Some(killing) = &mut self.killing {
                killing.forget(pid);
            }
        }
        Some((pid, session, exit))
    }

    /// The client of a program that still runs has left.
    pub fn client_left(&mut self, leader: Pid) {
        // One that was reaped has no number any more.
        if self.running.contains_key(&leader) {
            self.left.insert(leader, Instant::now());
        }
    }

    /// Those that run for nobody: not for a session that there is, nor for
    /// these.
    pub fn orphans(&self, exists: impl Fn(Key) -> bool, owned: &HashSet<Pid>) -> Vec<Pid> {
        let is_one = |(leader, running): &(&Pid, &Running)| {
            !running.session.is_some_and(&exists)
                && !owned.contains(leader)
                && !self.left.contains_key(leader)
        };
        self.running.iter().filter(is_one).map(|(leader, _)| *leader).collect()
    }

    /// Whether a program has outlived its client by so much.
    pub fn has_outlived(&self, leader: Pid, grace: Duration) -> bool {
        // Where it was reaped its number may be another one's.
        self.left.get(&leader).is_some_and(|since| since.elapsed() >= grace)
    }

    /// How long until those are to be looked at that are not our children and were
    /// told to end.
    pub fn grace_lasts(&self) -> Option<Duration> {
        self.grace.wait()
    }

    /// Those of them whose grace is over, and that still run.
    pub fn take_left_behind(&mut self) -> Vec<Leader> {
        self.grace.over()
    }

    /// A program that is not our child is to end: it has the grace.
    pub fn hang_up_stranger(&mut self, program: PidFd) {
        self.grace.hang_up(Leader::from(program));
    }

    /// Has the session of this leader killed, by [`Programs::go_on_killing`];
    /// returns whether that is to be called.
    pub fn kill(&mut self, leader: Leader) -> bool {
        let first = self.outlived.is_empty() && self.killing.is_none();
        self.outlived.push(leader);
        first
    }

    /// Hangs a terminal's foreground group up, where that is not the leader's
    /// own; returns whether [`Programs::go_on_killing`] is to be called.
    pub fn hang_up(&mut self, foreground: Foreground) -> bool {
        let Some(later) = foreground.hang_up() else {
            return false;
        };
        let first = self.hang_ups.is_empty();
        self.hang_ups.add(later);
        first
    }

    /// Signals whoever has a terminal open that could not be hung up, and has them
    /// killed then by [`Programs::kill_users`]. [`Programs::go_on_killing`] is to be
    /// called.
    pub fn hang_up_users(&mut self, terminal: &Master, grace: Option<Duration>) {
        if let (Some(grace), Ok(terminal)) = (grace, terminal.try_clone()) {
            self.doomed.push((Instant::now() + grace, terminal));
        }
        if let Ok(terminal) = terminal.try_clone() {
            self.users.add(terminal, libc::SIGHUP);
        }
    }

    /// The grace of such users may be over.
    pub fn kill_users(&mut self) {
        let now = Instant::now();
        let (due, rest): (Vec<_>, Vec<_>) = self.doomed.drain(..).partition(|(at, _)| now >= *at);
        self.doomed = rest;
        for (_, terminal) in due {
            self.users.add(terminal, libc::SIGKILL);
        }
    }

    /// Kills what has been found to outlive its client or its gateway, and hangs
    /// up who has to be looked for, a little in each turn: the living are served
    /// meanwhile. Returns whether there is more.
    pub fn go_on_killing(&mut self) -> bool {
        self.hang_ups.step(AT_ONCE);
        self.users.step(AT_ONCE);
        if self.killing.is_none() && !self.outlived.is_empty() {
            self.killing = Some(SessionKiller::new(self.outlived.drain(..)));
        }
        if self.killing.as_mut().is_some_and(|killing| killing.step(AT_ONCE)) {
            self.killing = None;
        }
        let has_more = !self.hang_ups.is_empty() || !self.users.is_empty();
        has_more || self.killing.is_some() || !self.outlived.is_empty()
    }
}
