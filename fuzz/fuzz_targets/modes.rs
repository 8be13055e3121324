//! The output of a program, cut anywhere: the same modes are in force, in
//! whatever state it is left they are kept and told, and the same queries are
//! left out.
//!
//! The first byte says how the others are cut.

#![no_main]

use fpty::terminal::QueryFilter;
use fpty::terminal::modes::Modes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, output)) = data.split_first() else {
        return;
    };
    let cut = usize::from(cut).max(1);
    let (mut whole, mut pieces) = (Modes::default(), Modes::default());
    whole.follow(output);
    for piece in output.chunks(cut) {
        pieces.follow(piece);
        // As if another process went on.
        if !pieces.is_in_sequence() {
            pieces = Modes::from_bytes(&pieces.to_bytes()).expect("what was written is read");
        }
    }
    assert_eq!(whole.is_in_sequence(), pieces.is_in_sequence());
    for tell in [Modes::restore, Modes::restore_unemulated, Modes::resume_sequence, Modes::reset] {
        let (mut told, mut again) = (Vec::new(), Vec::new());
        tell(&whole, &mut told);
        tell(&pieces, &mut again);
        assert!(told == again && told.len() < 64 * 1024);
    }
    // What is told puts another terminal into the same modes.
    let mut told = Vec::new();
    whole.restore(&mut told);
    let mut other = Modes::default();
    other.follow(&told);
    assert!(!other.is_in_sequence());
    let _ = (whole.title(), whole.take_da1_request());

    let (mut filter, mut through) = (QueryFilter::default(), Vec::new());
    filter.filter(output, &mut through);
    let (mut other, mut again) = (QueryFilter::default(), Vec::new());
    output.chunks(cut).for_each(|piece| other.filter(piece, &mut again));
    assert_eq!(through, again);
    assert_eq!(filter.is_undecided(), other.is_undecided());
    // A string that something else has ended gets an end of its own.
    assert!(through.len() <= 3 * output.len());
});
