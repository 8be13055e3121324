//! A ring of the last output of a terminal, in a file of memory (memfd_create(2))
//! that goes from one process to the next: whoever reads the terminal writes
//! it. Its length is sealed, so that nobody can take the memory away from
//! under another; all that is in it may have been written by anybody.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags};

use super::ReadOutcome;
use super::memfd::{self, Mapping, READ_WRITE};

/// Magic bytes at the beginning of a ring's file, with the number of the layout.
const MAGIC: [u8; 16] = *b"fpty ring\0\0\0\0\0\0\x01";

/// Offset of the number of output bytes so far, eight bytes.
const TOTAL_OFFSET: usize = 16;
/// Offset of that number when somebody last made room to read into, eight bytes.
const ROOM_OFFSET: usize = 24;
/// The most room to read into, in bytes.
const ROOM_LENGTH: usize = 4096;
/// Offset of the notes about the output, in bytes.
const NOTES_OFFSET: usize = 64;
/// Offset of the output, in bytes; the notes end before it.
const OUTPUT_OFFSET: usize = 16 * 1024;

/// How much is copied at once, in bytes.
const PAGE: usize = 4096;

/// Room for notes, in bytes.
pub const NOTES: usize = OUTPUT_OFFSET - NOTES_OFFSET;

/// The smallest capacity of a ring, in bytes of output.
pub const MIN_CAPACITY: usize = 16 * 1024;
/// The largest capacity of a ring, in bytes of output.
pub const MAX_CAPACITY: usize = 64 * 1024 * 1024;

/// The ring, mapped into this process.
#[derive(Debug)]
pub struct Ring {
    /// The file to pass the ring on by, where it is open: the mapping needs none.
    file: Option<OwnedFd>,
    memory: Mapping,
    capacity: usize,
    writes: bool,
    /// We have put zeros up to the place that follows so much output.
    zeros: Cell<u64>,
}

impl Ring {
    /// A ring for so much output.
    ///
    /// # Errors
    /// memfd_create(2), ftruncate(2), mmap(2).
    pub fn new(capacity: usize) -> io::Result<Self> {
        let capacity = capacity.clamp(MIN_CAPACITY, MAX_CAPACITY);
        let file = memfd::sealed(c"fpty ring", OUTPUT_OFFSET + capacity)?;
        let memory = map(&file, OUTPUT_OFFSET + capacity, true)?;
        let ring = Self { file: Some(file), memory, capacity, writes: true, zeros: Cell::new(0) };
        ring.put(0, &MAGIC);
        ring.counter(ROOM_OFFSET).store(u64::MAX, Ordering::Release);
        Ok(ring)
    }

    /// A ring that came from another process. One that is only looked at is
    /// not written.
    ///
    /// # Errors
    /// The file is no ring, or its memory could go away.
    pub fn open(file: OwnedFd, writes: bool) -> io::Result<Self> {
        let none = || io::Error::from_raw_os_error(libc::EINVAL);
        let length = memfd::length_of_sealed(&file).map_err(|_| none())?;
        let capacity = length.checked_sub(OUTPUT_OFFSET).ok_or_else(none)?;
        if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity) {
            return Err(none());
        }
        let memory = map(&file, length, writes)?;
        let ring = Self { file: Some(file), memory, capacity, writes, zeros: Cell::new(0) };
        let mut magic = [0; MAGIC.len()];
        ring.get(0, &mut magic);
        if magic != MAGIC {
            return Err(none());
        }
        Ok(ring)
    }

    /// The ring's file, to be passed on, where it is open.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Closes the ring's file: the ring goes on without a descriptor.
    pub fn close_file(&mut self) {
        self.file = None;
    }

    /// Has a file again. The one that was closed nobody finds any more, so this is a new
    /// one, with all that was in the ring: whoever has the other one sees and writes
    /// nothing of this.
    ///
    /// # Errors
    /// As of [`Ring::new`].
    pub fn open_file(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let mut ring = Self::new(self.capacity)?;
            self.copy_to(&ring);
            ring.writes = self.writes;
            *self = ring;
        }
        Ok(())
    }

    /// Copies all that was written; where nothing was there are no pages.
    fn copy_to(&self, ring: &Self) {
        let mut page = [0; PAGE];
        // What was read and not counted follows what was.
        let output = self.total().saturating_add(ROOM_LENGTH as u64).min(self.capacity as u64);
        let end = OUTPUT_OFFSET + output as usize;
        for at in (0..end).step_by(PAGE) {
            let page = &mut page[..PAGE.min(end - at)];
            self.get(at, page);
            if page.iter().any(|byte| *byte != 0) {
                ring.put(at, page);
            }
        }
    }

    /// Capacity of the ring, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Output so far, in bytes, as the writer has counted it.
    pub fn total(&self) -> u64 {
        self.counter(TOTAL_OFFSET).load(Ordering::Acquire)
    }

    /// Counts output that was written: it is there from now on.
    #[inline]
    pub fn count(&self, total: u64) {
        if self.writes {
            self.counter(TOTAL_OFFSET).store(total, Ordering::Release);
        }
    }

    /// Writes output whose first byte follows so much.
    #[inline]
    pub fn write(&self, mut total: u64, output: &[u8]) {
        let (skipped, mut output) = output.split_at(output.len().saturating_sub(self.capacity));
        total = total.wrapping_add(skipped.len() as u64);
        while !output.is_empty() {
            // Less than the capacity.
            let at = (total % self.capacity as u64) as usize;
            let (part, rest) = output.split_at(output.len().min(self.capacity - at));
            self.put(OUTPUT_OFFSET + at, part);
            total = total.wrapping_add(part.len() as u64);
            output = rest;
        }
    }

    /// Reads output from a terminal straight into the ring, and from there into
    /// the buffer: the kernel may have taken it from the terminal, and the
    /// reader be killed before it knows. It is not counted. `None`: nothing
    /// can be read this way.
    #[inline]
    pub fn read_from(
        &self,
        total: u64,
        terminal: impl AsFd,
        buffer: &mut [u8],
    ) -> Option<ReadOutcome> {
        if !self.writes {
            return None;
        }
        let (at, room) = self.room(total);
        // What is left of the room before needs none.
        let end = total.wrapping_add(room as u64);
        let zeros = end.wrapping_sub(self.zeros.replace(end)).min(room as u64) as usize;
        self.memory.write(at + room - zeros, &[0; ROOM_LENGTH][..zeros]);
        self.counter(ROOM_OFFSET).store(total, Ordering::Release);
        let room = room.min(buffer.len());
        let fd = terminal.as_fd().as_raw_fd();
        // SAFETY: room within the mapping, which nobody has a reference into.
        let result = unsafe { libc::read(fd, self.memory.at(at, room).cast(), room) };
        // No less than 0, where it is no error.
        let read = super::read_outcome(Errno::result(result).map(|count| count as usize));
        if let ReadOutcome::Bytes(count) = read {
            self.get(at, &mut buffer[..count]);
        }
        Some(read)
    }

    /// Output that a reader which was killed has read and not counted. The room ends with
    /// zeros, which a terminal ignores: output that ends with zeros itself loses nothing
    /// by that.
    pub fn uncommitted(&self, total: u64) -> Vec<u8> {
        if self.counter(ROOM_OFFSET).load(Ordering::Acquire) != total {
            return Vec::new();
        }
        let (at, room) = self.room(total);
        let mut output = vec![0; room];
        self.get(at, &mut output);
        output.truncate(output.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        output
    }

    /// The place of output that follows so much, and how much can be read there.
    fn room(&self, total: u64) -> (usize, usize) {
        // Less than the capacity.
        let at = (total % self.capacity as u64) as usize;
        (OUTPUT_OFFSET + at, ROOM_LENGTH.min(self.capacity - at))
    }

    /// The output between two places, no further apart than the capacity.
    pub fn read(&self, from: u64, to: u64) -> Vec<u8> {
        let length = usize::try_from(to.saturating_sub(from)).unwrap_or(0).min(self.capacity);
        let mut output = vec![0; length];
        let at = (from % self.capacity as u64) as usize;
        let (first, second) = output.split_at_mut(length.min(self.capacity - at));
        self.get(OUTPUT_OFFSET + at, first);
        self.get(OUTPUT_OFFSET, second);
        output
    }

    /// Writes a note.
    pub fn note(&self, at: usize, note: &[u8]) {
        if at <= NOTES && note.len() <= NOTES - at {
            self.put(NOTES_OFFSET + at, note);
        }
    }

    /// The first of the notes.
    pub fn notes<const N: usize>(&self) -> Box<[u8; N]> {
        const { assert!(N <= NOTES) };
        let mut notes = Box::new([0; N]);
        self.get(NOTES_OFFSET, notes.as_mut_slice());
        notes
    }

    fn counter(&self, offset: usize) -> &AtomicU64 {
        self.memory.number(offset)
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        if self.writes {
            self.memory.write(offset, bytes);
        }
    }

    fn get(&self, offset: usize, bytes: &mut [u8]) {
        self.memory.read(offset, bytes);
    }
}

fn map(file: &OwnedFd, length: usize, writes: bool) -> io::Result<Mapping> {
    let rights = if writes { READ_WRITE } else { ProtFlags::PROT_READ };
    Mapping::new(Some(file), length, rights, MapFlags::MAP_SHARED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(ring: &Ring) -> OwnedFd {
        ring.file().unwrap().try_clone_to_owned().unwrap()
    }

    #[test]
    fn without_its_file_it_goes_on_and_has_another_one_then() {
        for length in [0, 1, 5000, MIN_CAPACITY - 1, MIN_CAPACITY, 3 * MIN_CAPACITY + 77] {
            let mut ring = Ring::new(MIN_CAPACITY).unwrap();
            let before = Ring::open(copy(&ring), true).unwrap();
            let all: Vec<u8> = (0..length + 3).map(|n| (n % 251) as u8).collect();
            ring.write(0, &all[..length]);
            ring.count(length as u64);
            ring.note(7, b"note");
            ring.close_file();
            assert!(ring.file().is_none());
            // It is read into, and not counted.
            let (read, write) = nix::unistd::pipe().unwrap();
            nix::unistd::write(&write, b"end").unwrap();
            let total = length as u64;
            assert!(matches!(
                ring.read_from(total, &read, &mut [0; 9]),
                Some(ReadOutcome::Bytes(1..))
            ));
            let uncounted = ring.uncommitted(total);
            assert!(!uncounted.is_empty() && before.uncommitted(total) == uncounted);
            ring.open_file().unwrap();
            assert_eq!((ring.total(), ring.uncommitted(total)), (total, uncounted));
            // The oldest has given room.
            let from = total.saturating_sub((MIN_CAPACITY - ROOM_LENGTH) as u64);
            assert!(ring.read(from, total) == all[from as usize..length], "{length}");
            assert_eq!(ring.notes::<11>().as_slice(), b"\0\0\0\0\0\0\0note");
            // It is the one that is passed on from now on.
            let other = Ring::open(copy(&ring), false).unwrap();
            ring.count(total + 1);
            assert_eq!((other.total(), before.total()), (total + 1, total));
        }
    }

    #[test]
    fn what_is_copied_takes_no_more_memory() {
        let mut ring = Ring::new(MAX_CAPACITY).unwrap();
        ring.write(0, b"a line");
        ring.count(6);
        ring.close_file();
        ring.open_file().unwrap();
        let status = nix::sys::stat::fstat(ring.file().unwrap()).unwrap();
        // Of 512 bytes each.
        assert!(status.st_blocks <= 2 * 8, "{}", status.st_blocks);
    }

    #[test]
    fn it_keeps_the_last() {
        let ring = Ring::new(MIN_CAPACITY).unwrap();
        let all: Vec<u8> = (0..30_000u32).map(|n| n as u8).collect();
        let mut total = 0;
        for length in [0, 1, 7, 4000, 95, 4096, 17_000, 3] {
            let output = &all[total as usize..total as usize + length];
            ring.write(total, output);
            total += length as u64;
            ring.count(total);
            let from = total.saturating_sub(MIN_CAPACITY as u64);
            assert_eq!(ring.read(from, total), all[from as usize..total as usize]);
        }
        ring.note(3, b"note");
        ring.note(NOTES - 1, b"too long");
        let other = Ring::open(copy(&ring), false).unwrap();
        assert_eq!((other.total(), other.capacity()), (total, MIN_CAPACITY));
        assert_eq!(other.notes::<7>().as_slice(), b"\0\0\0note");
        assert_eq!(other.read(total - 9, total), all[total as usize - 9..total as usize]);
        // It is only looked at.
        other.count(5);
        other.write(0, b"x");
        assert_eq!(ring.total(), total);
    }

    #[test]
    fn what_was_read_is_there_before_it_is_counted() {
        let ring = Ring::new(MIN_CAPACITY).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        assert_eq!(ring.uncommitted(0), b"");
        let mut buffer = [0; 100];
        let mut total = 0;
        for round in 0..1000u32 {
            let output = round.to_string().repeat(9);
            nix::unistd::write(&write, output.as_bytes()).unwrap();
            let Some(ReadOutcome::Bytes(count)) = ring.read_from(total, &read, &mut buffer) else {
                panic!("there is something");
            };
            // At the end of the ring it may be less.
            assert!(output.as_bytes().starts_with(&buffer[..count]), "{round}");
            assert_eq!(ring.uncommitted(total), buffer[..count]);
            total += count as u64;
            ring.count(total);
            assert_eq!(ring.uncommitted(total), b"");
            while count < output.len() && nix::unistd::read(&read, &mut buffer).unwrap() == 100 {}
        }
        assert_eq!(
            ring.read_from(total, std::fs::File::open("/").unwrap(), &mut buffer),
            Some(ReadOutcome::Closed)
        );
        assert_eq!(ring.uncommitted(total), b"");
    }

    #[test]
    fn nothing_else_is_taken() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Ring::open(file.into(), true).is_err());
        let file = tempfile::tempfile().unwrap();
        file.set_len((OUTPUT_OFFSET + MIN_CAPACITY) as u64).unwrap();
        assert!(Ring::open(file.into(), true).is_err(), "it could be cut");
        let ring = Ring::new(MIN_CAPACITY).unwrap();
        assert!(nix::unistd::ftruncate(ring.file().unwrap(), 0).is_err());
        ring.put(0, b"x");
        assert!(Ring::open(copy(&ring), true).is_err(), "another layout");
    }
}
