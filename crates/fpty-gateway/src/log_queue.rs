//! Lines on their way to a log that may not be read: so many wait, the rest is
//! counted.

use std::collections::VecDeque;

/// Limit of the lines that wait, in bytes.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Lines that the log has not taken.
#[derive(Debug)]
pub struct LogQueue {
    lines: VecDeque<String>,
    most: usize,
    bytes: usize,
    lost: u64,
}

impl LogQueue {
    /// A queue in which so many lines may wait.
    pub const fn of(most: usize) -> Self {
        Self { lines: VecDeque::new(), most, bytes: 0, lost: 0 }
    }

    /// Writes a line, behind those that wait, or keeps it, or counts it as lost.
    /// `line` is given the count, to tell of it and take it; `write` returns whether
    /// the log took it.
    pub fn say(
        &mut self,
        line: impl FnOnce(&mut u64) -> String,
        mut write: impl FnMut(&str) -> bool,
    ) {
        self.flush(&mut write);
        if self.lines.len() >= self.most || self.bytes >= MAX_BYTES {
            self.lost += 1;
            return;
        }
        let line = line(&mut self.lost);
        if self.lines.is_empty() && write(&line) {
            return;
        }
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// The number of lost lines that nobody has reported.
    pub fn lost(&mut self) -> &mut u64 {
        &mut self.lost
    }

    /// Writes those that wait, as far as the log takes them; returns how many.
    pub fn flush(&mut self, mut write: impl FnMut(&str) -> bool) -> usize {
        let before = self.lines.len();
        while self.lines.front().is_some_and(|line| write(line)) {
            if let Some(line) = self.lines.pop_front() {
                self.bytes -= line.len();
            }
        }
        before - self.lines.len()
    }

    /// Whether any wait.
    pub fn waits(&self) -> bool {
        !self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 4096;

    fn told(lost: &mut u64) -> String {
        std::mem::take(lost).to_string()
    }

    #[test]
    fn a_log_that_takes_all_gets_all_at_once() {
        let mut queue = LogQueue::of(MOST);
        let mut log = Vec::new();
        for number in 0..3 {
            queue.say(
                |lost| format!("{number} {}", told(lost)),
                |line| {
                    log.push(line.to_owned());
                    true
                },
            );
        }
        assert_eq!(log, ["0 0", "1 0", "2 0"]);
        assert!(!queue.waits());
    }

    #[test]
    fn what_is_lost_is_counted_in_the_next_line() {
        let mut queue = LogQueue::of(MOST);
        for _ in 0..MOST + 7 {
            queue.say(told, |_| false);
        }
        assert_eq!((queue.lines.len(), queue.lost), (MOST, 7));
        let mut log = Vec::new();
        let mut room = 10;
        let mut write = |line: &str| {
            if room == 0 {
                return false;
            }
            room -= 1;
            log.push(line.to_owned());
            true
        };
        assert_eq!(queue.flush(&mut write), 10);
        queue.say(told, |_| false);
        queue.say(told, |_| false);
        let mut all = Vec::new();
        queue.flush(|line| {
            all.push(line.to_owned());
            true
        });
        assert_eq!(log.len() + all.len(), MOST + 2);
        assert_eq!(all[all.len() - 2..], ["7", "0"]);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn long_lines_have_a_bound_of_their_own() {
        let mut queue = LogQueue::of(MOST);
        for _ in 0..MOST {
            queue.say(|_| "x".repeat(3000), |_| false);
        }
        assert!(queue.bytes < MAX_BYTES + 3000 && queue.lost > 0);
    }
}
