//! What a client says before its program starts, cut anywhere: the same is
//! heard, and after a hello nothing begins before "that was all" (an empty
//! 103), whatever else is said and wherever it is cut.
//!
//! The first byte says how the others are cut, and whether a hello comes first.

#![no_main]

use fpty_gateway::fuzzing::{Greeting, Heard, Opening};
use fpty::proto::request::Request;
use fpty::proto::{Decoder, Packet};
use fpty::sys::Size;
use libfuzzer_sys::fuzz_target;

/// What was heard, and how many bytes of it; `None`: it goes on.
fn hear(bytes: &[u8], cut: usize) -> (Vec<Heard>, Option<usize>, Greeting) {
    let (mut greeting, mut heard, mut at) = (Greeting::default(), Vec::new(), 0);
    for piece in bytes.chunks(cut.max(1)) {
        let mut rest = piece;
        at += piece.len();
        loop {
            match greeting.hear(&mut rest) {
                Heard::Waiting => break,
                last @ (Heard::Begin | Heard::Refuse(_)) => {
                    heard.push(last);
                    return (heard, Some(at - rest.len()), greeting);
                }
                answer => heard.push(answer),
            }
        }
        assert!(rest.is_empty(), "bytes are left");
    }
    (heard, None, greeting)
}

/// Where "that was all" ends, if the first packet is a hello; by the format as
/// it is described.
fn that_was_all(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut first = true;
    while let Some([_, low, high, kind]) = bytes.get(at..at + 4) {
        let size = usize::from(u16::from_le_bytes([*low, *high]));
        if first && (*kind != 102 || size == 0) {
            return None;
        }
        first = false;
        at += 4;
        match (*kind, size) {
            (103, 0) => return Some(at),
            (0 | 103.., _) => at += size,
            _ => {}
        }
    }
    Some(usize::MAX)
}

/// What is left for the session, which goes on in whatever packet this is.
fn session_hears(mut decoder: Decoder, mut bytes: &[u8]) -> (Vec<u8>, Vec<(usize, String)>) {
    let (mut input, mut others) = (Vec::new(), Vec::new());
    while let Some(packet) = decoder.next(&mut bytes) {
        match packet {
            Packet::Input(part) => input.extend_from_slice(part),
            other => others.push((input.len(), format!("{other:?}"))),
        }
    }
    (input, others)
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else {
        return;
    };
    let greeted = [&[0, 1, 0, 102], bytes].concat();
    let whole = if first & 1 == 0 { bytes } else { &greeted };
    let (heard, at, greeting) = hear(whole, usize::MAX);
    let (again, at_again, other) = hear(whole, usize::from(first / 2));
    let is_refused = matches!(heard.last(), Some(Heard::Refuse(_)));
    assert_eq!(heard, again);
    assert_eq!(greeting.is_extended(), other.is_extended());
    if let Some(end) = that_was_all(whole) {
        let begins = heard.last() == Some(&Heard::Begin);
        assert_eq!(begins, end <= whole.len() && !is_refused, "{heard:?} {end}");
        assert!(!begins || at == Some(end));
    }
    let (opening, other) = (greeting.opening(), other.opening());
    let text = |request: Request| request.read();
    // How much of what is too much was taken depends on the cut.
    if !is_refused {
        let hears = |opening: &Opening, at: Option<usize>| {
            session_hears(opening.decoder.clone(), &whole[at.unwrap_or(whole.len())..])
        };
        assert_eq!(hears(&opening, at), hears(&other, at_again));
        assert_eq!(opening.input, other.input);
        assert_eq!(opening.offered, other.offered);
        assert_eq!(text(opening.request.clone()), text(other.request));
    }
    let kept: usize = opening.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(opening.variables.iter().count() <= 256 && kept <= 65536);
    assert!(opening.offered.len() <= 4 && opening.input.len() <= 256 * 1024);
    let _ = (opening.request.shown(), opening.size(Size { rows: 24, cols: 80 }));
    if let Ok(Some((_, data))) = opening.request.read() {
        fpty_gateway::fuzzing::arguments(&data);
    }
});
