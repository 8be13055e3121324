//! The leaders of the open sessions, in memory that outlives their gateway: whoever
//! comes after it sees to what ignores that its terminal is gone.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::shared_memory::{self, Part};
use fpty::sys::child::Pid;
use fpty::sys::process_identity::{Moment, Noted};
use fpty::sys::process_session::Leader;

/// Sessions that can be listed, in each gateway; memory is used only for as
/// many as there are.
const MOST: usize = 1 << 20;

/// Words of a gateway's list: whose numbers they are, which supervisor has those
/// that are kept, which program is being started and since when, and the leaders.
pub const WORDS: usize = HEAD + MOST;
const HEAD: usize = 4;
const STARTS: usize = 2;
const SINCE: usize = 3;

/// What stands in a place: never used, free again, or a leader, so that it can
/// be told from another process that gets its number later. A place is one word:
/// nobody who is killed leaves half of it behind.
const NEVER_USED: u64 = 0;
const FREE: u64 = 1;

/// A command without a terminal: nobody hangs it up but us.
const COMMAND: u64 = Noted::MARK;
/// The supervisor has what it needs, and sees to it.
const KEPT: u64 = Noted::OTHER_MARK;

/// What a leader has lost with its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its terminal.
    Terminal,
    /// Its client, and nobody tells it.
    Command,
}

/// The list of one gateway, as that keeps it.
pub struct Leaders {
    head: &'static [AtomicU64],
    words: &'static [AtomicU64],
    free: VecDeque<usize>,
    used: usize,
}

/// A place on the list.
#[derive(Clone, Copy, Debug)]
pub struct Listed(NonZeroU32);

impl Leaders {
    /// The list of the gateway of this number, on which nothing is left.
    pub fn of(ordinal: usize) -> Option<Self> {
        let (head, words) = shared_memory::part(Part::Leaders(ordinal))?.split_at_checked(HEAD)?;
        head[0].store(is_outside().into(), Ordering::Release);
        Some(Self { head, words, free: VecDeque::new(), used: 0 })
    }

    /// Where the kernel is to write the number of a program that is being started: whoever
    /// is killed before it is on the list leaves nothing that nobody knows of.
    pub fn starting(&self) -> &'static AtomicU64 {
        &self.head[STARTS]
    }

    /// A program is about to be started.
    pub fn starts(&self) {
        self.head[SINCE].store(Moment::now().0, Ordering::Release);
    }

    /// It is on the list, or there is none.
    pub fn started(&self) {
        self.head[STARTS].store(0, Ordering::Release);
    }

    /// Puts a session's leader on the list.
    pub fn add(&mut self, leader: Pid, kind: Kind) -> Option<Listed> {
        let mark = if kind == Kind::Command { COMMAND } else { 0 };
        let word = Noted::running(leader)?.to_bits() | mark;
        let place = self.free.pop_front().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        self.words.get(place)?.store(word, Ordering::Release);
        // Counted from 1: an Option of it takes no more room.
        u32::try_from(place + 1).ok().and_then(NonZeroU32::new).map(Listed)
    }

    fn word(&self, Listed(place): Listed) -> Option<&'static AtomicU64> {
        self.words.get(place.get() as usize - 1)
    }

    /// The supervisor has it, or not any more.
    pub fn keep(&self, listed: Listed, kept: bool) {
        if let Some(word) = self.word(listed) {
            match kept {
                true => word.fetch_or(KEPT, Ordering::AcqRel),
                false => word.fetch_and(!KEPT, Ordering::AcqRel),
            };
        }
    }

    /// Takes it off: it was reaped.
    pub fn remove(&mut self, listed: Listed) {
        if let Some(word) = self.word(listed) {
            word.store(FREE, Ordering::Release);
            self.free.push_back(listed.0.get() as usize - 1);
        }
    }
}

/// Takes all off the list of a gateway that is gone. Those that are there and that
/// nobody else sees to are told to end, where closing their terminal has not; they
/// are returned. `kept_too`: nobody keeps those that were kept.
pub(crate) fn take_left(ordinal: usize, kept_too: bool) -> Vec<Noted> {
    let Some((head, words)) =
        shared_memory::part(Part::Leaders(ordinal)).and_then(|words| words.split_at_checked(HEAD))
    else {
        return Vec::new();
    };
    let mut left = take(words, kept_too);
    let listed = |noted: &Noted| left.iter().any(|other| other.pid() == noted.pid());
    if let Some(noted) = take_starting(head).filter(|noted| !listed(noted)) {
        if let Some(leader) = Leader::open(noted) {
            leader.hang_up();
            left.push(noted);
        }
    }
    left
}

/// The program that a gateway was about to put on the list.
fn take_starting(head: &[AtomicU64]) -> Option<Noted> {
    let word = head[STARTS].swap(0, Ordering::AcqRel);
    // The kernel has written half of it: which one is the machine's.
    let number = i32::try_from((word >> 32) | (word & u64::from(u32::MAX))).ok()?;
    let since = Moment(head[SINCE].load(Ordering::Acquire));
    Noted::begun_at(Pid::new(number)?, since)
}

/// What the gateway of this number has kept, this supervisor has.
pub(crate) fn note_keeper(ordinal: usize, keeper: u64) {
    if let Some(word) = shared_memory::part(Part::Leaders(ordinal)).and_then(|words| words.get(1)) {
        word.store(keeper, Ordering::Release);
    }
}

/// Which one has it.
pub fn keeper_of(ordinal: usize) -> u64 {
    let word = shared_memory::part(Part::Leaders(ordinal)).and_then(|words| words.get(1));
    word.map_or(0, |word| word.load(Ordering::Acquire))
}

/// Whether the numbers on the list of that gateway mean something to this process.
pub(crate) fn can_be_known(ordinal: usize) -> bool {
    let other = shared_memory::part(Part::Leaders(ordinal)).and_then(<[_]>::first);
    other.is_none_or(|other| other.load(Ordering::Acquire) == 0 || is_outside())
}

/// Whether our parent is in another PID namespace (pid_namespaces(7)): it has the
/// number 0 then.
fn is_outside() -> bool {
    nix::unistd::getppid().as_raw() == 0
}

fn take(words: &[AtomicU64], kept_too: bool) -> Vec<Noted> {
    let words = words.iter().map(|word| word.swap(NEVER_USED, Ordering::AcqRel));
    let mut left = Vec::new();
    for word in words.take_while(|word| *word != NEVER_USED) {
        let is_kept = word & KEPT != 0;
        let Some(noted) = Noted::of_bits(word).filter(|_| kept_too || !is_kept) else {
            continue;
        };
        if is_kept || word & COMMAND != 0 {
            if let Some(leader) = Leader::open(noted) {
                leader.hang_up();
            }
        }
        left.push(noted);
    }
    left.retain(|noted| Leader::open(*noted).is_some());
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
        let kinds = [Kind::Terminal, Kind::Terminal, Kind::Terminal, Kind::Command];
        let mut put = || -> Vec<Listed> {
            let add = |(child, kind): (&Child, Kind)| leaders.add(pid(child), kind).expect("room");
            children.iter().zip(kinds).map(add).collect()
        };
        let listed = put();
        leaders.keep(listed[1], true);
        leaders.keep(listed[2], true);
        leaders.keep(listed[2], false);
        leaders.remove(listed[0]);
        let left: Vec<Pid> = take(words, false).iter().map(Noted::pid).collect();
        // The command was told to end, and may have.
        assert_eq!(left[0], pid(&children[2]));
        assert!(left.len() <= 2 && left.iter().all(|one| *one != pid(&children[1])));
        assert!(take(words, true).is_empty());
        let command = children.pop().expect("the last one").wait().expect("a child");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&command), Some(libc::SIGHUP));
        leaders = Leaders { head: &[], words, free: VecDeque::new(), used: 0 };
        let listed = leaders.add(pid(&children[1]), Kind::Terminal).expect("room");
        leaders.keep(listed, true);
        let _ = take(words, true);
        let kept = children.remove(1).wait().expect("a child");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&kept), Some(libc::SIGHUP));
        for mut child in children {
            child.kill().expect("a child");
            child.wait().expect("a child");
        }
    }
}
