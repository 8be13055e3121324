//! Bytes that their receiver has not yet taken.

use std::collections::VecDeque;

/// Memory that must be left after everything that can wait for it.
const TO_SPARE: usize = 512 * 1024;

/// Whether so many bytes could be had, and some to spare.
pub fn is_free(bytes: usize) -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let there_is = probe.try_reserve_exact(bytes + TO_SPARE).is_ok();
    // Or the compiler would take the answer for granted.
    std::hint::black_box(&probe);
    there_is
}

/// Bytes in order, without memory of its own while there are none. Whoever
/// fills it asks [`Backlog::len`] first: a full one takes the sender's read
/// interest away, so its size is bounded by its user's limit plus one read.
#[derive(Debug, Default)]
pub struct Backlog {
    /// `None`: none wait.
    #[expect(clippy::box_collection, reason = "most never have any, and there are two a session")]
    bytes: Option<Box<VecDeque<u8>>>,
}

impl Backlog {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.as_ref().map_or(0, |bytes| bytes.len())
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_none()
    }

    /// Adds at the end, if there is the memory for it and some to spare:
    /// where the last of it goes into what one client does not read, the next
    /// small allocation ends the process. Returns whether there was.
    #[must_use]
    pub fn try_push(&mut self, bytes: &[u8]) -> bool {
        let room = self.bytes.as_ref().map_or(0, |all| all.capacity() - all.len());
        // It may grow to twice its size.
        if room < bytes.len() && !is_free(2 * (self.len() + bytes.len())) {
            return false;
        }
        self.push(bytes);
        true
    }

    /// Adds at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bytes.get_or_insert_default().extend(bytes);
        }
    }

    /// The longest run at the front that lies in one piece; empty only when
    /// nothing waits.
    pub fn front(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| bytes.as_slices().0)
    }

    /// Forgets `count` bytes at the front, and gives the memory back with the
    /// last one.
    pub fn consume(&mut self, count: usize) {
        if let Some(bytes) = &mut self.bytes {
            bytes.drain(..count.min(bytes.len()));
            if bytes.is_empty() {
                self.bytes = None;
            }
        }
    }

    /// Hands what waits to `write`, which says how much of it was taken, or
    /// `None` where nobody will ever take it. Less than was offered means
    /// that there is no more room: asking again would only be told so.
    /// Returns whether somebody still takes.
    pub fn flush(&mut self, mut write: impl FnMut(&[u8]) -> Option<usize>) -> bool {
        while !self.is_empty() {
            let offered = self.front().len();
            let Some(taken) = write(self.front()) else {
                return false;
            };
            self.consume(taken);
            if taken < offered {
                break;
            }
        }
        true
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bytes = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_holds_no_memory_while_empty() {
        let mut backlog = Backlog::default();
        backlog.push(&[1; 70_000]);
        backlog.consume(69_999);
        assert_eq!(backlog.front(), [1]);
        backlog.consume(1);
        assert!(backlog.bytes.is_none());
    }

    #[test]
    fn flushing_stops_at_a_short_write_and_tells_of_nobody() {
        let mut backlog = Backlog::default();
        backlog.push(b"abcdef");
        let mut asked = 0;
        assert!(backlog.flush(|_| {
            asked += 1;
            Some(4)
        }));
        assert_eq!((asked, backlog.front()), (1, b"ef".as_slice()));
        assert!(!backlog.flush(|_| None));
        assert!(backlog.flush(|bytes| Some(bytes.len())) && backlog.is_empty());
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            steps in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..200), 0usize..300), 0..50)
        ) {
            let (mut backlog, mut into, mut out) = (Backlog::default(), Vec::new(), Vec::new());
            for (bytes, take) in steps {
                backlog.push(&bytes);
                into.extend(bytes);
                let taken = backlog.front().len().min(take);
                out.extend_from_slice(&backlog.front()[..taken]);
                backlog.consume(taken);
            }
            while !backlog.is_empty() {
                let front = backlog.front().to_vec();
                backlog.consume(front.len());
                out.extend(front);
            }
            prop_assert_eq!(into, out);
        }
    }
}
