//! What a session leaves to whoever comes back to it: the last output of its
//! terminal, with the modes and sizes that it was in. It goes from one reader
//! of the terminal to the next, as a descriptor.

pub mod checkpoints;

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::{Context, Error, Result};
use crate::scrollback::checkpoints::{AREA, Past, Trail};
use crate::sys::pty::Master;
use crate::sys::ring::Ring;
use crate::sys::{Read, Size};
use crate::terminal::modes::Modes;

/// More output than any terminal has: who says so is none of ours.
const MOST: u64 = 1 << 60;

/// How much output is written before it is counted. Who is killed in between
/// has overwritten so much of the oldest that is still counted on.
const PIECE: usize = 4096;

/// Where it is noted that a paste is under way (a byte).
const PASTE_AT: usize = AREA;

/// How much output is passed on in pieces, where the distance of its notes
/// allows that.
const IN_PIECES: usize = 1024 * 1024;

/// The size that is taken where none is noted.
const USUAL: (u16, u16) = (24, 80);

/// Remains that are written.
#[derive(Debug)]
pub struct Remains {
    ring: Ring,
    trail: Trail,
}

impl Remains {
    /// Of a terminal that has said nothing yet.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(capacity: usize, size: Size) -> Result<Self> {
        let ring = Ring::new(capacity).context("cannot keep output")?;
        let size = (size.rows, size.cols);
        let trail = Trail::new(ring.capacity(), size, |at, note| ring.note(at, note));
        Ok(Self { ring, trail })
    }

    /// Goes on with what somebody else has written.
    ///
    /// # Errors
    /// It is not what it should be.
    pub fn go_on(file: OwnedFd) -> Result<Self> {
        Self::of(Ring::received(file, true).context("cannot use kept output")?)
    }

    /// The same, where the ring was received already.
    ///
    /// # Errors
    /// As of [`Remains::go_on`].
    pub fn of(ring: Ring) -> Result<Self> {
        let total = ring.total();
        if total > MOST {
            return Err(Error::new("cannot use kept output: it is none"));
        }
        let read = |from, to| ring.read(from, to);
        let trail = Trail::resume(&ring.notes(), ring.capacity(), total, USUAL, read);
        let uncounted = ring.uncounted(total);
        let mut remains = Self { ring, trail };
        remains.keep(&uncounted);
        Ok(remains)
    }

    /// Somebody else has written meanwhile: goes on after that.
    ///
    /// # Errors
    /// As of [`Remains::go_on`].
    pub fn catch_up(&mut self) -> Result<()> {
        let file = self.copy().context("cannot use kept output")?;
        *self = Self::go_on(file)?;
        Ok(())
    }

    /// What is passed on, where that is open.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.ring.file()
    }

    /// Another descriptor of it.
    fn copy(&self) -> std::io::Result<OwnedFd> {
        let none = || std::io::Error::from(std::io::ErrorKind::NotFound);
        self.file().ok_or_else(none)?.try_clone_to_owned()
    }

    /// Closes that: the output is kept on, without a descriptor.
    pub fn close_file(&mut self) {
        self.ring.close_file();
    }

    /// Has one again: another one, and who has the one before sees nothing more.
    ///
    /// # Errors
    /// There is no memory or descriptor for it.
    pub fn open_file(&mut self) -> Result<()> {
        self.ring.open_file().context("cannot pass on kept output")
    }

    /// A descriptor for somebody else: see [`Remains::open_file`].
    ///
    /// # Errors
    /// As there.
    pub fn share(&mut self) -> Result<OwnedFd> {
        self.open_file()?;
        self.copy().context("cannot pass on kept output")
    }

    /// Reads output from the terminal, and keeps it: nothing is lost if we are
    /// killed meanwhile.
    #[inline]
    pub fn read(&mut self, terminal: &Master, buffer: &mut [u8]) -> Read {
        let Self { ring, trail } = self;
        let Some(read) = ring.read_from(trail.total(), terminal, buffer) else {
            return Read::Blocked;
        };
        if let Read::Bytes(count) = read {
            trail.follow(&buffer[..count], |at, note| ring.note(at, note));
            ring.count(trail.total());
        }
        read
    }

    /// Keeps output that was read otherwise.
    #[inline]
    pub fn keep(&mut self, output: &[u8]) {
        let Self { ring, trail } = self;
        for piece in output.chunks(PIECE) {
            ring.write(trail.total(), piece);
            trail.follow(piece, |at, note| ring.note(at, note));
            ring.count(trail.total());
        }
    }

    /// A paste has begun, or ended: whoever comes after a reader that was
    /// killed within one ends it.
    pub fn pastes(&mut self, pastes: bool) {
        self.ring.note(PASTE_AT, &[pastes.into()]);
    }

    /// Whether a paste is under way.
    pub fn is_in_a_paste(&self) -> bool {
        self.ring.notes::<{ AREA + 1 }>()[PASTE_AT] == 1
    }

    /// The terminal has this size from here on.
    pub fn resized(&mut self, size: Size) {
        let ring = &self.ring;
        self.trail.resized((size.rows, size.cols), |at, note| ring.note(at, note));
    }

    /// The same, to be looked at.
    pub fn seen(&self) -> Option<Seen> {
        Seen::received(self.copy().ok()?).ok()
    }

    /// The modes in force.
    pub fn modes(&self) -> &Modes {
        self.trail.modes()
    }

    /// How much output there was in all.
    pub fn total(&self) -> u64 {
        self.trail.total()
    }

    /// Whether the program has asked what terminal this is; see
    /// [`Modes::take_asked`].
    pub fn take_asked(&mut self) -> bool {
        self.trail.take_asked()
    }
}

/// Remains that are only looked at.
#[derive(Debug)]
pub struct Seen(Ring);

impl Seen {
    /// Of a descriptor that came.
    ///
    /// # Errors
    /// It is not what it should be.
    pub fn received(file: OwnedFd) -> Result<Self> {
        let mut ring = Ring::received(file, false).context("cannot use kept output")?;
        ring.close_file();
        Ok(Self(ring))
    }

    /// How much output there was in all, says whoever wrote it; `None`: it says
    /// nonsense.
    pub fn total(&self) -> Option<u64> {
        Some(self.0.total()).filter(|total| *total <= MOST)
    }

    /// The output between two places; `None` where it is not there any more.
    pub fn between(&self, from: u64, to: u64) -> Option<Vec<u8>> {
        let output = self.0.read(from, to);
        // Looked at afterwards: it was written meanwhile.
        let kept = (self.0.capacity() - PIECE) as u64;
        let is_there = from >= self.0.total().saturating_sub(kept);
        (is_there && to.checked_sub(from)? == output.len() as u64).then_some(output)
    }

    /// What was in force at the first place that is known, and the output from
    /// there to the last, or to this one; `None`: nothing is known.
    pub fn output(&self, until: Option<u64>) -> Option<(Past, Vec<u8>)> {
        let now = self.0.total().min(MOST);
        let total = now.min(until.unwrap_or(MOST));
        // What was written since has taken the oldest away.
        let lost = usize::try_from(now - total).ok()?;
        let kept = self.0.capacity().checked_sub(lost + PIECE)?;
        let past = Past::oldest(&self.0.notes::<AREA>(), kept, total)?;
        let output = self.0.read(past.from, total);
        Some((past, output))
    }

    /// The same as bytes, for whom the ring does not reach: see [`Pieces`].
    pub fn in_pieces(&self, until: u64) -> Option<Vec<u8>> {
        let now = self.0.total().min(MOST);
        let total = now.min(until);
        let lost = usize::try_from(now - total).ok()?;
        let kept = self.0.capacity().checked_sub(lost + PIECE)?;
        // There is a note in each fourteenth.
        let enough = IN_PIECES.max(self.0.capacity() / 7);
        let notes = self.0.notes::<AREA>();
        let from = Past::oldest(&notes, kept.min(enough), total)?.from;
        let mut bytes = notes.to_vec();
        bytes.extend_from_slice(&from.to_le_bytes());
        bytes.extend_from_slice(&self.0.read(from, total));
        Some(bytes)
    }
}

/// What is kept of the output, as it comes in pieces: the ring's notes, how
/// much output there was before what follows (u64, little-endian), and the
/// output from there on.
#[derive(Debug, Default)]
pub struct Pieces(Vec<u8>);

/// The longest ring that there is, and what comes before its output.
const LONGEST: usize = 64 * 1024 * 1024 + AREA + 8;

impl Pieces {
    /// One more.
    ///
    /// # Errors
    /// They have no end.
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        if self.0.len() + piece.len() > LONGEST {
            return Err(Error::new("the router sends output of old without end"));
        }
        self.0.extend_from_slice(piece);
        Ok(())
    }

    /// What [`Seen::output`] says of a ring.
    pub fn output(self) -> Option<(Past, Vec<u8>)> {
        let (notes, rest) = self.0.split_first_chunk::<AREA>()?;
        let (from, output) = rest.split_first_chunk()?;
        let from = u64::from_le_bytes(*from);
        let total = from.checked_add(output.len() as u64).filter(|total| *total <= MOST)?;
        let past = Past::oldest(notes, output.len(), total)?;
        let before = usize::try_from(past.from - from).ok()?;
        let output = output[before..].to_vec();
        Some((past, output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_on_where_the_other_was_killed() {
        let size = Size { rows: 24, cols: 80 };
        let mut one = Remains::new(16_384, size).unwrap();
        let line = b"a line with \x1b[31mcolours\x1b[m\r\n";
        for _ in 0..1000 {
            one.keep(line);
        }
        one.keep(b"\x1b[?2004h\x1b[3");
        let file = one.copy().unwrap();
        drop(one);
        let mut two = Remains::go_on(file.try_clone().unwrap()).unwrap();
        assert!(two.modes().is_in_a_sequence());
        two.resized(Size { rows: 50, cols: 90 });
        two.keep(b"2mgreen\x1b[c");
        assert!(!two.modes().is_in_a_sequence() && two.take_asked());
        two.keep(b"\x1b[");
        let mut three = Remains::go_on(file.try_clone().unwrap()).unwrap();
        assert!(!three.take_asked(), "it was asked before");
        three.keep(b"c");
        assert!(three.take_asked());
        let (past, output) = Seen::received(file).unwrap().output(None).unwrap();
        assert!(output.ends_with(b"\x1b[32mgreen\x1b[c\x1b[c"));
        assert!((11_000..=12_288).contains(&output.len()), "{}", output.len());
        assert_eq!(past.size, (24, 80));
    }

    #[test]
    fn pieces_say_what_the_ring_does() {
        let mut one = Remains::new(16_384, Size { rows: 24, cols: 80 }).unwrap();
        for _ in 0..2 {
            let seen = Seen::received(one.copy().unwrap()).unwrap();
            let mut pieces = Pieces::default();
            for piece in seen.in_pieces(one.total()).unwrap().chunks(1000) {
                pieces.push(piece).unwrap();
            }
            let (past, output) = pieces.output().unwrap();
            let (there, kept) = seen.output(None).unwrap();
            assert_eq!((past.from, past.size, output), (there.from, there.size, kept));
            for number in 0..3000 {
                one.keep(format!("line {number}\x1b[1m\r\n").as_bytes());
            }
            one.resized(Size { rows: 50, cols: 90 });
        }
        for length in [0, AREA, AREA + 8, AREA + 100] {
            let mut pieces = Pieces::default();
            pieces.push(&vec![255; length]).unwrap();
            assert!(pieces.output().is_none());
        }
        assert!(Pieces::default().push(&vec![0; LONGEST + 1]).is_err());
    }

    #[test]
    fn nonsense_is_refused_or_bounded() {
        let mut one = Remains::new(16_384, Size { rows: 24, cols: 80 }).unwrap();
        one.keep(b"x");
        let file = || one.copy().unwrap();
        one.ring.count(u64::MAX);
        assert!(Remains::go_on(file()).is_err());
        let seen = Seen::received(file()).unwrap().output(None);
        assert!(seen.is_none());
        one.ring.count(1 << 59);
        for at in 0..AREA {
            one.ring.note(at, &[at as u8 ^ 0x5a]);
        }
        let mut two = Remains::go_on(file()).unwrap();
        two.keep(&[b'y'; 100_000]);
        assert_eq!(two.ring.total(), (1 << 59) + 100_000);
    }
}
