//! What is kept of a session, written by anybody: nothing is read from outside
//! of it, whoever goes on with it can, and what comes of it is bounded.
//!
//! The first byte: how much of the rest is notes; then the counters.

#![no_main]

use std::os::unix::fs::FileExt;

use fpty::scrollback::{ScrollbackReader, ScrollbackWriter};
use fpty::sys::Size;
use fpty::sys::scrollback_ring::MIN_CAPACITY;
use libfuzzer_sys::fuzz_target;

/// The magic, with which it begins, is as it was.
const MAGIC: u64 = 16;

fuzz_target!(|data: &[u8]| {
    let Ok(remains) = ScrollbackWriter::new(MIN_CAPACITY, Size { rows: 24, cols: 80 }) else {
        return;
    };
    let fd = || remains.shared_file().expect("a file").try_clone_to_owned().expect("a descriptor");
    let file = std::fs::File::from(fd());
    // The counters, the notes, and output at the end of them.
    file.write_all_at(data, MAGIC).expect("it is written");
    if let Some(last) = data.last() {
        let output = data.repeat(1 + usize::from(*last));
        let room = (16 * 1024 + MIN_CAPACITY - output.len().min(MIN_CAPACITY)) as u64;
        file.write_all_at(&output[..output.len().min(MIN_CAPACITY)], room).expect("it is written");
    }
    let seen = ScrollbackReader::open(fd()).expect("a ring");
    let total = seen.total();
    if let Some(total) = total {
        for from in [0, total.saturating_sub(1000), total.saturating_sub(u64::MAX), total] {
            let between = seen.range(from, total);
            assert!(between.is_none_or(|it| it.len() as u64 == total - from));
        }
    }
    for until in [None, Some(0), total, Some(u64::MAX)] {
        let Some((past, output)) = seen.output(until) else {
            continue;
        };
        assert!(output.len() <= MIN_CAPACITY);
        let _ = past.size_after(&output);
        let mut shown = 0;
        past.clone()
            .replay(past.from + output.len() as u64, &output, |_, piece| shown += piece.len());
        assert!(shown <= output.len());
        let mut told = Vec::new();
        past.modes_after(&output).restore(&mut told);
        assert!(told.len() < 64 * 1024);
    }
    drop(seen);
    if let Ok(mut next) = ScrollbackWriter::resume(fd()) {
        assert!(Some(next.total()) >= total);
        next.write(data);
        next.resized(Size { rows: 1, cols: 1 });
        next.set_pasting(true);
        assert!(next.is_pasting());
        next.write(data);
        let seen = ScrollbackReader::open(fd()).expect("a ring");
        assert_eq!(seen.total(), Some(next.total()).filter(|total| *total <= 1 << 60));
        // What was kept last is there.
        let all = data.repeat(2);
        if all.len() < 8192 && seen.total().is_some() {
            let from = next.total() - all.len() as u64;
            assert_eq!(seen.range(from, next.total()).as_deref(), Some(all.as_slice()));
        }
        // In other memory it is the same, and the one before stays as it was.
        next.close_file();
        let other = ScrollbackReader::open(next.share_file().expect("memory")).expect("a ring");
        assert_eq!(other.total(), seen.total());
        let shown =
            |it: &ScrollbackReader| it.output(None).map(|(past, output)| (past.from, output));
        assert!(shown(&other) == shown(&seen));
    }
});
