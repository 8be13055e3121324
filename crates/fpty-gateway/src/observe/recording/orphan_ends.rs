//! The audit's last lines of sessions whose gateway is gone. What became of their
//! recordings the recorder knows, which has the files open: whoever has such lines to
//! write asks it first. That is the next gateway, or the master at its end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::protocol::{Answer, Kind, header};
use super::{connect, launcher};
use crate::observe::audit::{Recorded, prepared_end};
use crate::process::ipc::{Hello, decode, encode};
use fpty::sys::Read;
use fpty::sys::shm_queue::Giver;

/// How long the master waits for that: as long as a disk takes for what is left.
const WITHIN: Duration = Duration::from_secs(2);

/// Lines that wait for the recorder's word, by their sessions' ids.
#[derive(Default)]
pub struct LastLines {
    lines: HashMap<String, String>,
    /// Since when.
    since: Option<Instant>,
}

impl LastLines {
    /// Has a line wait; given back where its session was not recorded.
    pub fn wait(&mut self, line: String) -> Option<String> {
        let Some(id) = prepared_end::id_of_recorded(&line) else {
            return Some(line);
        };
        self.lines.insert(id.to_owned(), line);
        None
    }

    /// What the recorder is asked; `None`: nothing.
    pub fn question(&mut self) -> Option<Vec<u8>> {
        self.since = Some(Instant::now());
        (!self.lines.is_empty()).then(|| encode(&self.lines.keys().collect::<Vec<_>>()))
    }

    /// Whether some wait.
    pub fn are_there(&self) -> bool {
        !self.lines.is_empty()
    }

    /// The recorder has answered for one: its line.
    pub fn answered(
        &mut self,
        id: &str,
        folder: usize,
        recorded: Option<Recorded>,
    ) -> Option<String> {
        let line = self.lines.remove(id)?;
        let path = |name: &str| launcher::path(folder, name);
        let recorded = recorded.map(|it| Recorded { path: path(&it.path), ..it });
        Some(recorded.map_or_else(|| line.clone(), |it| prepared_end::recorded(&line, &it)))
    }

    /// Those that have waited for so long, or for nobody who could answer.
    pub fn late(&mut self, patience: Duration) -> Vec<String> {
        let is_late = self.since.is_none_or(|since| since.elapsed() >= patience);
        let late = if is_late { std::mem::take(&mut self.lines) } else { HashMap::new() };
        late.into_values().collect()
    }
}

/// The same lines, with what became of the recordings: for the master, whose gateways
/// have been killed.
pub fn complete(lines: Vec<String>) -> Vec<String> {
    let mut waiting = LastLines::default();
    let mut complete: Vec<String> =
        lines.into_iter().filter_map(|line| waiting.wait(line)).collect();
    if let Some(question) = waiting.question() {
        complete.extend(ask(&mut waiting, &question));
    }
    complete.extend(waiting.late(Duration::ZERO));
    complete
}

fn ask(waiting: &mut LastLines, question: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    // All of them are gone.
    let link = Giver::new().ok().and_then(|queue| connect(&Hello::of(0, 1), queue, None).ok());
    let Some(mut link) = link else {
        return told;
    };
    link.queue.put([&header(Kind::Over, 0, 0, question.len()), question]);
    // It may have found the queue empty, and sleep.
    if link.queue.must_wake() {
        let _ = link.channel.write(b"!");
    }
    let until = Instant::now() + WITHIN;
    let mut buffer = [0; 8192];
    while waiting.are_there() {
        match link.channel.read(&mut buffer) {
            Read::Bytes(count) => {
                if let Some(Answer::Over { id, folder, recorded }) = decode(&buffer[..count]) {
                    told.extend(waiting.answered(&id, folder, recorded));
                }
            }
            Read::Blocked if Instant::now() < until => {
                link.channel.wait_for_more(until.saturating_duration_since(Instant::now()));
            }
            Read::Blocked | Read::End | Read::Gone => break,
        }
    }
    told
}
