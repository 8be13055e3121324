//! What a client asks for beside a terminal with the configured program: the
//! payload of [`super::REQUEST`] is a letter, and data.

use super::codec::encode_packet;
use super::packet::REQUEST;

/// How many bytes a request may have in all.
pub const MOST: usize = 1024 * 1024;

/// How many of them are shown to a person.
const SHOWN: usize = 4096;

/// What is asked for: the letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
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

impl Verb {
    const ALL: [Self; 6] =
        [Self::CommandLine, Self::Program, Self::Sftp, Self::List, Self::Kill, Self::Attach];

    fn of(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| *verb as isize == isize::from(letter))
    }
}

/// Appends the packets of a request; several with one letter make one.
pub fn encode(verb: Verb, data: &[u8], packets: &mut Vec<u8>) {
    // An ASCII letter.
    let letter = verb as isize as u8;
    if data.is_empty() {
        return encode_packet(REQUEST, &[letter], packets);
    }
    for piece in data.chunks(usize::from(u16::MAX) - 1) {
        let payload = [&[letter], piece].concat();
        encode_packet(REQUEST, &payload, packets);
    }
}

/// A request as it comes.
#[derive(Clone, Debug, Default)]
pub struct Request {
    verb: Option<Verb>,
    data: Vec<u8>,
    /// A packet is under way, and its letter was read.
    within: bool,
    fault: Option<&'static str>,
}

impl Request {
    /// Takes a part of a packet.
    pub fn part(&mut self, part: &[u8], last: bool) {
        let mut data = part;
        if !self.within {
            if let Some((letter, rest)) = part.split_first() {
                data = rest;
                self.begin(*letter);
            }
        }
        self.within = !last;
        if self.fault.is_none() {
            if self.data.len() + data.len() > MOST {
                self.fail("it is longer than 1 MB");
            } else {
                self.data.extend_from_slice(data);
            }
        }
    }

    fn begin(&mut self, letter: u8) {
        match (self.verb, Verb::of(letter)) {
            (_, None) => self.fail("this router does not know what it asks for"),
            (None, verb) => self.verb = verb,
            (Some(before), Some(verb)) if before == verb => {}
            (Some(_), Some(_)) => self.fail("it asks for two things at once"),
        }
    }

    /// What was kept of it is of no use.
    fn fail(&mut self, why: &'static str) {
        if self.fault.is_none() {
            self.fault = Some(why);
            self.data = Vec::new();
        }
    }

    /// What is asked for, as far as it has come.
    pub fn verb(&self) -> Option<Verb> {
        self.verb
    }

    /// Which command is asked for, as a person would type it, and not endless;
    /// `None`: none is.
    pub fn shown(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.data[..self.data.len().min(SHOWN)]);
        match self.verb? {
            Verb::CommandLine => Some(text.into_owned()),
            Verb::Program => {
                let text = text.strip_suffix('\0').unwrap_or(&text);
                Some(text.split('\0').map(quoted).collect::<Vec<_>>().join(" "))
            }
            Verb::Sftp => Some(format!("sftp-server {text}").trim_end().to_owned()),
            Verb::List | Verb::Kill | Verb::Attach => None,
        }
    }

    /// What is asked for, and its data; `None`: nothing.
    ///
    /// # Errors
    /// It is none that can be granted: why.
    pub fn read(self) -> Result<Option<(Verb, Vec<u8>)>, &'static str> {
        match (self.fault, self.verb) {
            (Some(why), _) => Err(why),
            (None, verb) => Ok(verb.map(|verb| (verb, self.data))),
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

    /// What is read of packets, each in pieces of `cut` bytes.
    fn read(mut packets: &[u8], cut: usize) -> Result<Option<(Verb, Vec<u8>)>, &'static str> {
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
        encode(Verb::CommandLine, b"true", &mut packets);
        encode(Verb::Kill, b"x", &mut packets);
        assert!(read(&packets, 100).is_err());
        let mut packets = Vec::new();
        encode_packet(REQUEST, b"?", &mut packets);
        assert!(read(&packets, 100).is_err());
        assert_eq!(Request::default().read(), Ok(None));
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let shown = |verb: Verb, data: &[u8]| {
            let mut request = Request::default();
            request.part(&[&[verb as isize as u8], data].concat(), true);
            request.shown()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(shown(Verb::CommandLine, b"ls -l | wc"), text("ls -l | wc"));
        let words = b"/bin/ls\0-l\0\0it's a\nb\0";
        assert_eq!(shown(Verb::Program, words), text("/bin/ls -l '' 'it'\\''s a\nb'"));
        assert_eq!(shown(Verb::Program, b"ls"), text("ls"));
        assert_eq!(shown(Verb::Sftp, b""), text("sftp-server"));
        assert_eq!(shown(Verb::Sftp, b"-R \xff"), text("sftp-server -R \u{fffd}"));
        assert_eq!(shown(Verb::List, b""), None);
        assert_eq!(Request::default().shown(), None);
        let long = shown(Verb::CommandLine, &vec![b'x'; MOST]);
        assert_eq!(long.map(|text| text.len()), Some(SHOWN));
    }

    #[test]
    fn there_is_a_bound() {
        let mut packets = Vec::new();
        encode(Verb::Program, &vec![b'x'; MOST], &mut packets);
        assert!(matches!(read(&packets, 65536), Ok(Some((_, data))) if data.len() == MOST));
        encode(Verb::Program, b"x", &mut packets);
        assert!(read(&packets, 65536).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_in_any_pieces(
            data in proptest::collection::vec(any::<u8>(), 0..300), cut in 1usize..40,
        ) {
            for verb in Verb::ALL {
                let mut packets = Vec::new();
                let (one, other) = data.split_at(data.len() / 2);
                encode(verb, one, &mut packets);
                encode(verb, other, &mut packets);
                prop_assert_eq!(read(&packets, cut), Ok(Some((verb, data.clone()))));
            }
        }
    }
}
