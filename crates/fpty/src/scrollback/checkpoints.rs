//! What is known of output of which a ring keeps the last: the modes of its
//! terminal, and its size, at places in the output that the ring still has.
//! Whoever paints from there begins with what was in force then, and whoever
//! goes on writing knows what is in force now, although the one before was
//! killed between two bytes: only complete notes count.
//!
//! The ring has an area of [`AREA`] bytes for it, all zero at first. Whoever
//! writes output into the ring hands it to [`Trail::follow`] as well, which
//! says what to note in the area, and only then counts it as written.

use std::collections::VecDeque;

use crate::terminal::modes::{self, Modes};

/// Notes of modes. The ring is as long as the distance of the first from the
/// fifteenth: one is being overwritten at most.
const NOTES: usize = 16;
const IN_RING: u64 = 14;

/// One: where, the size, the modes, and where again, which tells that it is
/// complete.
const NOTE: usize = 8 + 4 + modes::SIZE + 8;

/// Changes of the size that are kept, and the length of one: its number, the
/// size, where.
const CHANGES: usize = 16;
const CHANGE: usize = 4 + 4 + 8;

const CHANGES_AT: usize = NOTES * NOTE;

/// Length of the area.
pub const AREA: usize = CHANGES_AT + CHANGES * CHANGE;

/// A terminal's height and width.
pub type Dimensions = (u16, u16);

/// The largest that is believed.
const LARGEST: u16 = 2000;

/// Follows output that goes into a ring.
#[derive(Clone, Debug)]
pub struct Trail {
    modes: Modes,
    size: Dimensions,
    /// How much output there was.
    total: u64,
    /// A note is made after each so many bytes.
    step: u64,
    changes: u32,
}

impl Trail {
    /// Of a ring that was just made.
    pub fn new(capacity: usize, size: Dimensions, mut save: impl FnMut(usize, &[u8])) -> Self {
        let trail =
            Self { modes: Modes::default(), size, total: 0, step: step(capacity), changes: 0 };
        trail.note(&mut save);
        trail
    }

    /// Of a ring that somebody else has written; `read` gives its bytes from
    /// the first to the second place. Where nothing is noted the size is this.
    pub fn resume(
        area: &[u8; AREA],
        capacity: usize,
        total: u64,
        size: Dimensions,
        read: impl FnOnce(u64, u64) -> Vec<u8>,
    ) -> Self {
        let mut past = Past::newest(area, capacity, total).unwrap_or_else(|| Past {
            from: total,
            size,
            modes: Modes::default(),
            changes: VecDeque::new(),
        });
        let output = read(past.from, total);
        past.walk(total, &output, |_, _| {});
        let changes = numbers(area).max().unwrap_or(0);
        let Past { mut modes, size, .. } = past;
        // Whoever read it has answered, or the terminal that it was shown to.
        modes.take_asked();
        Self { modes, size, total, step: step(capacity), changes }
    }

    /// How much output there was.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The modes in force.
    pub fn modes(&self) -> &Modes {
        &self.modes
    }

    /// Whether the program has asked what terminal this is; see
    /// [`Modes::take_asked`].
    pub fn take_asked(&mut self) -> bool {
        self.modes.take_asked()
    }

    /// Takes output; `save` writes into the area.
    #[inline]
    pub fn follow(&mut self, mut output: &[u8], mut save: impl FnMut(usize, &[u8])) {
        loop {
            let to_note = self.step - self.total % self.step;
            let length = (output.len() as u64).min(to_note);
            // No longer than the output.
            let (part, rest) = output.split_at(length as usize);
            self.modes.follow(part);
            self.total += length;
            if length < to_note {
                return;
            }
            self.note(&mut save);
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
        self.changes = self.changes.wrapping_add(1).max(1);
        let mut change = [0; CHANGE];
        change[..4].copy_from_slice(&self.changes.to_le_bytes());
        change[4..6].copy_from_slice(&size.0.to_le_bytes());
        change[6..8].copy_from_slice(&size.1.to_le_bytes());
        change[8..].copy_from_slice(&self.total.to_le_bytes());
        save(CHANGES_AT + self.changes as usize % CHANGES * CHANGE, &change);
    }

    fn note(&self, save: &mut impl FnMut(usize, &[u8])) {
        let place = self.total.to_le_bytes();
        let at = (self.total / self.step % NOTES as u64) as usize * NOTE;
        // It is none while it is being written.
        save(at + NOTE - 8, &u64::MAX.to_le_bytes());
        let mut note = [0; NOTE - 8];
        note[..8].copy_from_slice(&place);
        note[8..10].copy_from_slice(&self.size.0.to_le_bytes());
        note[10..12].copy_from_slice(&self.size.1.to_le_bytes());
        note[12..].copy_from_slice(&self.modes.to_bytes());
        save(at, &note);
        save(at + NOTE - 8, &place);
    }
}

fn step(capacity: usize) -> u64 {
    (capacity as u64).div_ceil(IN_RING).max(1)
}

/// What was in force at a place in the output, and what changed after it.
#[derive(Clone, Debug)]
pub struct Past {
    /// How much output there was before.
    pub from: u64,
    /// The size of the terminal there.
    pub size: Dimensions,
    /// Its modes there.
    pub modes: Modes,
    /// Where it became another size.
    changes: VecDeque<(u64, Dimensions)>,
}

impl Past {
    /// The first place that a ring still has all output after.
    pub fn oldest(area: &[u8; AREA], capacity: usize, total: u64) -> Option<Self> {
        Self::all(area, capacity, total).min_by_key(|past| past.from)
    }

    fn newest(area: &[u8; AREA], capacity: usize, total: u64) -> Option<Self> {
        Self::all(area, capacity, total).max_by_key(|past| past.from)
    }

    fn all(area: &[u8; AREA], capacity: usize, total: u64) -> impl Iterator<Item = Self> {
        let notes = area[..CHANGES_AT].chunks_exact(NOTE);
        notes.filter_map(move |note| {
            let from = number(&note[..8]);
            let is_there = from <= total && total - from <= capacity as u64;
            if !is_there || number(&note[NOTE - 8..]) != from {
                return None;
            }
            let modes = Modes::from_bytes(note[12..NOTE - 8].try_into().ok()?)?;
            let size = dimensions(&note[8..12])?;
            Some(Self { from, size, modes, changes: changes(area, from, total) })
        })
    }

    /// Goes on to another place through the output between, which is given;
    /// `shown` is told each piece of it that was written in one size.
    pub fn walk(&mut self, to: u64, mut output: &[u8], mut shown: impl FnMut(Dimensions, &[u8])) {
        loop {
            let change = self.changes.front().copied().filter(|(at, _)| *at <= to);
            let end = change.map_or(to, |(at, _)| at.max(self.from));
            let length = usize::try_from(end - self.from).unwrap_or(usize::MAX).min(output.len());
            let (part, rest) = output.split_at(length);
            shown(self.size, part);
            self.modes.follow(part);
            (self.from, output) = (end, rest);
            let Some((_, size)) = change else {
                return;
            };
            self.changes.pop_front();
            self.size = size;
            self.modes.resized();
        }
    }
}

impl Past {
    /// The size of the terminal behind all this output.
    pub fn size_after(&self, output: &[u8]) -> Dimensions {
        let mut past = self.clone();
        past.walk(self.from + output.len() as u64, output, |_, _| {});
        past.size
    }

    /// The modes behind all this output.
    pub fn after(mut self, output: &[u8]) -> Modes {
        self.walk(self.from + output.len() as u64, output, |_, _| {});
        self.modes
    }
}

/// Numbers of the changes of size.
fn numbers(area: &[u8; AREA]) -> impl Iterator<Item = u32> {
    let all = area[CHANGES_AT..].chunks_exact(CHANGE);
    all.filter_map(|change| Some(u32::from_le_bytes(change[..4].try_into().ok()?)))
}

/// The changes from one place to another, in their order.
fn changes(area: &[u8; AREA], from: u64, to: u64) -> VecDeque<(u64, Dimensions)> {
    let all = area[CHANGES_AT..].chunks_exact(CHANGE);
    let mut changes: Vec<(u64, u32, Dimensions)> = all
        .filter_map(|change| {
            let at = number(&change[8..]);
            let order = u32::from_le_bytes(change[..4].try_into().ok()?);
            let size = dimensions(&change[4..8])?;
            (order != 0 && (from..=to).contains(&at)).then_some((at, order, size))
        })
        .collect();
    changes.sort_unstable();
    changes.into_iter().map(|(at, _, size)| (at, size)).collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(u64::MAX, u64::from_le_bytes)
}

fn dimensions(bytes: &[u8]) -> Option<Dimensions> {
    let [a, b, c, d] = *bytes else {
        return None;
    };
    let size = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    let is_one = |length| (1..=LARGEST).contains(&length);
    (is_one(size.0) && is_one(size.1)).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ring without a file.
    struct Ring {
        area: Box<[u8; AREA]>,
        bytes: Vec<u8>,
        all: Vec<u8>,
    }

    impl Ring {
        fn new(capacity: usize) -> Self {
            Self { area: Box::new([0; AREA]), bytes: vec![0; capacity], all: Vec::new() }
        }

        fn write(&mut self, trail: &mut Trail, output: &[u8]) {
            trail.follow(output, |at, bytes| {
                self.area[at..at + bytes.len()].copy_from_slice(bytes);
            });
            self.all.extend_from_slice(output);
        }

        fn resize(&mut self, trail: &mut Trail, size: Dimensions) {
            trail.resized(size, |at, bytes| {
                self.area[at..at + bytes.len()].copy_from_slice(bytes);
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
            let mut area = Box::new([0; AREA]);
            let mut trail = Trail::new(capacity, (24, 80), |at, bytes: &[u8]| {
                area[at..at + bytes.len()].copy_from_slice(bytes);
            });
            ring.area = area;
            for (length, number, resumes) in steps {
                let output = format!("\x1b[?{}h\x1b[3;{}r", 1000 + number, number + 9);
                let output = output.repeat(length / 10 + 1);
                ring.write(&mut trail, &output.as_bytes()[..length.min(output.len())]);
                if number > 2 {
                    ring.resize(&mut trail, (20 + number, 70));
                }
                if resumes {
                    let total = ring.all.len() as u64;
                    let next = Trail::resume(
                        &ring.area, capacity, total, trail.size, |from, to| ring.read(from, to),
                    );
                    prop_assert_eq!(&next.modes, &trail.modes);
                    prop_assert_eq!((next.total, next.changes), (trail.total, trail.changes));
                    trail = next;
                }
            }
            let total = ring.all.len() as u64;
            prop_assert_eq!(trail.total(), total);
            let mut past = Past::oldest(&ring.area, capacity, total).unwrap();
            let lost = (capacity as u64).min(total) - (total - past.from);
            prop_assert!(lost <= trail.step, "{} of {}", lost, capacity);
            let output = ring.read(past.from, total);
            let mut shown = Vec::new();
            past.walk(total, &output, |_, part| shown.extend_from_slice(part));
            prop_assert_eq!((shown, past.size), (output, trail.size));
            prop_assert_eq!(past.modes, trail.modes);
        }

        #[test]
        fn notes_of_anybody_are_read_within_bounds(
            seed in any::<u64>(), capacity in 1usize..1000, total in any::<u64>(),
            patches in prop::collection::vec((0usize..AREA, any::<u8>()), 0..50),
        ) {
            let mut area = Box::new([0; AREA]);
            for (at, byte) in area.iter_mut().enumerate() {
                *byte = (seed.rotate_left(at as u32 % 64) >> (at % 7)) as u8;
            }
            for (at, byte) in patches {
                area[at] = byte;
            }
            area[..8].copy_from_slice(&total.to_le_bytes());
            area[NOTE - 8..NOTE].copy_from_slice(&total.to_le_bytes());
            let trail = Trail::resume(&area, capacity, total, (24, 80), |from, to| {
                assert!(from <= to && to - from <= capacity as u64);
                Vec::new()
            });
            prop_assert!(trail.size.0 <= LARGEST && trail.size.1 <= LARGEST);
        }
    }

    #[test]
    fn a_note_that_was_never_completed_does_not_count() {
        let mut ring = Ring::new(140);
        let mut area = Box::new([0; AREA]);
        let mut trail = Trail::new(140, (24, 80), |at, bytes: &[u8]| {
            area[at..at + bytes.len()].copy_from_slice(bytes);
        });
        ring.area = area;
        ring.write(&mut trail, b"\x1b[?2004h56789");
        let mut saves = 0;
        trail.clone().follow(b"\x1b[?1000h.", |at, bytes| {
            saves += 1;
            // Killed before the last.
            if saves < 3 {
                ring.area[at..at + bytes.len()].copy_from_slice(bytes);
            }
        });
        assert_eq!(saves, 3);
        let total = ring.all.len() as u64;
        let next = Trail::resume(&ring.area, 140, total, (24, 80), |from, to| ring.read(from, to));
        assert_eq!(next.modes(), trail.modes());
    }
}
