//! Bytes that their receiver has not yet taken.

use std::collections::VecDeque;

/// Memory that must be left after everything that can wait for it, in bytes.
const MEMORY_RESERVE: usize = 512 * 1024;

/// Whether so many bytes could be had, and some to spare.
pub fn has_free_memory(bytes: usize) -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let there_is = probe.try_reserve_exact(bytes + MEMORY_RESERVE).is_ok();
    // Or the compiler would take the answer for granted.
    std::hint::black_box(&probe);
    there_is
}

/// Bytes in order, without memory of its own while there are none. Whoever
/// fills it asks [`Backlog::len`] first: a full one takes the sender's read
/// interest away, so its size is bounded by its user's limit plus one read.
#[derive(Debug, Default)]
pub struct Backlog {
    /// `None`: none wait. Most never have any, and there are two a session.
    waiting: Option<Box<Queue>>,
}

/// The outcome of [`Backlog::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Taken at once: this many bytes; the rest waits.
    Sent(usize),
    /// Out of memory for the rest.
    OutOfMemory,
    /// Closed: nobody will ever take any of the bytes.
    Closed,
}

/// Pieces as they came. None is empty.
#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that were taken.
    taken: usize,
    /// Bytes that are left in all pieces.
    len: usize,
}

/// Room in a new piece for small ones that follow, in bytes.
const CHUNK: usize = 4096;

impl Backlog {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.len)
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    /// Adds at the end, if there is the memory for it and some to spare:
    /// where the last of it goes into what one client does not read, the next
    /// small allocation ends the process. Returns whether there was.
    #[must_use]
    fn try_push(&mut self, bytes: &[u8]) -> bool {
        if self.room() < bytes.len() && !has_free_memory(bytes.len().max(CHUNK)) {
            return false;
        }
        self.push(bytes);
        true
    }

    /// Adds what follows `from` in a buffer, if there is the memory: takes a
    /// large rest with the buffer itself, and leaves an empty one of the same
    /// capacity, so that it is not copied. Returns whether there was.
    #[must_use]
    pub fn try_push_rest(&mut self, buffer: &mut Vec<u8>, from: usize) -> bool {
        let rest = buffer.len() - from;
        if rest == 0 || rest < buffer.capacity() / 2 {
            return self.try_push(&buffer[from..]);
        }
        let mut next = Vec::new();
        if !has_free_memory(buffer.capacity()) || next.try_reserve_exact(buffer.capacity()).is_err()
        {
            return false;
        }
        let waiting = self.waiting.get_or_insert_default();
        if waiting.chunks.is_empty() {
            waiting.taken = from;
        } else {
            buffer.drain(..from);
        }
        waiting.len += rest;
        waiting.chunks.push_back(std::mem::replace(buffer, next));
        true
    }

    /// Has them written by `write`, as [`Backlog::flush`] does, behind those that
    /// wait, and keeps what that does not take.
    pub fn send(
        &mut self,
        bytes: &[u8],
        write: impl FnOnce(&[u8]) -> Option<usize>,
    ) -> SendOutcome {
        let taken = if self.is_empty() { write(bytes) } else { Some(0) };
        match taken {
            Some(taken) if self.try_push(&bytes[taken..]) => SendOutcome::Sent(taken),
            Some(_) => SendOutcome::OutOfMemory,
            None => SendOutcome::Closed,
        }
    }

    /// Adds at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let fits = bytes.len() <= self.room();
        let waiting = self.waiting.get_or_insert_default();
        waiting.len += bytes.len();
        match waiting.chunks.back_mut() {
            Some(last) if fits => last.extend_from_slice(bytes),
            _ => {
                let mut piece = Vec::with_capacity(bytes.len().max(CHUNK));
                piece.extend_from_slice(bytes);
                waiting.chunks.push_back(piece);
            }
        }
    }

    /// Room in the last piece.
    fn room(&self) -> usize {
        let last = self.waiting.as_ref().and_then(|waiting| waiting.chunks.back());
        last.map_or(0, |piece| piece.capacity() - piece.len())
    }

    /// The longest run at the front that lies in one piece; empty only when
    /// nothing waits.
    pub fn front(&self) -> &[u8] {
        let first = self
            .waiting
            .as_ref()
            .and_then(|waiting| waiting.chunks.front().map(|piece| &piece[waiting.taken..]));
        first.unwrap_or_default()
    }

    /// Forgets `count` bytes of [`Backlog::front`], and gives the memory back
    /// with the last one of a piece.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.front().len());
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        waiting.len -= count;
        waiting.taken += count;
        if waiting.chunks.front().is_some_and(|piece| piece.len() == waiting.taken) {
            waiting.chunks.pop_front();
            waiting.taken = 0;
        }
        if waiting.len == 0 {
            self.waiting = None;
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
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_taken_at_once_waits_behind_the_rest() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.send(b"abc", |_| Some(3)), SendOutcome::Sent(3));
        assert!(backlog.is_empty());
        assert_eq!(backlog.send(b"abc", |_| Some(1)), SendOutcome::Sent(1));
        let never = |_: &[u8]| -> Option<usize> { panic!("others wait") };
        assert_eq!(backlog.send(b"de", never), SendOutcome::Sent(0));
        assert_eq!(backlog.front(), b"bcde");
        backlog.clear();
        assert_eq!(backlog.send(b"abc", |_| None), SendOutcome::Closed);
        assert_eq!(backlog.send(b"abc", |_| Some(0)), SendOutcome::Sent(0));
    }

    #[test]
    fn it_holds_no_memory_while_empty() {
        let mut backlog = Backlog::default();
        backlog.push(&[1; 70_000]);
        backlog.consume(69_999);
        assert_eq!(backlog.front(), [1]);
        backlog.consume(1);
        assert!(backlog.waiting.is_none());
    }

    #[test]
    fn a_large_rest_is_kept_with_its_buffer() {
        let mut backlog = Backlog::default();
        let mut buffer = Vec::with_capacity(1000);
        buffer.extend([7; 900]);
        let address = buffer.as_ptr();
        assert!(backlog.try_push_rest(&mut buffer, 300));
        assert!(buffer.is_empty() && buffer.capacity() >= 1000);
        assert_eq!((backlog.front().as_ptr(), backlog.len()), (address.wrapping_add(300), 600));
        buffer.extend([8; 900]);
        assert!(backlog.try_push_rest(&mut buffer, 890));
        assert_eq!((buffer.len(), backlog.len()), (900, 610));
        let mut none = Backlog::default();
        assert!(none.try_push_rest(&mut Vec::new(), 0) && none.is_empty());
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
            steps in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..200), 0usize..300, any::<Option<u8>>()),
                0..50,
            )
        ) {
            let (mut backlog, mut into, mut out) = (Backlog::default(), Vec::new(), Vec::new());
            for (mut bytes, take, from) in steps {
                match from {
                    Some(from) => {
                        let from = usize::from(from).min(bytes.len());
                        into.extend_from_slice(&bytes[from..]);
                        prop_assert!(backlog.try_push_rest(&mut bytes, from));
                    }
                    None => {
                        backlog.push(&bytes);
                        into.extend(bytes);
                    }
                }
                prop_assert_eq!(backlog.len(), into.len() - out.len());
                let taken = backlog.front().len().min(take);
                out.extend_from_slice(&backlog.front()[..taken]);
                backlog.consume(taken);
            }
            while !backlog.is_empty() {
                let front = backlog.front().to_vec();
                prop_assert!(!front.is_empty());
                backlog.consume(front.len());
                out.extend(front);
            }
            prop_assert_eq!(into, out);
        }
    }
}
