//! The client's hello (uwsgi mode): size of its terminal, extended mode, environment, and the
//! request, all before its program starts.

use fpty::proto::request::Request;
use fpty::proto::variables::{TERMINAL, Variables};
use fpty::proto::{
    ClientPacket, ClientPacketDecoder, END_OF_STREAM, HEADER, HELLO, OFFER, REQUEST, VARIABLES,
    VERSION, encode_bare,
};
use fpty::sys::Size;

use fpty::proto::http_request;

/// The most input in bytes that is kept before a request is complete. A client that gets no
/// answer for a while sends some all the same.
const MAX_EARLY_INPUT: usize = 256 * 1024;

/// Rejection of a client that sends more.
const EARLY_INPUT_TOO_LONG: &str = "too much input came before the request was complete";

/// The handshake of one client.
#[derive(Debug, Default)]
pub struct Handshake {
    /// The first bytes, and their count: an HTTP request, perhaps.
    first: [u8; HEADER],
    first_count: usize,
    /// The hello as far as it has come.
    pub hello: ClientHello,
}

/// The most descriptors that a client can pass.
pub const MAX_FDS: usize = 3;

/// The next step of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeStep {
    /// More bytes are needed.
    Incomplete,
    /// Send these bytes in answer to the hello, and feed on.
    SendHello([u8; 4]),
    /// The request is complete; what is left of the bytes is for the session.
    Complete,
    /// Reject the client, with this text.
    Reject(&'static str),
    /// The client speaks HTTP.
    Http,
}

/// The hello of a client.
#[derive(Debug, Default)]
pub struct ClientHello {
    /// The decoder, in the midst of a packet perhaps.
    pub decoder: ClientPacketDecoder,
    /// Whether extended mode was agreed.
    pub extended: bool,
    /// Rows of the client's terminal, where it sent them.
    pub rows: Option<u16>,
    /// Columns, likewise.
    pub cols: Option<u16>,
    /// The client's environment, and its capabilities.
    pub variables: Variables,
    /// The request.
    pub request: Request,
    /// Names of the passed descriptors; one more than the maximum where there were more.
    pub offered_fds: Vec<u8>,
    /// Input that came before the request was complete.
    pub input: Vec<u8>,
    /// The input has ended.
    pub input_ended: bool,
    /// A packet has come: a hello would be too late.
    pub has_packets: bool,
}

impl Handshake {
    /// A handshake after a silent start: a part of the hello may be in the decoder.
    pub fn after_silence(decoder: ClientPacketDecoder) -> Self {
        Self { hello: ClientHello { decoder, ..ClientHello::default() }, ..Self::default() }
    }

    /// Consumes the client's bytes from the front of `bytes`.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> HandshakeStep {
        if self.first_count < HEADER {
            let count = bytes.len().min(HEADER - self.first_count);
            self.first[self.first_count..self.first_count + count].copy_from_slice(&bytes[..count]);
            self.first_count += count;
            if self.first_count == HEADER && http_request::is_http_or_tls(&self.first) {
                return HandshakeStep::Http;
            }
        }
        let heard = &mut self.hello;
        loop {
            let (before, decoder) = (*bytes, heard.decoder.clone());
            let Some(packet) = heard.decoder.next(bytes) else {
                return HandshakeStep::Incomplete;
            };
            let first = !std::mem::replace(&mut heard.has_packets, true);
            match packet {
                ClientPacket::Hello(1..) if first => {
                    heard.extended = true;
                    heard.decoder.set_extended();
                    return HandshakeStep::SendHello(encode_bare(HELLO, VERSION));
                }
                ClientPacket::Hello(_) => {}
                ClientPacket::Rows(rows) => heard.rows = (rows > 0).then_some(rows),
                ClientPacket::Cols(cols) => heard.cols = (cols > 0).then_some(cols),
                // A client that can do more says when that was all.
                ClientPacket::Part(VARIABLES, [], true) => return HandshakeStep::Complete,
                ClientPacket::Part(VARIABLES, part, last) => heard.variables.part(part, last),
                ClientPacket::Part(REQUEST, part, last) => heard.request.part(part, last),
                ClientPacket::Part(OFFER, part, _) => {
                    let room = (MAX_FDS + 1 - heard.offered_fds.len()).min(part.len());
                    heard.offered_fds.extend_from_slice(&part[..room]);
                }
                ClientPacket::Part(END_OF_STREAM, [], true) => heard.input_ended = true,
                ClientPacket::Input(input) if heard.extended => {
                    // To read no further would be to wait for what stands
                    // behind it.
                    if heard.input.len() + input.len() > MAX_EARLY_INPUT {
                        return HandshakeStep::Reject(EARLY_INPUT_TOO_LONG);
                    }
                    heard.input.extend_from_slice(input);
                }
                // There is nobody yet whom a signal could be for.
                ClientPacket::Part(..) | ClientPacket::Signal(_) | ClientPacket::Unknown(..)
                    if heard.extended => {}
                // For the session.
                ClientPacket::Input(_)
                | ClientPacket::Signal(_)
                | ClientPacket::Part(..)
                | ClientPacket::Unknown(..) => {
                    (*bytes, heard.decoder) = (before, decoder);
                    return HandshakeStep::Complete;
                }
            }
            // Sizes and nothing else: the C plugin's client has no more to say.
            if !heard.extended && heard.rows.is_some() && heard.cols.is_some() {
                return HandshakeStep::Complete;
            }
        }
    }

    /// Whether less than a packet has come, and may become an HTTP request.
    pub fn may_be_http(&self) -> bool {
        (1..HEADER).contains(&self.first_count)
            && http_request::is_http_or_tls(&self.first[..self.first_count])
    }
}

impl ClientHello {
    /// The size of the terminal at its start.
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
    use fpty::proto::request::{self, RequestKind};
    use fpty::proto::{HEADER, variables};
    use fpty::proto::{encode_input, encode_rows_and_cols, encode_signal};

    /// Steps of a handshake that gets `said` in pieces of `cut` bytes, and the bytes that are
    /// left.
    fn feed(said: &[u8], cut: usize) -> (Vec<HandshakeStep>, Vec<u8>, Handshake) {
        let mut handshake = Handshake::default();
        let mut heard = Vec::new();
        let mut at = 0;
        for piece in said.chunks(cut) {
            let mut bytes = piece;
            at += piece.len();
            loop {
                match handshake.feed(&mut bytes) {
                    HandshakeStep::Incomplete => break,
                    last @ (HandshakeStep::Complete | HandshakeStep::Reject(_)) => {
                        heard.push(last);
                        let left = said[at - bytes.len()..].to_vec();
                        return (heard, left, handshake);
                    }
                    answer => heard.push(answer),
                }
            }
        }
        (heard, Vec::new(), handshake)
    }

    #[test]
    fn an_old_client_says_its_size_and_begins() {
        let mut said = encode_rows_and_cols(33, 99).to_vec();
        encode_input(b"ls\n", &mut said);
        for cut in [1, 3, 100] {
            let (heard, left, handshake) = feed(&said, cut);
            assert_eq!(heard, [HandshakeStep::Complete]);
            assert_eq!(left, said[8..]);
            let size = handshake.hello.size(Size { rows: 24, cols: 80 });
            assert_eq!(size, Size { rows: 33, cols: 99 });
        }
    }

    #[test]
    fn input_and_signals_are_for_the_session() {
        for said in [encode_signal(15).to_vec(), vec![0, 2, 0, 0, b'x', b'y'], vec![0, 9, 0, 200]] {
            let (heard, left, handshake) = feed(&said, 100);
            assert_eq!((heard.as_slice(), left), ([HandshakeStep::Complete].as_slice(), said));
            assert!(!handshake.hello.extended);
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
            let (heard, left, handshake) = feed(&said, cut);
            assert_eq!(
                heard,
                [HandshakeStep::SendHello([0, 1, 0, HELLO]), HandshakeStep::Complete],
                "cut {cut}"
            );
            assert_eq!(left, said[said.len() - 9..]);
            let hello = handshake.hello;
            assert_eq!(hello.input, b"early");
            assert_eq!(hello.variables.get(b"TERM"), Some(b"foot".as_slice()));
            assert_eq!(hello.rows, Some(33));
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
        request::encode(RequestKind::CommandLine, b"rm -f x/me-old", &mut said);
        encode_input(b"exit\n", &mut said);
        variables::encode([(b"A".as_slice(), b"b".as_slice())], &mut said);
        said.extend(encode_bare(HELLO, 1));
        for length in HEADER..=said.len() {
            for cut in [1, 1000] {
                let (heard, ..) = feed(&said[..length], cut);
                assert_eq!(heard, [HandshakeStep::SendHello([0, 1, 0, HELLO])], "{length} {cut}");
            }
        }
        said.extend(encode_bare(VARIABLES, 0));
        let (heard, _, handshake) = feed(&said, 3);
        assert_eq!(heard.last(), Some(&HandshakeStep::Complete));
        let request = handshake.hello.request.read();
        assert_eq!(request, Ok(Some((RequestKind::CommandLine, b"rm -f x/me-old".to_vec()))));
    }

    #[test]
    fn early_input_is_bounded_and_not_waited_behind() {
        let mut said = encode_bare(HELLO, 1).to_vec();
        encode_input(&[b'x'; MAX_EARLY_INPUT], &mut said);
        let most = said.len();
        said.extend(encode_bare(VARIABLES, 0));
        assert_eq!(feed(&said, 65_536).0.last(), Some(&HandshakeStep::Complete));
        said.truncate(most);
        encode_input(b"y", &mut said);
        assert_eq!(
            feed(&said, 65_536).0.last(),
            Some(&HandshakeStep::Reject(EARLY_INPUT_TOO_LONG))
        );
    }

    #[test]
    fn a_hello_comes_first_or_not_at_all() {
        let mut late = encode_rows_and_cols(33, 99)[..4].to_vec();
        late.extend(encode_bare(HELLO, 1));
        let (heard, _, handshake) = feed(&late, 100);
        assert_eq!(heard, []);
        assert!(!handshake.hello.extended);
        assert_eq!(feed(&encode_bare(HELLO, 0), 100).0, []);
        let answer = [0, 1, 0, HELLO];
        assert_eq!(feed(&encode_bare(HELLO, 65535), 100).0, [HandshakeStep::SendHello(answer)]);
    }
}
