//! A bounded queue of bytes from one process to another, in memory that both
//! share (memfd_create(2)): to put something in takes no system call, and what
//! is in it outlives whoever put it there.
//!
//! What was taken out keeps its place until whoever took it is done with it:
//! if that is killed before, the next one finds it there again.
//!
//! Only whoever takes bytes out checks what it finds: it may be the one with
//! more privileges.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use nix::sys::mman::MapFlags;

use super::memfd::{self, Mapping, READ_WRITE};

/// Room of the queue, in bytes.
pub const CAPACITY: usize = 4 << 20;

/// Size of the header before the bytes: a page, in bytes.
const PAGE: usize = 4096;

/// Length of the mapping: the header's page and the bytes.
const LENGTH: usize = PAGE + CAPACITY;

#[repr(C)]
struct Header {
    /// Bytes that were put in, ever.
    head: AtomicU64,
    /// Bytes that were taken out, and done with.
    tail: AtomicU64,
    /// Whether the consumer sleeps, and is to be woken up.
    consumer_sleeps: AtomicU32,
    /// Whether the producer waits for room, and is to be told of it.
    producer_waits: AtomicU32,
    /// Notes for the process that comes after a producer that was killed.
    notes: [Note; NOTES],
}

/// Note: a number, and its owner.
#[repr(C)]
struct Note {
    whose: AtomicU32,
    number: AtomicU64,
}

/// The number of notes.
pub const NOTES: usize = 250;

const _: () = assert!(size_of::<Header>() <= PAGE);

/// The shared memory.
struct Memory(Mapping);

impl Memory {
    fn map(fd: impl AsFd) -> io::Result<Self> {
        Mapping::new(Some(fd), LENGTH, READ_WRITE, MapFlags::MAP_SHARED).map(Self)
    }

    fn header(&self) -> &Header {
        // SAFETY: a page of zeroes at first, of which any value is a Header of
        // atomics; mapped for as long as we live.
        unsafe { &*self.0.at(0, PAGE).cast::<Header>() }
    }

    /// The offset of the byte at a position, and how many of `count` follow in one piece.
    fn piece(position: u64, count: usize) -> (usize, usize) {
        // Below CAPACITY.
        let at = (position % CAPACITY as u64) as usize;
        (PAGE + at, count.min(CAPACITY - at))
    }

    /// Appends a copy of the bytes from a position on.
    fn copy(&self, from: u64, count: usize, into: &mut Vec<u8>) {
        let begin = into.len();
        into.resize(begin + count, 0);
        let (offset, length) = Self::piece(from, count);
        let (first, second) = into[begin..].split_at_mut(length);
        self.0.read(offset, first);
        self.0.read(PAGE, second);
    }
}

/// The queue's producer, which puts bytes in.
pub struct Producer {
    memory: Memory,
    fd: OwnedFd,
    head: u64,
}

impl AsFd for Producer {
    /// The descriptor of the queue, to be sent to the consumer.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Producer {
    /// A new queue.
    ///
    /// # Errors
    /// Out of memory or descriptors, or the kernel has no such thing.
    pub fn new() -> io::Result<Self> {
        let fd = memfd::sealed(c"fpty-queue", LENGTH)?;
        Ok(Self { memory: Memory::map(&fd)?, fd, head: 0 })
    }

    /// A copy of what nobody is done with. To be asked when nobody takes
    /// anything: whoever did has ended.
    pub fn left(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let used = self.used();
        self.memory.copy(self.head.wrapping_sub(used as u64), used, &mut bytes);
        bytes
    }

    /// Bytes that nobody has taken out.
    pub fn used(&self) -> usize {
        let tail = self.memory.header().tail.load(Ordering::Acquire);
        // No more than CAPACITY, unless somebody lies; then it is full.
        usize::try_from(self.head.wrapping_sub(tail)).unwrap_or(CAPACITY).min(CAPACITY)
    }

    /// Room for more.
    pub fn room(&self) -> usize {
        CAPACITY - self.used()
    }

    /// How many bytes were taken out, ever.
    pub fn taken(&self) -> u64 {
        self.memory.header().tail.load(Ordering::Relaxed)
    }

    /// Puts these in, all or nothing. Returns whether there was room.
    pub fn put(&mut self, parts: [&[u8]; 2]) -> bool {
        if parts.iter().map(|part| part.len()).sum::<usize>() > self.room() {
            return false;
        }
        for mut part in parts {
            while !part.is_empty() {
                let (offset, count) = Memory::piece(self.head, part.len());
                self.memory.0.write(offset, &part[..count]);
                self.head += count as u64;
                part = &part[count..];
            }
        }
        self.memory.header().head.store(self.head, Ordering::Release);
        true
    }

    /// Whether the consumer is to be woken up; once.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.memory.header().consumer_sleeps.swap(0, Ordering::SeqCst) == 1
    }

    /// Notes a number of this one's, or takes it back (0); in one of [`NOTES`] places.
    pub fn note(&self, place: usize, whose: u32, number: u64) {
        if let Some(note) = self.memory.header().notes.get(place) {
            note.whose.store(whose, Ordering::Relaxed);
            note.number.store(number, Ordering::Release);
        }
    }

    /// Asks to be told when there is room again.
    pub fn wait_for_room(&self) {
        self.memory.header().producer_waits.store(1, Ordering::SeqCst);
    }
}

/// The queue's consumer, which takes bytes out.
pub struct Consumer {
    memory: Memory,
    /// Before that we are done with everything.
    tail: u64,
    /// Before that everything was taken out.
    at: u64,
    id: u64,
}

impl Consumer {
    /// The consumer of a queue that was received: it begins where the consumer before was
    /// done.
    ///
    /// # Errors
    /// The file is no queue, or memory is short.
    pub fn of(fd: &OwnedFd) -> io::Result<Self> {
        if memfd::length_of_sealed(fd)? != LENGTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let id = nix::sys::stat::fstat(fd)?.st_ino;
        let memory = Memory::map(fd)?;
        let tail = memory.header().tail.load(Ordering::Acquire);
        Ok(Self { memory, tail, at: tail, id })
    }

    /// The notes of the producer, each with its owner and number. Read after the producer
    /// is gone.
    pub fn notes(&self) -> Vec<(u32, u64)> {
        let all = self.memory.header().notes.iter();
        let all = all.map(|note| (note.number.load(Ordering::Acquire), &note.whose));
        let noted = all.filter(|(number, _)| *number > 0);
        noted.map(|(number, whose)| (whose.load(Ordering::Relaxed), number)).collect()
    }

    /// The identity of the queue, for as long as it is open anywhere.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The place where the next consumer begins if this one ends now.
    pub fn begins_at(&self) -> u64 {
        self.tail
    }

    /// The place where the next consumer begins once this one is done with all that was
    /// taken out but the last bytes.
    pub fn would_begin_at(&self, unread: usize) -> u64 {
        self.at.wrapping_sub(unread as u64)
    }

    /// Takes out at most so many bytes and appends them; their place is not free
    /// before [`Consumer::mark_done`]. Returns how many that were.
    ///
    /// # Errors
    /// The other end says nonsense.
    pub fn take(&mut self, most: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let head = self.memory.header().head.load(Ordering::Acquire);
        if head.wrapping_sub(self.tail) > CAPACITY as u64
            || head.wrapping_sub(self.at) > CAPACITY as u64
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // No more than CAPACITY.
        let count = (head.wrapping_sub(self.at) as usize).min(most);
        self.memory.copy(self.at, count, into);
        self.at = self.at.wrapping_add(count as u64);
        Ok(count)
    }

    /// All that was taken out is done with, but the last bytes.
    pub fn mark_done(&mut self, unread: usize) {
        self.tail = self.would_begin_at(unread);
        self.memory.header().tail.store(self.tail, Ordering::Release);
    }

    /// Says that from now on we are to be woken up; returns whether there is
    /// something all the same, so that nobody need sleep.
    pub fn sleep(&self) -> bool {
        let header = self.memory.header();
        header.consumer_sleeps.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        header.head.load(Ordering::SeqCst) != self.at
    }

    /// Whether the producer waits for room, and there is some; once.
    pub fn must_tell_of_room(&self) -> bool {
        let header = self.memory.header();
        let used = header.head.load(Ordering::Relaxed).wrapping_sub(self.tail);
        used < CAPACITY as u64 / 2
            && header.producer_waits.load(Ordering::Relaxed) != 0
            && header.producer_waits.swap(0, Ordering::SeqCst) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other_end(giver: &Producer) -> Consumer {
        Consumer::of(&giver.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    /// A consumer is killed before it is done with all that it has taken out.
    #[test]
    fn the_next_one_finds_what_the_one_before_was_not_done_with() {
        let mut giver = Producer::new().unwrap();
        let filler = vec![0; CAPACITY - 3];
        assert!(giver.put([&filler, &[]]));
        let mut first = other_end(&giver);
        first.take(CAPACITY, &mut Vec::new()).unwrap();
        first.mark_done(0);
        assert!(giver.put([b"one", b"other"]));
        let mut bytes = Vec::new();
        assert_eq!(first.take(CAPACITY, &mut bytes).unwrap(), 8);
        assert_eq!((first.sleep(), giver.used()), (false, 8));
        let would = first.would_begin_at(5);
        first.mark_done(5);
        assert_eq!(would, first.begins_at());
        drop(first);
        assert_eq!(giver.left(), b"other");
        let mut second = other_end(&giver);
        assert_eq!(second.begins_at(), would);
        bytes.clear();
        second.take(CAPACITY, &mut bytes).unwrap();
        assert_eq!(bytes, b"other");
    }

    #[test]
    fn what_is_noted_is_there_when_whoever_noted_it_is_gone() {
        let giver = Producer::new().unwrap();
        giver.note(NOTES - 1, 7, 1 << 40);
        giver.note(0, 8, 5);
        giver.note(1, 9, 6);
        giver.note(1, 9, 0);
        giver.note(NOTES, 1, 1);
        let taker = other_end(&giver);
        drop(giver);
        assert_eq!(taker.notes(), [(8, 5), (7, 1 << 40)]);
    }

    #[test]
    fn all_bytes_come_in_order_across_the_end() {
        let mut giver = Producer::new().unwrap();
        let mut taker = other_end(&giver);
        let thread = std::thread::spawn(move || {
            let mut wanted = 0u64;
            while wanted < 3 * CAPACITY as u64 {
                let mut bytes = Vec::new();
                taker.take(100_001, &mut bytes).unwrap();
                taker.mark_done(0);
                for byte in bytes {
                    assert_eq!(byte, (wanted % 251) as u8);
                    wanted += 1;
                }
            }
        });
        let mut given = 0u64;
        while given < 3 * CAPACITY as u64 {
            let piece: Vec<u8> = (given..given + 70_003).map(|at| (at % 251) as u8).collect();
            let (one, other) = piece.split_at(5);
            while !giver.put([one, other]) {
                std::thread::yield_now();
            }
            given += piece.len() as u64;
        }
        thread.join().unwrap();
    }

    #[test]
    fn it_is_bounded_and_tells_of_room() {
        let mut giver = Producer::new().unwrap();
        let mut taker = other_end(&giver);
        assert!(!taker.sleep());
        let half = vec![1; CAPACITY / 2 + 1];
        assert!(giver.put([&half, &[]]) && !giver.put([&half, &[]]));
        assert!(giver.must_wake() && !giver.must_wake());
        assert!(taker.sleep());
        giver.wait_for_room();
        assert!(!taker.must_tell_of_room());
        assert_eq!(taker.take(2, &mut Vec::new()).unwrap(), 2);
        assert!(!taker.must_tell_of_room());
        taker.mark_done(0);
        assert!(taker.must_tell_of_room() && !taker.must_tell_of_room());
        assert_eq!((giver.taken(), giver.used()), (2, half.len() - 2));
    }

    #[test]
    fn what_outlives_its_giver_can_be_taken_and_nonsense_not() {
        let mut giver = Producer::new().unwrap();
        giver.put([b"last", b" words"]);
        let mut taker = other_end(&giver);
        drop(giver);
        let mut bytes = Vec::new();
        taker.take(CAPACITY, &mut bytes).unwrap();
        assert_eq!(bytes, b"last words");
        taker.memory.header().head.store(u64::MAX, Ordering::Relaxed);
        assert!(taker.take(1, &mut bytes).is_err());
        // Not sealed: it could become smaller.
        let (reading, _writing) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        assert!(Consumer::of(&reading).is_err());
    }
}
