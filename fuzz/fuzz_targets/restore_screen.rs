//! The screen of a session, whoever wrote its output: painted in bounded time
//! and bytes, and it asks no terminal anything.
//!
//! The first bytes are the sizes of the program's terminal and of ours.

#![no_main]

use fpty::client::restore_screen::{paint, restore_for_viewer};
use fpty::scrollback::checkpoints::{Checkpoint, CheckpointWriter, NOTES_LENGTH};
use fpty::terminal::QueryFilter;
use libfuzzer_sys::fuzz_target;

/// As whoever keeps output does.
const CAPACITY: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some(([rows, cols, own_rows, own_cols, resized], output)) = data.split_first_chunk() else {
        return;
    };
    let size = |rows: u8, cols: u8| (u16::from(rows) * 3, u16::from(cols) * 5);
    let mut area = [0; NOTES_LENGTH];
    let mut save = |at: usize, note: &[u8]| area[at..at + note.len()].copy_from_slice(note);
    let mut trail = CheckpointWriter::new(CAPACITY, size(*rows, *cols), &mut save);
    let (before, after) = output.split_at(output.len().min(usize::from(*resized)));
    trail.follow(before, &mut save);
    trail.resized(size(*own_cols, *rows), &mut save);
    trail.follow(after, &mut save);
    let Some(checkpoint) = Checkpoint::oldest(&area, CAPACITY, output.len() as u64) else {
        return;
    };
    let from = usize::try_from(checkpoint.from).expect("so much was written");
    let detached = || (checkpoint.clone(), output[from..].to_vec());
    let ours = size(*own_rows, *own_cols);
    for painted in [paint(detached(), ours), restore_for_viewer(detached(), ours)] {
        assert!(painted.bytes.len() < 64 * 1024 * 1024);
        let mut through = Vec::new();
        let mut queries = QueryFilter::default();
        queries.filter(&painted.bytes, &mut through);
        // Where the output ends within something that follows, so does this.
        let is_cut = output.last().is_some_and(|byte| *byte >= 0x80);
        if !painted.modes.is_in_sequence() && !is_cut {
            assert!(!queries.is_undecided(), "it ends within a sequence");
            assert_eq!(through, painted.bytes, "it asks the terminal something");
        }
    }
});
