//! Audit lines of ends of sessions whose gateway is gone. The recorder, which has the files
//! open, knows what became of their recordings: it is asked before such lines are written,
//! by the successor of the gateway, or by the master at its end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::recorder_launcher;
use super::recorder_protocol::{Answer, Kind, header};
use crate::observe::audit::{RecordingResult, prepared_end};
use crate::process::ipc::{Hello, decode, encode};
use fpty::sys::ReadOutcome;
use fpty::sys::clock;
use fpty::sys::shm_queue::Producer;

/// How long the master waits for answers: as long as a disk takes for the rest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Lines that wait for the recorder's answer, by session id.
#[derive(Default)]
pub struct PendingEndLines {
    lines: HashMap<String, String>,
    /// Since when.
    since: Option<Instant>,
}

impl PendingEndLines {
    /// Adds a line; returns it where its session was not recorded.
    pub fn add(&mut self, line: String) -> Option<String> {
        let Some(id) = prepared_end::recorded_session_id(&line) else {
            return Some(line);
        };
        self.lines.insert(id.to_owned(), line);
        None
    }

    /// The request for the recorder; `None`: no line waits.
    pub fn request(&mut self) -> Option<Vec<u8>> {
        self.since = Some(clock::now());
        (!self.lines.is_empty()).then(|| encode(&self.lines.keys().collect::<Vec<_>>()))
    }

    /// Whether lines wait.
    pub fn is_waiting(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Completes a line with the recorder's answer.
    pub fn answered(
        &mut self,
        id: &str,
        folder: usize,
        recorded: Option<RecordingResult>,
    ) -> Option<String> {
        let line = self.lines.remove(id)?;
        let path = |name: &str| recorder_launcher::file_path(folder, name);
        let recorded = recorded.map(|it| RecordingResult { path: path(&it.path), ..it });
        Some(recorded.map_or_else(|| line.clone(), |it| prepared_end::with_recording(&line, &it)))
    }

    /// Takes lines that have waited for so long, or that no recorder can answer.
    pub fn expired(&mut self, patience: Duration) -> Vec<String> {
        let is_late = self.since.is_none_or(|since| since.elapsed() >= patience);
        let late = if is_late { std::mem::take(&mut self.lines) } else { HashMap::new() };
        late.into_values().collect()
    }
}

/// Completes lines with the results of the recordings: for the master, whose gateways were
/// killed.
pub fn with_recordings(lines: Vec<String>) -> Vec<String> {
    let mut waiting = PendingEndLines::default();
    let mut with_recordings: Vec<String> =
        lines.into_iter().filter_map(|line| waiting.add(line)).collect();
    if let Some(request) = waiting.request() {
        with_recordings.extend(ask(&mut waiting, &request));
    }
    with_recordings.extend(waiting.expired(Duration::ZERO));
    with_recordings
}

fn ask(waiting: &mut PendingEndLines, request: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    // All of them are gone.
    let link = Producer::new()
        .ok()
        .and_then(|queue| recorder_launcher::connect(&Hello::of(0, 1), queue, None));
    let Some(mut link) = link else {
        return told;
    };
    link.queue.put([&header(Kind::Over, 0, 0, request.len()), request]);
    // It may have found the queue empty, and sleep.
    if link.queue.must_wake() {
        let _ = link.channel.write(b"!");
    }
    let until = clock::now() + ANSWER_TIMEOUT;
    let mut buffer = [0; 8192];
    while waiting.is_waiting() {
        match link.channel.read(&mut buffer) {
            ReadOutcome::Bytes(count) => {
                if let Some(Answer::Over { id, folder, recorded }) = decode(&buffer[..count]) {
                    told.extend(waiting.answered(&id, folder, recorded));
                }
            }
            ReadOutcome::WouldBlock if clock::now() < until => {
                link.channel.wait_for_more(until.saturating_duration_since(clock::now()));
            }
            ReadOutcome::WouldBlock | ReadOutcome::Eof | ReadOutcome::Closed => break,
        }
    }
    told
}
