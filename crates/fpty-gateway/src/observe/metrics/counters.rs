//! Counters since the start, in memory that all gateways share: a reader sees those of all
//! gateways at one moment, and a killed gateway takes no count along.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use once_cell::sync::OnceCell;
use serde::{Serialize, Serializer};

use crate::host::{MetricKind, host};
use crate::observe::audit::end_reason::{EndReason, RejectReason};
use crate::observe::audit::session_info::SessionInfo;
use crate::observe::event::{Event, Observer};
use crate::process::shared_memory::{self, Region};

/// Bounds of the histogram of durations, in seconds; the last bucket has none.
pub const BUCKETS: [u64; 10] =
    [1, 10, 60, 300, 900, 3600, 4 * 3600, 8 * 3600, 24 * 3600, 7 * 24 * 3600];

/// The index of each counter.
const ACCEPTED: usize = 0;
const SESSIONS: usize = 1;
const PEAK: usize = 2;
const MICROSECONDS: usize = 3;
const REJECTED_TOTAL: usize = 4;
const REJECTED: usize = 5;
const ENDED: usize = REJECTED + RejectReason::WORDS.len();
const DURATIONS: usize = ENDED + EndReason::WORDS.len();
const COMMON: usize = DURATIONS + BUCKETS.len() + 1;

/// Words of one gateway: a cache line, which no other gateway writes.
const OWN: usize = 8;
const OWN_SESSIONS: usize = 0;
const OWN_IN: usize = 1;
const OWN_OUT: usize = 2;

/// The first word of a gateway's own.
const fn own(ordinal: usize) -> usize {
    (COMMON.div_ceil(OWN) + ordinal) * OWN
}

/// The words for this number of gateways.
pub const fn words(gateways: usize) -> usize {
    own(gateways)
}

/// Registers some counters as metrics of the server. In the master, before it forks the
/// gateways.
pub fn register() {
    if let Some(words) = shared_memory::region(Region::Counters) {
        host().export_metric(c"forkptyrouter.sessions", MetricKind::Gauge, &words[SESSIONS]);
        host().export_metric(c"forkptyrouter.accepted", MetricKind::Counter, &words[ACCEPTED]);
        host().export_metric(c"forkptyrouter.refused", MetricKind::Counter, &words[REJECTED_TOTAL]);
    }
}

/// The counters, as one gateway counts.
#[derive(Clone, Copy)]
pub struct Counters {
    words: &'static [AtomicU64],
    own: &'static [AtomicU64],
}

/// A snapshot of all counters, for the statistics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CountersSnapshot {
    /// Sessions that have started.
    pub accepted: u64,
    /// Rejected clients.
    pub refused: ByReason,
    /// Sessions that ended.
    pub ended: ByReason,
    /// Bytes of input that were relayed.
    pub bytes_in: u64,
    /// Bytes of output, likewise.
    pub bytes_out: u64,
    /// The most sessions that were open at once.
    pub peak_sessions: u64,
    /// Open sessions.
    #[serde(skip)]
    pub sessions: u64,
    /// Sessions that ended, by the bucket of their duration.
    #[serde(skip)]
    pub durations: Vec<u64>,
    /// The sum of their durations.
    #[serde(skip)]
    pub total: Duration,
}

/// Counts by reason, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByReason(pub Vec<(&'static str, u64)>);

impl Serialize for ByReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl Counters {
    /// The counters of a gateway, for another process.
    pub fn at(ordinal: usize) -> Self {
        let words = shared_memory::region(Region::Counters).unwrap_or_default();
        Self::from_words(words, ordinal)
    }

    fn from_words(words: &'static [AtomicU64], ordinal: usize) -> Self {
        let (words, all) = words.split_at(own(0).min(words.len()));
        Self { words, own: all.chunks(OWN).nth(ordinal).unwrap_or(&[]) }
    }

    /// The counters of this gateway. Sessions of its killed predecessor are counted as
    /// lost.
    pub fn of_gateway(ordinal: usize) -> Self {
        let words =
            shared_memory::region(Region::Counters).unwrap_or_else(|| private(own(ordinal + 1)));
        let counters = Self::from_words(words, ordinal);
        let _ = OWN_COUNTERS.set(counters);
        let left = counters.own(OWN_SESSIONS).swap(0, Relaxed);
        // Not less so many: it may have been killed in the midst of counting.
        counters.word(SESSIONS).store(counters.sum(OWN_SESSIONS), Relaxed);
        counters.word(ENDED + EndReason::Lost as usize).fetch_add(left, Relaxed);
        counters
    }

    fn session_opened(self) {
        let now = self.word(SESSIONS).fetch_add(1, Relaxed) + 1;
        self.word(PEAK).fetch_max(now, Relaxed);
        add(self.own(OWN_SESSIONS), 1);
    }

    /// Counts a restored session. It was counted as lost, or, before a reload, nowhere.
    pub fn session_restored(self) {
        let lost = self.word(ENDED + EndReason::Lost as usize);
        let fewer = lost.fetch_update(Relaxed, Relaxed, |lost| lost.checked_sub(1));
        if fewer.is_err() {
            self.word(ACCEPTED).fetch_add(1, Relaxed);
        }
        self.session_opened();
    }

    /// Counts an ended session; with its duration, where it is known.
    pub fn session_ended(self, why: EndReason, after: Option<Duration>) {
        self.word(ENDED + why as usize).fetch_add(1, Relaxed);
        self.word(SESSIONS).fetch_sub(1, Relaxed);
        let own = self.own(OWN_SESSIONS);
        own.store(own.load(Relaxed).saturating_sub(1), Relaxed);
        let Some(after) = after else {
            return;
        };
        let bucket =
            BUCKETS.iter().take_while(|bound| after > Duration::from_secs(**bound)).count();
        self.word(DURATIONS + bucket).fetch_add(1, Relaxed);
        let microseconds = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.word(MICROSECONDS).fetch_add(microseconds, Relaxed);
    }

    /// Counts the end of a session whose gateway is gone, where that had counted it: after
    /// a reload it was counted nowhere.
    pub fn session_ended_elsewhere(self, why: EndReason, after: Duration) {
        if self.own(OWN_SESSIONS).load(Relaxed) > 0 {
            self.session_ended(why, Some(after));
        }
    }

    /// Counts a rejection.
    pub fn rejected(self, why: RejectReason) {
        self.word(REJECTED_TOTAL).fetch_add(1, Relaxed);
        self.word(REJECTED + why as usize).fetch_add(1, Relaxed);
    }

    /// A snapshot of all counters.
    pub fn snapshot(self) -> CountersSnapshot {
        let word = |at: usize| self.word(at).load(Relaxed);
        let by_reason = |words: &[&'static str], from: usize| {
            ByReason(words.iter().copied().zip((from..).map(word)).collect())
        };
        CountersSnapshot {
            accepted: word(ACCEPTED),
            refused: by_reason(&RejectReason::WORDS, REJECTED),
            ended: by_reason(&EndReason::WORDS, ENDED),
            bytes_in: self.sum(OWN_IN),
            bytes_out: self.sum(OWN_OUT),
            peak_sessions: word(PEAK),
            sessions: self.sum(OWN_SESSIONS),
            durations: (DURATIONS..=DURATIONS + BUCKETS.len()).map(word).collect(),
            total: Duration::from_micros(word(MICROSECONDS)),
        }
    }

    /// The sum of a counter over all gateways.
    fn sum(self, at: usize) -> u64 {
        let all =
            shared_memory::region(Region::Counters).map_or(self.own, |words| &words[own(0)..]);
        all.chunks(OWN).filter_map(|own| own.get(at)).map(|word| word.load(Relaxed)).sum()
    }

    fn word(self, at: usize) -> &'static AtomicU64 {
        self.words.get(at).unwrap_or(&DISCARD)
    }

    fn own(self, at: usize) -> &'static AtomicU64 {
        self.own.get(at).unwrap_or(&DISCARD)
    }
}

/// The counter without memory.
static DISCARD: AtomicU64 = AtomicU64::new(0);

/// The counters of this process.
static OWN_COUNTERS: OnceCell<Counters> = OnceCell::new();

/// Counts bytes of input.
pub fn add_bytes_in(bytes: usize) {
    if let Some(ours) = OWN_COUNTERS.get() {
        add(ours.own(OWN_IN), bytes as u64);
    }
}

/// Counts bytes of output.
pub fn add_bytes_out(bytes: usize) {
    if let Some(ours) = OWN_COUNTERS.get() {
        add(ours.own(OWN_OUT), bytes as u64);
    }
}

/// Adds to a word that no other process writes: no locked instruction.
fn add(word: &AtomicU64, more: u64) {
    word.store(word.load(Relaxed).wrapping_add(more), Relaxed);
}

impl Observer for Counters {
    fn on_event(&mut self, event: &Event<'_>, _: Option<&SessionInfo>) {
        match *event {
            Event::Started(_) => {
                self.word(ACCEPTED).fetch_add(1, Relaxed);
                self.session_opened();
            }
            Event::Restored(..) => self.session_restored(),
            Event::Closed { reason, ended, .. } => {
                self.session_ended(reason, ended.map(|ended| ended.end.duration));
            }
            Event::Rejected { reason, .. } => self.rejected(reason),
            _ => {}
        }
    }
}

/// Private words, where there is no shared memory.
fn private(count: usize) -> &'static [AtomicU64] {
    Box::leak((0..count).map(|_| AtomicU64::new(0)).collect())
}
