//! Session leaders of open sessions, in memory that outlives their gateway: the process
//! that comes after it ends those that ignore that their terminal is gone.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::shared_memory::{self, Region};
use fpty::sys::child::Pid;
use fpty::sys::process_identity::{ProcessIdentity, ticks_since_boot};
use fpty::sys::process_session::SessionLeader;

/// The most sessions of a gateway; memory is used only for as many as there are.
const MAX_SESSIONS: usize = 1 << 20;

/// Words of a gateway: the PID namespace, the generation of the supervisor, the program
/// that is being started and since when, and the leaders.
pub const WORDS: usize = HEAD + MAX_SESSIONS;
const HEAD: usize = 4;
const NAMESPACE: usize = 0;
const SUPERVISOR: usize = 1;
const STARTS: usize = 2;
const SINCE: usize = 3;

/// A slot: never used, free again, or a leader with its start time, which tells it from a
/// process with the same pid later. A slot is one word: a killed process leaves no half of
/// it.
const NEVER_USED: u64 = 0;
const FREE: u64 = 1;

/// A command without a terminal: the kernel does not hang it up.
const COMMAND: u64 = ProcessIdentity::MARK;
/// The supervisor has the session.
const SUPERVISED: u64 = ProcessIdentity::OTHER_MARK;

/// Kind of a leader, by what it loses with its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderKind {
    /// The terminal: the kernel hangs it up.
    Terminal,
    /// The client: a command on three streams.
    Command,
}

/// The leaders of this gateway.
pub struct Leaders {
    head: &'static [AtomicU64],
    words: &'static [AtomicU64],
    free: VecDeque<usize>,
    used: usize,
}

/// A slot.
#[derive(Clone, Copy, Debug)]
pub struct LeaderSlot(NonZeroU32);

impl Leaders {
    /// The leaders of this gateway, of which none is used.
    pub fn of(ordinal: usize) -> Option<Self> {
        let (head, words) =
            shared_memory::region(Region::Leaders(ordinal))?.split_at_checked(HEAD)?;
        head[NAMESPACE].store(is_parent_outside().into(), Ordering::Release);
        Some(Self { head, words, free: VecDeque::new(), used: 0 })
    }

    /// The word for the pid of a program that is being started, which the kernel writes
    /// (CLONE_PARENT_SETTID): a gateway that is killed before the pid has a slot leaves no
    /// unknown program.
    pub fn starting_word(&self) -> &'static AtomicU64 {
        &self.head[STARTS]
    }

    /// Before a program is started.
    pub fn before_start(&self) {
        self.head[SINCE].store(ticks_since_boot().unwrap_or(0), Ordering::Release);
    }

    /// After the start: the program has a slot, or failed.
    pub fn start_done(&self) {
        self.head[STARTS].store(0, Ordering::Release);
    }

    /// Adds a session leader.
    pub fn add(&mut self, leader: Pid, kind: LeaderKind) -> Option<LeaderSlot> {
        let mark = if kind == LeaderKind::Command { COMMAND } else { 0 };
        let word = ProcessIdentity::running(leader)?.to_bits() | mark;
        let place = self.free.pop_front().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        self.words.get(place)?.store(word, Ordering::Release);
        // Counted from 1: an Option of it takes no more room.
        u32::try_from(place + 1).ok().and_then(NonZeroU32::new).map(LeaderSlot)
    }

    fn word(&self, LeaderSlot(place): LeaderSlot) -> Option<&'static AtomicU64> {
        self.words.get(place.get() as usize - 1)
    }

    /// Whether the supervisor has the session.
    pub fn set_supervised(&self, slot: LeaderSlot, supervised: bool) {
        if let Some(word) = self.word(slot) {
            match supervised {
                true => word.fetch_or(SUPERVISED, Ordering::AcqRel),
                false => word.fetch_and(!SUPERVISED, Ordering::AcqRel),
            };
        }
    }

    /// Removes a leader that was reaped.
    pub fn remove(&mut self, slot: LeaderSlot) {
        if let Some(word) = self.word(slot) {
            word.store(FREE, Ordering::Release);
            self.free.push_back(slot.0.get() as usize - 1);
        }
    }
}

/// Takes all leaders of a gateway that is gone. Those that run are hung up, where the close
/// of their terminal has not done so, and are returned. `include_supervised`: also those of
/// the supervisor, which is gone.
pub(crate) fn take_remaining(ordinal: usize, include_supervised: bool) -> Vec<ProcessIdentity> {
    let Some((head, words)) = shared_memory::region(Region::Leaders(ordinal))
        .and_then(|words| words.split_at_checked(HEAD))
    else {
        return Vec::new();
    };
    let mut left = take(words, include_supervised);
    let slot = |noted: &ProcessIdentity| left.iter().any(|other| other.pid() == noted.pid());
    if let Some(noted) = take_starting(head).filter(|noted| !slot(noted)) {
        if let Some(leader) = SessionLeader::open(noted) {
            leader.hang_up();
            left.push(noted);
        }
    }
    left
}

/// The program that a gateway was starting.
fn take_starting(head: &[AtomicU64]) -> Option<ProcessIdentity> {
    let word = head[STARTS].swap(0, Ordering::AcqRel);
    // The kernel has written half of it: which one is the machine's.
    let number = i32::try_from((word >> 32) | (word & u64::from(u32::MAX))).ok()?;
    let since = head[SINCE].load(Ordering::Acquire);
    ProcessIdentity::begun_at(Pid::new(number)?, since)
}

fn head_word(ordinal: usize, word: usize) -> Option<&'static AtomicU64> {
    shared_memory::region(Region::Leaders(ordinal))?.get(word)
}

/// Notes the generation of the supervisor that has a gateway's sessions.
pub(crate) fn note_supervisor(ordinal: usize, supervisor: u64) {
    if let Some(word) = head_word(ordinal, SUPERVISOR) {
        word.store(supervisor, Ordering::Release);
    }
}

/// The generation of the supervisor that has a gateway's sessions.
pub fn supervisor_of(ordinal: usize) -> u64 {
    head_word(ordinal, SUPERVISOR).map_or(0, |word| word.load(Ordering::Acquire))
}

/// Whether the pids of a gateway mean something to this process.
pub(crate) fn is_in_same_pid_namespace(ordinal: usize) -> bool {
    let other = head_word(ordinal, NAMESPACE);
    other.is_none_or(|other| other.load(Ordering::Acquire) == 0 || is_parent_outside())
}

/// Whether the parent is in another PID namespace (pid_namespaces(7)): its pid is 0 then.
fn is_parent_outside() -> bool {
    nix::unistd::getppid().as_raw() == 0
}

fn take(words: &[AtomicU64], include_supervised: bool) -> Vec<ProcessIdentity> {
    let words = words.iter().map(|word| word.swap(NEVER_USED, Ordering::AcqRel));
    let mut left = Vec::new();
    for word in words.take_while(|word| *word != NEVER_USED) {
        let is_supervised = word & SUPERVISED != 0;
        let Some(noted) =
            ProcessIdentity::of_bits(word).filter(|_| include_supervised || !is_supervised)
        else {
            continue;
        };
        let Some(leader) = SessionLeader::open(noted) else {
            continue;
        };
        // One with a terminal was hung up by the kernel when its gateway ended, and has lost
        // it: unless a client had the terminal by then.
        if is_supervised || word & COMMAND != 0 || leader.has_terminal() {
            leader.hang_up();
        }
        left.push(noted);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A process that leads a session of its own.
    fn session() -> Child {
        // Whoever runs the tests under nohup(1) ignores SIGHUP.
        let words = ["--default-signal=HUP", "setsid", "sleep", "1000"];
        let child = Command::new("env").args(words).spawn().expect("a process");
        let number = nix::unistd::Pid::from_raw(child.id() as i32);
        while nix::unistd::getsid(Some(number)) != Ok(number) {
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn what_is_left_is_taken_once_and_what_is_kept_by_nobody_else() {
        let words: &'static [AtomicU64] = Box::leak((0..8).map(|_| AtomicU64::new(0)).collect());
        let mut leaders = Leaders { head: &[], words, free: VecDeque::new(), used: 0 };
        let mut children: Vec<Child> = (0..4).map(|_| session()).collect();
        let pid = |child: &Child| Pid::new(child.id() as i32).expect("above 1");
        let kinds =
            [LeaderKind::Terminal, LeaderKind::Terminal, LeaderKind::Terminal, LeaderKind::Command];
        let mut put = || -> Vec<LeaderSlot> {
            let add =
                |(child, kind): (&Child, LeaderKind)| leaders.add(pid(child), kind).expect("room");
            children.iter().zip(kinds).map(add).collect()
        };
        let slot = put();
        leaders.set_supervised(slot[1], true);
        leaders.set_supervised(slot[2], true);
        leaders.set_supervised(slot[2], false);
        leaders.remove(slot[0]);
        let left: Vec<Pid> = take(words, false).iter().map(ProcessIdentity::pid).collect();
        // The command was told to end, and may have.
        assert_eq!(left[0], pid(&children[2]));
        assert!(left.len() <= 2 && left.iter().all(|one| *one != pid(&children[1])));
        assert!(take(words, true).is_empty());
        let command = children.pop().expect("the last one").wait().expect("a child");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&command), Some(libc::SIGHUP));
        leaders = Leaders { head: &[], words, free: VecDeque::new(), used: 0 };
        let slot = leaders.add(pid(&children[1]), LeaderKind::Terminal).expect("room");
        leaders.set_supervised(slot, true);
        let _ = take(words, true);
        let supervised = children.remove(1).wait().expect("a child");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&supervised), Some(libc::SIGHUP));
        for mut child in children {
            child.kill().expect("a child");
            child.wait().expect("a child");
        }
    }
}
