//! What is kept of a session, written by anybody: nothing is read from outside
//! of it, whoever goes on with it can, and what comes of it is bounded.
//!
//! The first byte: how much of the rest is notes; then the counters.

#![no_main]

use std::os::unix::fs::FileExt;

use fpty::scrollback::{Remains, Seen};
use fpty::sys::Size;
use fpty::sys::ring::SMALLEST;
use libfuzzer_sys::fuzz_target;

/// The magic, with which it begins, is as it was.
const MAGIC: u64 = 16;

fuzz_target!(|data: &[u8]| {
    let Ok(remains) = Remains::new(SMALLEST, Size { rows: 24, cols: 80 }) else {
        return;
    };
    let fd = || remains.file().expect("a file").try_clone_to_owned().expect("a descriptor");
    let file = std::fs::File::from(fd());
    // The counters, the notes, and output at the end of them.
    file.write_all_at(data, MAGIC).expect("it is written");
    if let Some(last) = data.last() {
        let output = data.repeat(1 + usize::from(*last));
        let room = (16 * 1024 + SMALLEST - output.len().min(SMALLEST)) as u64;
        file.write_all_at(&output[..output.len().min(SMALLEST)], room).expect("it is written");
    }
    let seen = Seen::received(fd()).expect("a ring");
    let total = seen.total();
    if let Some(total) = total {
        for from in [0, total.saturating_sub(1000), total.saturating_sub(u64::MAX), total] {
            let between = seen.between(from, total);
            assert!(between.is_none_or(|it| it.len() as u64 == total - from));
        }
    }
    for until in [None, Some(0), total, Some(u64::MAX)] {
        let Some((past, output)) = seen.output(until) else {
            continue;
        };
        assert!(output.len() <= SMALLEST);
        let _ = past.size_after(&output);
        let mut shown = 0;
        past.clone()
            .walk(past.from + output.len() as u64, &output, |_, piece| shown += piece.len());
        assert!(shown <= output.len());
        let mut told = Vec::new();
        past.after(&output).restore(&mut told);
        assert!(told.len() < 64 * 1024);
    }
    drop(seen);
    if let Ok(mut next) = Remains::go_on(fd()) {
        assert!(Some(next.total()) >= total);
        next.keep(data);
        next.resized(Size { rows: 1, cols: 1 });
        next.pastes(true);
        assert!(next.is_in_a_paste());
        next.keep(data);
        let seen = Seen::received(fd()).expect("a ring");
        assert_eq!(seen.total(), Some(next.total()).filter(|total| *total <= 1 << 60));
        // What was kept last is there.
        let all = data.repeat(2);
        if all.len() < 8192 && seen.total().is_some() {
            let from = next.total() - all.len() as u64;
            assert_eq!(seen.between(from, next.total()).as_deref(), Some(all.as_slice()));
        }
        // In other memory it is the same, and the one before stays as it was.
        next.close_file();
        let other = Seen::received(next.share().expect("memory")).expect("a ring");
        assert_eq!(other.total(), seen.total());
        let shown = |it: &Seen| it.output(None).map(|(past, output)| (past.from, output));
        assert!(shown(&other) == shown(&seen));
    }
});
