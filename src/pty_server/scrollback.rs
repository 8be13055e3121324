//! The scrollback: what a new client gets first; and the queue of each client.

use std::collections::VecDeque;

use fpty::backlog::Backlog;
use fpty::terminal::QueryFilter;

/// Limit of output that waits for one client, in bytes; a client that is further behind
/// is dropped. The terminal is never kept waiting, so this is how far a reader may lag
/// behind a burst of output.
pub const QUEUE_LIMIT: usize = 8 * 1024 * 1024;

/// The last output, so that a new client does not see an empty screen; less
/// what its terminal would answer: that was somebody else's to answer, and
/// would be typed at whatever runs now.
#[derive(Default)]
pub struct Scrollback {
    queries: QueryFilter,
    /// Filtered output that is being added.
    through: Vec<u8>,
    bytes: VecDeque<u8>,
    limit: usize,
    /// Whether output before this was forgotten.
    is_truncated: bool,
}

impl Scrollback {
    /// Keeps the last `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Remembers output.
    pub fn push(&mut self, output: &[u8]) {
        self.through.clear();
        self.queries.filter(output, &mut self.through);
        let output = &self.through[self.through.len().saturating_sub(self.limit)..];
        let over = (self.bytes.len() + output.len()).saturating_sub(self.limit);
        self.is_truncated |= over > 0;
        self.bytes.drain(..over);
        self.bytes.extend(output);
    }

    /// Queues the scrollback for a new client: from the beginning of a line, where that
    /// is not the very beginning, so that no half of an escape sequence or of a character
    /// is shown.
    ///
    /// Returns the filter for what comes then, where that is in the midst of
    /// a sequence: until there is nothing undecided.
    pub fn replay(&self, queue: &mut Backlog) -> Option<Box<QueryFilter>> {
        let (front, back) = self.bytes.as_slices();
        let bytes = [front, back].concat();
        let from = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(newline) if self.is_truncated => newline + 1,
            _ => 0,
        };
        queue.push(&bytes[from..]);
        self.queries.is_undecided().then(|| Box::new(self.queries.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(scrollback: &Scrollback) -> Vec<u8> {
        let mut queue = Backlog::default();
        let _ = scrollback.replay(&mut queue);
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
    fn what_terminals_answer_is_not_shown_again() {
        let mut scrollback = Scrollback::new(64);
        scrollback.push(b"one\x1b[6n\x1b]52;c;AAAA\x07\r\n\x1b[c$ \x1b[");
        assert_eq!(shown(&scrollback), b"one\r\n$ ");
        // Nor where it is not whole yet.
        let mut rest = scrollback.replay(&mut Backlog::default()).expect("something has begun");
        let mut through = Vec::new();
        rest.filter(b"6n\x1b[1mx", &mut through);
        assert_eq!(through, b"\x1b[1mx");
        scrollback.push(b"6n\x1b[1mx");
        assert!(scrollback.replay(&mut Backlog::default()).is_none());
        assert_eq!(shown(&scrollback), b"one\r\n$ \x1b[1mx");
    }

    #[test]
    fn a_query_is_gone_before_the_rest_of_its_line_is_forgotten() {
        let mut scrollback = Scrollback::new(8);
        scrollback.push(b"\x1b]52;c;AAAAAAAAAAAAAAAAAAAA");
        scrollback.push(b"AAAA\x07$ x");
        assert_eq!(shown(&scrollback), b"$ x");
    }

    #[test]
    fn none_is_none() {
        let mut scrollback = Scrollback::new(0);
        scrollback.push(b"abc\n");
        assert_eq!(shown(&scrollback), b"");
    }
}
