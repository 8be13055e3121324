//! What a server says: bytes of the terminal, or packets where both ends have
//! agreed on the extended mode.

use crate::proto::session_key::SessionKey;
use crate::proto::{
    Answer, AnswerDecoder, ENDED, Ended, GO, HEADER, HELLO, KEY, NOTICE, OFFER, PONG, RING_PIECE,
    collect, text_of,
};

/// The longest payload that is collected; of notices and ends what is longer
/// is cut.
const LONGEST: usize = 2048;

/// What a server has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It agrees to the extended mode.
    Agreed,
    /// How the session ended.
    Ended(Ended),
    /// A line for the person.
    Notice(String),
    /// Descriptors of these kinds come along.
    Offer(Vec<u8>),
    /// By what the session is found again.
    Key(SessionKey),
    /// A piece of what is kept of the output, or of such a piece.
    Piece(Vec<u8>),
    /// The terminal is ours; or, where it is not, how much output there was
    /// before this.
    Go(Option<u64>),
}

/// What mode the server speaks.
#[derive(Debug)]
enum Mode {
    /// Bytes of the terminal, and nothing else.
    Plain,
    /// It has been asked; so much of an answer has come.
    Asked(Vec<u8>),
    /// Packets.
    Extended {
        decoder: AnswerDecoder,
        /// The payload of the packet that is under way.
        payload: Vec<u8>,
    },
}

/// Understands a server.
#[derive(Debug)]
pub struct Hearing(Mode);

impl Hearing {
    /// A server that speaks plainly.
    pub fn plain() -> Self {
        Self(Mode::Plain)
    }

    /// One that was asked whether it can do more.
    pub fn asked() -> Self {
        Self(Mode::Asked(Vec::new()))
    }

    /// Whether the server has not said which mode it speaks.
    pub fn is_undecided(&self) -> bool {
        matches!(self.0, Mode::Asked(_))
    }

    /// Whether both ends speak the extended mode.
    pub fn is_extended(&self) -> bool {
        matches!(self.0, Mode::Extended { .. })
    }

    /// Whether a packet that descriptors come with may be under way: a part
    /// of its header has come, or of it.
    pub fn may_be_in_an_offer(&self) -> bool {
        match &self.0 {
            Mode::Extended { decoder, .. } => decoder.may_be_in(OFFER),
            _ => false,
        }
    }

    /// Takes what came off the front of `bytes`: appends what is output, up to
    /// the next thing that is not, and returns that; `None`: that was all.
    pub fn next(&mut self, bytes: &mut &[u8], output: &mut Vec<u8>) -> Option<Said> {
        match &mut self.0 {
            Mode::Plain => {
                output.extend_from_slice(bytes);
                *bytes = &[];
                None
            }
            Mode::Asked(begun) => {
                let missing = HEADER - begun.len();
                let (part, rest) = bytes.split_at(bytes.len().min(missing));
                begun.extend_from_slice(part);
                // modifier1 means nothing; the version is whatever it is.
                let is_answer = begun.first().is_none_or(|first| *first == 0)
                    && begun.get(3).is_none_or(|kind| *kind == HELLO);
                if !is_answer {
                    output.append(begun);
                    *bytes = rest;
                    self.0 = Mode::Plain;
                    return self.next(bytes, output);
                }
                *bytes = rest;
                if begun.len() < HEADER {
                    return None;
                }
                let decoder = AnswerDecoder::default();
                self.0 = Mode::Extended { decoder, payload: Vec::new() };
                Some(Said::Agreed)
            }
            Mode::Extended { decoder, payload } => {
                while let Some(answer) = decoder.next(bytes) {
                    match answer {
                        Answer::Output(bytes) | Answer::ErrorOutput(bytes) => {
                            output.extend_from_slice(bytes);
                        }
                        Answer::Hello(_) => {}
                        // These may be long.
                        Answer::Part(RING_PIECE, part, _) => {
                            return Some(Said::Piece(part.to_vec()));
                        }
                        Answer::Part(kind, part, last) => {
                            let whole = collect(payload, part, last, LONGEST);
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

    /// There will be no more: what was held back as a part of an answer is
    /// output.
    pub fn rest(&mut self) -> Vec<u8> {
        match &mut self.0 {
            Mode::Asked(begun) => std::mem::take(begun),
            _ => Vec::new(),
        }
    }
}

fn of_packet(kind: u8, payload: Vec<u8>) -> Option<Said> {
    match kind {
        ENDED => Ended::read(&payload).map(Said::Ended),
        NOTICE => Some(Said::Notice(text_of(&payload))),
        OFFER => Some(Said::Offer(payload)),
        GO => Some(Said::Go(payload.try_into().ok().map(u64::from_le_bytes))),
        KEY => SessionKey::read(&payload).map(Said::Key),
        PONG => None,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Ending, INPUT, encode_bare, encode_packet};
    use proptest::prelude::*;

    fn hear(mut hearing: Hearing, bytes: &[u8], cut: usize) -> (Vec<Said>, Vec<u8>, Hearing) {
        let (mut said, mut output) = (Vec::new(), Vec::new());
        for mut piece in bytes.chunks(cut.max(1)) {
            while let Some(one) = hearing.next(&mut piece, &mut output) {
                match (said.last_mut(), one) {
                    (Some(Said::Piece(before)), Said::Piece(more)) => before.extend(more),
                    (_, one) => said.push(one),
                }
            }
        }
        (said, output, hearing)
    }

    #[test]
    fn an_old_router_is_heard_from_the_first_byte() {
        for text in ["$ ", "\0\x01\0x", "hello"] {
            for cut in [1, 100] {
                let (said, output, hearing) = hear(Hearing::asked(), text.as_bytes(), cut);
                assert_eq!((said.len(), output.as_slice()), (0, text.as_bytes()));
                assert!(!hearing.is_undecided());
            }
        }
        let (_, output, mut hearing) = hear(Hearing::asked(), b"\0\x01", 100);
        assert_eq!((output.len(), hearing.rest()), (0, b"\0\x01".to_vec()));
    }

    #[test]
    fn a_new_router_answers_and_speaks_in_packets() {
        let mut bytes = encode_bare(HELLO, 65535).to_vec();
        encode_packet(INPUT, b"out", &mut bytes);
        encode_packet(NOTICE, b"soon\x1b[2J", &mut bytes);
        encode_packet(240, b"unknown", &mut bytes);
        encode_packet(INPUT, b"put", &mut bytes);
        let ended = Ended { ending: Ending::Exit, value: 7, text: String::new() };
        bytes.extend(ended.packet());
        for cut in [1, 5, 1000] {
            let (said, output, _) = hear(Hearing::asked(), &bytes, cut);
            let notice = Said::Notice(String::from("soon\u{1b}[2J"));
            assert_eq!(said, [Said::Agreed, notice, Said::Ended(ended.clone())]);
            assert_eq!(output, b"output");
        }
    }

    #[test]
    fn sixty_thousand_bytes_of_text_are_cut() {
        let mut bytes = encode_bare(HELLO, 1).to_vec();
        encode_packet(NOTICE, &[b'x'; 60_000], &mut bytes);
        let (said, ..) = hear(Hearing::asked(), &bytes, 4096);
        assert!(matches!(&said[1], Said::Notice(text) if text.len() <= 1024));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_say_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 1usize..20,
        ) {
            let mut agreed = encode_bare(HELLO, 1).to_vec();
            agreed.extend(&bytes);
            for bytes in [bytes, agreed] {
                let (said, output, mut hearing) = hear(Hearing::asked(), &bytes, cut);
                let (wanted, all, mut whole) = hear(Hearing::asked(), &bytes, 1000);
                prop_assert_eq!((said, output, hearing.rest()), (wanted, all, whole.rest()));
            }
        }
    }
}
