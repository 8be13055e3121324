//! What a client of uwsgi mode says before its program starts: how large its
//! terminal is, whether it can do more than the C plugin's client, its
//! environment, and what it asks for.

use fpty::proto::request::Request;
use fpty::proto::variables::{TERMINAL, Variables};
use fpty::proto::{
    Decoder, END_OF_STREAM, HEADER, HELLO, OFFER, Packet, REQUEST, VARIABLES, VERSION, encode_bare,
};
use fpty::sys::Size;

use fpty::proto::http_request;

/// Input that is kept of a client that has not said that that was all, in
/// bytes. One that hears no answer for a while sends some of it all the same
/// (client/typing.rs).
const EARLY_INPUT: usize = 256 * 1024;

/// Why one is refused that sends more.
const TOO_MUCH: &str = "too much input came before the request was complete";

/// What has been heard of a client.
#[derive(Debug, Default)]
pub struct Greeting {
    /// The first bytes, and how many of them have come.
    first: [u8; HEADER],
    come: usize,
    opening: Opening,
}

/// How many descriptors a client can pass.
const DESCRIPTORS: usize = 3;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Wait for more.
    Waiting,
    /// Answer the hello with these bytes, and hear on.
    Answer([u8; 4]),
    /// Start the program; what is left of the bytes is for the session.
    Begin,
    /// Start nothing: why.
    Refuse(&'static str),
    /// A web page speaks.
    Web,
}

/// What is known of a client when its program starts.
#[derive(Debug, Default)]
pub struct Opening {
    /// In whatever packet the client is.
    pub decoder: Decoder,
    /// Whether both ends speak the extended mode.
    pub extended: bool,
    /// The height of the client's terminal, where it said one.
    pub rows: Option<u16>,
    /// Its width, likewise.
    pub cols: Option<u16>,
    /// Its environment, and what it can do.
    pub variables: Variables,
    /// What it asks for.
    pub request: Request,
    /// The names of the descriptors that it passes; one more than there can
    /// be where there were more.
    pub offered: Vec<u8>,
    /// Input of a client that had said hello, and not that that was all.
    pub input: Vec<u8>,
    /// It has said that there is no more.
    pub input_ended: bool,
    /// It has said something: a hello comes too late.
    pub spoken: bool,
}

impl Greeting {
    /// Of a client that said nothing in time, and says hello now: a part of
    /// that may have come before.
    pub fn late(decoder: Decoder) -> Self {
        Self { opening: Opening { decoder, ..Opening::default() }, ..Self::default() }
    }

    /// Takes what the client sent off the front of `bytes`.
    pub fn hear(&mut self, bytes: &mut &[u8]) -> Heard {
        if self.come < HEADER {
            let count = bytes.len().min(HEADER - self.come);
            self.first[self.come..self.come + count].copy_from_slice(&bytes[..count]);
            self.come += count;
            if self.come == HEADER && http_request::is_no_packet(&self.first) {
                return Heard::Web;
            }
        }
        let heard = &mut self.opening;
        loop {
            let (before, decoder) = (*bytes, heard.decoder.clone());
            let Some(packet) = heard.decoder.next(bytes) else {
                return Heard::Waiting;
            };
            let first = !std::mem::replace(&mut heard.spoken, true);
            match packet {
                Packet::Hello(1..) if first => {
                    heard.extended = true;
                    heard.decoder.extend();
                    return Heard::Answer(encode_bare(HELLO, VERSION));
                }
                Packet::Hello(_) => {}
                Packet::Rows(rows) => heard.rows = (rows > 0).then_some(rows),
                Packet::Cols(cols) => heard.cols = (cols > 0).then_some(cols),
                // A client that can do more says when that was all.
                Packet::Part(VARIABLES, [], true) => return Heard::Begin,
                Packet::Part(VARIABLES, part, last) => heard.variables.part(part, last),
                Packet::Part(REQUEST, part, last) => heard.request.part(part, last),
                Packet::Part(OFFER, part, _) => {
                    let room = (DESCRIPTORS + 1 - heard.offered.len()).min(part.len());
                    heard.offered.extend_from_slice(&part[..room]);
                }
                Packet::Part(END_OF_STREAM, [], true) => heard.input_ended = true,
                Packet::Input(input) if heard.extended => {
                    // To read no further would be to wait for what stands
                    // behind it.
                    if heard.input.len() + input.len() > EARLY_INPUT {
                        return Heard::Refuse(TOO_MUCH);
                    }
                    heard.input.extend_from_slice(input);
                }
                // There is nobody yet whom a signal could be for.
                Packet::Part(..) | Packet::Signal(_) | Packet::Unknown(..) if heard.extended => {}
                // For the session.
                Packet::Input(_) | Packet::Signal(_) | Packet::Part(..) | Packet::Unknown(..) => {
                    (*bytes, heard.decoder) = (before, decoder);
                    return Heard::Begin;
                }
            }
            // Sizes and nothing else: the C plugin's client has no more to say.
            if !heard.extended && heard.rows.is_some() && heard.cols.is_some() {
                return Heard::Begin;
            }
        }
    }

    /// Whether less than a packet has come, and looks like a web page's.
    pub fn may_be_web(&self) -> bool {
        (1..HEADER).contains(&self.come) && http_request::is_no_packet(&self.first[..self.come])
    }

    /// Whether the client has said hello.
    pub fn is_extended(&self) -> bool {
        self.opening.extended
    }

    /// What is known when the program starts.
    pub fn opening(self) -> Opening {
        self.opening
    }
}

impl Opening {
    /// The size to begin with.
    pub fn size(&self, default: Size) -> Size {
        Size { rows: self.rows.unwrap_or(default.rows), cols: self.cols.unwrap_or(default.cols) }
    }

    /// Whether the program gets a terminal.
    pub fn wants_terminal(&self) -> bool {
        self.variables.get(TERMINAL) != Some(b"0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty::proto::request::{self, Verb};
    use fpty::proto::{HEADER, variables};
    use fpty::proto::{encode_input, encode_rows_and_cols, encode_signal};

    /// What is heard of `said` in pieces of `cut` bytes, and what is left.
    fn hear(said: &[u8], cut: usize) -> (Vec<Heard>, Vec<u8>, Greeting) {
        let mut greeting = Greeting::default();
        let mut heard = Vec::new();
        let mut at = 0;
        for piece in said.chunks(cut) {
            let mut bytes = piece;
            at += piece.len();
            loop {
                match greeting.hear(&mut bytes) {
                    Heard::Waiting => break,
                    last @ (Heard::Begin | Heard::Refuse(_)) => {
                        heard.push(last);
                        let left = said[at - bytes.len()..].to_vec();
                        return (heard, left, greeting);
                    }
                    answer => heard.push(answer),
                }
            }
        }
        (heard, Vec::new(), greeting)
    }

    #[test]
    fn an_old_client_says_its_size_and_begins() {
        let mut said = encode_rows_and_cols(33, 99).to_vec();
        encode_input(b"ls\n", &mut said);
        for cut in [1, 3, 100] {
            let (heard, left, greeting) = hear(&said, cut);
            assert_eq!(heard, [Heard::Begin]);
            assert_eq!(left, said[8..]);
            let size = greeting.opening().size(Size { rows: 24, cols: 80 });
            assert_eq!(size, Size { rows: 33, cols: 99 });
        }
    }

    #[test]
    fn input_and_signals_are_for_the_session() {
        for said in [encode_signal(15).to_vec(), vec![0, 2, 0, 0, b'x', b'y'], vec![0, 9, 0, 200]] {
            let (heard, left, greeting) = hear(&said, 100);
            assert_eq!((heard.as_slice(), left), ([Heard::Begin].as_slice(), said));
            assert!(!greeting.is_extended());
        }
    }

    #[test]
    fn a_new_client_says_hello_and_when_that_was_all() {
        let mut said = encode_bare(HELLO, 1).to_vec();
        said.extend(encode_rows_and_cols(33, 99));
        encode_input(b"early", &mut said);
        variables::encode([(b"TERM".as_slice(), b"foot".as_slice())], &mut said);
        said.extend(encode_bare(VARIABLES, 0));
        encode_input(b"later", &mut said);
        for cut in [1, 7, 1000] {
            let (heard, left, greeting) = hear(&said, cut);
            assert_eq!(heard, [Heard::Answer([0, 1, 0, HELLO]), Heard::Begin], "cut {cut}");
            assert_eq!(left, said[said.len() - 9..]);
            let opening = greeting.opening();
            assert_eq!(opening.input, b"early");
            assert_eq!(opening.variables.get(b"TERM"), Some(b"foot".as_slice()));
            assert_eq!(opening.rows, Some(33));
        }
    }

    /// Each part of what a client says, and each word of it that could be taken
    /// for a beginning, but for the last.
    #[test]
    fn after_a_hello_nothing_begins_before_that_was_all() {
        let mut said = encode_bare(HELLO, 1).to_vec();
        said.extend(encode_signal(2));
        said.extend(encode_rows_and_cols(33, 99));
        said.extend(encode_bare(200, 0));
        said.extend(encode_bare(END_OF_STREAM, 0));
        request::encode(Verb::CommandLine, b"rm -f x/me-old", &mut said);
        encode_input(b"exit\n", &mut said);
        variables::encode([(b"A".as_slice(), b"b".as_slice())], &mut said);
        said.extend(encode_bare(HELLO, 1));
        for length in HEADER..=said.len() {
            for cut in [1, 1000] {
                let (heard, ..) = hear(&said[..length], cut);
                assert_eq!(heard, [Heard::Answer([0, 1, 0, HELLO])], "{length} {cut}");
            }
        }
        said.extend(encode_bare(VARIABLES, 0));
        let (heard, _, greeting) = hear(&said, 3);
        assert_eq!(heard.last(), Some(&Heard::Begin));
        let request = greeting.opening().request.read();
        assert_eq!(request, Ok(Some((Verb::CommandLine, b"rm -f x/me-old".to_vec()))));
    }

    #[test]
    fn early_input_is_bounded_and_not_waited_behind() {
        let mut said = encode_bare(HELLO, 1).to_vec();
        encode_input(&[b'x'; EARLY_INPUT], &mut said);
        let most = said.len();
        said.extend(encode_bare(VARIABLES, 0));
        assert_eq!(hear(&said, 65_536).0.last(), Some(&Heard::Begin));
        said.truncate(most);
        encode_input(b"y", &mut said);
        assert_eq!(hear(&said, 65_536).0.last(), Some(&Heard::Refuse(TOO_MUCH)));
    }

    #[test]
    fn a_hello_comes_first_or_not_at_all() {
        let mut late = encode_rows_and_cols(33, 99)[..4].to_vec();
        late.extend(encode_bare(HELLO, 1));
        let (heard, _, greeting) = hear(&late, 100);
        assert_eq!(heard, []);
        assert!(!greeting.is_extended());
        assert_eq!(hear(&encode_bare(HELLO, 0), 100).0, []);
        let answer = [0, 1, 0, HELLO];
        assert_eq!(hear(&encode_bare(HELLO, 65535), 100).0, [Heard::Answer(answer)]);
    }
}
