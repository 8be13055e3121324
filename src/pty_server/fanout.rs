//! What each client is still to get, and what a new one is shown.

use std::collections::VecDeque;

use fpty::relay::Backlog;

/// What may wait for one client; one that is further behind loses its place.
/// The terminal is never kept waiting, so this is what a reader may lag behind
/// a burst of output.
pub const QUEUE_LIMIT: usize = 8 * 1024 * 1024;

/// The last output, so that a new client does not see an empty screen.
pub struct Scrollback {
    bytes: VecDeque<u8>,
    limit: usize,
    /// Whether something before it was forgotten.
    cut: bool,
}

impl Scrollback {
    /// Keeps the last `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit, cut: false }
    }

    /// Remembers output.
    pub fn push(&mut self, output: &[u8]) {
        let output = &output[output.len().saturating_sub(self.limit)..];
        let over = (self.bytes.len() + output.len()).saturating_sub(self.limit);
        self.cut |= over > 0;
        self.bytes.drain(..over);
        self.bytes.extend(output);
    }

    /// What a new client is shown: from the beginning of a line, where that
    /// is not the very beginning, so that no half of an escape sequence or of
    /// a character is.
    pub fn replay(&self, queue: &mut Backlog) {
        let (front, back) = self.bytes.as_slices();
        let bytes = [front, back].concat();
        let from = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(newline) if self.cut => newline + 1,
            _ => 0,
        };
        queue.push(&bytes[from..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(scrollback: &Scrollback) -> Vec<u8> {
        let mut queue = Backlog::default();
        scrollback.replay(&mut queue);
        let mut shown = Vec::new();
        while !queue.is_empty() {
            shown.extend_from_slice(queue.front());
            queue.consume(queue.front().len());
        }
        shown
    }

    #[test]
    fn everything_is_shown_while_there_is_room() {
        let mut scrollback = Scrollback::new(12);
        scrollback.push(b"one\r\ntwo");
        assert_eq!(shown(&scrollback), b"one\r\ntwo");
    }

    #[test]
    fn then_the_last_whole_lines() {
        let mut scrollback = Scrollback::new(13);
        scrollback.push(b"first\r\nsecond\r\n$ ");
        scrollback.push(b"x");
        assert_eq!(shown(&scrollback), b"second\r\n$ x");
        scrollback.push(b"yz");
        assert_eq!(shown(&scrollback), b"$ xyz");
    }

    #[test]
    fn one_line_longer_than_all_is_shown_in_part() {
        let mut scrollback = Scrollback::new(4);
        scrollback.push(b"abcdefgh");
        assert_eq!(shown(&scrollback), b"efgh");
    }

    #[test]
    fn none_is_none() {
        let mut scrollback = Scrollback::new(0);
        scrollback.push(b"abc\n");
        assert_eq!(shown(&scrollback), b"");
    }
}
