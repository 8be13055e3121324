//! What a gateway says of a session to what keeps it, and is told again by
//! that after its own end.

use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::router::last_words::LastWords;
use crate::router::record::Kept;
use crate::uwsgi::proof::{self, Token};
use fpty::sys::peer::{Arrived, Peer};
use fpty::sys::socket::Stream;
use fpty::sys::{Read, Written};

/// The longest message, in bytes.
const LONGEST: usize = 16 * 1024;

/// What is known of a session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// What it is called; may be empty.
    pub name: String,
    /// Whose it is.
    pub uid: u32,
    /// The address that it began at.
    pub door: String,
    /// Its program, as long as that was not reaped.
    pub pid: i32,
    /// When it began, as a [`Timestamp`](fpty::sys::clock::Timestamp) is said.
    pub since: (u64, u64),
    /// Who is attached, since when.
    pub attached: Option<(u32, (u64, u64))>,
    /// When it was left.
    pub left: Option<(u64, u64)>,
    /// How and when its program ended: the payload of an END.
    pub ended: Option<(Vec<u8>, (u64, u64))>,
    /// Since when it is what it is, in nanoseconds since the machine's start.
    #[serde(default)]
    pub turned: u64,
    /// Somebody else has its terminal, or had it, or is about to.
    #[serde(default = "is_likely")]
    pub shared: bool,
    /// What runs, where that is known.
    #[serde(default)]
    pub command: Option<String>,
    /// Its recording, where it has one.
    #[serde(default)]
    pub recording: Option<Kept>,
    /// It cannot be left: what is known of one that was handed over for good.
    #[serde(default)]
    pub bound: Option<Bound>,
}

/// What is kept of a session that ends with its client, which has its terminal.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Bound {
    /// What its client says of itself: where it was logged in from, as whom, and
    /// the kind of its terminal.
    pub said: [Option<String>; 3],
    /// The audit's line of its end.
    pub last: LastWords,
}

/// What is believed of a terminal where nothing is said.
fn is_likely() -> bool {
    true
}

/// Which gateway it is, of how many.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Its number.
    pub ordinal: usize,
    /// Of so many.
    pub count: usize,
    /// By what it is known to be one.
    #[serde(default)]
    pub token: Token,
}

/// Descriptors of a session. An ended one has the ring alone.
#[derive(Debug, Default)]
pub struct Held {
    /// The terminal's master.
    pub master: Option<OwnedFd>,
    /// The program.
    pub program: Option<OwnedFd>,
    /// The last output.
    pub ring: Option<OwnedFd>,
    /// The client that has the terminal.
    pub client: Option<OwnedFd>,
}

/// What one end says to the other.
#[derive(Debug)]
pub enum Message {
    /// A gateway begins; its own connection comes along.
    Hello(Hello, OwnedFd),
    /// A session is as it is here.
    Session(Box<Record>, Held),
    /// A session is over.
    Over(String),
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

/// Sends it, with copies of the descriptors.
pub fn send_session(to: &Stream, record: &Record, held: &[(u8, &dyn AsFd)]) -> Written {
    let names: Vec<u8> = held.iter().map(|(name, _)| *name).collect();
    let descriptors: Vec<_> = held.iter().map(|(_, fd)| fd.as_fd()).collect();
    let Ok(text) = serde_json::to_vec(record) else {
        return Written::Gone;
    };
    let count = u8::try_from(names.len()).unwrap_or(u8::MAX);
    let message = [&[b'S', count][..], &names, &text].concat();
    to.write_with_descriptors(&message, &descriptors)
}

/// Sends a session that is held.
pub fn send_held(to: &Stream, record: &Record, held: &Held) -> Written {
    let all =
        [(b'm', &held.master), (b'p', &held.program), (b'r', &held.ring), (b'c', &held.client)];
    let there: Vec<(u8, &dyn AsFd)> = all
        .iter()
        .filter_map(|(name, fd)| fd.as_ref().map(|fd| (*name, fd as &dyn AsFd)))
        .collect();
    send_session(to, record, &there)
}

/// Says that a gateway begins, which has this connection.
pub fn send_hello(to: &Stream, hello: Hello, own: &Stream) -> Written {
    let text = serde_json::to_vec(&hello).unwrap_or_default();
    to.write_with_descriptors(&[b"H".as_slice(), &text].concat(), &[own.as_fd()])
}

/// Says that a session is over.
pub fn send_over(to: &Stream, id: &str) -> Written {
    to.write(format!("D{id}").as_bytes())
}

/// Says that that was all.
pub fn send_done(to: &Stream) -> Written {
    to.write(b".")
}

/// Takes a message from where only gateways say hello. What somebody else says
/// who has come to the descriptor is nonsense: the kernel tells whose process
/// sends, and the token that it is a gateway.
pub fn receive_hello(from: &Stream) -> Received {
    let (mut buffer, mut descriptors) = ([0; LONGEST], Vec::new());
    let (count, sender) = match from.read_and_sender(&mut buffer, &mut descriptors) {
        (Read::Bytes(count), sender) => (count, sender),
        (Read::Blocked, _) => return Received::Nothing,
        (Read::End | Read::Gone, _) => return Received::End,
    };
    let own = nix::unistd::geteuid().as_raw();
    let is_of_us = sender.is_some_and(|sender| sender.uid == own || sender.uid == 0);
    match read(&buffer[..count], descriptors) {
        Some(Message::Hello(hello, own)) if is_of_us && proof::is_proved_by(&hello.token) => {
            Received::Message(Message::Hello(hello, own))
        }
        _ => Received::Nonsense,
    }
}

/// Takes a message.
pub fn receive(from: &Stream) -> Received {
    let mut buffer = [0; LONGEST];
    let mut arrived = Arrived::default();
    match from.read_with_descriptors(&mut buffer, &mut arrived, &mut Peer::default()) {
        Read::Bytes(count) => read(&buffer[..count], arrived.descriptors)
            .map_or(Received::Nonsense, Received::Message),
        Read::Blocked => Received::Nothing,
        Read::End | Read::Gone => Received::End,
    }
}

/// What a message says that came with these descriptors; `None`: nonsense.
pub fn read(message: &[u8], mut descriptors: Vec<OwnedFd>) -> Option<Message> {
    match message.split_first()? {
        (b'H', text) => {
            Some(Message::Hello(serde_json::from_slice(text).ok()?, descriptors.pop()?))
        }
        (b'S', rest) => {
            let (count, rest) = rest.split_first()?;
            let (names, text) = rest.split_at_checked(usize::from(*count))?;
            if names.len() != descriptors.len() {
                return None;
            }
            let mut held = Held::default();
            for (name, fd) in names.iter().zip(descriptors) {
                match name {
                    b'm' => held.master = Some(fd),
                    b'p' => held.program = Some(fd),
                    b'r' => held.ring = Some(fd),
                    b'c' => held.client = Some(fd),
                    _ => return None,
                }
            }
            Some(Message::Session(serde_json::from_slice(text).ok()?, held))
        }
        (b'D', id) => Some(Message::Over(String::from_utf8(id.to_vec()).ok()?)),
        (b'.', _) => Some(Message::Done),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_again_as_it_was() {
        let (one, other) = Stream::pair().expect("a pair");
        let record = Record {
            id: String::from("0123abcd"),
            name: "n".repeat(64),
            uid: 7,
            ended: Some((vec![0xff; 100], (5, 6))),
            ..Record::default()
        };
        let null = || Some(OwnedFd::from(std::fs::File::open("/dev/null").expect("a device")));
        let held = Held { ring: null(), master: null(), ..Held::default() };
        assert!(matches!(send_held(&one, &record, &held), Written::Bytes(_)));
        let Received::Message(Message::Session(read, held)) = receive(&other) else {
            panic!("another message");
        };
        assert_eq!((read.id, read.name, read.uid), (record.id, record.name, record.uid));
        assert_eq!(read.ended, record.ended);
        assert!(held.ring.is_some() && held.master.is_some() && held.client.is_none());
        let _ = one.write(b"Snonsense");
        assert!(matches!(receive(&other), Received::Nonsense));
        drop(one);
        assert!(matches!(receive(&other), Received::End));
    }
}
