//! What a client makes of any bytes of a gateway, cut anywhere: the same, and
//! nothing that a terminal must not be shown.
//!
//! The first byte says how the others are cut.

#![no_main]

use fpty::client::decoder::{ServerDecoder, ServerEvent};
use libfuzzer_sys::fuzz_target;

fn hear<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<ServerEvent>, Vec<u8>) {
    let (mut hearing, mut said, mut output) =
        (ServerDecoder::after_hello(), Vec::new(), Vec::new());
    for mut piece in pieces {
        while let Some(one) = hearing.next(&mut piece, &mut output) {
            // Its pieces are cut as the others are.
            match (said.last_mut(), one) {
                (Some(ServerEvent::RingPiece(before)), ServerEvent::RingPiece(more)) => {
                    before.extend(more)
                }
                (_, one) => said.push(one),
            }
        }
    }
    output.extend(hearing.take_rest());
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
            ServerEvent::Notice(text) => text,
            ServerEvent::SessionEnd(ended) => ended.text,
            _ => continue,
        };
        // A replaced byte takes three.
        assert!(text.len() <= 3 * 2048);
        // It is shown like this, wherever it is shown.
        let shown = fpty::text::shown(&text);
        assert!(!shown.chars().any(fpty::text::is_control), "{shown:?}");
    }
});
