//! Memory that gateways share with each other, with their master, and with the supervisor:
//! one mapping, made before any of them is forked. What a killed process leaves in there
//! others read. It outlives a reload, empty, so that the supervisor and the recorder see
//! what the next gateways leave. (The gateways' token is elsewhere: `gateway_token.rs`.)

use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use crate::host::host;
use crate::log::log;
use fpty::error::reason;
use fpty::sys::shm::{SharedMemory, clear};

/// A region of the shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The gateways whose clients know that the instance stops.
    ClientsNotified,
    /// Metrics.
    Counters,
    /// The rates of the listeners.
    Rates,
    /// The session leaders of a gateway.
    Leaders(usize),
    /// The prepared audit lines of a gateway.
    EndLines(usize),
    /// The shared counts of a gateway.
    SharedCounts(usize),
}

impl Region {
    /// The index among all regions.
    fn index(self) -> usize {
        match self {
            Self::ClientsNotified => 0,
            Self::Counters => 1,
            Self::Rates => 2,
            Self::Leaders(gateway) => 3 + 3 * gateway,
            Self::EndLines(gateway) => 4 + 3 * gateway,
            Self::SharedCounts(gateway) => 5 + 3 * gateway,
        }
    }
}

/// Needs of shared memory that the configuration has.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryOptions {
    /// The number of gateways.
    pub gateways: usize,
    /// Some socket has limits.
    pub limits: bool,
    /// There is an audit.
    pub audit: bool,
    /// Sessions can be detached.
    pub detach: bool,
}

/// The size of a region in words.
pub type RegionSize = fn(&MemoryOptions, Region) -> usize;

/// A page, in words: regions begin at one, as memory is used by the page.
const PAGE: usize = 4096 / size_of::<AtomicU64>();

impl MemoryOptions {
    /// The note by which the next image knows that it would make the same regions.
    fn note(&self) -> OsString {
        let Self { gateways, limits, detach, audit } = self;
        let version = env!("CARGO_PKG_VERSION");
        format!("{version} {gateways} {limits} {detach} {audit}").into()
    }

    /// All regions, in order.
    fn regions(&self) -> impl Iterator<Item = Region> {
        let own = |number| {
            [Region::Leaders(number), Region::EndLines(number), Region::SharedCounts(number)]
        };
        let common = [Region::ClientsNotified, Region::Counters, Region::Rates];
        common.into_iter().chain((0..self.gateways).flat_map(own))
    }

    /// The words of each region, by its index; and the end of the last one.
    fn layout(&self, words: RegionSize) -> (Vec<Range<usize>>, usize) {
        let mut end = 0;
        let regions = self.regions().map(|region| {
            let (begin, words) = (end, words(self, region));
            end += words.next_multiple_of(PAGE);
            begin..begin + words
        });
        (regions.collect(), end)
    }
}

struct Memory {
    words: SharedMemory<AtomicU64>,
    /// The memfd, by which it outlives an exec.
    fd: Option<OwnedFd>,
    regions: Vec<Range<usize>>,
    options: MemoryOptions,
}

static MEMORY: OnceCell<Memory> = OnceCell::new();

/// The name for the next image of the server.
const NAME: &str = "FORKPTYROUTER_MEMORY";

/// Makes the shared memory, in the master, before it forks gateways.
pub fn reserve(options: MemoryOptions, words: RegionSize) {
    let (regions, end) = options.layout(words);
    let before = host().take_kept_memory(NAME);
    let before = before.filter(|(fd, note)| *note == *options.note() && clear(fd.as_fd()).is_ok());
    let before = before.and_then(|(fd, _)| Some((SharedMemory::of(fd.as_fd(), end).ok()?, fd)));
    let made = before.map_or_else(|| SharedMemory::with_descriptor(end), Ok);
    let made = made.map(|(words, fd)| (words, Some(fd)));
    match made.or_else(|_| Ok((SharedMemory::new(end)?, None))) {
        Ok((words, fd)) => {
            if let Some(fd) = &fd {
                host().inherited_by_gateways_only(fd.as_fd());
            }
            let _ = MEMORY.set(Memory { words, fd, regions, options });
        }
        Err(error) => log(&format!(
            "forkptyrouter: gateways share no memory (limits, counters, lists of sessions): {}",
            reason(&error)
        )),
    }
}

/// Keeps the memory over an exec of the master.
pub fn before_exec() {
    if let Some(Memory { fd: Some(fd), options, .. }) = MEMORY.get() {
        host().keep_over_exec(NAME, &[fd.as_fd()], &options.note());
    }
}

/// A region; `None`: it is not used.
pub fn region(wanted: Region) -> Option<&'static [AtomicU64]> {
    let memory = MEMORY.get()?;
    let region = memory.regions.get(wanted.index())?;
    memory.words.words().get(region.clone()).filter(|words| !words.is_empty())
}

/// The gateway of this number has told its clients that the instance stops: the master
/// waits for that.
pub fn note_told(ordinal: usize) {
    if let Some(word) = region(Region::ClientsNotified).and_then(|words| words.get(ordinal)) {
        word.store(std::process::id().into(), Ordering::Release);
    }
}

/// Writes bytes into words. Returns whether there was room. Readers learn of them by
/// another word, which is written later.
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

/// The number of gateways that there is room for.
pub fn gateways() -> usize {
    MEMORY.get().map_or(0, |memory| memory.options.gateways)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(options: &MemoryOptions, region: Region) -> usize {
        match region {
            Region::ClientsNotified | Region::Counters => options.gateways,
            Region::Rates if !options.limits => 0,
            Region::Rates | Region::Leaders(_) => PAGE,
            Region::EndLines(_) => PAGE + 1,
            Region::SharedCounts(_) => 2 * PAGE - 1,
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
                let options = MemoryOptions { gateways, limits, ..MemoryOptions::default() };
                let (regions, end) = options.layout(words);
                assert_eq!(regions.len(), 3 + 3 * gateways);
                for (number, region) in options.regions().enumerate() {
                    assert_eq!(region.index(), number, "{region:?}");
                    assert_eq!(regions[number].len(), words(&options, region), "{region:?}");
                }
                let ends = regions.iter().skip(1).map(|region| region.start).chain([end]);
                for (region, next) in regions.iter().zip(ends) {
                    assert!(region.end <= next && region.start % PAGE == 0, "{region:?}");
                }
            }
        }
    }
}
