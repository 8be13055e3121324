//! What gateways ask each other: each has a mailbox, made before any was
//! forked, that all of them can write to. A question has an answer or none; who
//! does not answer in time is done without.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::GatewayLoop;
use super::fault;
use super::listing::beginning::Beginning;
use super::listing::piece::{self, Asking};
use super::recovery::Whose;
use super::table::{Key, Source};
use super::timers::Due;
use crate::uwsgi::log::log;
use crate::uwsgi::{inherited, proof};
use fpty::error::reason;
use fpty::sys::poll::Interest;
use fpty::sys::socket::Stream;
use fpty::sys::{Read, Written};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest message, in bytes.
pub const LONGEST: usize = 32 * 1024;

/// Messages that one turn takes.
const AT_ONCE: usize = 16;

/// The two ends of a gateway's mailbox.
struct Mailbox {
    theirs: Stream,
    ours: Stream,
}

/// By the gateways' numbers.
static MAILBOXES: Mutex<Vec<Mailbox>> = Mutex::new(Vec::new());

/// Makes the mailboxes, in the master, before it forks the gateways. One alone
/// has nobody to ask.
pub fn reserve(gateways: u32) {
    if gateways < 2 {
        return;
    }
    let pairs: std::io::Result<Vec<_>> = (0..gateways).map(|_| Stream::pair_that_tells()).collect();
    match pairs {
        Ok(pairs) => {
            for (theirs, ours) in &pairs {
                inherited::by_gateways_only(theirs.as_fd());
                inherited::by_gateways_only(ours.as_fd());
            }
            let made = pairs.into_iter().map(|(theirs, ours)| Mailbox { theirs, ours });
            *mailboxes() = made.collect();
        }
        Err(error) => {
            log(&format!(
                "forkptyrouter: gateways know of their own sessions only: {}",
                reason(&error)
            ));
        }
    }
}

fn mailboxes() -> std::sync::MutexGuard<'static, Vec<Mailbox>> {
    MAILBOXES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Its sessions from this place on, for the statistics.
    Sessions(u32),
    /// Its sessions that somebody may know of, who asks.
    Piece(Asking),
    /// To end the session in this place that has this id, if this user may.
    End {
        /// The user.
        by: u32,
        /// The place.
        place: u32,
        /// The id.
        id: Beginning,
    },
}

/// Who asked, and waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client of the statistics.
    Statistics(Key),
    /// A client that asks who is there.
    Inquirer(Key),
}

/// The other gateways.
pub struct Siblings {
    ordinal: usize,
    mailbox: Option<Stream>,
    /// Where each is written to; our own, too, which is not used.
    others: Vec<Stream>,
    asked: HashMap<u64, Asker>,
    next: u64,
}

impl Siblings {
    /// Those of the gateway of this number.
    pub fn of(ordinal: usize) -> Self {
        let mut mailbox = None;
        let mut others = Vec::new();
        for (number, made) in std::mem::take(&mut *mailboxes()).into_iter().enumerate() {
            if number == ordinal {
                mailbox = Some(made.ours);
            }
            others.push(made.theirs);
        }
        // An answer to a gateway that was here before is none to us.
        let next = u64::from(std::process::id()) << 32;
        Self { ordinal, mailbox, others, asked: HashMap::new(), next }
    }

    /// The descriptor to wait for, where there is anybody to hear of.
    pub fn mailbox(&self) -> Option<BorrowedFd<'_>> {
        self.mailbox.as_ref().map(AsFd::as_fd)
    }

    /// Their numbers.
    pub fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.others.len()).filter(|number| *number != self.ordinal)
    }
}

/// A message as it is sent: whose it is, whether it is an answer, which
/// question it is about, and the rest.
pub(super) struct Message<'a> {
    from: usize,
    is_answer: bool,
    number: u64,
    pub(super) body: &'a [u8],
}

/// Bytes before the rest.
const HEAD: usize = 2 + 8;

impl<'a> Message<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        // There are 64 at most.
        let mut bytes = vec![self.from as u8, self.is_answer.into()];
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEAD)?;
        let [from, kind, number @ ..] = head else {
            return None;
        };
        let number = u64::from_le_bytes(number.try_into().ok()?);
        Some(Self { from: usize::from(*from), is_answer: *kind != 0, number, body })
    }
}

impl Question {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Sessions(from) => [&b"s"[..], &from.to_le_bytes()].concat(),
            Self::Piece(Asking { by, from, beginning }) => {
                let beginning = beginning.as_ref().map(Beginning::as_bytes).unwrap_or_default();
                [&b"l"[..], &by.to_le_bytes(), &from.to_le_bytes(), beginning].concat()
            }
            Self::End { by, place, id } => {
                [&b"k"[..], &by.to_le_bytes(), &place.to_le_bytes(), id.as_bytes()].concat()
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [b's', from @ ..] => Some(Self::Sessions(u32::from_le_bytes(from.try_into().ok()?))),
            [b'l', rest @ ..] => {
                let (by, from, rest) = two_numbers(rest)?;
                let beginning = match rest {
                    [] => None,
                    rest => Some(Beginning::of(rest)?),
                };
                Some(Self::Piece(Asking { by, from, beginning }))
            }
            [b'k', rest @ ..] => {
                let (by, place, rest) = two_numbers(rest)?;
                Some(Self::End { by, place, id: Beginning::of(rest)? })
            }
            _ => None,
        }
    }
}

fn two_numbers(bytes: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (one, rest) = bytes.split_first_chunk()?;
    let (other, rest) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*one), u32::from_le_bytes(*other), rest))
}

impl GatewayLoop {
    /// Asks another gateway; returns whether there will be an answer, or the
    /// word that there was none.
    pub(super) fn ask(&mut self, whom: usize, question: Question, asker: Asker) -> bool {
        let siblings = &mut self.siblings;
        let Some(to) = siblings.others.get(whom) else {
            return false;
        };
        let number = siblings.next;
        let message =
            Message { from: siblings.ordinal, is_answer: false, number, body: &question.encode() };
        if !matches!(to.write(&message.encode()), Written::Bytes(_)) {
            return false;
        }
        siblings.next += 1;
        siblings.asked.insert(number, asker);
        self.cx.after(PATIENCE, Due::Answer(number));
        true
    }

    /// Somebody has written to us.
    pub(super) fn siblings_ready(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(mailbox) = &self.siblings.mailbox else {
                return;
            };
            let mut buffer = vec![0; HEAD + LONGEST];
            // Descriptors that come along close here.
            let (read, sender) = mailbox.read_and_sender(&mut buffer, &mut Vec::new());
            let Read::Bytes(count) = read else {
                return;
            };
            let Some(message) = Message::decode(&buffer[..count]) else {
                continue;
            };
            // What another process says, or one that is gone, is nothing to us.
            if !sender.is_some_and(|sender| proof::is_gateway(message.from, sender.pid)) {
                continue;
            }
            if !message.is_answer {
                // Whoever asks does without.
                self.guarded(Whose::Past, |router| router.answer(&message));
            } else if let Some(asker) = self.siblings.asked.remove(&message.number) {
                self.answered(asker, Some(message.body));
            }
        }
    }

    fn answer(&mut self, message: &Message<'_>) {
        fault::point("question");
        let body = match Question::decode(message.body) {
            Some(Question::Sessions(from)) => self.sessions_for_another(from),
            Some(Question::Piece(asking)) => self.piece(asking).encode(),
            Some(Question::End { by, place, id }) => match self.end_by(by, place, id) {
                true => piece::ENDED.to_vec(),
                false => Vec::new(),
            },
            None => return,
        };
        let siblings = &self.siblings;
        let answer = Message {
            from: siblings.ordinal,
            is_answer: true,
            number: message.number,
            body: &body,
        };
        // Whoever has no room for it will not miss it for long.
        if let Some(to) = siblings.others.get(message.from) {
            let _ = to.write(&answer.encode());
        }
    }

    /// No answer came in time.
    pub(super) fn unanswered_question(&mut self, number: u64) {
        if let Some(asker) = self.siblings.asked.remove(&number) {
            self.answered(asker, None);
        }
    }

    fn answered(&mut self, asker: Asker, answer: Option<&[u8]>) {
        let whose = match asker {
            Asker::Statistics(key) => Whose::Stats(key),
            Asker::Inquirer(key) => Whose::Inquirer(key),
        };
        self.guarded(whose, |router| {
            fault::point("answer");
            match asker {
                Asker::Statistics(key) => router.listed(key, answer),
                Asker::Inquirer(key) => router.inquirer_answered(key, answer),
            }
        });
    }

    /// Waits for what others write to us.
    pub(super) fn hear_siblings(&mut self) {
        if let Some(mailbox) = self.siblings.mailbox() {
            let token = Source::Siblings.token();
            if let Err(error) = self.cx.poller.add(mailbox, token, Interest::READ) {
                log(&format!("forkptyrouter: gateways know of their own sessions only: {error}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let message = Message { from: 63, is_answer: true, number: u64::MAX - 7, body: b"body" };
        let bytes = message.encode();
        let read = Message::decode(&bytes).expect("a message");
        assert_eq!((read.from, read.is_answer, read.number), (63, true, u64::MAX - 7));
        assert_eq!(read.body, b"body");
        assert!((0..HEAD).all(|cut| Message::decode(&bytes[..cut]).is_none()));
        let id = Beginning::of(b"0123abcd").expect("an id");
        for question in [
            Question::Sessions(70_000),
            Question::Piece(Asking { by: 7, from: 70_000, beginning: None }),
            Question::Piece(Asking { by: 7, from: 70_000, beginning: Beginning::of(b"0a") }),
            Question::End { by: 0, place: 1 << 31, id },
        ] {
            assert_eq!(Question::decode(&question.encode()), Some(question));
        }
        assert_eq!(Question::decode(b"k1234"), None);
        assert_eq!(Question::decode(b"s123"), None);
        assert_eq!(Question::decode(b""), None);
    }
}
