//! Checkpoints of output of which a ring keeps the last: the modes of the terminal,
//! and its size, at places in the output that the ring still has. Whoever restores the
//! screen begins with what was in force there, and whoever goes on writing knows what is
//! in force now, although the writer before was killed between two bytes: only complete
//! checkpoints count.
//!
//! The ring has notes of [`NOTES_LENGTH`] bytes for them, all zero at first. Whoever
//! writes output into the ring hands it to [`CheckpointWriter::follow`] as well, which
//! says what to write into the notes, and only then counts it as written.

use std::collections::VecDeque;

use crate::terminal::modes::{self, Modes};

/// Notes of modes. The ring is as long as the distance of the first from the
/// fifteenth: one is being overwritten at most.
const CHECKPOINTS: usize = 16;
const INTERVALS_IN_RING: u64 = 14;

/// Length of a checkpoint: its place in the output, the size, the modes, and the place
/// again, which tells that it is complete.
const CHECKPOINT_LENGTH: usize = 8 + 4 + modes::SIZE + 8;

/// Changes of the size that are kept, and the length of one: its number, the
/// size, where.
const RESIZES: usize = 16;
const RESIZE_LENGTH: usize = 4 + 4 + 8;

const RESIZES_OFFSET: usize = CHECKPOINTS * CHECKPOINT_LENGTH;

/// Length of the area of checkpoints and resizes, in bytes.
pub const NOTES_LENGTH: usize = RESIZES_OFFSET + RESIZES * RESIZE_LENGTH;

/// A terminal's height and width.
pub type Dimensions = (u16, u16);

/// The most rows or columns that are believed.
const MAX_DIMENSION: u16 = 2000;

/// The checkpoints' writer: follows output that goes into a ring.
#[derive(Clone, Debug)]
pub struct CheckpointWriter {
    /// The modes in force.
    pub(super) modes: Modes,
    size: Dimensions,
    /// Output so far, in bytes.
    pub(super) total: u64,
    /// A note is made after each so many bytes.
    interval: u64,
    resizes: u32,
}

impl CheckpointWriter {
    /// The checkpoints of a new ring.
    pub fn new(capacity: usize, size: Dimensions, mut save: impl FnMut(usize, &[u8])) -> Self {
        let checkpoints = Self {
            modes: Modes::default(),
            size,
            total: 0,
            interval: interval(capacity),
            resizes: 0,
        };
        checkpoints.write_checkpoint(&mut save);
        checkpoints
    }

    /// The checkpoints of a ring that another process has written; `read` gives its
    /// bytes from the first to the second place. Where none is complete the size is
    /// this.
    pub fn resume(
        notes: &[u8; NOTES_LENGTH],
        capacity: usize,
        total: u64,
        size: Dimensions,
        read: impl FnOnce(u64, u64) -> Vec<u8>,
    ) -> Self {
        let mut checkpoint = Checkpoint::newest(notes, capacity, total).unwrap_or_else(|| {
            Checkpoint { from: total, size, modes: Modes::default(), resizes: VecDeque::new() }
        });
        let output = read(checkpoint.from, total);
        checkpoint.replay(total, &output, |_, _| {});
        let resizes = resize_notes(notes).map(|(order, ..)| order).max().unwrap_or(0);
        let Checkpoint { mut modes, size, .. } = checkpoint;
        // Whoever read it has answered, or the terminal that it was shown to.
        modes.take_da1_request();
        Self { modes, size, total, interval: interval(capacity), resizes }
    }

    /// Takes output; `save` writes into the area.
    #[inline]
    pub fn follow(&mut self, mut output: &[u8], mut save: impl FnMut(usize, &[u8])) {
        loop {
            let until_checkpoint = self.interval - self.total % self.interval;
            let length = (output.len() as u64).min(until_checkpoint);
            // No longer than the output.
            let (part, rest) = output.split_at(length as usize);
            self.modes.follow(part);
            self.total += length;
            if length < until_checkpoint {
                return;
            }
            self.write_checkpoint(&mut save);
            output = rest;
        }
    }

    /// The terminal has another size from here on.
    pub fn resized(&mut self, size: Dimensions, mut save: impl FnMut(usize, &[u8])) {
        if size == self.size {
            return;
        }
        self.size = size;
        self.modes.resized();
        self.resizes = self.resizes.wrapping_add(1).max(1);
        let mut resize = [0; RESIZE_LENGTH];
        resize[..4].copy_from_slice(&self.resizes.to_le_bytes());
        resize[4..6].copy_from_slice(&size.0.to_le_bytes());
        resize[6..8].copy_from_slice(&size.1.to_le_bytes());
        resize[8..].copy_from_slice(&self.total.to_le_bytes());
        save(RESIZES_OFFSET + self.resizes as usize % RESIZES * RESIZE_LENGTH, &resize);
    }

    fn write_checkpoint(&self, save: &mut impl FnMut(usize, &[u8])) {
        let place = self.total.to_le_bytes();
        let at = (self.total / self.interval % CHECKPOINTS as u64) as usize * CHECKPOINT_LENGTH;
        // It is none while it is being written.
        save(at + CHECKPOINT_LENGTH - 8, &u64::MAX.to_le_bytes());
        let mut record = [0; CHECKPOINT_LENGTH - 8];
        record[..8].copy_from_slice(&place);
        record[8..10].copy_from_slice(&self.size.0.to_le_bytes());
        record[10..12].copy_from_slice(&self.size.1.to_le_bytes());
        record[12..].copy_from_slice(&self.modes.to_bytes());
        save(at, &record);
        save(at + CHECKPOINT_LENGTH - 8, &place);
    }
}

fn interval(capacity: usize) -> u64 {
    (capacity as u64).div_ceil(INTERVALS_IN_RING).max(1)
}

/// A checkpoint: the modes and the size at a place in the output, and the resizes after
/// it.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Output before the checkpoint, in bytes.
    pub from: u64,
    /// The size of the terminal there.
    pub size: Dimensions,
    /// The terminal's modes at that place.
    pub modes: Modes,
    /// Places where the terminal was resized, and the new sizes.
    resizes: VecDeque<(u64, Dimensions)>,
}

impl Checkpoint {
    /// The first place that a ring still has all output after.
    pub fn oldest(notes: &[u8; NOTES_LENGTH], capacity: usize, total: u64) -> Option<Self> {
        Self::all(notes, capacity, total).min_by_key(|checkpoint| checkpoint.from)
    }

    fn newest(notes: &[u8; NOTES_LENGTH], capacity: usize, total: u64) -> Option<Self> {
        Self::all(notes, capacity, total).max_by_key(|checkpoint| checkpoint.from)
    }

    fn all(notes: &[u8; NOTES_LENGTH], capacity: usize, total: u64) -> impl Iterator<Item = Self> {
        let checkpoints = notes[..RESIZES_OFFSET].chunks_exact(CHECKPOINT_LENGTH);
        checkpoints.filter_map(move |record| {
            let from = number(&record[..8]);
            let is_there = from <= total && total - from <= capacity as u64;
            if !is_there || number(&record[CHECKPOINT_LENGTH - 8..]) != from {
                return None;
            }
            let modes = Modes::from_bytes(record[12..CHECKPOINT_LENGTH - 8].try_into().ok()?)?;
            let size = dimensions(&record[8..12])?;
            Some(Self { from, size, modes, resizes: resizes(notes, from, total) })
        })
    }

    /// Goes on to another place through the output between, which is given;
    /// `on_part` is told each piece of it that was written in one size.
    pub fn replay(
        &mut self,
        to: u64,
        mut output: &[u8],
        mut on_part: impl FnMut(Dimensions, &[u8]),
    ) {
        loop {
            let resize = self.resizes.front().copied().filter(|(at, _)| *at <= to);
            let end = resize.map_or(to, |(at, _)| at.max(self.from));
            let length = usize::try_from(end - self.from).unwrap_or(usize::MAX).min(output.len());
            let (part, rest) = output.split_at(length);
            on_part(self.size, part);
            self.modes.follow(part);
            (self.from, output) = (end, rest);
            let Some((_, size)) = resize else {
                return;
            };
            self.resizes.pop_front();
            self.size = size;
            self.modes.resized();
        }
    }

    /// The size of the terminal behind all this output.
    pub fn size_after(&self, output: &[u8]) -> Dimensions {
        let mut checkpoint = self.clone();
        checkpoint.replay(self.from + output.len() as u64, output, |_, _| {});
        checkpoint.size
    }

    /// The modes behind all this output.
    pub fn modes_after(mut self, output: &[u8]) -> Modes {
        self.replay(self.from + output.len() as u64, output, |_, _| {});
        self.modes
    }
}

/// The changes of the size as they are noted: the number, the place and the size of each.
fn resize_notes(
    notes: &[u8; NOTES_LENGTH],
) -> impl Iterator<Item = (u32, u64, Option<Dimensions>)> {
    let all = notes[RESIZES_OFFSET..].chunks_exact(RESIZE_LENGTH);
    all.filter_map(|resize| {
        let order = u32::from_le_bytes(resize[..4].try_into().ok()?);
        Some((order, number(&resize[8..]), dimensions(&resize[4..8])))
    })
}

/// The changes from one place to another, in their order.
fn resizes(notes: &[u8; NOTES_LENGTH], from: u64, to: u64) -> VecDeque<(u64, Dimensions)> {
    let mut resizes: Vec<(u64, u32, Dimensions)> = resize_notes(notes)
        .filter(|(order, at, _)| *order != 0 && (from..=to).contains(at))
        .filter_map(|(order, at, size)| Some((at, order, size?)))
        .collect();
    resizes.sort_unstable();
    resizes.into_iter().map(|(at, _, size)| (at, size)).collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(u64::MAX, u64::from_le_bytes)
}

fn dimensions(bytes: &[u8]) -> Option<Dimensions> {
    let [a, b, c, d] = *bytes else {
        return None;
    };
    let size = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    let is_one = |length| (1..=MAX_DIMENSION).contains(&length);
    (is_one(size.0) && is_one(size.1)).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ring without a file.
    struct Ring {
        notes: Box<[u8; NOTES_LENGTH]>,
        bytes: Vec<u8>,
        all: Vec<u8>,
    }

    impl Ring {
        fn new(capacity: usize) -> Self {
            Self { notes: Box::new([0; NOTES_LENGTH]), bytes: vec![0; capacity], all: Vec::new() }
        }

        fn write(&mut self, checkpoints: &mut CheckpointWriter, output: &[u8]) {
            checkpoints.follow(output, |at, bytes| {
                self.notes[at..at + bytes.len()].copy_from_slice(bytes);
            });
            self.all.extend_from_slice(output);
        }

        fn resize(&mut self, checkpoints: &mut CheckpointWriter, size: Dimensions) {
            checkpoints.resized(size, |at, bytes| {
                self.notes[at..at + bytes.len()].copy_from_slice(bytes);
            });
        }

        fn read(&self, from: u64, to: u64) -> Vec<u8> {
            assert!(to - from <= self.bytes.len() as u64);
            self.all[from as usize..to as usize].to_vec()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn who_comes_later_knows_the_same(
            capacity in 1usize..3000,
            steps in prop::collection::vec((0usize..400, 0u16..5, any::<bool>()), 0..60),
        ) {
            let mut ring = Ring::new(capacity);
            let mut notes = Box::new([0; NOTES_LENGTH]);
            let mut checkpoints = CheckpointWriter::new(capacity, (24, 80), |at, bytes: &[u8]| {
                notes[at..at + bytes.len()].copy_from_slice(bytes);
            });
            ring.notes = notes;
            for (length, number, resumes) in steps {
                let output = format!("\x1b[?{}h\x1b[3;{}r", 1000 + number, number + 9);
                let output = output.repeat(length / 10 + 1);
                ring.write(&mut checkpoints, &output.as_bytes()[..length.min(output.len())]);
                if number > 2 {
                    ring.resize(&mut checkpoints, (20 + number, 70));
                }
                if resumes {
                    let total = ring.all.len() as u64;
                    let next = CheckpointWriter::resume(
                        &ring.notes, capacity, total, checkpoints.size, |from, to| ring.read(from, to),
                    );
                    prop_assert_eq!(&next.modes, &checkpoints.modes);
                    prop_assert_eq!((next.total, next.resizes), (checkpoints.total, checkpoints.resizes));
                    checkpoints = next;
                }
            }
            let total = ring.all.len() as u64;
            prop_assert_eq!(checkpoints.total, total);
            let mut checkpoint = Checkpoint::oldest(&ring.notes, capacity, total).unwrap();
            let lost = (capacity as u64).min(total) - (total - checkpoint.from);
            prop_assert!(lost <= checkpoints.interval, "{} of {}", lost, capacity);
            let output = ring.read(checkpoint.from, total);
            let mut on_part = Vec::new();
            checkpoint.replay(total, &output, |_, part| on_part.extend_from_slice(part));
            prop_assert_eq!((on_part, checkpoint.size), (output, checkpoints.size));
            prop_assert_eq!(checkpoint.modes, checkpoints.modes);
        }

        #[test]
        fn notes_of_anybody_are_read_within_bounds(
            seed in any::<u64>(), capacity in 1usize..1000, total in any::<u64>(),
            patches in prop::collection::vec((0usize..NOTES_LENGTH, any::<u8>()), 0..50),
        ) {
            let mut notes = Box::new([0; NOTES_LENGTH]);
            for (at, byte) in notes.iter_mut().enumerate() {
                *byte = (seed.rotate_left(at as u32 % 64) >> (at % 7)) as u8;
            }
            for (at, byte) in patches {
                notes[at] = byte;
            }
            notes[..8].copy_from_slice(&total.to_le_bytes());
            notes[CHECKPOINT_LENGTH - 8..CHECKPOINT_LENGTH].copy_from_slice(&total.to_le_bytes());
            let checkpoints = CheckpointWriter::resume(&notes, capacity, total, (24, 80), |from, to| {
                assert!(from <= to && to - from <= capacity as u64);
                Vec::new()
            });
            prop_assert!(checkpoints.size.0 <= MAX_DIMENSION && checkpoints.size.1 <= MAX_DIMENSION);
        }
    }

    #[test]
    fn a_note_that_was_never_completed_does_not_count() {
        let mut ring = Ring::new(140);
        let mut notes = Box::new([0; NOTES_LENGTH]);
        let mut checkpoints = CheckpointWriter::new(140, (24, 80), |at, bytes: &[u8]| {
            notes[at..at + bytes.len()].copy_from_slice(bytes);
        });
        ring.notes = notes;
        ring.write(&mut checkpoints, b"\x1b[?2004h56789");
        let mut saves = 0;
        checkpoints.clone().follow(b"\x1b[?1000h.", |at, bytes| {
            saves += 1;
            // Killed before the last.
            if saves < 3 {
                ring.notes[at..at + bytes.len()].copy_from_slice(bytes);
            }
        });
        assert_eq!(saves, 3);
        let total = ring.all.len() as u64;
        let next = CheckpointWriter::resume(&ring.notes, 140, total, (24, 80), |from, to| {
            ring.read(from, to)
        });
        assert_eq!(next.modes, checkpoints.modes);
    }
}
