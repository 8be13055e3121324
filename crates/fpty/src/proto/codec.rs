//! Packets from and to bytes, in any fragmentation.

use super::packet::{
    COLS, ClientPacket, ERROR_OUTPUT, GatewayPacket, HEADER, HELLO, INPUT, ROWS, SIGNALS, VARIABLES,
};

/// The reader of frames: a header as it comes, and how much of the payload is to come.
#[derive(Clone, Debug, Default)]
struct FrameReader {
    /// A header that is not complete.
    header: [u8; HEADER - 1],
    header_length: u8,
    /// modifier2 of the payload that is under way.
    kind: u8,
    /// Whether packets of the extended mode have payloads. (Here, where there
    /// is room: there is one of these in each session.)
    extended: bool,
    remaining: u16,
}

impl FrameReader {
    /// Takes what there is of the payload that is under way, if one is:
    /// its kind, a part of it, and whether that is the last.
    fn payload<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8], bool)> {
        let (part, rest) = bytes.split_at(bytes.len().min(self.remaining.into()));
        *bytes = rest;
        // No more than left, which is a u16.
        self.remaining -= part.len() as u16;
        (!part.is_empty()).then_some((self.kind, part, self.remaining == 0))
    }

    /// Takes the next header: modifier2 and size.
    fn header(&mut self, bytes: &mut &[u8]) -> Option<(u8, u16)> {
        let [_, low, high, kind] = self.whole_header(bytes)?;
        Some((kind, u16::from_le_bytes([low, high])))
    }

    fn whole_header(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEADER]> {
        let header_length = usize::from(self.header_length);
        if header_length == 0 {
            if let Some((header, rest)) = bytes.split_first_chunk() {
                *bytes = rest;
                return Some(*header);
            }
        }
        let (part, rest) = bytes.split_at(bytes.len().min(HEADER - header_length));
        *bytes = rest;
        if header_length + part.len() < HEADER {
            self.header[header_length..header_length + part.len()].copy_from_slice(part);
            // Less than HEADER.
            self.header_length += part.len() as u8;
            return None;
        }
        let mut whole = [0; HEADER];
        whole[..header_length].copy_from_slice(&self.header[..header_length]);
        whole[header_length..].copy_from_slice(part);
        self.header_length = 0;
        Some(whole)
    }

    fn begin(&mut self, kind: u8, size: u16) {
        (self.kind, self.remaining) = (kind, size);
    }
}

/// The decoder of a client's packets. It keeps at most a part of one
/// header; payloads are never collected.
#[derive(Clone, Debug, Default)]
pub struct ClientPacketDecoder {
    frames: FrameReader,
}

impl ClientPacketDecoder {
    /// Takes the next packet off the front of `bytes`; `None` when `bytes` is
    /// used up, with what is incomplete kept for the next call.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<ClientPacket<'a>> {
        loop {
            if self.frames.remaining > 0 {
                return match self.frames.payload(bytes)? {
                    (INPUT, input, _) => Some(ClientPacket::Input(input)),
                    (kind, part, last) => Some(ClientPacket::Part(kind, part, last)),
                };
            }
            let (kind, size) = self.frames.header(bytes)?;
            match kind {
                INPUT => self.frames.begin(INPUT, size),
                ROWS => return Some(ClientPacket::Rows(size)),
                COLS => return Some(ClientPacket::Cols(size)),
                HELLO => return Some(ClientPacket::Hello(size)),
                signal if SIGNALS.contains(&signal) => return Some(ClientPacket::Signal(signal)),
                kind if self.frames.extended && kind >= VARIABLES => match size {
                    0 => return Some(ClientPacket::Part(kind, &[], true)),
                    size => self.frames.begin(kind, size),
                },
                unknown => return Some(ClientPacket::Unknown(unknown, size)),
            }
        }
    }

    /// From here on the client speaks the extended mode.
    pub fn set_extended(&mut self) {
        self.frames.extended = true;
    }

    /// Whether the bytes so far end between two packets.
    pub fn is_between_packets(&self) -> bool {
        self.frames.header_length == 0 && self.frames.remaining == 0
    }
}

/// The decoder of a gateway's packets, in extended mode.
#[derive(Clone, Debug, Default)]
pub struct GatewayPacketDecoder(FrameReader);

impl GatewayPacketDecoder {
    /// Whether a packet of this kind may be under way.
    pub fn may_be_in(&self, kind: u8) -> bool {
        match self.0.remaining {
            0 => self.0.header_length > 0,
            _ => self.0.kind == kind,
        }
    }

    /// Takes the next packet off the front of `bytes`; `None` when `bytes` is
    /// used up, with what is incomplete kept for the next call.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<GatewayPacket<'a>> {
        loop {
            if self.0.remaining > 0 {
                return match self.0.payload(bytes)? {
                    (INPUT, output, _) => Some(GatewayPacket::Output(output)),
                    (ERROR_OUTPUT, output, _) => Some(GatewayPacket::ErrorOutput(output)),
                    (kind, part, last) => Some(GatewayPacket::Part(kind, part, last)),
                };
            }
            match self.0.header(bytes)? {
                (HELLO, version) => return Some(GatewayPacket::Hello(version)),
                (INPUT | ERROR_OUTPUT, 0) => {}
                (kind, 0) if kind >= VARIABLES => {
                    return Some(GatewayPacket::Part(kind, &[], true));
                }
                (kind, size) if kind <= ERROR_OUTPUT || kind >= VARIABLES => {
                    self.0.begin(kind, size);
                }
                // A gateway says nothing under these numbers; they have no
                // payload.
                _ => {}
            }
        }
    }
}

/// Appends the packets that carry `bytes` as input.
pub fn encode_input(bytes: &[u8], packets: &mut Vec<u8>) {
    for payload in bytes.chunks(u16::MAX.into()) {
        encode_packet(INPUT, payload, packets);
    }
}

/// A packet without a payload.
pub fn encode_bare(kind: u8, value: u16) -> [u8; HEADER] {
    let [low, high] = value.to_le_bytes();
    [0, low, high, kind]
}

/// Appends one packet; of a payload that is longer than a packet's the rest
/// is left out.
pub fn encode_packet(kind: u8, payload: &[u8], packets: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(u16::MAX.into())];
    packets.extend_from_slice(&encode_bare(kind, payload.len() as u16));
    packets.extend_from_slice(payload);
}

/// The two packets that set the terminal's size.
pub fn encode_rows_and_cols(rows: u16, cols: u16) -> [u8; 2 * HEADER] {
    let mut packets = [0; 2 * HEADER];
    packets[..HEADER].copy_from_slice(&encode_bare(ROWS, rows));
    packets[HEADER..].copy_from_slice(&encode_bare(COLS, cols));
    packets
}

/// The packet that sends a signal (1 to 99).
pub fn encode_signal(number: u8) -> [u8; HEADER] {
    encode_bare(number, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::packet::TAKEN;
    use proptest::prelude::*;

    /// Everything a decoder says of `pieces`, with adjacent input joined.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Said {
        Input(Vec<u8>),
        Part(u8, Vec<u8>),
        Other(u8, u16),
    }

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Said> {
        decode_by(ClientPacketDecoder::default(), pieces)
    }

    fn decode_by<'a>(
        mut decoder: ClientPacketDecoder,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Vec<Said> {
        let mut said = Vec::new();
        // Whether a payload is in the midst of it.
        let mut open = false;
        for mut piece in pieces {
            while let Some(packet) = decoder.next(&mut piece) {
                match packet {
                    ClientPacket::Input(bytes) => match said.last_mut() {
                        Some(Said::Input(before)) => before.extend_from_slice(bytes),
                        _ => said.push(Said::Input(bytes.to_vec())),
                    },
                    ClientPacket::Signal(number) => said.push(Said::Other(number, 0)),
                    ClientPacket::Rows(rows) => said.push(Said::Other(ROWS, rows)),
                    ClientPacket::Cols(cols) => said.push(Said::Other(COLS, cols)),
                    ClientPacket::Hello(version) => said.push(Said::Other(HELLO, version)),
                    ClientPacket::Part(kind, part, last) => {
                        match said.last_mut() {
                            Some(Said::Part(_, before)) if open => before.extend_from_slice(part),
                            _ => said.push(Said::Part(kind, part.to_vec())),
                        }
                        open = !last;
                    }
                    ClientPacket::Unknown(modifier2, size) => {
                        said.push(Said::Other(modifier2, size))
                    }
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

    #[test]
    fn the_extended_mode_has_payloads() {
        let mut bytes = Vec::new();
        encode_packet(200, b"unknown", &mut bytes);
        bytes.extend(encode_bare(TAKEN, 0));
        encode_packet(VARIABLES, b"abc", &mut bytes);
        encode_input(b"x", &mut bytes);
        let mut decoder = ClientPacketDecoder::default();
        decoder.set_extended();
        let expected = vec![
            Said::Part(200, b"unknown".to_vec()),
            Said::Part(TAKEN, vec![]),
            Said::Part(VARIABLES, b"abc".to_vec()),
            Said::Input(b"x".to_vec()),
        ];
        assert_eq!(decode_by(decoder.clone(), [bytes.as_slice()]), expected);
        assert_eq!(decode_by(decoder, bytes.chunks(1)), expected);
        assert_ne!(decode([bytes.as_slice()]), expected);
    }

    /// Everything that a gateway says, joined.
    fn answers<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(u8, Vec<u8>)> {
        let mut decoder = GatewayPacketDecoder::default();
        let mut said: Vec<(u8, Vec<u8>)> = Vec::new();
        let mut open = false;
        for mut piece in pieces {
            while let Some(answer) = decoder.next(&mut piece) {
                let (kind, bytes, last) = match answer {
                    GatewayPacket::Output(bytes) => (INPUT, bytes, false),
                    GatewayPacket::ErrorOutput(bytes) => (ERROR_OUTPUT, bytes, false),
                    GatewayPacket::Hello(version) => (HELLO, [].as_slice(), version > 0),
                    GatewayPacket::Part(kind, bytes, last) => (kind, bytes, last),
                };
                match said.last_mut() {
                    Some((same, before)) if *same == kind && open => {
                        before.extend_from_slice(bytes)
                    }
                    _ => said.push((kind, bytes.to_vec())),
                }
                open = !last;
            }
        }
        said
    }

    #[test]
    fn a_gateways_packets() {
        let mut bytes = encode_bare(HELLO, 1).to_vec();
        encode_packet(INPUT, b"out", &mut bytes);
        encode_packet(ERROR_OUTPUT, b"err", &mut bytes);
        bytes.extend(encode_bare(50, 7));
        encode_packet(250, b"new", &mut bytes);
        let expected = vec![
            (HELLO, vec![]),
            (INPUT, b"out".to_vec()),
            (ERROR_OUTPUT, b"err".to_vec()),
            (250, b"new".to_vec()),
        ];
        assert_eq!(answers([bytes.as_slice()]), expected);
        assert_eq!(answers(bytes.chunks(1)), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_of_a_gateway_in_any_pieces_say_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            cut in 1usize..60,
        ) {
            prop_assert_eq!(answers(bytes.chunks(cut)), answers([bytes.as_slice()]));
        }

        #[test]
        fn any_bytes_in_any_pieces_say_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            cuts in proptest::collection::vec(1usize..60, 1..60),
            extended: bool,
        ) {
            let mut decoder = ClientPacketDecoder::default();
            if extended {
                decoder.set_extended();
            }
            let whole = decode_by(decoder.clone(), [bytes.as_slice()]);
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(decode_by(decoder, pieces), whole);
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
                    Said::Part(..) => {}
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
