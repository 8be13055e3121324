//! An output that the client does not wait for: what its reader has not taken yet, and
//! where the last line of it ended.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::backlog::Backlog;
use crate::sys::poll::PollSet;
use crate::sys::stdio::{Output, WriteFailure};
use crate::terminal::escape_parser::{Action, EscapeParser};

/// How long a server, or our terminal, may take the last that is said to it.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Length of the output's end that is kept, in bytes.
const TAIL_LENGTH: usize = 256;

/// An output with a queue.
pub struct BufferedOutput {
    /// `None`: closed.
    output: Option<Output>,
    failure: WriteFailure,
    waiting: Backlog,
    /// The end of the output.
    tail: Vec<u8>,
}

impl BufferedOutput {
    /// An output of which nothing is known yet.
    pub fn new(output: Output) -> Self {
        let (failure, waiting) = (WriteFailure::default(), Backlog::default());
        Self { output: Some(output), failure, waiting, tail: Vec::new() }
    }

    /// Writes bytes, and keeps what is not taken. Returns how many were taken; `None`:
    /// none ever will be.
    pub fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        keep_end(&mut self.tail, bytes, TAIL_LENGTH);
        let taken = match (&self.output, self.waiting.is_empty()) {
            (Some(output), true) => output.write_recording_failure(bytes, &self.failure).taken(),
            (None, true) => None,
            (_, false) => Some(0),
        };
        self.waiting.push(&bytes[taken.unwrap_or(0)..]);
        taken
    }

    /// Writes what waits, as far as it is taken. Returns how many bytes were taken;
    /// `None`: none ever will be.
    pub fn flush(&mut self) -> Option<usize> {
        let before = self.waiting.len();
        let (output, failure) = (&self.output, &self.failure);
        let is_open = self
            .waiting
            .flush(|bytes| output.as_ref()?.write_recording_failure(bytes, failure).taken());
        is_open.then(|| before - self.waiting.len())
    }

    /// Writes what waits, if it is taken soon: nobody waits for the output any more.
    pub fn flush_with_timeout(&mut self) {
        if let Some(output) = &self.output {
            let write = |bytes: &[u8]| output.write_recording_failure(bytes, &self.failure).taken();
            flush_with_timeout(&mut self.waiting, output, write);
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something stands on the line that the cursor is in: for a person
    /// something that is seen, for a program any byte.
    pub fn is_mid_line(&self, for_a_person: bool) -> bool {
        is_mid_line(&self.tail, for_a_person)
    }

    /// The reason why no more is taken, where that is not for want of a reader.
    pub fn failure(&self) -> Option<String> {
        self.failure.reason()
    }

    /// Drops what waits.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Closes the output; returns whether it was open.
    pub fn close(&mut self) -> bool {
        self.output.take().is_some()
    }

    /// The descriptor, to be polled; `None`: closed.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }
}

/// Has the last that waits for a receiver taken, if that happens soon.
pub fn flush_with_timeout(
    backlog: &mut Backlog,
    to: &impl AsFd,
    mut write: impl FnMut(&[u8]) -> Option<usize>,
) {
    let end = Instant::now() + FLUSH_TIMEOUT;
    while !backlog.is_empty() && Instant::now() < end && backlog.flush(&mut write) {
        let mut polled = PollSet::default();
        polled.add(to.as_fd(), false, true);
        polled.wait(Some(end.saturating_duration_since(Instant::now())));
    }
}

/// Appends bytes, and keeps the last `length` of all.
pub fn keep_end(tail: &mut Vec<u8>, bytes: &[u8], length: usize) {
    let bytes = &bytes[bytes.len().saturating_sub(length)..];
    let room = length - bytes.len();
    tail.drain(..tail.len().saturating_sub(room));
    tail.extend_from_slice(bytes);
}

/// See [`BufferedOutput::is_mid_line`].
fn is_mid_line(tail: &[u8], for_a_person: bool) -> bool {
    let start = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if !for_a_person {
        return start < tail.len();
    }
    let mut escapes = EscapeParser::default();
    let is_seen = |byte: &u8| escapes.step(*byte) == Action::Text && *byte >= 0x20 && *byte != 0x7f;
    tail[start..].iter().any(is_seen)
}

#[cfg(test)]
mod tests {
    use super::TAIL_LENGTH;
    use super::keep_end;

    fn is_mid_line(pieces: &[&[u8]]) -> bool {
        let mut tail = Vec::new();
        pieces.iter().for_each(|piece| keep_end(&mut tail, piece, TAIL_LENGTH));
        assert!(tail.len() <= TAIL_LENGTH);
        super::is_mid_line(&tail, true)
    }

    #[test]
    fn what_is_not_seen_is_not_on_a_line() {
        assert!(!is_mid_line(&[]) && !is_mid_line(&[b"$ exit\r\n"]));
        assert!(!is_mid_line(&[
            b"x\r\n",
            b"\x1b[?2004l\r\x1b]0;title\x07\x1b]2;t\x1b\\\x1b(B\x1b[m"
        ]));
        assert!(is_mid_line(&[b"x\n", b"$ "]) && is_mid_line(&[b"50 %\r"]));
        assert!(is_mid_line(&[&[b'x'; 1000], &[0; 255]]) && !is_mid_line(&[b"x", &[0; 256]]));
        let mut tail = Vec::new();
        keep_end(&mut tail, b"x\n\x1b[m", TAIL_LENGTH);
        assert!(super::is_mid_line(&tail, false) && !super::is_mid_line(&tail, true));
        keep_end(&mut tail, b"\n", TAIL_LENGTH);
        assert!(!super::is_mid_line(&tail, false));
        assert!(is_mid_line(&[b"\n\x1b[1mb"]) && is_mid_line(&["\n\u{e9}".as_bytes()]));
    }
}
