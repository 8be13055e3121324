//! What gateways share with each other, with their master, and with the process
//! that keeps their sessions: one piece of memory, made once, before any of them
//! is forked. Whoever is killed leaves in there what others have to know of it.
//! After a reload it is empty, and the same: what outlives that sees what the next
//! gateways leave. (What they are known by is elsewhere: uwsgi/proof.rs.)

use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use crate::host::host;
use crate::log::log;
use fpty::error::reason;
use fpty::sys::shm::{Shared, clear};

/// What it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Which gateways have told their clients that the instance stops.
    HaveTold,
    /// What happened since the start.
    Counters,
    /// How fast clients come at each socket.
    Rates,
    /// The leaders of a gateway's sessions.
    Leaders(usize),
    /// The last lines of a gateway's sessions.
    Lines(usize),
    /// A gateway's numbers that all others see.
    Tallies(usize),
}

impl Part {
    /// Its place among all.
    fn number(self) -> usize {
        match self {
            Self::HaveTold => 0,
            Self::Counters => 1,
            Self::Rates => 2,
            Self::Leaders(gateway) => 3 + 3 * gateway,
            Self::Lines(gateway) => 4 + 3 * gateway,
            Self::Tallies(gateway) => 5 + 3 * gateway,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// So many gateways.
    pub gateways: usize,
    /// How many there may be is limited somewhere.
    pub limits: bool,
    /// There is an audit.
    pub audit: bool,
    /// There are sessions that can be left.
    pub detach: bool,
}

/// How many words a part has.
pub type Words = fn(&Wants, Part) -> usize;

/// A part begins at a page of its own: memory is used by the page.
const PAGE: usize = 4096 / size_of::<AtomicU64>();

impl Wants {
    /// By what the next image knows that it would make the same.
    fn note(&self) -> OsString {
        let Self { gateways, limits, detach, audit } = self;
        let version = env!("CARGO_PKG_VERSION");
        format!("{version} {gateways} {limits} {detach} {audit}").into()
    }

    /// All parts, in their order.
    fn parts(&self) -> impl Iterator<Item = Part> {
        let own = |number| [Part::Leaders(number), Part::Lines(number), Part::Tallies(number)];
        let common = [Part::HaveTold, Part::Counters, Part::Rates];
        common.into_iter().chain((0..self.gateways).flat_map(own))
    }

    /// The words of each part, by its number; and where the last one ends.
    fn layout(&self, words: Words) -> (Vec<Range<usize>>, usize) {
        let mut end = 0;
        let parts = self.parts().map(|part| {
            let (begin, words) = (end, words(self, part));
            end += words.next_multiple_of(PAGE);
            begin..begin + words
        });
        (parts.collect(), end)
    }
}

struct Memory {
    words: Shared<AtomicU64>,
    /// By which it outlives an exec, where it can.
    fd: Option<OwnedFd>,
    parts: Vec<Range<usize>>,
    wants: Wants,
}

static MEMORY: OnceCell<Memory> = OnceCell::new();

/// What it is called for the next image of the server.
const NAME: &str = "FORKPTYROUTER_MEMORY";

/// Makes it, in the master, before it forks the gateways.
pub fn reserve(wants: Wants, words: Words) {
    let (parts, end) = wants.layout(words);
    let before = host().take_kept_memory(NAME);
    let before = before.filter(|(fd, note)| *note == *wants.note() && clear(fd.as_fd()).is_ok());
    let before = before.and_then(|(fd, _)| Some((Shared::of(fd.as_fd(), end).ok()?, fd)));
    let made = before.map_or_else(|| Shared::to_be_kept(end), Ok);
    let made = made.map(|(words, fd)| (words, Some(fd)));
    match made.or_else(|_| Ok((Shared::new(end)?, None))) {
        Ok((words, fd)) => {
            if let Some(fd) = &fd {
                host().inherited_by_gateways_only(fd.as_fd());
            }
            let _ = MEMORY.set(Memory { words, fd, parts, wants });
        }
        Err(error) => log(&format!(
            "forkptyrouter: gateways share no memory (limits, counters, lists of sessions): {}",
            reason(&error)
        )),
    }
}

/// The master is about to execute itself.
pub fn before_exec() {
    if let Some(Memory { fd: Some(fd), wants, .. }) = MEMORY.get() {
        host().keep_over_exec(NAME, &[fd.as_fd()], &wants.note());
    }
}

/// A part; `None`: there is none.
pub fn part(wanted: Part) -> Option<&'static [AtomicU64]> {
    let memory = MEMORY.get()?;
    let part = memory.parts.get(wanted.number())?;
    memory.words.words().get(part.clone()).filter(|words| !words.is_empty())
}

/// The gateway of this number has told its clients that the instance stops: the master
/// waits for that.
pub fn note_told(ordinal: usize) {
    if let Some(word) = part(Part::HaveTold).and_then(|words| words.get(ordinal)) {
        word.store(std::process::id().into(), Ordering::Release);
    }
}

/// Puts bytes into words; returns whether there is room for them. Whoever reads them is
/// told of them by another word, later.
pub fn write(words: &[AtomicU64], bytes: &[u8]) -> bool {
    for (word, bytes) in words.iter().zip(bytes.chunks(size_of::<u64>())) {
        let mut eight = [0; size_of::<u64>()];
        eight[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
    }
    bytes.len() <= words.len() * size_of::<u64>()
}

/// The first bytes of words.
pub fn read(words: &[AtomicU64], length: usize) -> Vec<u8> {
    let bytes = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
    bytes.take(length).collect()
}

/// For how many gateways there is room.
pub fn gateways() -> usize {
    MEMORY.get().map_or(0, |memory| memory.wants.gateways)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(wants: &Wants, part: Part) -> usize {
        match part {
            Part::HaveTold | Part::Counters => wants.gateways,
            Part::Rates if !wants.limits => 0,
            Part::Rates | Part::Leaders(_) => PAGE,
            Part::Lines(_) => PAGE + 1,
            Part::Tallies(_) => 2 * PAGE - 1,
        }
    }

    #[test]
    fn bytes_come_out_of_words_as_they_went_in() {
        let words = [const { AtomicU64::new(0) }; 2];
        for length in 0..=16 {
            let bytes: Vec<u8> = (1..=length).collect();
            assert!(write(&words, &bytes));
            assert_eq!(read(&words, bytes.len()), bytes);
        }
        assert!(!write(&words, &[7; 17]));
    }

    #[test]
    fn no_part_reaches_into_the_next() {
        for gateways in [1, 4, 64] {
            for limits in [false, true] {
                let wants = Wants { gateways, limits, ..Wants::default() };
                let (parts, end) = wants.layout(words);
                assert_eq!(parts.len(), 3 + 3 * gateways);
                for (number, part) in wants.parts().enumerate() {
                    assert_eq!(part.number(), number, "{part:?}");
                    assert_eq!(parts[number].len(), words(&wants, part), "{part:?}");
                }
                let ends = parts.iter().skip(1).map(|part| part.start).chain([end]);
                for (part, next) in parts.iter().zip(ends) {
                    assert!(part.end <= next && part.start % PAGE == 0, "{part:?}");
                }
            }
        }
    }
}
