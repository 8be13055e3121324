//! The scrollback: the last output of a session's terminal, with the modes and sizes
//! that were in force, in a ring ([`crate::sys::scrollback_ring`]) that goes from one reader of the
//! terminal to the next, as a descriptor.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | the writer, the reader, and the ring as pieces for packets |
//! | `checkpoints.rs` | modes and size at places in the output, kept in the ring's notes |

pub mod checkpoints;

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::{Context, Error, Result};
use crate::scrollback::checkpoints::{Checkpoint, CheckpointWriter, NOTES_LENGTH};
use crate::sys::pty::Master;
use crate::sys::scrollback_ring::Ring;
use crate::sys::{ReadOutcome, Size};
use crate::terminal::modes::Modes;

/// More output than any terminal has, in bytes: a ring with more is not ours.
const MAX_TOTAL: u64 = 1 << 60;

/// How much output is written before it is counted, in bytes. A writer that is
/// killed in between has overwritten so much of the oldest output that is still
/// counted on.
const CHUNK: usize = 4096;

/// Offset of the note that a paste is under way (a byte).
const PASTING_OFFSET: usize = NOTES_LENGTH;

/// How much output is passed on in pieces, in bytes, where the distance of the
/// checkpoints allows that.
const MAX_SENT_IN_PIECES: usize = 1024 * 1024;

/// The size that is taken where none is noted.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// The scrollback's writer, of whoever reads the terminal.
#[derive(Debug)]
pub struct ScrollbackWriter {
    ring: Ring,
    checkpoints: CheckpointWriter,
}

impl ScrollbackWriter {
    /// The scrollback of a new terminal.
    ///
    /// # Errors
    /// Memory is short.
    pub fn new(capacity: usize, size: Size) -> Result<Self> {
        let ring = Ring::new(capacity).context("cannot keep output")?;
        let size = (size.rows, size.cols);
        let checkpoints =
            CheckpointWriter::new(ring.capacity(), size, |at, note| ring.note(at, note));
        Ok(Self { ring, checkpoints })
    }

    /// The scrollback that another process has written, to be written on.
    ///
    /// # Errors
    /// The file is no ring.
    pub fn resume(shared_file: OwnedFd) -> Result<Self> {
        Self::from_ring(Ring::open(shared_file, true).context("cannot use the ring")?)
    }

    /// The scrollback in a ring that was received already, to be written on.
    ///
    /// # Errors
    /// As of [`ScrollbackWriter::resume`].
    pub fn from_ring(ring: Ring) -> Result<Self> {
        let total = ring.total();
        if total > MAX_TOTAL {
            return Err(Error::new("cannot use the ring: its count of output is impossible"));
        }
        let read = |from, to| ring.read(from, to);
        let checkpoints =
            CheckpointWriter::resume(&ring.notes(), ring.capacity(), total, DEFAULT_SIZE, read);
        let uncounted = ring.uncommitted(total);
        let mut remains = Self { ring, checkpoints };
        remains.write(&uncounted);
        Ok(remains)
    }

    /// Goes on after what another process has written meanwhile.
    ///
    /// # Errors
    /// As of [`ScrollbackWriter::resume`].
    pub fn catch_up(&mut self) -> Result<()> {
        let shared_file = self.try_clone_file().context("cannot use the ring")?;
        *self = Self::resume(shared_file)?;
        Ok(())
    }

    /// The ring's file, where it is open.
    pub fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        self.ring.file()
    }

    /// Another descriptor of the ring's file.
    fn try_clone_file(&self) -> std::io::Result<OwnedFd> {
        let none = || std::io::Error::from(std::io::ErrorKind::NotFound);
        self.shared_file().ok_or_else(none)?.try_clone_to_owned()
    }

    /// Closes the ring's file: the output is still kept, without a descriptor.
    pub fn close_file(&mut self) {
        self.ring.close_file();
    }

    /// Opens a file for the ring again: a new one, and who has the one before sees
    /// nothing more.
    ///
    /// # Errors
    /// Memory is short, or no descriptor is left.
    pub fn open_file(&mut self) -> Result<()> {
        self.ring.open_file().context("cannot pass on the ring")
    }

    /// A descriptor of the ring for another process; see
    /// [`ScrollbackWriter::open_file`].
    ///
    /// # Errors
    /// As there.
    pub fn share_file(&mut self) -> Result<OwnedFd> {
        self.open_file()?;
        self.try_clone_file().context("cannot pass on the ring")
    }

    /// Reads output from the terminal, and keeps it: nothing is lost if we are
    /// killed meanwhile.
    #[inline]
    pub fn read(&mut self, terminal: &Master, buffer: &mut [u8]) -> ReadOutcome {
        let Self { ring, checkpoints } = self;
        let Some(read) = ring.read_from(checkpoints.total, terminal, buffer) else {
            return ReadOutcome::WouldBlock;
        };
        if let ReadOutcome::Bytes(count) = read {
            checkpoints.follow(&buffer[..count], |at, note| ring.note(at, note));
            ring.count(checkpoints.total);
        }
        read
    }

    /// Keeps output that was read otherwise.
    #[inline]
    pub fn write(&mut self, output: &[u8]) {
        let Self { ring, checkpoints } = self;
        for piece in output.chunks(CHUNK) {
            ring.write(checkpoints.total, piece);
            checkpoints.follow(piece, |at, note| ring.note(at, note));
            ring.count(checkpoints.total);
        }
    }

    /// A paste has begun, or ended: whoever comes after a reader that was
    /// killed within one ends it.
    pub fn set_pasting(&mut self, pastes: bool) {
        self.ring.note(PASTING_OFFSET, &[pastes.into()]);
    }

    /// Whether a paste is under way.
    pub fn is_pasting(&self) -> bool {
        self.ring.notes::<{ NOTES_LENGTH + 1 }>()[PASTING_OFFSET] == 1
    }

    /// The terminal has this size from here on.
    pub fn resized(&mut self, size: Size) {
        let ring = &self.ring;
        self.checkpoints.resized((size.rows, size.cols), |at, note| ring.note(at, note));
    }

    /// A reader of this scrollback.
    pub fn reader(&self) -> Option<ScrollbackReader> {
        ScrollbackReader::open(self.try_clone_file().ok()?).ok()
    }

    /// The modes in force.
    pub fn modes(&self) -> &Modes {
        &self.checkpoints.modes
    }

    /// Output so far, in bytes.
    pub fn total(&self) -> u64 {
        self.checkpoints.total
    }

    /// Whether the program has asked what terminal this is; see
    /// [`Modes::take_da1_request`].
    pub fn take_da1_request(&mut self) -> bool {
        self.checkpoints.modes.take_da1_request()
    }
}

/// The scrollback's reader, which changes nothing.
#[derive(Debug)]
pub struct ScrollbackReader(Ring);

impl ScrollbackReader {
    /// Opens a ring by a descriptor that was received.
    ///
    /// # Errors
    /// The file is no ring.
    pub fn open(shared_file: OwnedFd) -> Result<Self> {
        let mut ring = Ring::open(shared_file, false).context("cannot use the ring")?;
        ring.close_file();
        Ok(Self(ring))
    }

    /// Output so far, in bytes, as the writer says; `None`: it says nonsense.
    pub fn total(&self) -> Option<u64> {
        Some(self.0.total()).filter(|total| *total <= MAX_TOTAL)
    }

    /// The output between two places; `None` where it is not there any more.
    pub fn range(&self, from: u64, to: u64) -> Option<Vec<u8>> {
        let output = self.0.read(from, to);
        // Looked at afterwards: it was written meanwhile.
        let kept = (self.0.capacity() - CHUNK) as u64;
        let is_there = from >= self.0.total().saturating_sub(kept);
        (is_there && to.checked_sub(from)? == output.len() as u64).then_some(output)
    }

    /// Output up to this place, at the latest now, in bytes, and how much before it is
    /// kept.
    fn kept_until(&self, until: u64) -> Option<(u64, usize)> {
        let now = self.0.total().min(MAX_TOTAL);
        let total = now.min(until);
        // What was written since has taken the oldest away.
        let lost = usize::try_from(now - total).ok()?;
        Some((total, self.0.capacity().checked_sub(lost + CHUNK)?))
    }

    /// The checkpoint of the first known place, and the output from there to the last, or
    /// to this place; `None`: nothing is known.
    pub fn output(&self, until: Option<u64>) -> Option<(Checkpoint, Vec<u8>)> {
        let (total, kept) = self.kept_until(until.unwrap_or(MAX_TOTAL))?;
        let checkpoint = Checkpoint::oldest(&self.0.notes::<NOTES_LENGTH>(), kept, total)?;
        let output = self.0.read(checkpoint.from, total);
        Some((checkpoint, output))
    }

    /// The scrollback as bytes, for a client that no descriptor reaches; see
    /// [`RingPieces`].
    pub fn to_pieces(&self, until: u64) -> Option<Vec<u8>> {
        let (total, kept) = self.kept_until(until)?;
        // There is a note in each fourteenth.
        let enough = MAX_SENT_IN_PIECES.max(self.0.capacity() / 7);
        let notes = self.0.notes::<NOTES_LENGTH>();
        let from = Checkpoint::oldest(&notes, kept.min(enough), total)?.from;
        let mut bytes = notes.to_vec();
        bytes.extend_from_slice(&from.to_le_bytes());
        bytes.extend_from_slice(&self.0.read(from, total));
        Some(bytes)
    }
}

/// Ring that comes in pieces: its checkpoints, how much output there was before what
/// follows (u64, little-endian), and the output from there on.
#[derive(Debug, Default)]
pub struct RingPieces(Vec<u8>);

/// The longest ring that there is, with its checkpoints, in bytes.
const MAX_PIECES_LENGTH: usize = 64 * 1024 * 1024 + NOTES_LENGTH + 8;

impl RingPieces {
    /// Appends a piece.
    ///
    /// # Errors
    /// The pieces have no end.
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        if self.0.len() + piece.len() > MAX_PIECES_LENGTH {
            return Err(Error::new("the gateway sends output of old without end"));
        }
        self.0.extend_from_slice(piece);
        Ok(())
    }

    /// The checkpoint and the output, as in [`ScrollbackReader::output`].
    pub fn output(self) -> Option<(Checkpoint, Vec<u8>)> {
        let (notes, rest) = self.0.split_first_chunk::<NOTES_LENGTH>()?;
        let (from, output) = rest.split_first_chunk()?;
        let from = u64::from_le_bytes(*from);
        let total = from.checked_add(output.len() as u64).filter(|total| *total <= MAX_TOTAL)?;
        let checkpoint = Checkpoint::oldest(notes, output.len(), total)?;
        let before = usize::try_from(checkpoint.from - from).ok()?;
        let output = output[before..].to_vec();
        Some((checkpoint, output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_on_where_the_other_was_killed() {
        let size = Size { rows: 24, cols: 80 };
        let mut one = ScrollbackWriter::new(16_384, size).unwrap();
        let line = b"a line with \x1b[31mcolours\x1b[m\r\n";
        for _ in 0..1000 {
            one.write(line);
        }
        one.write(b"\x1b[?2004h\x1b[3");
        let shared_file = one.try_clone_file().unwrap();
        drop(one);
        let mut two = ScrollbackWriter::resume(shared_file.try_clone().unwrap()).unwrap();
        assert!(two.modes().is_in_sequence());
        two.resized(Size { rows: 50, cols: 90 });
        two.write(b"2mgreen\x1b[c");
        assert!(!two.modes().is_in_sequence() && two.take_da1_request());
        two.write(b"\x1b[");
        let mut three = ScrollbackWriter::resume(shared_file.try_clone().unwrap()).unwrap();
        assert!(!three.take_da1_request(), "it was asked before");
        three.write(b"c");
        assert!(three.take_da1_request());
        let (checkpoint, output) =
            ScrollbackReader::open(shared_file).unwrap().output(None).unwrap();
        assert!(output.ends_with(b"\x1b[32mgreen\x1b[c\x1b[c"));
        assert!((11_000..=12_288).contains(&output.len()), "{}", output.len());
        assert_eq!(checkpoint.size, (24, 80));
    }

    #[test]
    fn pieces_say_what_the_ring_does() {
        let mut one = ScrollbackWriter::new(16_384, Size { rows: 24, cols: 80 }).unwrap();
        for _ in 0..2 {
            let seen = ScrollbackReader::open(one.try_clone_file().unwrap()).unwrap();
            let mut pieces = RingPieces::default();
            for piece in seen.to_pieces(one.total()).unwrap().chunks(1000) {
                pieces.push(piece).unwrap();
            }
            let (checkpoint, output) = pieces.output().unwrap();
            let (there, kept) = seen.output(None).unwrap();
            assert_eq!((checkpoint.from, checkpoint.size, output), (there.from, there.size, kept));
            for number in 0..3000 {
                one.write(format!("line {number}\x1b[1m\r\n").as_bytes());
            }
            one.resized(Size { rows: 50, cols: 90 });
        }
        for length in [0, NOTES_LENGTH, NOTES_LENGTH + 8, NOTES_LENGTH + 100] {
            let mut pieces = RingPieces::default();
            pieces.push(&vec![255; length]).unwrap();
            assert!(pieces.output().is_none());
        }
        assert!(RingPieces::default().push(&vec![0; MAX_PIECES_LENGTH + 1]).is_err());
    }

    #[test]
    fn nonsense_is_refused_or_bounded() {
        let mut one = ScrollbackWriter::new(16_384, Size { rows: 24, cols: 80 }).unwrap();
        one.write(b"x");
        let shared_file = || one.try_clone_file().unwrap();
        one.ring.count(u64::MAX);
        assert!(ScrollbackWriter::resume(shared_file()).is_err());
        let seen = ScrollbackReader::open(shared_file()).unwrap().output(None);
        assert!(seen.is_none());
        one.ring.count(1 << 59);
        for at in 0..NOTES_LENGTH {
            one.ring.note(at, &[at as u8 ^ 0x5a]);
        }
        let mut two = ScrollbackWriter::resume(shared_file()).unwrap();
        two.write(&[b'y'; 100_000]);
        assert_eq!(two.ring.total(), (1 << 59) + 100_000);
    }
}
