//! What a client says before its program starts, cut anywhere: the same is
//! steps, and after a hello nothing begins before "that was all" (an empty
//! 103), whatever else is said and wherever it is cut.
//!
//! The first byte says how the others are cut, and whether a hello comes first.

#![no_main]

use fpty::proto::request::Request;
use fpty::proto::{ClientPacket, ClientPacketDecoder};
use fpty::sys::Size;
use fpty_gateway::fuzzing::{ClientHello, Handshake, HandshakeStep};
use libfuzzer_sys::fuzz_target;

/// What was steps, and how many bytes of it; `None`: it goes on.
fn feed(bytes: &[u8], cut: usize) -> (Vec<HandshakeStep>, Option<usize>, Handshake) {
    let (mut handshake, mut steps, mut at) = (Handshake::default(), Vec::new(), 0);
    for piece in bytes.chunks(cut.max(1)) {
        let mut rest = piece;
        at += piece.len();
        loop {
            match handshake.feed(&mut rest) {
                HandshakeStep::Incomplete => break,
                last @ (HandshakeStep::Complete | HandshakeStep::Reject(_)) => {
                    steps.push(last);
                    return (steps, Some(at - rest.len()), handshake);
                }
                answer => steps.push(answer),
            }
        }
        assert!(rest.is_empty(), "bytes are left");
    }
    (steps, None, handshake)
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
fn session_hears(
    mut decoder: ClientPacketDecoder,
    mut bytes: &[u8],
) -> (Vec<u8>, Vec<(usize, String)>) {
    let (mut input, mut others) = (Vec::new(), Vec::new());
    while let Some(packet) = decoder.next(&mut bytes) {
        match packet {
            ClientPacket::Input(part) => input.extend_from_slice(part),
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
    let (steps, at, handshake) = feed(whole, usize::MAX);
    let (again, at_again, other) = feed(whole, usize::from(first / 2));
    let is_refused = matches!(steps.last(), Some(HandshakeStep::Reject(_)));
    assert_eq!(steps, again);
    assert_eq!(handshake.hello.extended, other.hello.extended);
    if let Some(end) = that_was_all(whole) {
        let begins = steps.last() == Some(&HandshakeStep::Complete);
        assert_eq!(begins, end <= whole.len() && !is_refused, "{steps:?} {end}");
        assert!(!begins || at == Some(end));
    }
    let (hello, other) = (handshake.hello, other.hello);
    let text = |request: Request| request.read();
    // How much of what is too much was taken depends on the cut.
    if !is_refused {
        let hears = |hello: &ClientHello, at: Option<usize>| {
            session_hears(hello.decoder.clone(), &whole[at.unwrap_or(whole.len())..])
        };
        assert_eq!(hears(&hello, at), hears(&other, at_again));
        assert_eq!(hello.input, other.input);
        assert_eq!(hello.offered_fds, other.offered_fds);
        assert_eq!(text(hello.request.clone()), text(other.request));
    }
    let kept: usize = hello.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(hello.variables.iter().count() <= 256 && kept <= 65536);
    assert!(hello.offered_fds.len() <= 4 && hello.input.len() <= 256 * 1024);
    let _ = (hello.request.shown(), hello.size(Size { rows: 24, cols: 80 }));
    if let Ok(Some((_, data))) = hello.request.read() {
        fpty_gateway::fuzzing::arguments(&data);
    }
});
