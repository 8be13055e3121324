//! Requests of a client for anything but a terminal with the configured program: the
//! payload of [`super::REQUEST`] is a letter, and data.

use super::codec::encode_packet;
use super::packet::REQUEST;

/// How many bytes a request may have in all.
const MAX_LENGTH: usize = 1024 * 1024;

/// How many bytes of a request are shown to a person.
const MAX_DISPLAYED: usize = 4096;

/// The kind of a request, by its letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A command line, for the shell.
    CommandLine = b'c' as isize,
    /// A program and its arguments, a NUL after each.
    Program = b'p' as isize,
    /// The machine's own SFTP server, with these arguments.
    Sftp = b's' as isize,
    /// The list of open sessions.
    List = b'l' as isize,
    /// The end of a session: its id.
    Kill = b'k' as isize,
    /// A session that was left: its id, or name.
    Attach = b'a' as isize,
}

impl RequestKind {
    const ALL: [Self; 6] =
        [Self::CommandLine, Self::Program, Self::Sftp, Self::List, Self::Kill, Self::Attach];

    fn of(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as isize == isize::from(letter))
    }
}

/// Appends the packets of a request; several with one letter make one.
pub fn encode(kind: RequestKind, data: &[u8], packets: &mut Vec<u8>) {
    // An ASCII letter.
    let letter = kind as isize as u8;
    if data.is_empty() {
        return encode_packet(REQUEST, &[letter], packets);
    }
    for piece in data.chunks(usize::from(u16::MAX) - 1) {
        let payload = [&[letter], piece].concat();
        encode_packet(REQUEST, &payload, packets);
    }
}

/// The reader of a request, which comes in parts.
#[derive(Clone, Debug, Default)]
pub struct Request {
    kind: Option<RequestKind>,
    data: Vec<u8>,
    /// A packet is under way, and its letter was read.
    in_packet: bool,
    error: Option<&'static str>,
}

impl Request {
    /// Takes a part of a packet.
    pub fn part(&mut self, part: &[u8], last: bool) {
        let mut data = part;
        if !self.in_packet {
            if let Some((letter, rest)) = part.split_first() {
                data = rest;
                self.begin(*letter);
            }
        }
        self.in_packet = !last;
        if self.error.is_none() {
            if self.data.len() + data.len() > MAX_LENGTH {
                self.fail("it is longer than 1 MB");
            } else {
                self.data.extend_from_slice(data);
            }
        }
    }

    fn begin(&mut self, letter: u8) {
        match (self.kind, RequestKind::of(letter)) {
            (_, None) => self.fail("this gateway does not know what it asks for"),
            (None, kind) => self.kind = kind,
            (Some(before), Some(kind)) if before == kind => {}
            (Some(_), Some(_)) => self.fail("it asks for two things at once"),
        }
    }

    /// Fails the request, and drops its data.
    fn fail(&mut self, why: &'static str) {
        if self.error.is_none() {
            self.error = Some(why);
            self.data = Vec::new();
        }
    }

    /// The kind of the request, as far as it has come.
    pub fn kind(&self) -> Option<RequestKind> {
        self.kind
    }

    /// The requested command, as a person would type it, and not endless; `None`: none
    /// is.
    pub fn shown(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.data[..self.data.len().min(MAX_DISPLAYED)]);
        match self.kind? {
            RequestKind::CommandLine => Some(text.into_owned()),
            RequestKind::Program => {
                let text = text.strip_suffix('\0').unwrap_or(&text);
                Some(text.split('\0').map(quoted).collect::<Vec<_>>().join(" "))
            }
            RequestKind::Sftp => Some(format!("sftp-server {text}").trim_end().to_owned()),
            RequestKind::List | RequestKind::Kill | RequestKind::Attach => None,
        }
    }

    /// The kind of the request, and its data; `None`: there is no request.
    ///
    /// # Errors
    /// The request cannot be granted: the reason.
    pub fn read(self) -> Result<Option<(RequestKind, Vec<u8>)>, &'static str> {
        match (self.error, self.kind) {
            (Some(why), _) => Err(why),
            (None, kind) => Ok(kind.map(|kind| (kind, self.data))),
        }
    }
}

/// A word as a shell would have to be told it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::packet::HEADER;
    use proptest::prelude::*;

    /// Request that is read from packets, each in pieces of `cut` bytes.
    fn read(
        mut packets: &[u8],
        cut: usize,
    ) -> Result<Option<(RequestKind, Vec<u8>)>, &'static str> {
        let mut request = Request::default();
        while let Some((header, rest)) = packets.split_first_chunk::<HEADER>() {
            assert_eq!(header[3], REQUEST);
            let size = usize::from(u16::from_le_bytes([header[1], header[2]]));
            let (payload, rest) = rest.split_at(size);
            let count = payload.chunks(cut).count();
            for (index, piece) in payload.chunks(cut).enumerate() {
                request.part(piece, index + 1 == count);
            }
            packets = rest;
        }
        request.read()
    }

    #[test]
    fn two_things_at_once_and_unknown_ones_are_refused() {
        let mut packets = Vec::new();
        encode(RequestKind::CommandLine, b"true", &mut packets);
        encode(RequestKind::Kill, b"x", &mut packets);
        assert!(read(&packets, 100).is_err());
        let mut packets = Vec::new();
        encode_packet(REQUEST, b"?", &mut packets);
        assert!(read(&packets, 100).is_err());
        assert_eq!(Request::default().read(), Ok(None));
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let shown = |kind: RequestKind, data: &[u8]| {
            let mut request = Request::default();
            request.part(&[&[kind as isize as u8], data].concat(), true);
            request.shown()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(shown(RequestKind::CommandLine, b"ls -l | wc"), text("ls -l | wc"));
        let words = b"/bin/ls\0-l\0\0it's a\nb\0";
        assert_eq!(shown(RequestKind::Program, words), text("/bin/ls -l '' 'it'\\''s a\nb'"));
        assert_eq!(shown(RequestKind::Program, b"ls"), text("ls"));
        assert_eq!(shown(RequestKind::Sftp, b""), text("sftp-server"));
        assert_eq!(shown(RequestKind::Sftp, b"-R \xff"), text("sftp-server -R \u{fffd}"));
        assert_eq!(shown(RequestKind::List, b""), None);
        assert_eq!(Request::default().shown(), None);
        let long = shown(RequestKind::CommandLine, &vec![b'x'; MAX_LENGTH]);
        assert_eq!(long.map(|text| text.len()), Some(MAX_DISPLAYED));
    }

    #[test]
    fn there_is_a_bound() {
        let mut packets = Vec::new();
        encode(RequestKind::Program, &vec![b'x'; MAX_LENGTH], &mut packets);
        assert!(matches!(read(&packets, 65536), Ok(Some((_, data))) if data.len() == MAX_LENGTH));
        encode(RequestKind::Program, b"x", &mut packets);
        assert!(read(&packets, 65536).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_in_any_pieces(
            data in proptest::collection::vec(any::<u8>(), 0..300), cut in 1usize..40,
        ) {
            for kind in RequestKind::ALL {
                let mut packets = Vec::new();
                let (one, other) = data.split_at(data.len() / 2);
                encode(kind, one, &mut packets);
                encode(kind, other, &mut packets);
                prop_assert_eq!(read(&packets, cut), Ok(Some((kind, data.clone()))));
            }
        }
    }
}
