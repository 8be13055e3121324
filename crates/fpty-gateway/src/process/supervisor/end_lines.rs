//! Prepared audit lines of open sessions, in memory that outlives their gateway: the
//! process that comes after it writes them. The line of a session's start stands in a slot of
//! its own until the log has taken it, and belongs to the line of the end: whoever finds
//! them writes both. A gateway that is killed just behind write(2) leaves a start line that
//! was written; that is then written twice, as no end may stand alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::observe::audit::prepared_end::{self, MAX_LINE};
use crate::process::shared_memory::{self, Region};
use fpty::sys::clock::BootInstant;

/// The most sessions of a gateway; memory is used only for as many as there are.
const MAX_SESSIONS: usize = 1 << 14;

/// Words of a slot: the length of the line, the session's start (CLOCK_BOOTTIME in
/// nanoseconds), the line.
const SLOT_WORDS: usize = 256;
const HEAD: usize = SLOT_WORDS - MAX_LINE / size_of::<AtomicU64>();

/// Words of a gateway's slots.
pub const WORDS: usize = MAX_SESSIONS * SLOT_WORDS;

/// Flag of the length: the supervisor has the line, and writes it.
const SUPERVISED: u64 = 1 << 32;

/// Bits of the length: the length and the slot of the start line, while that is not written.
const START: u64 = u64::MAX << START_LENGTH;
const START_LENGTH: u32 = 33;
const START_PLACE: u32 = 48;
const _: () = assert!(MAX_LINE < 1 << (START_PLACE - START_LENGTH));

/// The prepared lines of this gateway.
pub struct EndLines {
    words: &'static [AtomicU64],
    free: Vec<u32>,
    used: u32,
    /// Slots whose start lines wait for the log.
    starting: Vec<EndLineSlot>,
}

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndLineSlot(u32);

impl EndLines {
    /// The lines of this gateway, of which none is used; `None`: there is no audit.
    pub fn of(ordinal: usize) -> Option<Self> {
        let words = shared_memory::region(Region::EndLines(ordinal))?;
        Some(Self::new(words))
    }

    fn new(words: &'static [AtomicU64]) -> Self {
        Self { words, free: Vec::new(), used: 0, starting: Vec::new() }
    }

    /// Stores the line of an end, and that of the start where it is still to be written; `None`:
    /// there is no room.
    pub fn put(
        &mut self,
        start: Option<&str>,
        line: &str,
        started: BootInstant,
        supervised: bool,
    ) -> Option<EndLineSlot> {
        let (place, words) = self.store(line, started.as_nanos())?;
        let start = start.and_then(|start| {
            // No line of its own: its length stays 0.
            let (place, _) = self.store(start, started.as_nanos())?;
            Some(u64::from(place) << START_PLACE | (start.len() as u64) << START_LENGTH)
        });
        let supervised = if supervised { SUPERVISED } else { 0 };
        // Last: what is not complete is not there.
        words[0].store(line.len() as u64 | supervised | start.unwrap_or(0), Ordering::Release);
        Some(EndLineSlot(place))
    }

    fn store(&mut self, line: &str, started: u64) -> Option<(u32, &'static [AtomicU64])> {
        if line.len() > MAX_LINE {
            return None;
        }
        let place = self.free.pop().unwrap_or(self.used);
        let words = self.words.chunks_exact(SLOT_WORDS).nth(place as usize)?;
        self.used = self.used.max(place + 1);
        shared_memory::write(&words[HEAD..], line.as_bytes());
        words[1].store(started, Ordering::Relaxed);
        Some((place, words))
    }

    fn length(&self, EndLineSlot(place): EndLineSlot) -> Option<&'static AtomicU64> {
        self.words.chunks_exact(SLOT_WORDS).nth(place as usize).and_then(<[_]>::first)
    }

    /// The log was given the start line of a slot; it may wait there.
    pub fn mark_start_logged(&mut self, place: EndLineSlot) {
        self.starting.push(place);
    }

    /// The log has taken all lines that it was given.
    pub fn starts_written(&mut self) {
        for place in std::mem::take(&mut self.starting) {
            self.clear(place, !START);
        }
    }

    /// Clears bits of a slot; without its start line that one's slot is free.
    fn clear(&mut self, place: EndLineSlot, kept: u64) {
        if let Some(length) = self.length(place) {
            let start = start_of(length.fetch_and(kept, Ordering::AcqRel));
            self.free.extend(start.map(|(place, _)| place));
        }
    }

    /// Whether the supervisor has the line.
    pub fn set_supervised(&self, place: EndLineSlot, supervised: bool) {
        if let Some(length) = self.length(place) {
            match supervised {
                true => length.fetch_or(SUPERVISED, Ordering::AcqRel),
                false => length.fetch_and(!SUPERVISED, Ordering::AcqRel),
            };
        }
    }

    /// Removes a line: the end of its session was written.
    pub fn take(&mut self, place: EndLineSlot) {
        self.starting.retain(|other| *other != place);
        self.clear(place, 0);
        self.free.push(place.0);
    }
}

/// The slot and the length of the start line, where it was not written.
fn start_of(length: u64) -> Option<(u32, usize)> {
    let start = (length & START) >> START_LENGTH;
    let length = start & ((1 << (START_PLACE - START_LENGTH)) - 1);
    let place = start >> (START_PLACE - START_LENGTH);
    (length > 0).then_some((place as u32, length as usize))
}

/// Choice of lines of a gateway that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineSelection {
    /// Lines that the supervisor does not have; it never has those of starts.
    Unsupervised,
    /// All.
    All,
    /// Lines of viewers, and of starts: the end of a session is about to be written.
    Viewers,
}

/// Takes lines of a gateway that is gone, each completed with time and duration.
pub(crate) fn take_remaining(ordinal: usize, which: LineSelection) -> Vec<String> {
    shared_memory::region(Region::EndLines(ordinal))
        .map_or_else(Vec::new, |words| take(words, which))
}

fn take(words: &[AtomicU64], which: LineSelection) -> Vec<String> {
    let text = |place: usize, length: usize| {
        let words = words.chunks_exact(SLOT_WORDS).nth(place).unwrap_or_default();
        let bytes = words.get(HEAD..).map(|words| shared_memory::read(words, length));
        String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    };
    let now = SystemTime::now();
    let mut left = Vec::new();
    for (place, words) in words.chunks_exact(SLOT_WORDS).enumerate() {
        let (head, began) = (words[0].load(Ordering::Acquire), words[1].load(Ordering::Relaxed));
        // They are used from the first one on.
        if head == 0 && began == 0 {
            break;
        }
        // Whoever has the end has not the start.
        left.extend(start_of(head).map(|(place, length)| text(place as usize, length)));
        let line = text(place, usize::try_from(head & (SUPERVISED - 1)).unwrap_or(0));
        if which == LineSelection::Viewers && prepared_end::is_end(&line) {
            words[0].fetch_and(!START, Ordering::AcqRel);
            continue;
        }
        words[0].store(0, Ordering::Release);
        if which != LineSelection::Viewers {
            words[1].store(0, Ordering::Relaxed);
        }
        let is_supervised = head & SUPERVISED != 0;
        if !line.is_empty() && (which != LineSelection::Unsupervised || !is_supervised) {
            let started = BootInstant::from_nanos(began);
            left.push(prepared_end::with_end_time(&line, now, started.elapsed()));
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
            Box::leak((0..4 * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect());
        let mut lines = EndLines::new(words);
        let line = |name: &str| {
            format!(
                "{{\"time\":\"1970-01-01T00:00:00.000Z\",\"command\":\"{name} 0.000\",\
                 \"duration\":0.000,\"reason\":\"lost\",\"record\":\"duration=0.000\"}}"
            )
        };
        let long = "x".repeat(MAX_LINE - line("").len());
        let started = BootInstant::now().before(Duration::from_millis(61_500));
        let first = lines.put(None, &line("first"), started, false).expect("room");
        assert!(lines.put(None, &line(&long), started, false).is_some());
        assert!(lines.put(None, &line("third"), started, false).is_some());
        assert!(lines.put(None, &line("kept"), started, true).is_some());
        assert_eq!(lines.put(None, &line("fifth"), started, false), None);
        lines.take(first);
        assert_eq!(lines.put(None, &(line(&long) + "x"), started, false), None);
        let left = take(words, LineSelection::Unsupervised);
        assert_eq!(left.len(), 2);
        for (left, name) in left.iter().zip([long.as_str(), "third"]) {
            assert!(left.contains(&format!("\"command\":\"{name} 0.000\"")), "{left}");
            assert!(left.contains("\"duration\":61.5"), "{left}");
            assert!(!left.contains("1970"), "{left}");
        }
        assert_eq!(take(words, LineSelection::All), [] as [String; 0]);
    }

    #[test]
    fn who_looked_on_is_told_of_before_the_end() {
        let words: &'static [AtomicU64] =
            Box::leak((0..3 * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect());
        let mut lines = EndLines::new(words);
        let all = ["an \"session-end\"", "no more", "a \"session-end\""];
        for line in all {
            assert!(lines.put(None, line, BootInstant::now(), false).is_some());
        }
        assert_eq!(take(words, LineSelection::Viewers), ["no more"]);
        assert_eq!(take(words, LineSelection::All), [all[0], all[2]]);
    }

    #[test]
    fn what_nobody_keeps_any_more_is_told_as_the_rest() {
        let words: &'static [AtomicU64] =
            Box::leak((0..2 * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect());
        let mut lines = EndLines::new(words);
        let supervised = ["one", "two"]
            .map(|line| lines.put(None, line, BootInstant::now(), false).expect("room"));
        supervised.iter().for_each(|place| lines.set_supervised(*place, true));
        lines.set_supervised(supervised[1], false);
        assert_eq!(take(words, LineSelection::All), ["one", "two"]);
    }

    /// A gateway may be killed at any time: there is no end without its start.
    #[test]
    fn a_start_that_was_not_written_comes_with_its_end() {
        let words: &'static [AtomicU64] =
            Box::leak((0..6 * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect());
        let mut lines = EndLines::new(words);
        let (now, end) = (BootInstant::now(), "a \"session-end\"");
        let mut put = |start: &str, supervised| {
            let slot = lines.put(Some(start), end, now, supervised).expect("room");
            lines.mark_start_logged(slot);
            slot
        };
        let gone = put("gone", false);
        let _ = (put("written", false), put("kept", true));
        lines.take(gone);
        lines.starts_written();
        // Each has given its place back.
        let _ = lines.put(Some("not written"), end, now, false).expect("room");
        let _ = lines.put(Some("kept, and not written"), end, now, true).expect("room");
        assert_eq!(lines.used, 6);
        assert_eq!(lines.put(None, end, now, false), None);
        let starts = ["not written", "kept, and not written"];
        let mut left = take(words, LineSelection::Viewers);
        left.sort_by_key(|line| line.len());
        assert_eq!(left, starts, "before the supervisor writes an end");
        assert_eq!(take(words, LineSelection::Viewers), [""; 0]);
        assert_eq!(take(words, LineSelection::Unsupervised), [end; 2]);
    }
}
