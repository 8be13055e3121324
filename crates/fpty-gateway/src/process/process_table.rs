//! The table of the sessions' programs: which run, which were hung up, and how they ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::grace_killer::GraceKiller;
use super::supervisor::grace::Grace;
use super::supervisor::leaders::{LeaderKind, LeaderSlot, Leaders};
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::timers::Timer;
use crate::host::host;
use crate::session::session_ref::SessionRef;
use fpty::sys::DescriptorLimit;
use fpty::sys::child::{self, Exit, Pid};
use fpty::sys::spawn::{ExecEnvironment, Program, ProgramUser};

/// Delay of the search among many for ended programs that SIGCHLD did not name.
const REAP_DELAY: Duration = Duration::from_millis(20);

/// Programs that one turn reaps.
const REAPED_PER_TURN: usize = 32;

/// Number of programs above which waitid(P_ALL) is delayed: the kernel walks through all.
const REAP_BY_NAME_ABOVE: usize = 64;

/// The program of a listener's sessions.
pub fn program_for(rules: &Rules, limit: Option<DescriptorLimit>) -> Program {
    let mut environment = fpty::sys::environment::for_sessions();
    if let Some(identity) = &rules.identity {
        environment = fpty::sys::spawn::with_variables(environment, &identity.environment);
    }
    environment = fpty::sys::spawn::with_variables(environment, &rules.environment);
    // Who is it already needs no right to become it.
    let identity = rules.identity.as_ref().filter(|identity| !identity.is_ours());
    let user =
        identity.map(|it| ProgramUser { uid: it.uid, gid: it.gid, groups: it.groups.clone() });
    let folder = rules.working_dir.clone();
    let surroundings = ExecEnvironment { environment, descriptor_limit: limit, folder, user };
    Program::from_command(&rules.command, &host().shell()).within(Arc::new(surroundings))
}

/// A program that was not reaped. There is one for each session, so it is small.
struct ProcessEntry {
    /// The session or command of the program; one that is closed: its client has left. `None`:
    /// it is not made yet.
    session: Option<SessionRef>,
    slot: Option<LeaderSlot>,
}

/// The programs of a gateway that were not reaped.
pub struct ProcessTable {
    running: HashMap<Pid, ProcessEntry>,
    /// Programs that were hung up, and when.
    pub(crate) hung_up: HashMap<Pid, Instant>,
    /// Hang-ups and kills.
    pub(crate) killer: GraceKiller,
    /// Session leaders in shared memory.
    leaders: Option<Leaders>,
    /// Slots of programs of restored sessions.
    restored: HashMap<Pid, LeaderSlot>,
    is_init: bool,
    /// A search for ended programs is scheduled.
    reap_is_scheduled: bool,
}

impl ProcessTable {
    /// An empty table; programs of the gateway before are hung up already.
    pub fn new(leaders: Option<Leaders>, orphaned: Grace) -> Self {
        Self {
            running: HashMap::new(),
            hung_up: HashMap::new(),
            killer: GraceKiller::new(orphaned),
            leaders,
            restored: HashMap::new(),
            is_init: std::process::id() == 1,
            reap_is_scheduled: false,
        }
    }

    /// Before a program is started.
    pub fn before_start(&self) {
        self.leaders.iter().for_each(Leaders::before_start);
    }

    /// After the start of a program; `None`: it failed.
    pub fn started(&mut self, leader: Option<Pid>, kind: LeaderKind) {
        if let Some(leader) = leader {
            let slot = self.leaders.as_mut().and_then(|leaders| leaders.add(leader, kind));
            self.running.insert(leader, ProcessEntry { session: None, slot });
        }
        self.leaders.iter().for_each(Leaders::start_done);
    }

    /// Assigns a program to a session or command.
    pub fn assign(&mut self, leader: Pid, session: SessionRef) {
        if let Some(running) = self.running.get_mut(&leader) {
            running.session = Some(session);
        }
    }

    /// The supervisor has the program's session.
    pub fn set_supervised(&mut self, leader: Pid) {
        let running = self.running.get(&leader).and_then(|running| running.slot);
        self.keep(running.or_else(|| self.restored.get(&leader).copied()), true);
    }

    fn keep(&self, slot: Option<LeaderSlot>, kept: bool) {
        if let (Some(leaders), Some(slot)) = (&self.leaders, slot) {
            leaders.set_supervised(slot, kept);
        }
    }

    /// The supervisor does not have the program's session. Returns that session.
    pub fn set_unsupervised(&mut self, leader: Pid) -> Option<SessionRef> {
        let running = self.running.get(&leader)?;
        self.keep(running.slot, false);
        running.session
    }

    /// Adds a program that the gateway before has started.
    pub fn restored(&mut self, leader: Pid) {
        let add = |leaders: &mut Leaders| leaders.add(leader, LeaderKind::Terminal);
        if let Some(slot) = self.leaders.as_mut().and_then(add) {
            self.restored.insert(leader, slot);
        }
        self.set_supervised(leader);
    }

    /// The supervisor is gone.
    pub fn supervisor_lost(&self) {
        let running = self.running.values().map(|running| running.slot);
        let restored = self.restored.values().copied().map(Some);
        running.chain(restored).for_each(|slot| self.keep(slot, false));
    }

    /// Whether a program was not reaped.
    pub fn has(&self, leader: Pid) -> bool {
        self.running.contains_key(&leader)
    }

    /// Whether a program is of this session, and was not reaped.
    pub fn is_of(&self, leader: Pid, session: SessionRef) -> bool {
        self.running.get(&leader).is_some_and(|running| running.session == Some(session))
    }

    /// Whether there are so many programs that a search takes a while.
    pub fn has_many(&self) -> bool {
        self.running.len() > REAP_BY_NAME_ABOVE
    }

    /// SIGCHLD: this program has ended perhaps, and others may have.
    pub fn children_ended(&mut self, cx: &mut Context, told: Option<Pid>) {
        if !self.has_many() {
            return self.reap_all(cx);
        }
        if let Some(child) = told {
            self.reap_one(cx, child);
        }
        if !std::mem::replace(&mut self.reap_is_scheduled, true) {
            cx.schedule(REAP_DELAY, Timer::Reap);
        }
    }

    /// Reaps ended programs.
    pub fn reap_all(&mut self, cx: &mut Context) {
        self.reap_is_scheduled = false;
        let mut reaped = 0;
        while reaped < REAPED_PER_TURN {
            // Where none is left, asking for one more is a system call for nothing:
            // unless we are the first process of a PID namespace, whose orphans
            // are ours to reap.
            let may_be_one = self.is_init || !self.running.is_empty();
            let Some((pid, exit)) = may_be_one.then(|| child::reap_ended(None)).flatten() else {
                return;
            };
            reaped += usize::from(self.reaped(cx, pid, exit));
        }
        cx.schedule(Duration::ZERO, Timer::Reap);
    }

    /// Reaps a program, if it has ended.
    pub fn reap_one(&mut self, cx: &mut Context, program: Pid) {
        if let Some((pid, exit)) = child::reap_ended(Some(program)) {
            self.reaped(cx, pid, exit);
        }
    }

    /// A child was reaped. Returns whether it was in the table.
    fn reaped(&mut self, cx: &mut Context, pid: Pid, exit: Exit) -> bool {
        let Some(ProcessEntry { session, slot }) = self.running.remove(&pid) else {
            return false;
        };
        if let (Some(leaders), Some(slot)) = (&mut self.leaders, slot) {
            leaders.remove(slot);
        }
        let was_hung_up = self.hung_up.remove(&pid).is_some();
        self.killer.forget(pid, was_hung_up);
        cx.push_outcome(Outcome::Reaped(pid, session, exit));
        true
    }

    /// Programs without a session, and not among the owned ones.
    pub fn orphans(&self, exists: impl Fn(SessionRef) -> bool, owned: &HashSet<Pid>) -> Vec<Pid> {
        let is_one = |(leader, running): &(&Pid, &ProcessEntry)| {
            !running.session.is_some_and(&exists)
                && !owned.contains(leader)
                && !self.hung_up.contains_key(leader)
        };
        self.running.iter().filter(is_one).map(|(leader, _)| *leader).collect()
    }
}
