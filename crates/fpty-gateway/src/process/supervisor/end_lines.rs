//! The open sessions' last lines of the audit, written in advance, in memory that
//! outlives their gateway: whoever comes after it has them to write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::observe::audit::prepared_end::{self, LONGEST};
use crate::process::shared_memory::{self, Part};
use fpty::sys::clock::BootInstant;

/// Sessions that have room, in each gateway; memory is used only for as many
/// as there are.
const MOST: usize = 1 << 14;

/// Words of a session: the length of its line, when it began (nanoseconds since
/// the machine's start), the line.
const OF_ONE: usize = 256;
const HEAD: usize = OF_ONE - LONGEST / size_of::<AtomicU64>();

/// Words of a gateway's lines.
pub const WORDS: usize = MOST * OF_ONE;

/// Beside the length: the supervisor has the line, and writes it.
const KEPT: u64 = 1 << 32;

/// The lines of one gateway, as that keeps them.
pub struct Lines {
    words: &'static [AtomicU64],
    free: Vec<u32>,
    used: u32,
}

/// A place among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Lines {
    /// Those of the gateway of this number, of which none is left; `None`: nobody
    /// asked for any.
    pub fn of(ordinal: usize) -> Option<Self> {
        let words = shared_memory::part(Part::Lines(ordinal))?;
        Some(Self { words, free: Vec::new(), used: 0 })
    }

    /// Puts a line up, which the supervisor may have; `None`: there is no room for it.
    pub fn put(&mut self, line: &str, started: BootInstant, kept: bool) -> Option<Place> {
        if line.len() > LONGEST {
            return None;
        }
        let place = self.free.pop().unwrap_or(self.used);
        let words = self.words.chunks_exact(OF_ONE).nth(place as usize)?;
        if place == self.used {
            self.used += 1;
        }
        shared_memory::write(&words[HEAD..], line.as_bytes());
        words[1].store(started.as_nanos(), Ordering::Relaxed);
        // Last: what is not complete is not there.
        words[0].store(line.len() as u64 | if kept { KEPT } else { 0 }, Ordering::Release);
        Some(Place(place))
    }

    fn length(&self, Place(place): Place) -> Option<&'static AtomicU64> {
        self.words.chunks_exact(OF_ONE).nth(place as usize).and_then(<[_]>::first)
    }

    /// The supervisor has it, or not any more.
    pub fn keep(&self, place: Place, kept: bool) {
        if let Some(length) = self.length(place) {
            match kept {
                true => length.fetch_or(KEPT, Ordering::AcqRel),
                false => length.fetch_and(!KEPT, Ordering::AcqRel),
            };
        }
    }

    /// Takes it down: its session has ended, and that was told.
    pub fn take(&mut self, place: Place) {
        if let Some(length) = self.length(place) {
            length.store(0, Ordering::Release);
            self.free.push(place.0);
        }
    }
}

/// Which lines of a gateway that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that the supervisor has not.
    Nobodys,
    /// All.
    All,
    /// Those of who looked on alone: its session's end is about to be told.
    OfWatchers,
}

/// Takes down lines of a gateway that is gone, each with its time and duration. Others
/// than those of who looked on are nobody's any more.
pub(crate) fn take_left(ordinal: usize, which: Which) -> Vec<String> {
    shared_memory::part(Part::Lines(ordinal)).map_or_else(Vec::new, |words| take(words, which))
}

fn take(words: &[AtomicU64], which: Which) -> Vec<String> {
    let now = SystemTime::now();
    let mut left = Vec::new();
    for words in words.chunks_exact(OF_ONE) {
        let (length, began) = (words[0].load(Ordering::Acquire), words[1].load(Ordering::Relaxed));
        // They are used from the first one on.
        if length == 0 && began == 0 {
            break;
        }
        let is_kept = length & KEPT != 0;
        let length = usize::try_from(length & !KEPT).unwrap_or(0);
        let line =
            String::from_utf8(shared_memory::read(&words[HEAD..], length)).unwrap_or_default();
        if which == Which::OfWatchers && prepared_end::is_end(&line) {
            continue;
        }
        words[0].store(0, Ordering::Release);
        if which != Which::OfWatchers {
            words[1].store(0, Ordering::Relaxed);
        }
        if !line.is_empty() && (which != Which::Nobodys || !is_kept) {
            let started = BootInstant::from_nanos(began);
            left.push(prepared_end::at(&line, now, started.elapsed()));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_left_is_told_once_and_the_rest_never() {
        let words: &'static [AtomicU64] =
            Box::leak((0..4 * OF_ONE).map(|_| AtomicU64::new(0)).collect());
        let mut lines = Lines { words, free: Vec::new(), used: 0 };
        let line = |name: &str| {
            format!(
                "{{\"time\":\"1970-01-01T00:00:00.000Z\",\"command\":\"{name} 0.000\",\
                 \"duration\":0.000,\"reason\":\"lost\",\"record\":\"duration=0.000\"}}"
            )
        };
        let long = "x".repeat(LONGEST - line("").len());
        let started = BootInstant::now().before(Duration::from_millis(61_500));
        let first = lines.put(&line("first"), started, false).expect("room");
        assert!(lines.put(&line(&long), started, false).is_some());
        assert!(lines.put(&line("third"), started, false).is_some());
        assert!(lines.put(&line("kept"), started, true).is_some());
        assert_eq!(lines.put(&line("fifth"), started, false), None);
        lines.take(first);
        assert_eq!(lines.put(&(line(&long) + "x"), started, false), None);
        let left = take(words, Which::Nobodys);
        assert_eq!(left.len(), 2);
        for (left, name) in left.iter().zip([long.as_str(), "third"]) {
            assert!(left.contains(&format!("\"command\":\"{name} 0.000\"")), "{left}");
            assert!(left.contains("\"duration\":61.5"), "{left}");
            assert!(!left.contains("1970"), "{left}");
        }
        assert_eq!(take(words, Which::All), [] as [String; 0]);
    }

    #[test]
    fn who_looked_on_is_told_of_before_the_end() {
        let words: &'static [AtomicU64] =
            Box::leak((0..3 * OF_ONE).map(|_| AtomicU64::new(0)).collect());
        let mut lines = Lines { words, free: Vec::new(), used: 0 };
        let all = ["an \"session-end\"", "no more", "a \"session-end\""];
        for line in all {
            assert!(lines.put(line, BootInstant::now(), false).is_some());
        }
        assert_eq!(take(words, Which::OfWatchers), ["no more"]);
        assert_eq!(take(words, Which::All), [all[0], all[2]]);
    }

    #[test]
    fn what_nobody_keeps_any_more_is_told_as_the_rest() {
        let words: &'static [AtomicU64] =
            Box::leak((0..2 * OF_ONE).map(|_| AtomicU64::new(0)).collect());
        let mut lines = Lines { words, free: Vec::new(), used: 0 };
        let kept =
            ["one", "two"].map(|line| lines.put(line, BootInstant::now(), false).expect("room"));
        kept.iter().for_each(|place| lines.keep(*place, true));
        lines.keep(kept[1], false);
        assert_eq!(take(words, Which::All), ["one", "two"]);
    }
}
