//! What happened since the start, in memory that all gateways share: whoever
//! looks sees all of them at one moment, and a gateway that was killed takes
//! nothing of it along.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use once_cell::sync::OnceCell;
use serde::{Serialize, Serializer};

use crate::host::{MetricKind, host};
use crate::observe::audit::end_reason::{Gone, Refusal};
use crate::process::shared_memory::{self, Part};

/// Bounds of the histogram of durations, in seconds; the last bucket has none.
pub const BUCKETS: [u64; 10] =
    [1, 10, 60, 300, 900, 3600, 4 * 3600, 8 * 3600, 24 * 3600, 7 * 24 * 3600];

/// Where each number lies.
const ACCEPTED: usize = 0;
const SESSIONS: usize = 1;
const PEAK: usize = 2;
const MICROSECONDS: usize = 3;
const REFUSALS: usize = 4;
const REFUSED: usize = 5;
const ENDED: usize = REFUSED + Refusal::WORDS.len();
const DURATIONS: usize = ENDED + Gone::WORDS.len();
const COMMON: usize = DURATIONS + BUCKETS.len() + 1;

/// Words of a gateway's own: a line of the processor's cache, which no other
/// gateway writes.
const OWN: usize = 8;
const OWN_SESSIONS: usize = 0;
const OWN_IN: usize = 1;
const OWN_OUT: usize = 2;

/// The first word that is a gateway's own.
const fn own(ordinal: usize) -> usize {
    (COMMON.div_ceil(OWN) + ordinal) * OWN
}

/// How many words so many gateways need.
pub const fn words(gateways: usize) -> usize {
    own(gateways)
}

/// Has the server show some of them. In the master, before it forks the gateways.
pub fn register() {
    if let Some(words) = shared_memory::part(Part::Counters) {
        host().export_metric(c"forkptyrouter.sessions", MetricKind::Gauge, &words[SESSIONS]);
        host().export_metric(c"forkptyrouter.accepted", MetricKind::Counter, &words[ACCEPTED]);
        host().export_metric(c"forkptyrouter.refused", MetricKind::Counter, &words[REFUSALS]);
    }
}

/// The counters as one gateway counts.
#[derive(Clone, Copy)]
pub struct Counters {
    words: &'static [AtomicU64],
    own: &'static [AtomicU64],
}

/// All of them at one moment, as the statistics have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Sessions that began.
    pub accepted: u64,
    /// Clients that got none.
    pub refused: ByReason,
    /// Sessions that ended.
    pub ended: ByReason,
    /// Bytes of input that were relayed.
    pub bytes_in: u64,
    /// Bytes of output, likewise.
    pub bytes_out: u64,
    /// The most sessions that were open at once.
    pub peak_sessions: u64,
    /// Those that are open.
    #[serde(skip)]
    pub sessions: u64,
    /// Sessions that ended, by the bucket of their duration.
    #[serde(skip)]
    pub durations: Vec<u64>,
    /// How long all of them took.
    #[serde(skip)]
    pub total: Duration,
}

/// Numbers by the words for them, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByReason(pub Vec<(&'static str, u64)>);

impl Serialize for ByReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl Counters {
    /// Those of the gateway of this number, for somebody else.
    pub fn at(ordinal: usize) -> Self {
        let words = shared_memory::part(Part::Counters).unwrap_or_default();
        Self::of_words(words, ordinal)
    }

    fn of_words(words: &'static [AtomicU64], ordinal: usize) -> Self {
        let (words, all) = words.split_at(own(0).min(words.len()));
        Self { words, own: all.chunks(OWN).nth(ordinal).unwrap_or(&[]) }
    }

    /// Those of the gateway of this number. Sessions that it had when it was
    /// killed are lost.
    pub fn of_gateway(ordinal: usize) -> Self {
        let words =
            shared_memory::part(Part::Counters).unwrap_or_else(|| private(own(ordinal + 1)));
        let counters = Self::of_words(words, ordinal);
        let _ = OURS.set(counters);
        let left = counters.own(OWN_SESSIONS).swap(0, Relaxed);
        // Not less so many: it may have been killed in the midst of counting.
        counters.word(SESSIONS).store(counters.sum(OWN_SESSIONS), Relaxed);
        counters.word(ENDED + Gone::Lost as usize).fetch_add(left, Relaxed);
        counters
    }

    /// A session has begun.
    pub fn began(self) {
        self.word(ACCEPTED).fetch_add(1, Relaxed);
        self.one_more();
    }

    fn one_more(self) {
        let now = self.word(SESSIONS).fetch_add(1, Relaxed) + 1;
        self.word(PEAK).fetch_max(now, Relaxed);
        add(self.own(OWN_SESSIONS), 1);
    }

    /// A session of a gateway that was here before goes on. It was counted among
    /// the lost ones, or, before a reload, nowhere.
    pub fn goes_on(self) {
        let lost = self.word(ENDED + Gone::Lost as usize);
        let fewer = lost.fetch_update(Relaxed, Relaxed, |lost| lost.checked_sub(1));
        if fewer.is_err() {
            self.word(ACCEPTED).fetch_add(1, Relaxed);
        }
        self.one_more();
    }

    /// A session has ended; after how long where that is known.
    pub fn ended(self, why: Gone, after: Option<Duration>) {
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

    /// The same of a session whose gateway is gone, where that had counted it: after a
    /// reload it was counted nowhere.
    pub fn ended_elsewhere(self, why: Gone, after: Duration) {
        if self.own(OWN_SESSIONS).load(Relaxed) > 0 {
            self.ended(why, Some(after));
        }
    }

    /// Nobody got a session.
    pub fn refused(self, why: Refusal) {
        self.word(REFUSALS).fetch_add(1, Relaxed);
        self.word(REFUSED + why as usize).fetch_add(1, Relaxed);
    }

    /// All of them.
    pub fn now(self) -> Counted {
        let word = |at: usize| self.word(at).load(Relaxed);
        let by_reason = |words: &[&'static str], from: usize| {
            ByReason(words.iter().copied().zip((from..).map(word)).collect())
        };
        Counted {
            accepted: word(ACCEPTED),
            refused: by_reason(&Refusal::WORDS, REFUSED),
            ended: by_reason(&Gone::WORDS, ENDED),
            bytes_in: self.sum(OWN_IN),
            bytes_out: self.sum(OWN_OUT),
            peak_sessions: word(PEAK),
            sessions: self.sum(OWN_SESSIONS),
            durations: (DURATIONS..=DURATIONS + BUCKETS.len()).map(word).collect(),
            total: Duration::from_micros(word(MICROSECONDS)),
        }
    }

    /// What all gateways have of their own.
    fn sum(self, at: usize) -> u64 {
        let all = shared_memory::part(Part::Counters).map_or(self.own, |words| &words[own(0)..]);
        all.chunks(OWN).filter_map(|own| own.get(at)).map(|word| word.load(Relaxed)).sum()
    }

    fn word(self, at: usize) -> &'static AtomicU64 {
        self.words.get(at).unwrap_or(&NOWHERE)
    }

    fn own(self, at: usize) -> &'static AtomicU64 {
        self.own.get(at).unwrap_or(&NOWHERE)
    }
}

/// What is counted without memory for it.
static NOWHERE: AtomicU64 = AtomicU64::new(0);

/// Those of this process.
static OURS: OnceCell<Counters> = OnceCell::new();

/// So many bytes went to a terminal of this gateway.
pub fn took_in(bytes: usize) {
    if let Some(ours) = OURS.get() {
        add(ours.own(OWN_IN), bytes as u64);
    }
}

/// So many bytes came from one.
pub fn gave_out(bytes: usize) {
    if let Some(ours) = OURS.get() {
        add(ours.own(OWN_OUT), bytes as u64);
    }
}

/// Adds to a word that nobody else writes: without the bus.
fn add(word: &AtomicU64, more: u64) {
    word.store(word.load(Relaxed).wrapping_add(more), Relaxed);
}

/// Where there is none to share: of this process, which lives as long.
fn private(count: usize) -> &'static [AtomicU64] {
    Box::leak((0..count).map(|_| AtomicU64::new(0)).collect())
}
