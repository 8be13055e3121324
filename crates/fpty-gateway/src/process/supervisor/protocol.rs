//! What a gateway and the supervisor say to each other, as all processes of ours do
//! (`codec.rs`). Descriptors come along, each with a letter that says what it is.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::end_record::EndRecord;
use crate::connection::session_access;
use crate::observe::audit::Story;
use crate::observe::recording::Kept;
use crate::process::ipc::{self, Hello, encode};
use fpty::fair_share::Who;
use fpty::sys::ring::Ring;
use fpty::sys::socket::Stream;
use fpty::sys::{Read, Written};
use fpty::text::cut;

/// The longest message, in bytes: less than the kernel sends as one (SO_SNDBUF of
/// socket(7), 208 KB), more than a session's texts make that a client has written.
const LONGEST: usize = 200 * 1024;

/// How many bytes of a command are kept: as many as are shown.
const COMMAND: usize = 1000;

/// What is known of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// What it is called; may be empty.
    pub name: String,
    /// Whose it is.
    pub uid: u32,
    /// For whom it counts, where what is limited is.
    pub who: Option<Who>,
    /// By what its client finds it again.
    pub secrets: session_access::Kept,
    /// The address that it began at, and at which of the sockets there.
    pub door: String,
    pub nth: usize,
    /// Its program, as long as that was not reaped.
    pub pid: i32,
    /// When it began, as a [`Timestamp`](fpty::sys::clock::Timestamp) is said.
    pub since: (u64, u64),
    /// What is told of it, where anybody wants to know.
    pub story: Option<Box<Story>>,
    /// The audit's line of its end, where that was not written.
    pub last: EndRecord,
    /// Who is attached, since when.
    pub attached: Option<(u32, (u64, u64))>,
    /// When it was left.
    pub left: Option<(u64, u64)>,
    /// How and when its program ended: the payload of an END.
    pub ended: Option<(Vec<u8>, (u64, u64))>,
    /// Since when it is what it is, in nanoseconds since the machine's start.
    pub turned: u64,
    /// Somebody else has its terminal, or had it, or is about to.
    pub shared: bool,
    /// What runs, where that is known.
    pub command: Option<String>,
    /// Its recording, where it has one.
    pub recording: Option<Kept>,
    /// It cannot be left: it was handed over for good, and ends with its client.
    pub bound: bool,
}

impl Record {
    /// Whether nobody is attached, and the program runs: there may be thousands of
    /// those.
    fn is_left(&self) -> bool {
        self.left.is_some() && self.ended.is_none() && !self.bound
    }
}

/// Descriptors of a session. An ended one has the ring alone.
#[derive(Debug)]
pub struct SessionFds<T = OwnedFd> {
    /// The terminal's master.
    pub master: Option<T>,
    /// The program.
    pub program: Option<T>,
    /// The last output.
    pub ring: Option<T>,
    /// The client that has the terminal.
    pub client: Option<T>,
    /// The last output, where that is kept without a descriptor.
    pub memory: Option<Box<Ring>>,
}

/// Those that a gateway goes on to use itself.
pub type Lent<'a> = SessionFds<BorrowedFd<'a>>;

impl<T> Default for SessionFds<T> {
    fn default() -> Self {
        Self { master: None, program: None, ring: None, client: None, memory: None }
    }
}

impl SessionFds {
    /// Keeps the last output without a descriptor, where nobody is attached and has it
    /// too. Nonsense is not kept.
    pub fn keep_in_memory(&mut self, record: &Record, writes: bool) {
        if let Some(ring) = self.ring.take_if(|_| record.is_left()) {
            let mut ring = Ring::received(ring, writes).ok();
            ring.iter_mut().for_each(Ring::close_file);
            self.memory = ring.map(Box::new);
        }
    }

    /// Has a descriptor of that while it is said to somebody.
    pub fn lend<R>(&mut self, say: impl FnOnce(&Self) -> R) -> R {
        // Where there can be none whoever hears it begins a new one.
        self.memory.iter_mut().for_each(|ring| drop(ring.open_file()));
        let said = say(self);
        self.memory.iter_mut().for_each(|ring| ring.close_file());
        said
    }

    /// Whether the last output is there.
    pub fn has_output(&self) -> bool {
        self.ring.is_some() || self.memory.is_some()
    }
}

impl<T: AsFd> SessionFds<T> {
    /// Each with its letter, in their order.
    pub(crate) fn named(&self) -> impl Iterator<Item = (u8, BorrowedFd<'_>)> {
        let ring = self.ring.as_ref().map(AsFd::as_fd);
        let all = [
            (b'm', self.master.as_ref().map(AsFd::as_fd)),
            (b'p', self.program.as_ref().map(AsFd::as_fd)),
            (b'r', ring.or_else(|| self.memory.as_ref()?.file())),
            (b'c', self.client.as_ref().map(AsFd::as_fd)),
        ];
        all.into_iter().filter_map(|(name, fd)| Some((name, fd?)))
    }
}

impl<T> SessionFds<T> {
    /// Where the one with this letter belongs.
    fn place(&mut self, name: u8) -> Option<&mut Option<T>> {
        match name {
            b'm' => Some(&mut self.master),
            b'p' => Some(&mut self.program),
            b'r' => Some(&mut self.ring),
            b'c' => Some(&mut self.client),
            _ => None,
        }
    }
}

/// What one end says to the other.
#[derive(Debug)]
pub enum Message {
    /// A gateway begins; its own connection comes along, and the log, where that is to
    /// have lines of the audit.
    Hello(Hello, OwnedFd, Option<OwnedFd>),
    /// A session is as it is here.
    Session(Box<Record>, SessionFds),
    /// The same, of which descriptors were lost on the way: whoever reads has too many
    /// open.
    Cut(Box<Record>),
    /// A session is over.
    Over(String),
    /// The session with this program could not be kept.
    Lacks(i32),
    /// That was all.
    Done,
}

/// What came of waiting for a message.
pub enum Received {
    /// One.
    Message(Message),
    /// One that makes no sense.
    Nonsense,
    /// None now.
    Nothing,
    /// There will be none.
    End,
}

/// The same as it is sent, beside the descriptors.
#[derive(Serialize, Deserialize)]
enum Said<'a> {
    Hello(Hello),
    /// With the letters of its descriptors.
    Session(Box<Cow<'a, Record>>, String),
    Over(Cow<'a, str>),
    Lacks(i32),
    Done,
}

fn send(to: &Stream, said: &Said<'_>, descriptors: &[BorrowedFd<'_>]) -> Written {
    let message = encode(said);
    match message.len() <= LONGEST {
        true => to.write_with_descriptors(&message, descriptors),
        false => Written::Gone,
    }
}

/// Sends a session, with copies of its descriptors.
pub fn send_session<T: AsFd>(to: &Stream, record: &Record, held: &SessionFds<T>) -> Written {
    let names = held.named().map(|(name, _)| char::from(name)).collect();
    let descriptors: Vec<_> = held.named().map(|(_, fd)| fd).collect();
    let record = match record.command.as_ref().filter(|command| command.len() > COMMAND) {
        Some(command) => {
            let command = Some(cut(command, COMMAND).to_owned());
            Cow::Owned(Record { command, ..record.clone() })
        }
        None => Cow::Borrowed(record),
    };
    send(to, &Said::Session(Box::new(record), names), &descriptors)
}

/// Says that a gateway begins, which has this connection, and this log.
pub fn send_hello(to: &Stream, hello: Hello, own: &Stream, log: Option<BorrowedFd>) -> Written {
    let descriptors: Vec<_> = [own.as_fd()].into_iter().chain(log).collect();
    send(to, &Said::Hello(hello), &descriptors)
}

/// Says that a session is over.
pub fn send_over(to: &Stream, id: &str) -> Written {
    send(to, &Said::Over(id.into()), &[])
}

/// Says that the session with this program could not be kept.
pub fn send_lacks(to: &Stream, program: i32) -> Written {
    send(to, &Said::Lacks(program), &[])
}

/// Says that that was all.
pub fn send_done(to: &Stream) -> Written {
    send(to, &Said::Done, &[])
}

/// Takes a message from where only gateways say hello. What somebody else says
/// who has come to the descriptor is nonsense: the kernel tells whose process
/// sends, and the token that it is a gateway.
pub fn receive_hello(from: &Stream) -> Received {
    let (mut buffer, mut descriptors) = (vec![0; LONGEST], Vec::new());
    let (count, sender) = match from.read_and_sender(&mut buffer, &mut descriptors) {
        (Read::Bytes(count), sender) => (count, sender),
        (Read::Blocked, _) => return Received::Nothing,
        (Read::End | Read::Gone, _) => return Received::End,
    };
    let own = nix::unistd::geteuid().as_raw();
    let is_of_us = sender.is_some_and(|sender| sender.uid == own || sender.uid == 0);
    match decode(&buffer[..count], descriptors) {
        Some(Message::Hello(hello, own, log)) if is_of_us && hello.is_proved() => {
            Received::Message(Message::Hello(hello, own, log))
        }
        _ => Received::Nonsense,
    }
}

/// Takes a message.
pub fn receive(from: &Stream) -> Received {
    let (mut buffer, mut descriptors) = (vec![0; LONGEST], Vec::new());
    match from.read_and_sender(&mut buffer, &mut descriptors).0 {
        Read::Bytes(count) => {
            decode(&buffer[..count], descriptors).map_or(Received::Nonsense, Received::Message)
        }
        Read::Blocked => Received::Nothing,
        Read::End | Read::Gone => Received::End,
    }
}

/// What a message says that came with these descriptors; `None`: nonsense. Whoever
/// sends one has all of them, and no more.
pub fn decode(message: &[u8], descriptors: Vec<OwnedFd>) -> Option<Message> {
    let mut descriptors = descriptors.into_iter();
    let message = match ipc::decode(message)? {
        Said::Hello(hello) => Message::Hello(hello, descriptors.next()?, descriptors.next()),
        Said::Session(record, names) => {
            let (record, mut held) = (Box::new((*record).into_owned()), SessionFds::default());
            for name in names.bytes() {
                let place = held.place(name).filter(|place| place.is_none())?;
                let Some(fd) = descriptors.next() else {
                    return Some(Message::Cut(record));
                };
                *place = Some(fd);
            }
            Message::Session(record, held)
        }
        Said::Over(id) => Message::Over(id.into_owned()),
        Said::Lacks(program) => Message::Lacks(program),
        Said::Done => Message::Done,
    };
    descriptors.next().is_none().then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn null() -> OwnedFd {
        OwnedFd::from(std::fs::File::open("/dev/null").expect("a device"))
    }

    #[test]
    fn a_session_is_told_again_as_it_was() {
        let (one, other) = Stream::pair().expect("a pair");
        let record = Record {
            id: String::from("0123abcd"),
            name: "n".repeat(64),
            uid: 7,
            ended: Some((vec![0xff; 100], (5, 6))),
            story: Some(Box::default()),
            bound: true,
            ..Record::default()
        };
        let held = SessionFds { ring: Some(null()), master: Some(null()), ..SessionFds::default() };
        assert!(matches!(send_session(&one, &record, &held), Written::Bytes(_)));
        let Received::Message(Message::Session(read, held)) = receive(&other) else {
            panic!("another message");
        };
        assert_eq!(*read, record);
        assert!(held.ring.is_some() && held.master.is_some() && held.client.is_none());
        let _ = one.write(b"{\"Session\":[");
        assert!(matches!(receive(&other), Received::Nonsense));
        drop(one);
        assert!(matches!(receive(&other), Received::End));
    }

    #[test]
    fn one_that_lacks_a_descriptor_is_known_and_one_that_has_too_many_is_none() {
        let record = Record { pid: 7, ..Record::default() };
        let message = encode(&Said::Session(Box::new(Cow::Borrowed(&record)), String::from("mp")));
        for count in [0, 1, 2, 3] {
            match (count, decode(&message, (0..count).map(|_| null()).collect())) {
                (0 | 1, Some(Message::Cut(read))) => assert_eq!(read.pid, 7),
                (2, Some(Message::Session(..))) | (3, None) => {}
                (_, other) => panic!("{count}: {other:?}"),
            }
        }
        let twice = encode(&Said::Session(Box::new(Cow::Borrowed(&record)), String::from("mm")));
        assert!(decode(&twice, vec![null(), null()]).is_none());
    }

    /// Whatever a client has called its command.
    #[test]
    fn no_text_makes_it_too_long() {
        let (one, other) = Stream::pair().expect("a pair");
        let long = "\u{1}".repeat(5000);
        let record = Record { command: Some(long), ..Record::default() };
        let held = SessionFds { master: Some(null()), ..SessionFds::default() };
        assert!(matches!(send_session(&one, &record, &held), Written::Bytes(_)));
        let Received::Message(Message::Session(read, _)) = receive(&other) else {
            panic!("another message");
        };
        assert_eq!(read.command, Some("\u{1}".repeat(COMMAND)));
        let record = Record { door: "\u{1}".repeat(LONGEST), ..Record::default() };
        assert_eq!(send_session(&one, &record, &held), Written::Gone);
        // As much as one message may have.
        let record = Record { door: "x".repeat(LONGEST - 1000), ..Record::default() };
        assert!(matches!(send_session(&one, &record, &held), Written::Bytes(_)));
        assert!(matches!(receive(&other), Received::Message(Message::Session(..))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), count in 0_usize..5
        ) {
            let fds = (0..count).map(|_| null()).collect();
            let _ = decode(&bytes, fds);
        }

        #[test]
        fn whatever_is_known_comes_across(
            texts in proptest::collection::vec(".{0,40}", 4),
            numbers in any::<(u32, i32, (u64, u64), u64)>(),
            marks in any::<(bool, bool)>(),
            ended in proptest::option::of((proptest::collection::vec(any::<u8>(), 0..50), any::<(u64, u64)>())),
        ) {
            let record = Record {
                id: texts[0].clone(),
                name: texts[1].clone(),
                uid: numbers.0,
                door: texts[2].clone(),
                pid: numbers.1,
                since: numbers.2,
                command: Some(texts[3].clone()),
                story: marks.1.then(Box::default),
                attached: marks.0.then_some((numbers.0, numbers.2)),
                turned: numbers.3,
                ended,
                bound: marks.1,
                ..Record::default()
            };
            let message = encode(&Said::Session(Box::new(Cow::Borrowed(&record)), String::new()));
            let Some(Message::Session(read, _)) = decode(&message, Vec::new()) else {
                return Err(TestCaseError::fail("another message"));
            };
            prop_assert_eq!(*read, record);
        }
    }
}
