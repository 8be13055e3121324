//! Proof that a process is a gateway, for the processes that a gateway talks to: a number in a page
//! of memory that the master shares with its gateways and with nobody else
//! ([`crate::host::Host::inherited_by_gateways_only`]). A descriptor that went astray is not
//! enough.
//!
//! The page outlives a reload, as the supervisor and the recorder do. The supervisor has its lock.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::host::host;
use fpty::sys::shm::SharedWords;

/// Name of the page for the next image of the server.
const NAME: &str = "FORKPTYROUTER_PROOF";

/// Words of the page: whether the audit has all ends, the number, how many supervisors there
/// were so far, and the gateways' processes.
const ENDS_WRITTEN: usize = 0;
const SUPERVISORS: usize = TOKEN + LENGTH;
const TOKEN: usize = 1;
const LENGTH: usize = 4;
const GATEWAYS: usize = 8;
const WORDS: usize = GATEWAYS + 64;

struct Page {
    words: SharedWords,
    fd: OwnedFd,
}

static PAGE: OnceLock<Page> = OnceLock::new();

/// Proof of a gateway, as it is sent.
pub type Token = [i32; LENGTH];

/// Makes the page, or takes over that of the server's image before a reload. In
/// the master, before it starts anything that has to know it.
pub fn reserve() {
    let before = host().take_kept_memory(NAME);
    let before = before.and_then(|(fd, _)| Some((SharedWords::of(fd.as_fd(), WORDS).ok()?, fd)));
    if let Some((words, _)) = &before {
        // A server before this counted something there.
        words.words()[ENDS_WRITTEN].store(0, Ordering::Release);
    }
    let Some((words, fd)) = before.or_else(|| {
        let (words, fd) = SharedWords::with_descriptor(WORDS).ok()?;
        let mut bytes = [0; LENGTH * 4];
        fpty::sys::random(&mut bytes).ok()?;
        for (word, four) in words.words()[TOKEN..].iter().zip(bytes.chunks_exact(4)) {
            let four = four.try_into().unwrap_or_default();
            word.store(i32::from_ne_bytes(four), Ordering::Relaxed);
        }
        Some((words, fd))
    }) else {
        // Nobody is proved then: no session can be detached, nothing recorded.
        return;
    };
    host().inherited_by_gateways_only(fd.as_fd());
    let _ = PAGE.set(Page { words, fd });
}

/// The master is about to execute itself.
pub fn before_exec() {
    if let Some(page) = PAGE.get() {
        host().keep_over_exec(NAME, &[page.fd.as_fd()], OsStr::new(""));
    }
}

fn words() -> Option<&'static [AtomicI32]> {
    PAGE.get().map(|page| page.words.words())
}

fn word(at: usize) -> Option<&'static AtomicI32> {
    words()?.get(at)
}

/// The number; `None` for whoever has not the page: all zero there.
pub fn token() -> Option<Token> {
    let mut token = [0; LENGTH];
    for (part, word) in token.iter_mut().zip(words()?.get(TOKEN..)?) {
        *part = word.load(Ordering::Relaxed);
    }
    (token != [0; LENGTH]).then_some(token)
}

/// Whether a number that another process has sent is that of the gateways.
pub fn is_proved_by(said: &Token) -> bool {
    // One that guesses learns nothing of how much of it was right.
    let is_it = |token: Token| token.iter().zip(said).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
    token().is_some_and(is_it)
}

/// The page itself, for its lock.
pub fn page() -> Option<BorrowedFd<'static>> {
    PAGE.get().map(|page| page.fd.as_fd())
}

/// Registers this process as the supervisor.
pub fn register_supervisor() {
    if let Some(word) = word(SUPERVISORS) {
        word.fetch_add(1, Ordering::AcqRel);
    }
}

/// The generation of the supervisor that runs, or ran last; 0: there was none.
pub fn supervisor_generation() -> u64 {
    word(SUPERVISORS).map_or(0, |word| u64::from(word.load(Ordering::Acquire).unsigned_abs()))
}

/// The master, at its end, has written how all sessions ended, also of those that are
/// kept by a process that outlives it.
pub fn set_ends_written() {
    if let Some(word) = word(ENDS_WRITTEN) {
        word.store(1, Ordering::Release);
    }
}

/// Whether the master has written how all sessions ended.
pub fn are_ends_written() -> bool {
    word(ENDS_WRITTEN).is_some_and(|word| word.load(Ordering::Acquire) == 1)
}

/// This process is the gateway of that number.
pub fn register_gateway(ordinal: usize) {
    if let Some(word) = word(GATEWAYS + ordinal) {
        // A pid is positive.
        word.store(std::process::id() as i32, Ordering::Release);
    }
}

/// Whether a process is the gateway of that number.
pub fn is_gateway(ordinal: usize, pid: i32) -> bool {
    pid > 0 && word(GATEWAYS + ordinal).is_some_and(|word| word.load(Ordering::Acquire) == pid)
}
