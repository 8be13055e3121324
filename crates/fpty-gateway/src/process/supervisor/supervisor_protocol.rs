//! The protocol between a gateway and the supervisor: messages as in `ipc.rs`, with
//! descriptors, each with a letter that says what it is.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::end_record::EndRecord;
use crate::connection::session_access::Secrets;
use crate::observe::audit::SessionHistory;
use crate::observe::recording::RecordingState;
use crate::process::ipc::{self, Hello, encode};
use fpty::fair_share::Principal;
use fpty::sys::scrollback_ring::Ring;
use fpty::sys::socket::Stream;
use fpty::sys::{ReadOutcome, WriteOutcome};
use fpty::text::cut;

/// The longest message, in bytes: less than the kernel sends as one (SO_SNDBUF of
/// socket(7), 208 KB), more than a session's texts make that a client has written.
const MAX_MESSAGE: usize = 200 * 1024;

/// The most bytes of a command: as many as lists show.
const MAX_COMMAND: usize = 1000;

/// Session record of the supervisor. The names in JSON are those of version 2, which a
/// supervisor from before a reload with an older library speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRecord {
    /// The id.
    pub id: String,
    /// The name; may be empty.
    pub name: String,
    /// The owner's uid.
    pub uid: u32,
    /// The principal that the session's permit counts for.
    #[serde(rename = "who")]
    pub principal: Option<Principal>,
    /// The secrets of the session's client.
    pub secrets: Secrets,
    /// The address that it began at, and at which of the sockets there.
    #[serde(rename = "door")]
    pub listener: String,
    pub nth: usize,
    /// The pid of the session's program, until it was reaped.
    pub pid: i32,
    /// The start, as a [`Timestamp`](fpty::sys::clock::Timestamp) is encoded.
    pub since: (u64, u64),
    /// The audit's facts.
    #[serde(rename = "story")]
    pub history: Option<Box<SessionHistory>>,
    /// The prepared audit line of its end, where that was not written.
    pub last: EndRecord,
    /// The attached user, since when.
    pub attached: Option<(u32, (u64, u64))>,
    /// Time of the detach.
    #[serde(rename = "left")]
    pub detached_at: Option<(u64, u64)>,
    /// The end of the program: the payload of an END packet, and the time.
    pub ended: Option<(Vec<u8>, (u64, u64))>,
    /// The last change of the session's state, CLOCK_BOOTTIME in nanoseconds.
    #[serde(rename = "turned")]
    pub changed_at: u64,
    /// The terminal is, was, or is about to be handed over.
    pub shared: bool,
    /// The command, where it is known.
    pub command: Option<String>,
    /// The state of the session's recording.
    pub recording: Option<RecordingState>,
    /// The session cannot be detached: it was handed over for good, and ends with its client.
    pub bound: bool,
}

impl SessionRecord {
    /// Whether the session is detached and its program runs: there may be thousands of
    /// those.
    fn is_detached(&self) -> bool {
        self.detached_at.is_some() && self.ended.is_none() && !self.bound
    }
}

/// Descriptors of a session. An ended one has the ring alone.
#[derive(Debug)]
pub struct SessionFds<T = OwnedFd> {
    /// The terminal's master.
    pub master: Option<T>,
    /// The program's pidfd.
    pub program: Option<T>,
    /// The ring of the scrollback.
    pub ring: Option<T>,
    /// The client that has the terminal.
    pub client: Option<T>,
    /// The ring, where it is mapped without a descriptor.
    pub memory: Option<Box<Ring>>,
}

/// Descriptors that a gateway goes on using.
pub type BorrowedFds<'a> = SessionFds<BorrowedFd<'a>>;

impl<T> Default for SessionFds<T> {
    fn default() -> Self {
        Self { master: None, program: None, ring: None, client: None, memory: None }
    }
}

impl SessionFds {
    /// Keeps the ring mapped without its descriptor, for a detached session. A malformed
    /// ring is dropped.
    pub fn close_ring_fd(&mut self, record: &SessionRecord, writes: bool) {
        if let Some(ring) = self.ring.take_if(|_| record.is_detached()) {
            let mut ring = Ring::open(ring, writes).ok();
            ring.iter_mut().for_each(Ring::close_file);
            self.memory = ring.map(Box::new);
        }
    }

    /// Opens the descriptor of a mapped ring while it is sent.
    pub fn with_ring_fd<R>(&mut self, say: impl FnOnce(&Self) -> R) -> R {
        // Where there can be none whoever hears it begins a new one.
        self.memory.iter_mut().for_each(|ring| drop(ring.open_file()));
        let message = say(self);
        self.memory.iter_mut().for_each(|ring| ring.close_file());
        message
    }

    /// Whether there is a ring.
    pub fn has_output(&self) -> bool {
        self.ring.is_some() || self.memory.is_some()
    }
}

impl<T: AsFd> SessionFds<T> {
    /// All descriptors with their letters, in order.
    pub(crate) fn tagged(&self) -> impl Iterator<Item = (u8, BorrowedFd<'_>)> {
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
    /// The place of the descriptor with this letter.
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

/// A message, with its descriptors.
#[derive(Debug)]
pub enum Message {
    /// A gateway starts: its own connection comes along, and the log, where audit lines are
    /// to be written.
    Hello(Hello, OwnedFd, Option<OwnedFd>),
    /// The state of a session.
    Session(Box<SessionRecord>, SessionFds),
    /// The state of a session whose descriptors were lost on the way: the reader has too
    /// many open.
    Truncated(Box<SessionRecord>),
    /// A session has ended.
    Ended(String),
    /// The session with this program could not be kept.
    NotKept(i32),
    /// The end of the sessions of a handshake.
    Done,
}

/// The result of a receive.
pub enum Received {
    /// A message.
    Message(Message),
    /// A malformed message.
    Invalid,
    /// No message yet.
    Blocked,
    /// The other end has closed.
    Closed,
}

/// A message as it is encoded, beside the descriptors.
#[derive(Serialize, Deserialize)]
enum WireMessage<'a> {
    Hello(Hello),
    /// A session, with the letters of its descriptors.
    Session(Box<Cow<'a, SessionRecord>>, String),
    #[serde(rename = "Over")]
    Ended(Cow<'a, str>),
    #[serde(rename = "Lacks")]
    NotKept(i32),
    Done,
}

fn send(to: &Stream, message: &WireMessage<'_>, descriptors: &[BorrowedFd<'_>]) -> WriteOutcome {
    let message = encode(message);
    match message.len() <= MAX_MESSAGE {
        true => to.write_with_descriptors(&message, descriptors),
        false => WriteOutcome::Closed,
    }
}

/// Sends a session, with copies of its descriptors.
pub fn send_session<T: AsFd>(
    to: &Stream,
    record: &SessionRecord,
    fds: &SessionFds<T>,
) -> WriteOutcome {
    let names = fds.tagged().map(|(name, _)| char::from(name)).collect();
    let descriptors: Vec<_> = fds.tagged().map(|(_, fd)| fd).collect();
    let record = match record.command.as_ref().filter(|command| command.len() > MAX_COMMAND) {
        Some(command) => {
            let command = Some(cut(command, MAX_COMMAND).to_owned());
            Cow::Owned(SessionRecord { command, ..record.clone() })
        }
        None => Cow::Borrowed(record),
    };
    send(to, &WireMessage::Session(Box::new(record), names), &descriptors)
}

/// Sends the hello of a gateway, with its connection and its log.
pub fn send_hello(
    to: &Stream,
    hello: Hello,
    own: &Stream,
    log: Option<BorrowedFd>,
) -> WriteOutcome {
    let descriptors: Vec<_> = [own.as_fd()].into_iter().chain(log).collect();
    send(to, &WireMessage::Hello(hello), &descriptors)
}

/// Sends that a session has ended.
pub fn send_ended(to: &Stream, id: &str) -> WriteOutcome {
    send(to, &WireMessage::Ended(id.into()), &[])
}

/// Sends that the session with this program could not be kept.
pub fn send_not_kept(to: &Stream, program: i32) -> WriteOutcome {
    send(to, &WireMessage::NotKept(program), &[])
}

/// Sends the end of the sessions.
pub fn send_done(to: &Stream) -> WriteOutcome {
    send(to, &WireMessage::Done, &[])
}

/// Receives a registration. A message of another process that has got the descriptor is
/// malformed: SCM_CREDENTIALS has the sender, and the token proves a gateway.
pub fn receive_hello(from: &Stream) -> Received {
    let (mut buffer, mut descriptors) = (vec![0; MAX_MESSAGE], Vec::new());
    let (count, sender) = match from.read_credentialed(&mut buffer, &mut descriptors) {
        (ReadOutcome::Bytes(count), sender) => (count, sender),
        (ReadOutcome::WouldBlock, _) => return Received::Blocked,
        (ReadOutcome::Eof | ReadOutcome::Closed, _) => return Received::Closed,
    };
    let own = nix::unistd::geteuid().as_raw();
    let is_of_us = sender.is_some_and(|sender| sender.uid == own || sender.uid == 0);
    match decode(&buffer[..count], descriptors) {
        Some(Message::Hello(hello, own, log)) if is_of_us && hello.is_proved() => {
            Received::Message(Message::Hello(hello, own, log))
        }
        _ => Received::Invalid,
    }
}

/// Receives a message.
pub fn receive(from: &Stream) -> Received {
    let (mut buffer, mut descriptors) = (vec![0; MAX_MESSAGE], Vec::new());
    match from.read_credentialed(&mut buffer, &mut descriptors).0 {
        ReadOutcome::Bytes(count) => {
            decode(&buffer[..count], descriptors).map_or(Received::Invalid, Received::Message)
        }
        ReadOutcome::WouldBlock => Received::Blocked,
        ReadOutcome::Eof | ReadOutcome::Closed => Received::Closed,
    }
}

/// Decodes a message that came with these descriptors; `None`: it is malformed. A sender
/// has all of them, and no more.
pub fn decode(message: &[u8], descriptors: Vec<OwnedFd>) -> Option<Message> {
    let mut descriptors = descriptors.into_iter();
    let message = match ipc::decode(message)? {
        WireMessage::Hello(hello) => Message::Hello(hello, descriptors.next()?, descriptors.next()),
        WireMessage::Session(record, names) => {
            let (record, mut fds) = (Box::new((*record).into_owned()), SessionFds::default());
            for name in names.bytes() {
                let place = fds.place(name).filter(|place| place.is_none())?;
                let Some(fd) = descriptors.next() else {
                    return Some(Message::Truncated(record));
                };
                *place = Some(fd);
            }
            Message::Session(record, fds)
        }
        WireMessage::Ended(id) => Message::Ended(id.into_owned()),
        WireMessage::NotKept(program) => Message::NotKept(program),
        WireMessage::Done => Message::Done,
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
        let record = SessionRecord {
            id: String::from("0123abcd"),
            name: "n".repeat(64),
            uid: 7,
            ended: Some((vec![0xff; 100], (5, 6))),
            history: Some(Box::default()),
            bound: true,
            ..SessionRecord::default()
        };
        let fds = SessionFds { ring: Some(null()), master: Some(null()), ..SessionFds::default() };
        assert!(matches!(send_session(&one, &record, &fds), WriteOutcome::Bytes(_)));
        let Received::Message(Message::Session(read, fds)) = receive(&other) else {
            panic!("another message");
        };
        assert_eq!(*read, record);
        assert!(fds.ring.is_some() && fds.master.is_some() && fds.client.is_none());
        let _ = one.write(b"{\"Session\":[");
        assert!(matches!(receive(&other), Received::Invalid));
        drop(one);
        assert!(matches!(receive(&other), Received::Closed));
    }

    #[test]
    fn one_that_lacks_a_descriptor_is_known_and_one_that_has_too_many_is_none() {
        let record = SessionRecord { pid: 7, ..SessionRecord::default() };
        let message =
            encode(&WireMessage::Session(Box::new(Cow::Borrowed(&record)), String::from("mp")));
        for count in [0, 1, 2, 3] {
            match (count, decode(&message, (0..count).map(|_| null()).collect())) {
                (0 | 1, Some(Message::Truncated(read))) => assert_eq!(read.pid, 7),
                (2, Some(Message::Session(..))) | (3, None) => {}
                (_, other) => panic!("{count}: {other:?}"),
            }
        }
        let twice =
            encode(&WireMessage::Session(Box::new(Cow::Borrowed(&record)), String::from("mm")));
        assert!(decode(&twice, vec![null(), null()]).is_none());
    }

    /// Whatever a client has called its command.
    #[test]
    fn no_text_makes_it_too_long() {
        let (one, other) = Stream::pair().expect("a pair");
        let long = "\u{1}".repeat(5000);
        let record = SessionRecord { command: Some(long), ..SessionRecord::default() };
        let fds = SessionFds { master: Some(null()), ..SessionFds::default() };
        assert!(matches!(send_session(&one, &record, &fds), WriteOutcome::Bytes(_)));
        let Received::Message(Message::Session(read, _)) = receive(&other) else {
            panic!("another message");
        };
        assert_eq!(read.command, Some("\u{1}".repeat(MAX_COMMAND)));
        let record =
            SessionRecord { listener: "\u{1}".repeat(MAX_MESSAGE), ..SessionRecord::default() };
        assert_eq!(send_session(&one, &record, &fds), WriteOutcome::Closed);
        // As much as one message may have.
        let record =
            SessionRecord { listener: "x".repeat(MAX_MESSAGE - 1000), ..SessionRecord::default() };
        assert!(matches!(send_session(&one, &record, &fds), WriteOutcome::Bytes(_)));
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
            let record = SessionRecord {
                id: texts[0].clone(),
                name: texts[1].clone(),
                uid: numbers.0,
                listener: texts[2].clone(),
                pid: numbers.1,
                since: numbers.2,
                command: Some(texts[3].clone()),
                history: marks.1.then(Box::default),
                attached: marks.0.then_some((numbers.0, numbers.2)),
                changed_at: numbers.3,
                ended,
                bound: marks.1,
                ..SessionRecord::default()
            };
            let message = encode(&WireMessage::Session(Box::new(Cow::Borrowed(&record)), String::new()));
            let Some(Message::Session(read, _)) = decode(&message, Vec::new()) else {
                return Err(TestCaseError::fail("another message"));
            };
            prop_assert_eq!(*read, record);
        }
    }
}
