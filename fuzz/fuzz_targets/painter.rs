//! The screen of a session, whoever wrote its output: painted in bounded time
//! and bytes, and it asks no terminal anything.
//!
//! The first bytes are the sizes of the program's terminal and of ours.

#![no_main]

use fpty::client::restore_screen::{Left, paint, paint_beside};
use fpty::terminal::Queries;
use fpty::scrollback::checkpoints::{AREA, Past, Trail};
use libfuzzer_sys::fuzz_target;

/// As whoever keeps output does.
const CAPACITY: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some(([rows, cols, own_rows, own_cols, resized], output)) = data.split_first_chunk() else {
        return;
    };
    let size = |rows: u8, cols: u8| (u16::from(rows) * 3, u16::from(cols) * 5);
    let mut area = [0; AREA];
    let mut save = |at: usize, note: &[u8]| area[at..at + note.len()].copy_from_slice(note);
    let mut trail = Trail::new(CAPACITY, size(*rows, *cols), &mut save);
    let (before, after) = output.split_at(output.len().min(usize::from(*resized)));
    trail.follow(before, &mut save);
    trail.resized(size(*own_cols, *rows), &mut save);
    trail.follow(after, &mut save);
    let total = trail.total();
    let Some(past) = Past::oldest(&area, CAPACITY, total) else {
        return;
    };
    let from = usize::try_from(past.from).expect("so much was written");
    let left = || Left { past: past.clone(), output: output[from..].to_vec() };
    let ours = size(*own_rows, *own_cols);
    for painted in [paint(left(), ours), paint_beside(left(), ours)] {
        assert!(painted.bytes.len() < 64 * 1024 * 1024);
        let mut through = Vec::new();
        let mut queries = Queries::default();
        queries.pass(&painted.bytes, &mut through);
        // Where the output ends within something that follows, so does this.
        let is_cut = output.last().is_some_and(|byte| *byte >= 0x80);
        if !painted.modes.is_in_a_sequence() && !is_cut {
            assert!(!queries.is_undecided(), "it ends within a sequence");
            assert_eq!(through, painted.bytes, "it asks the terminal something");
        }
    }
});
