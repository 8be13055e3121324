//! The open sessions' last lines, written in advance, in memory that the
//! gateways share with the master: where a gateway is killed, whoever comes
//! after it, or the master at its end, has them to write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;

use super::clock::Utc;
use super::reason::Gone;
use crate::uwsgi::log::{self, log};
use fpty::error::reason;
use fpty::sys::child::Exit;
use fpty::sys::clock::BootInstant;
use fpty::sys::shared::Shared;

/// Sessions that have room, in each gateway; memory is used only for as many
/// as there are.
const MOST: usize = 1 << 14;

/// Words of a session: the length of its line, when it began (nanoseconds since
/// the machine's start), the line.
const WORDS: usize = 256;
const HEAD: usize = 2;

/// The longest line that there is room for, in bytes.
pub const LONGEST: usize = (WORDS - HEAD) * 8;

/// What stands in the place of a time that is not known yet, and of a
/// duration.
pub const NO_TIME: SystemTime = UNIX_EPOCH;
const NO_DURATION: &str = "0.000";

/// One for each gateway.
static BOARDS: OnceCell<Vec<Shared<AtomicU64>>> = OnceCell::new();

/// Reserves the memory, in the master, before it forks the gateways.
pub fn reserve(gateways: u32) {
    let boards: std::io::Result<_> = (0..gateways).map(|_| Shared::new(MOST * WORDS)).collect();
    match boards {
        Ok(boards) => {
            let _ = BOARDS.set(boards);
        }
        Err(error) => log(&format!(
            "forkptyrouter: the audit will lack the ends of sessions whose gateway is killed: {}",
            reason(&error)
        )),
    }
}

/// At the end of the master, the gateways being gone.
pub fn after_the_end() {
    for board in BOARDS.get().into_iter().flatten() {
        for line in take_left(board.words()) {
            // The end does not wait for a log that nobody reads.
            if !log::takes(&line) {
                return;
            }
        }
    }
}

/// Takes over the board of the gateway of this number, and the lines that one
/// that was here before us has left on it.
pub fn adopt(ordinal: usize) -> (Option<Board>, Vec<String>) {
    let Some(board) = BOARDS.get().and_then(|boards| boards.get(ordinal)) else {
        return (None, Vec::new());
    };
    let left = take_left(board.words());
    (Some(Board { words: board.words(), free: Vec::new(), used: 0 }), left)
}

/// A gateway's board, as that keeps it.
pub struct Board {
    words: &'static [AtomicU64],
    free: Vec<u32>,
    used: u32,
}

/// A place on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Board {
    /// Puts a line up; `None`: there is no room for it.
    pub fn put(&mut self, line: &str, started: BootInstant) -> Option<Place> {
        if line.len() > LONGEST {
            return None;
        }
        let place = self.free.pop().unwrap_or(self.used);
        let words = self.words.chunks_exact(WORDS).nth(place as usize)?;
        if place == self.used {
            self.used += 1;
        }
        for (word, bytes) in words[HEAD..].iter().zip(line.as_bytes().chunks(8)) {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
        }
        words[1].store(started.as_nanos(), Ordering::Relaxed);
        // Last: what is not complete is not there.
        words[0].store(line.len() as u64, Ordering::Release);
        Some(Place(place))
    }

    /// Takes it down: its session has ended, or somebody else tells of it.
    pub fn take(&mut self, Place(place): Place) {
        if let Some(words) = self.words.chunks_exact(WORDS).nth(place as usize) {
            words[0].store(0, Ordering::Release);
            self.free.push(place);
        }
    }
}

/// Takes down all that is left, each with its time and duration.
fn take_left(words: &[AtomicU64]) -> Vec<String> {
    let now = SystemTime::now();
    let mut left = Vec::new();
    for words in words.chunks_exact(WORDS) {
        let length = words[0].swap(0, Ordering::Acquire);
        // They are used from the first one on.
        if length == 0 && words[1].load(Ordering::Relaxed) == 0 {
            break;
        }
        let bytes =
            words[HEAD..].iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let line: Vec<u8> = bytes.take(usize::try_from(length).unwrap_or(0)).collect();
        let started = BootInstant::from_nanos(words[1].swap(0, Ordering::Relaxed));
        if let (1.., Ok(line)) = (length, String::from_utf8(line)) {
            left.push(at(&line, now, started.elapsed()));
        }
    }
    left
}

/// A line that was written in advance, now that it is known when its session
/// ended, and after how long.
pub fn at(line: &str, ended: SystemTime, duration: Duration) -> String {
    let mut line = line.replacen(&Utc::of(NO_TIME).rfc3339(), &Utc::of(ended).rfc3339(), 1);
    // As JSON has it, or keyval. Within a text the quotes would be escaped.
    for (before, behind) in [("\"duration\":", ",\"reason\":\""), ("duration=", " reason=\"")] {
        if let Some(at) = line.find(&format!("{before}{NO_DURATION}{behind}")) {
            let at = at + before.len();
            let seconds = format!("{}.{:03}", duration.as_secs(), duration.subsec_millis());
            line.replace_range(at..at + NO_DURATION.len(), &seconds);
            break;
        }
    }
    line
}

/// The same, of a session whose end is known.
pub fn because(line: &str, why: Gone, exit: Option<Exit>) -> String {
    let (status, signal) = match exit {
        Some(Exit::Status(status)) => (status.to_string(), String::from("null")),
        Some(Exit::Signal { number, .. }) => (String::from("null"), number.to_string()),
        None => (String::from("null"), String::from("null")),
    };
    let why = why.word();
    // As JSON has it, or keyval, and no text.
    let forms = [
        (
            "\"reason\":\"lost\",\"status\":null,\"signal\":null",
            format!("\"reason\":\"{why}\",\"status\":{status},\"signal\":{signal}"),
        ),
        (
            "reason=\"lost\" status=null signal=null",
            format!("reason=\"{why}\" status={status} signal={signal}"),
        ),
    ];
    let mut line = line.to_owned();
    let found = forms.iter().filter_map(|(lost, told)| Some((line.rfind(lost)?, lost, told)));
    if let Some((at, lost, told)) = found.max() {
        line.replace_range(at..at + lost.len(), told);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_once_and_the_rest_never() {
        let words: &'static [AtomicU64] =
            Box::leak((0..3 * WORDS).map(|_| AtomicU64::new(0)).collect());
        let mut board = Board { words, free: Vec::new(), used: 0 };
        let line = |name: &str| {
            format!(
                "{{\"time\":\"1970-01-01T00:00:00.000Z\",\"command\":\"{name} 0.000\",\
                 \"duration\":0.000,\"reason\":\"lost\",\"record\":\"duration=0.000\"}}"
            )
        };
        let long = "x".repeat(LONGEST - line("").len());
        let started = BootInstant::now().before(Duration::from_millis(61_500));
        let first = board.put(&line("first"), started).expect("room");
        assert!(board.put(&line(&long), started).is_some());
        assert!(board.put(&line("third"), started).is_some());
        assert_eq!(board.put(&line("fourth"), started), None);
        board.take(first);
        assert_eq!(board.put(&(line(&long) + "x"), started), None);
        let left = take_left(words);
        assert_eq!(left.len(), 2);
        for (left, name) in left.iter().zip([long.as_str(), "third"]) {
            assert!(left.contains(&format!("\"command\":\"{name} 0.000\"")), "{left}");
            assert!(left.contains("\"duration\":61.5"), "{left}");
            assert!(!left.contains("1970"), "{left}");
        }
        assert_eq!(take_left(words), [] as [String; 0]);
    }
}
