//! Packets from and to bytes, in any fragmentation.

use super::packet::{COLS, HEADER, INPUT, Packet, ROWS, SIGNALS};

/// Turns the client's bytes into packets. It keeps at most a part of one
/// header; input is never collected.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER],
    have: u8,
    input_left: u16,
}

impl Decoder {
    /// Takes the next packet off the front of `bytes`; `None` when `bytes` is
    /// used up, with what is incomplete kept for the next call.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Packet<'a>> {
        loop {
            if self.input_left > 0 {
                if bytes.is_empty() {
                    return None;
                }
                let (input, rest) = bytes.split_at(bytes.len().min(self.input_left.into()));
                *bytes = rest;
                // No more than input_left, which is a u16.
                self.input_left -= input.len() as u16;
                return Some(Packet::Input(input));
            }
            let [_, low, high, modifier2] = self.header(bytes)?;
            let size = u16::from_le_bytes([low, high]);
            match modifier2 {
                INPUT => self.input_left = size,
                ROWS => return Some(Packet::Rows(size)),
                COLS => return Some(Packet::Cols(size)),
                signal if SIGNALS.contains(&signal) => return Some(Packet::Signal(signal)),
                unknown => return Some(Packet::Unknown(unknown, size)),
            }
        }
    }

    /// Whether the bytes so far end between two packets.
    pub fn is_between_packets(&self) -> bool {
        self.have == 0 && self.input_left == 0
    }

    fn header(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEADER]> {
        let have = usize::from(self.have);
        if have == 0 {
            if let Some((header, rest)) = bytes.split_first_chunk() {
                *bytes = rest;
                return Some(*header);
            }
        }
        let (part, rest) = bytes.split_at(bytes.len().min(HEADER - have));
        self.header[have..have + part.len()].copy_from_slice(part);
        *bytes = rest;
        // At most HEADER.
        self.have += part.len() as u8;
        if usize::from(self.have) < HEADER {
            return None;
        }
        self.have = 0;
        Some(self.header)
    }
}

/// Appends the packets that carry `bytes` as input.
pub fn encode_input(bytes: &[u8], packets: &mut Vec<u8>) {
    for payload in bytes.chunks(u16::MAX.into()) {
        // A chunk is no longer than u16::MAX.
        packets.extend_from_slice(&header(INPUT, payload.len() as u16));
        packets.extend_from_slice(payload);
    }
}

/// The two packets that set the terminal's size.
pub fn encode_rows_and_cols(rows: u16, cols: u16) -> [u8; 2 * HEADER] {
    let mut packets = [0; 2 * HEADER];
    packets[..HEADER].copy_from_slice(&header(ROWS, rows));
    packets[HEADER..].copy_from_slice(&header(COLS, cols));
    packets
}

/// The packet that sends a signal (1 to 99).
pub fn encode_signal(number: u8) -> [u8; HEADER] {
    header(number, 0)
}

fn header(modifier2: u8, size: u16) -> [u8; HEADER] {
    let [low, high] = size.to_le_bytes();
    [0, low, high, modifier2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything a decoder says of `pieces`, with adjacent input joined.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Said {
        Input(Vec<u8>),
        Other(u8, u16),
    }

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Said> {
        let mut decoder = Decoder::default();
        let mut said = Vec::new();
        for mut piece in pieces {
            while let Some(packet) = decoder.next(&mut piece) {
                match packet {
                    Packet::Input(bytes) => match said.last_mut() {
                        Some(Said::Input(before)) => before.extend_from_slice(bytes),
                        _ => said.push(Said::Input(bytes.to_vec())),
                    },
                    Packet::Signal(number) => said.push(Said::Other(number, 0)),
                    Packet::Rows(rows) => said.push(Said::Other(ROWS, rows)),
                    Packet::Cols(cols) => said.push(Said::Other(COLS, cols)),
                    Packet::Unknown(modifier2, size) => said.push(Said::Other(modifier2, size)),
                }
            }
            assert!(piece.is_empty());
        }
        said
    }

    #[test]
    fn several_packets_in_one_read_all_count() {
        let mut bytes = encode_rows_and_cols(50, 132).to_vec();
        encode_input(b"ls\n", &mut bytes);
        bytes.extend(encode_signal(2));
        encode_input(b"x", &mut bytes);
        let expected = vec![
            Said::Other(ROWS, 50),
            Said::Other(COLS, 132),
            Said::Input(b"ls\n".to_vec()),
            Said::Other(2, 0),
            Said::Input(b"x".to_vec()),
        ];
        assert_eq!(decode([bytes.as_slice()]), expected);
        assert_eq!(decode(bytes.chunks(1)), expected);
    }

    #[test]
    fn the_size_of_a_signal_is_ignored_and_unknown_ones_have_no_payload() {
        assert_eq!(
            decode([[7, 9, 9, 15, 3, 1, 0, 200, 0, 1, 0, 0, b'y'].as_slice()]),
            vec![Said::Other(15, 0), Said::Other(200, 1), Said::Input(b"y".to_vec())]
        );
    }

    #[test]
    fn an_empty_input_packet_is_nothing() {
        assert_eq!(decode([[0, 0, 0, 0].as_slice()]), vec![]);
    }

    #[test]
    fn input_longer_than_a_packet_takes_several() {
        let input = vec![b'z'; 150_000];
        let mut packets = Vec::new();
        encode_input(&input, &mut packets);
        assert_eq!(packets.len(), input.len() + 3 * HEADER);
        assert_eq!(decode([packets.as_slice()]), vec![Said::Input(input)]);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_say_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            cuts in proptest::collection::vec(1usize..60, 1..60),
        ) {
            let whole = decode([bytes.as_slice()]);
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(decode(pieces), whole);
        }

        #[test]
        fn what_is_encoded_is_decoded(
            said in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 1..300).prop_map(Said::Input),
                    (1u8..100).prop_map(|number| Said::Other(number, 0)),
                ], 0..40),
        ) {
            let mut bytes = Vec::new();
            for one in &said {
                match one {
                    Said::Input(input) => encode_input(input, &mut bytes),
                    Said::Other(number, _) => bytes.extend(encode_signal(*number)),
                }
            }
            let mut joined: Vec<Said> = Vec::new();
            for one in said {
                match (joined.last_mut(), one) {
                    (Some(Said::Input(before)), Said::Input(input)) => before.extend(input),
                    (_, one) => joined.push(one),
                }
            }
            prop_assert_eq!(decode([bytes.as_slice()]), joined);
        }
    }
}
