//! Decoder of the server's bytes: output of the terminal, or packets where both ends have
//! agreed on the extended mode.

use crate::proto::session_key::SessionKey;
use crate::proto::{
    END, GO, GatewayPacket, GatewayPacketDecoder, HEADER, HELLO, NOTICE, OFFER, RING_PIECE,
    SESSION_KEY, SessionEnd, bounded_text, collect_payload,
};

/// The longest payload that is collected, in bytes; a longer notice or end is cut.
pub(super) const MAX_PAYLOAD: usize = 2048;

/// An event from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// The server has agreed to the extended mode.
    ExtendedMode,
    /// The end of the session.
    SessionEnd(SessionEnd),
    /// A line for the person.
    Notice(String),
    /// Descriptors of these kinds come along.
    Offer(Vec<u8>),
    /// The key by which the session is found again.
    SessionKey(SessionKey),
    /// A piece of what is kept of the output, or of such a piece.
    RingPiece(Vec<u8>),
    /// The terminal is ours; or, where it is not, how much output there was
    /// before this.
    Go(Option<u64>),
}

/// The decoder of a server's bytes, in whichever mode it speaks.
#[derive(Debug)]
pub enum ServerDecoder {
    /// Bytes of the terminal, and nothing else.
    Plain,
    /// The hello was sent; the bytes of its answer so far.
    Undecided(Vec<u8>),
    /// Packets.
    Extended {
        /// The decoder of packets.
        decoder: GatewayPacketDecoder,
        /// The payload of the packet that is under way.
        payload: Vec<u8>,
    },
}

impl ServerDecoder {
    /// A decoder for a server that was sent a hello.
    pub fn after_hello() -> Self {
        Self::Undecided(Vec::new())
    }

    /// Whether the server has not said which mode it speaks.
    pub fn is_undecided(&self) -> bool {
        matches!(self, Self::Undecided(_))
    }

    /// Whether both ends speak the extended mode.
    pub fn is_extended(&self) -> bool {
        matches!(self, Self::Extended { .. })
    }

    /// Whether a packet that descriptors come with may be under way: a part
    /// of its header has come, or of it.
    pub fn may_be_in_offer(&self) -> bool {
        match self {
            Self::Extended { decoder, .. } => decoder.may_be_in(OFFER),
            _ => false,
        }
    }

    /// Takes what came off the front of `bytes`: appends what is output, up to
    /// the next thing that is not, and returns that; `None`: that was all.
    pub fn next(&mut self, bytes: &mut &[u8], output: &mut Vec<u8>) -> Option<ServerEvent> {
        match self {
            Self::Plain => {
                output.extend_from_slice(bytes);
                *bytes = &[];
                None
            }
            Self::Undecided(begun) => {
                let missing = HEADER - begun.len();
                let (part, rest) = bytes.split_at(bytes.len().min(missing));
                begun.extend_from_slice(part);
                // modifier1 means nothing; the version is whatever it is.
                let is_answer = begun.first().is_none_or(|first| *first == 0)
                    && begun.get(3).is_none_or(|kind| *kind == HELLO);
                if !is_answer {
                    output.append(begun);
                    *bytes = rest;
                    *self = Self::Plain;
                    return self.next(bytes, output);
                }
                *bytes = rest;
                if begun.len() < HEADER {
                    return None;
                }
                let decoder = GatewayPacketDecoder::default();
                *self = Self::Extended { decoder, payload: Vec::new() };
                Some(ServerEvent::ExtendedMode)
            }
            Self::Extended { decoder, payload } => {
                while let Some(answer) = decoder.next(bytes) {
                    match answer {
                        GatewayPacket::Output(bytes) | GatewayPacket::ErrorOutput(bytes) => {
                            output.extend_from_slice(bytes);
                        }
                        GatewayPacket::Hello(_) => {}
                        // These may be long.
                        GatewayPacket::Part(RING_PIECE, part, _) => {
                            return Some(ServerEvent::RingPiece(part.to_vec()));
                        }
                        GatewayPacket::Part(kind, part, last) => {
                            let whole = collect_payload(payload, part, last, MAX_PAYLOAD);
                            if let Some(said) = whole.and_then(|whole| of_packet(kind, whole)) {
                                return Some(said);
                            }
                        }
                    }
                }
                None
            }
        }
    }

    /// The end of the server's bytes: returns what was held back as part of an answer,
    /// and is output.
    pub fn take_rest(&mut self) -> Vec<u8> {
        match self {
            Self::Undecided(begun) => std::mem::take(begun),
            _ => Vec::new(),
        }
    }
}

fn of_packet(kind: u8, payload: Vec<u8>) -> Option<ServerEvent> {
    match kind {
        END => SessionEnd::read(&payload).map(ServerEvent::SessionEnd),
        NOTICE => Some(ServerEvent::Notice(bounded_text(&payload))),
        OFFER => Some(ServerEvent::Offer(payload)),
        GO => Some(ServerEvent::Go(payload.try_into().ok().map(u64::from_le_bytes))),
        SESSION_KEY => SessionKey::read(&payload).map(ServerEvent::SessionKey),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{EndKind, INPUT, encode_bare, encode_packet};
    use proptest::prelude::*;

    fn hear(
        mut decoder: ServerDecoder,
        bytes: &[u8],
        cut: usize,
    ) -> (Vec<ServerEvent>, Vec<u8>, ServerDecoder) {
        let (mut said, mut output) = (Vec::new(), Vec::new());
        for mut piece in bytes.chunks(cut.max(1)) {
            while let Some(one) = decoder.next(&mut piece, &mut output) {
                match (said.last_mut(), one) {
                    (Some(ServerEvent::RingPiece(before)), ServerEvent::RingPiece(more)) => {
                        before.extend(more)
                    }
                    (_, one) => said.push(one),
                }
            }
        }
        (said, output, decoder)
    }

    #[test]
    fn an_old_gateway_is_heard_from_the_first_byte() {
        for text in ["$ ", "\0\x01\0x", "hello"] {
            for cut in [1, 100] {
                let (said, output, decoder) =
                    hear(ServerDecoder::after_hello(), text.as_bytes(), cut);
                assert_eq!((said.len(), output.as_slice()), (0, text.as_bytes()));
                assert!(!decoder.is_undecided());
            }
        }
        let (_, output, mut decoder) = hear(ServerDecoder::after_hello(), b"\0\x01", 100);
        assert_eq!((output.len(), decoder.take_rest()), (0, b"\0\x01".to_vec()));
    }

    #[test]
    fn a_new_gateway_answers_and_speaks_in_packets() {
        let mut bytes = encode_bare(HELLO, 65535).to_vec();
        encode_packet(INPUT, b"out", &mut bytes);
        encode_packet(NOTICE, b"soon\x1b[2J", &mut bytes);
        encode_packet(240, b"unknown", &mut bytes);
        encode_packet(INPUT, b"put", &mut bytes);
        let ended = SessionEnd { ending: EndKind::Exit, value: 7, text: String::new() };
        bytes.extend(ended.packet());
        for cut in [1, 5, 1000] {
            let (said, output, _) = hear(ServerDecoder::after_hello(), &bytes, cut);
            let notice = ServerEvent::Notice(String::from("soon\u{1b}[2J"));
            assert_eq!(
                said,
                [ServerEvent::ExtendedMode, notice, ServerEvent::SessionEnd(ended.clone())]
            );
            assert_eq!(output, b"output");
        }
    }

    #[test]
    fn sixty_thousand_bytes_of_text_are_cut() {
        let mut bytes = encode_bare(HELLO, 1).to_vec();
        encode_packet(NOTICE, &[b'x'; 60_000], &mut bytes);
        let (said, ..) = hear(ServerDecoder::after_hello(), &bytes, 4096);
        assert!(matches!(&said[1], ServerEvent::Notice(text) if text.len() <= 1024));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_say_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 1usize..20,
        ) {
            let mut agreed = encode_bare(HELLO, 1).to_vec();
            agreed.extend(&bytes);
            for bytes in [bytes, agreed] {
                let (said, output, mut decoder) = hear(ServerDecoder::after_hello(), &bytes, cut);
                let (expected, all, mut whole) = hear(ServerDecoder::after_hello(), &bytes, 1000);
                prop_assert_eq!((said, output, decoder.take_rest()), (expected, all, whole.take_rest()));
            }
        }
    }
}
