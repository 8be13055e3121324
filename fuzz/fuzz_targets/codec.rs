//! The decoder under any bytes, cut anywhere, against a plain reading of the
//! format by the whole; and what the encoder makes of them, decoded again.
//!
//! The first byte says how the others are cut.

#![no_main]

use libfuzzer_sys::fuzz_target;

use fpty::proto::variables::Variables;
use fpty::proto::{
    ClientPacket, ClientPacketDecoder, VARIABLES, encode_input, encode_rows_and_cols, encode_signal,
};

/// What a client has said, with input joined.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Input(Vec<u8>),
    Other(u8, u16),
}

fn say(said: &mut Vec<Said>, input: &[u8]) {
    match said.last_mut() {
        Some(Said::Input(before)) => before.extend_from_slice(input),
        _ => said.push(Said::Input(input.to_vec())),
    }
}

/// The format as it is described.
fn plain(mut bytes: &[u8]) -> (Vec<Said>, bool) {
    let mut said = Vec::new();
    while let [_, low, high, modifier2, rest @ ..] = bytes {
        let size = u16::from_le_bytes([*low, *high]);
        bytes = rest;
        if *modifier2 == 0 {
            let (input, rest) = bytes.split_at(bytes.len().min(size.into()));
            if !input.is_empty() {
                say(&mut said, input);
            }
            bytes = rest;
            if input.len() < size.into() {
                return (said, false);
            }
        } else {
            // The size of a signal means nothing.
            said.push(Said::Other(*modifier2, if *modifier2 < 100 { 0 } else { size }));
        }
    }
    (said, bytes.is_empty())
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Said>, bool) {
    let mut decoder = ClientPacketDecoder::default();
    let mut said = Vec::new();
    for mut piece in pieces {
        while let Some(packet) = decoder.next(&mut piece) {
            match packet {
                ClientPacket::Input(input) => {
                    assert!(!input.is_empty());
                    say(&mut said, input);
                }
                ClientPacket::Signal(number) => said.push(Said::Other(number, 0)),
                ClientPacket::Rows(rows) => said.push(Said::Other(100, rows)),
                ClientPacket::Cols(cols) => said.push(Said::Other(101, cols)),
                ClientPacket::Hello(version) => said.push(Said::Other(102, version)),
                ClientPacket::Part(..) => unreachable!("the extended mode was not agreed"),
                ClientPacket::Unknown(modifier2, size) => said.push(Said::Other(modifier2, size)),
            }
        }
        assert!(piece.is_empty(), "bytes are left");
    }
    (said, decoder.is_between_packets())
}

/// In extended mode, however cut: the same payloads, and bounded variables.
fn extended<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<(u8, Vec<u8>)> {
    let mut decoder = ClientPacketDecoder::default();
    decoder.set_extended();
    let (mut said, mut open) = (Vec::<(u8, Vec<u8>)>::new(), false);
    let mut variables = Variables::default();
    for mut piece in pieces {
        while let Some(packet) = decoder.next(&mut piece) {
            let (kind, part, last) = match packet {
                ClientPacket::Part(kind, part, last) => (kind, part, last),
                ClientPacket::Input(input) => (0, input, false),
                _ => continue,
            };
            if kind == VARIABLES {
                variables.part(part, last);
            }
            match said.last_mut() {
                Some((same, before)) if *same == kind && (open || kind == 0) => before.extend(part),
                _ => said.push((kind, part.to_vec())),
            }
            open = kind != 0 && !last;
        }
    }
    let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(variables.iter().count() <= 256 && bytes <= 65536);
    said
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else {
        return;
    };
    let pieces = || bytes.chunks(usize::from(cut).max(1));
    assert_eq!(extended(pieces()), extended(std::iter::once(bytes)));
    let wanted = plain(bytes);
    assert_eq!(decode(std::iter::once(bytes)), wanted);
    assert_eq!(decode(bytes.chunks(usize::from(cut).max(1))), wanted);

    let mut packets = Vec::new();
    encode_input(bytes, &mut packets);
    packets.extend(encode_rows_and_cols(u16::from(cut), 80));
    packets.extend(encode_signal(cut % 99 + 1));
    let mut said = Vec::new();
    if !bytes.is_empty() {
        say(&mut said, bytes);
    }
    said.push(Said::Other(100, cut.into()));
    said.push(Said::Other(101, 80));
    said.push(Said::Other(cut % 99 + 1, 0));
    assert_eq!(decode(packets.chunks(usize::from(cut).max(1))), (said, true));
});
