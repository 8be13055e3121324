//! The programs of the sessions: which run, which have outlived their client,
//! and how they ended.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::kill_after_grace::Killing;
use super::supervisor::grace::Grace;
use super::supervisor::leaders::{Kind, Leaders, Listed};
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Due;
use crate::host::host;
use fpty::sys::DescriptorLimit;
use fpty::sys::child::{self, Exit, Pid};
use fpty::sys::spawn::Program;

/// How soon ended programs are looked for that the kernel did not name, among
/// many.
const SCAN: Duration = Duration::from_millis(20);

/// Ended programs that one turn sees to.
const REAPED_PER_TURN: usize = 32;

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
    let program = Program::from_command(&rules.command, &host().shell())
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
    pub(crate) left: HashMap<Pid, Instant>,
    /// Those that are told to end, and killed where they do not.
    pub(crate) killing: Killing,
    /// Where the session leaders are listed for whoever comes after us.
    leaders: Option<Leaders>,
    /// Those of sessions that we have taken up.
    restored: HashMap<Pid, Listed>,
    is_init: bool,
    /// Ended programs are looked for before long.
    reap_is_due: bool,
}

impl Programs {
    /// None yet of ours; some may be left of a gateway that was here before.
    pub fn new(leaders: Option<Leaders>, left_behind: Grace) -> Self {
        Self {
            running: HashMap::new(),
            left: HashMap::new(),
            killing: Killing::new(left_behind),
            leaders,
            restored: HashMap::new(),
            is_init: std::process::id() == 1,
            reap_is_due: false,
        }
    }

    /// A program is about to be started.
    pub fn starts(&self) {
        self.leaders.iter().for_each(Leaders::starts);
    }

    /// This one has been started; `None`: it could not be.
    pub fn started(&mut self, leader: Option<Pid>, kind: Kind) {
        if let Some(leader) = leader {
            let listed = self.leaders.as_mut().and_then(|leaders| leaders.add(leader, kind));
            self.running.insert(leader, Running { session: None, listed });
        }
        self.leaders.iter().for_each(Leaders::started);
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
        self.keep(running.or_else(|| self.restored.get(&leader).copied()), true);
    }

    fn keep(&self, listed: Option<Listed>, kept: bool) {
        if let (Some(leaders), Some(listed)) = (&self.leaders, listed) {
            leaders.keep(listed, kept);
        }
    }

    /// The supervisor could not do so: whose program it is.
    pub fn not_entrusted(&mut self, leader: Pid) -> Option<Key> {
        let running = self.running.get(&leader)?;
        self.keep(running.listed, false);
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
        let running = self.running.values().map(|running| running.listed);
        let restored = self.restored.values().copied().map(Some);
        running.chain(restored).for_each(|listed| self.keep(listed, false));
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

    /// A program has ended, this one perhaps, and others may have: the kernel tells
    /// it once.
    pub fn some_ended(&mut self, cx: &mut Context, told: Option<Pid>) {
        if !self.are_many() {
            return self.reap_all(cx);
        }
        if let Some(child) = told {
            self.reap_this(cx, child);
        }
        if !std::mem::replace(&mut self.reap_is_due, true) {
            cx.after(SCAN, Due::Reap);
        }
    }

    /// Takes the statuses of those that have ended.
    pub fn reap_all(&mut self, cx: &mut Context) {
        self.reap_is_due = false;
        let mut reaped = 0;
        while reaped < REAPED_PER_TURN {
            // Where none is left, asking for one more is a system call for nothing:
            // unless we are the first process of a PID namespace, whose orphans
            // are ours to reap.
            let may_be_one = self.is_init || !self.running.is_empty();
            let Some((pid, exit)) = may_be_one.then(child::reap_any).flatten() else {
                return;
            };
            reaped += usize::from(self.reaped(cx, pid, exit));
        }
        cx.after(Duration::ZERO, Due::Reap);
    }

    /// This one may have ended.
    pub fn reap_this(&mut self, cx: &mut Context, program: Pid) {
        if let Some((pid, exit)) = child::reap_one(program) {
            self.reaped(cx, pid, exit);
        }
    }

    /// A child was reaped; returns whether it was one of these.
    fn reaped(&mut self, cx: &mut Context, pid: Pid, exit: Exit) -> bool {
        let Some(Running { session, listed }) = self.running.remove(&pid) else {
            return false;
        };
        if let (Some(leaders), Some(listed)) = (&mut self.leaders, listed) {
            leaders.remove(listed);
        }
        let has_outlived = self.left.remove(&pid).is_some();
        self.killing.forget(pid, has_outlived);
        cx.then(Outcome::Reaped(pid, session, exit));
        true
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
}
