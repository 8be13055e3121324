//! The screen of a session that somebody attaches to, as what tells a
//! terminal to show the same: made of the last output by a terminal emulator,
//! so that no question is asked again and no clipboard is set.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use shpool_vterm::{ContentRegion, Term};

use crate::scrollback::checkpoints::{Checkpoint, Dimensions};
use crate::terminal::modes::Modes;

/// Cells above the screen that are kept for the scrollback: what is to be
/// painted was written by anybody, and memory is ours.
const MAX_CELLS: usize = 400_000;
/// Lines above the screen that are kept for the scrollback.
const MAX_LINES: usize = 5000;

/// How much output is taken at once, and how long that may take in all: some
/// sequences of few bytes are much work.
const CHUNK: usize = 128;
const RESTORE_TIMEOUT: Duration = Duration::from_secs(3);

/// Output of a detached session: the checkpoint where the known output begins, and the
/// output from there on.
pub type DetachedOutput = (Checkpoint, Vec<u8>);

/// Output that restores a screen, and the modes after it.
pub struct RestoredScreen {
    /// Bytes for the terminal.
    pub bytes: Vec<u8>,
    /// The terminal's modes after these bytes.
    pub modes: Modes,
}

/// Paints what was left for a terminal of this size. What was on that terminal
/// goes into its scrollback, and after it what does not fit onto the screen.
pub fn paint(left: DetachedOutput, size: Dimensions) -> RestoredScreen {
    restore_within(left, size, size)
}

/// Paints it for somebody who views on a terminal of this size, while the
/// program has another: where there is room its lines are where they are there.
pub fn restore_for_viewer(left: DetachedOutput, room: Dimensions) -> RestoredScreen {
    let theirs = left.0.size_after(&left.1);
    let fits = theirs.0 <= room.0 && theirs.1 <= room.1;
    restore_within(left, if fits { theirs } else { room }, room)
}

fn restore_within(left: DetachedOutput, size: Dimensions, room: Dimensions) -> RestoredScreen {
    let (mut checkpoint, output) = left;
    let output = output.as_slice();
    let mut modes = checkpoint.clone().modes_after(output);
    let region = if size == room { ContentRegion::All } else { ContentRegion::Screen };
    // A bug in an emulator, or somebody's trap for it, costs the picture.
    let screen = catch_silently(|| screen(&mut checkpoint, output, size, region));
    let mut bytes = Vec::new();
    bytes.push(b'\r');
    bytes.resize(1 + usize::from(room.0), b'\n');
    match screen.flatten() {
        Some(screen) => bytes.extend(without_c1(&screen).bytes()),
        None => {
            bytes.extend_from_slice(b"\x1b[H\x1b[J");
            modes.restore(&mut bytes);
        }
    }
    modes.restore_unemulated(&mut bytes);
    if size.0 != room.0 && !modes.has_region() {
        // It scrolls where theirs does.
        let region = format!("\x1b7\x1b[1;{}r\x1b8", size.0).into_bytes();
        bytes.extend_from_slice(&region);
        if !modes.is_in_sequence() {
            modes.follow(&region);
        }
    }
    modes.resume_sequence(&mut bytes);
    bytes.extend_from_slice(incomplete_character(output));
    RestoredScreen { bytes, modes }
}

/// Output of the emulator as text, without C1 controls: in a title it lets bytes through
/// that are controls to a terminal of 8 bits.
fn without_c1(screen: &[u8]) -> String {
    let text = String::from_utf8_lossy(screen);
    text.chars().filter(|c| !('\u{80}'..='\u{9f}').contains(c)).collect()
}

/// Catches a panic, which is not told in the midst of a terminal.
fn catch_silently<T>(act: impl FnOnce() -> T) -> Option<T> {
    let act = || catch_unwind(AssertUnwindSafe(act)).ok();
    // Other tests have their own hook, in the same process.
    if cfg!(test) {
        return act();
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = act();
    std::panic::set_hook(hook);
    outcome
}

/// Output that restores the screen; `None`: it would take too long.
fn screen(
    checkpoint: &mut Checkpoint,
    output: &[u8],
    size: Dimensions,
    region: ContentRegion,
) -> Option<Vec<u8>> {
    let end = Instant::now() + RESTORE_TIMEOUT;
    let mut now = checkpoint.size;
    let mut term = Term::new(lines(now), of(now));
    let mut told = Vec::new();
    checkpoint.modes.restore(&mut told);
    checkpoint.modes.resume_sequence(&mut told);
    term.process(&told);
    // The rest of a character that began before is none.
    let is_rest = |byte: &&u8| (0x80..0xc0).contains(*byte) && checkpoint.from > 0;
    let torn = output.iter().take(3).take_while(is_rest).count();
    let (rest, output) = output.split_at(torn);
    checkpoint.replay(checkpoint.from + torn as u64, rest, |_, _| {});
    let mut in_time = true;
    checkpoint.replay(checkpoint.from + output.len() as u64, output, |size, part| {
        if size != now {
            now = size;
            term.resize(of(size));
            term.set_scrollback_lines(lines(size));
        }
        for piece in part.chunks(CHUNK) {
            in_time &= Instant::now() < end;
            if in_time {
                term.process(piece);
            }
        }
    });
    if !in_time {
        return None;
    }
    term.resize(of(size));
    Some(term.contents(region))
}

fn of((rows, cols): Dimensions) -> shpool_vterm::Size {
    shpool_vterm::Size { width: cols.into(), height: rows.into() }
}

fn lines((rows, cols): Dimensions) -> usize {
    (MAX_CELLS / usize::from(cols).max(1)).min(MAX_LINES).max(rows.into())
}

/// The beginning of a character whose rest is still to come.
fn incomplete_character(output: &[u8]) -> &[u8] {
    let last = output.iter().rev().take(3).position(|byte| *byte >= 0xc0);
    let begun = &output[output.len() - last.map_or(0, |back| back + 1)..];
    let length = match begun.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 0,
    };
    if begun.len() < length { begun } else { &[] }
}

#[cfg(test)]
mod tests;
