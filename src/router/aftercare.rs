//! What becomes of the sessions when the gateway itself ends, killed by its
//! master at a stop or a reload, or by anybody.
//!
//! Their terminals close with the gateway, so the kernel hangs them up; the
//! commands without one are told by whoever comes after. A program that
//! ignores that would stay for good, without terminal, client
//! or supervisor. So the session leaders are listed in memory that the
//! gateways share with the master. A gateway that comes after one that was
//! killed sees to what that left; at the end of the master a process of its
//! own does, if there is anything to see to. Both give a program the same
//! grace as when its client leaves.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use once_cell::sync::OnceCell;

use crate::uwsgi::log::log;
use fpty::error::reason;
use fpty::sys::child::Pid;
use fpty::sys::detached;
use fpty::sys::noted::Noted;
use fpty::sys::sessions::{Leader, SessionKiller};
use fpty::sys::shared::Shared;

/// Sessions that can be listed, in each gateway; memory is used only for as
/// many as there are.
const MOST: usize = 1 << 20;

/// What stands in a place: never used, free again, or a leader, so that it can
/// be told from another process that gets its number later; a command without
/// a terminal is marked. A place is one word: nobody who is killed leaves half
/// of it behind.
const NEVER_USED: u64 = 0;
const FREE: u64 = 1;

/// What a leader has lost with its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its terminal.
    Terminal,
    /// Its client, and nobody tells it.
    Command,
}

/// A list for each gateway.
static LISTS: OnceCell<Vec<List>> = OnceCell::new();

/// One gateway's list, in shared memory.
struct List(Shared<AtomicU64>);

impl List {
    fn new() -> std::io::Result<Self> {
        Shared::new(MOST + 1).map(Self)
    }

    /// The leaders.
    fn words(&self) -> &'static [AtomicU64] {
        &self.0.words()[1..]
    }

    /// Whether the gateway is in a PID namespace that the master is not in
    /// (the server's option `unshare`): then the numbers are none of the
    /// master's. All in there end with it.
    fn is_of_another_namespace(&self) -> &'static AtomicU64 {
        &self.0.words()[0]
    }
}

/// The list of one gateway, as that keeps it.
pub struct Aftercare {
    words: &'static [AtomicU64],
    free: VecDeque<usize>,
    used: usize,
}

/// A place on the list.
#[derive(Clone, Copy, Debug)]
pub struct Listed(NonZeroU32);

/// Reserves the lists, in the master, before it forks the gateways.
pub fn reserve(gateways: u32) {
    let lists: std::io::Result<_> = (0..gateways).map(|_| List::new()).collect();
    match lists {
        Ok(lists) => {
            let _ = LISTS.set(lists);
        }
        Err(error) => log(&format!(
            "forkptyrouter: programs that ignore SIGHUP may outlive a gateway: {}",
            reason(&error)
        )),
    }
}

/// At the end of the master, the gateways being gone: waits for what is left
/// of their sessions, and kills it after the grace.
pub fn after_the_end(grace: Option<Duration>) {
    let (Some(lists), Some(grace)) = (LISTS.get(), grace) else {
        return;
    };
    let is_known = |list: &&List| list.is_of_another_namespace().load(Ordering::Acquire) == 0;
    let leaders = || {
        let words = lists.iter().filter(is_known).flat_map(|list| listed(list.words()));
        words.filter_map(Noted::of_bits).filter(|noted| Leader::open(*noted).is_some())
    };
    lists.iter().filter(is_known).for_each(|list| hang_up_commands(list.words()));
    // They were hung up a moment ago: most are about to end.
    for _ in 0..5 {
        if leaders().next().is_none() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let noted: Vec<Noted> = leaders().collect();
    // Descriptors do not survive in there: each is opened anew.
    let _ = detached::run(c"fpty-aftercare", Vec::new(), move |_| {
        const LOOK: Duration = Duration::from_millis(100);
        // One for each leader.
        let _ = fpty::sys::raise_descriptor_limit();
        let mut left: Vec<Leader> = noted.into_iter().filter_map(Leader::open).collect();
        let mut waited = Duration::ZERO;
        while waited < grace && !left.is_empty() {
            std::thread::sleep(LOOK);
            waited += LOOK;
            left.retain(|leader| !leader.has_ended());
        }
        SessionKiller::new(left).step(usize::MAX);
    });
}

/// Takes over the list of the gateway of this number, and, where they are to
/// be killed, those that one that was here before us has left on it.
pub fn adopt(ordinal: usize, and_left_behind: bool) -> (Option<Aftercare>, Vec<Leader>) {
    let Some(list) = LISTS.get().and_then(|lists| lists.get(ordinal)) else {
        return (None, Vec::new());
    };
    // A parent that is outside has the number 0 (pid_namespaces(7)).
    let is_outside = nix::unistd::getppid().as_raw() == 0;
    list.is_of_another_namespace().store(is_outside.into(), Ordering::Release);
    let words = list.words();
    hang_up_commands(words);
    let left_behind = if and_left_behind { living(words).collect() } else { Vec::new() };
    for word in words.iter().take_while(|word| word.load(Ordering::Acquire) != NEVER_USED) {
        word.store(NEVER_USED, Ordering::Release);
    }
    (Some(Aftercare { words, free: VecDeque::new(), used: 0 }), left_behind)
}

impl Aftercare {
    /// Puts a session's leader on the list.
    pub fn add(&mut self, leader: Pid, kind: Kind) -> Option<Listed> {
        let mark = if kind == Kind::Command { Noted::MARK } else { 0 };
        let word = Noted::running(leader)?.to_bits() | mark;
        let place = self.free.pop_front().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        self.words.get(place)?.store(word, Ordering::Release);
        // Counted from 1: an Option of it takes no more room.
        u32::try_from(place + 1).ok().and_then(NonZeroU32::new).map(Listed)
    }

    /// Takes it off: it was reaped.
    pub fn remove(&mut self, Listed(place): Listed) {
        let place = place.get() as usize - 1;
        if let Some(word) = self.words.get(place) {
            word.store(FREE, Ordering::Release);
            self.free.push_back(place);
        }
    }
}

/// What stands on a list.
fn listed(words: &[AtomicU64]) -> impl Iterator<Item = u64> {
    words.iter().map(|word| word.load(Ordering::Acquire)).take_while(|word| *word != NEVER_USED)
}

/// The leaders on a list that have not ended.
fn living(words: &[AtomicU64]) -> impl Iterator<Item = Leader> {
    listed(words).filter_map(Noted::of_bits).filter_map(Leader::open)
}

/// Tells the commands without a terminal that nobody is there any more.
fn hang_up_commands(words: &[AtomicU64]) {
    let commands = listed(words).filter(|word| word & Noted::MARK != 0);
    for leader in commands.filter_map(Noted::of_bits).filter_map(Leader::open) {
        leader.hang_up();
    }
}
