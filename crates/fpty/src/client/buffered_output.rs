//! An output that the client does not wait for: what its reader has not taken yet, and
//! where the last line of it ended.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::line_position::LinePosition;
use crate::backlog::Backlog;
use crate::sys::poll::PollSet;
use crate::sys::stdio::{Output, WriteFailure};

/// How long a server, or our terminal, may take the last that is said to it.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// An output with a queue.
pub struct BufferedOutput {
    /// `None`: closed.
    output: Option<Output>,
    failure: WriteFailure,
    waiting: Backlog,
    line_position: LinePosition,
}

impl BufferedOutput {
    /// An output of which nothing is known yet.
    pub fn new(output: Output) -> Self {
        let (failure, waiting) = (WriteFailure::default(), Backlog::default());
        Self { output: Some(output), failure, waiting, line_position: LinePosition::default() }
    }

    /// Writes bytes, and keeps what is not taken. Returns how many were taken; `None`:
    /// none ever will be.
    pub fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        self.line_position.record(bytes);
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

    /// Whether the last line has no end yet, see [`LinePosition::is_mid_line`].
    pub fn is_mid_line(&self, for_a_person: bool) -> bool {
        self.line_position.is_mid_line(for_a_person)
    }

    /// Why no more is taken, where that is not for want of a reader.
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
