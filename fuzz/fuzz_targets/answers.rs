//! What a client makes of any bytes of a router, cut anywhere: the same, and
//! nothing that a terminal must not be shown.
//!
//! The first byte says how the others are cut.

#![no_main]

use fpty::client::decoder::{Hearing, Said};
use libfuzzer_sys::fuzz_target;

fn hear<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Said>, Vec<u8>) {
    let (mut hearing, mut said, mut output) = (Hearing::asked(), Vec::new(), Vec::new());
    for mut piece in pieces {
        while let Some(one) = hearing.next(&mut piece, &mut output) {
            // Its pieces are cut as the others are.
            match (said.last_mut(), one) {
                (Some(Said::Piece(before)), Said::Piece(more)) => before.extend(more),
                (_, one) => said.push(one),
            }
        }
    }
    output.extend(hearing.rest());
    (said, output)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else {
        return;
    };
    // Half of them after an answer that agrees to the extended mode.
    let agreed = [&[0, 1, 0, 102], bytes].concat();
    let bytes = if cut & 1 == 0 { bytes } else { &agreed };
    let whole = hear(std::iter::once(bytes));
    assert_eq!(hear(bytes.chunks(usize::from(cut / 2).max(1))), whole);
    for said in whole.0 {
        let text = match said {
            Said::Notice(text) => text,
            Said::Ended(ended) => ended.text,
            _ => continue,
        };
        // A replaced byte takes three.
        assert!(text.len() <= 3 * 2048);
        // It is shown like this, wherever it is shown.
        let shown = fpty::text::shown(&text);
        assert!(!shown.chars().any(fpty::text::is_control), "{shown:?}");
    }
});
