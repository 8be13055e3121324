//! What gateways ask each other: each has a mailbox, made before any was
//! forked, that all of them can write to. A question has an answer or none; who
//! does not answer in time is done without.
//!
//! | file | subject |
//! | --- | --- |
//! | `attach_request.rs` | a session that somebody wants to come back to |
//! | `request.rs` | what is asked |
//! | `session_request.rs` | what is asked about sessions |

pub mod attach_request;
pub mod request;
pub mod session_request;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::Source;
use crate::event_loop::timers::Due;
use crate::host::host;
use crate::log::log;
use crate::process::ipc::{decode, encode};
use crate::process::proof;
use fpty::error::reason;
use fpty::sys::poll::Interest;
use fpty::sys::socket::Stream;
use fpty::sys::{Read, Written};

pub use super::peers::request::{Asker, Handed, Posed, Question};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The longest message, in bytes.
pub const LONGEST: usize = 32 * 1024;

/// Messages that one turn takes.
const AT_ONCE: usize = 16;

/// The two ends of each gateway's mailbox: the others', and its own. By their numbers.
static MAILBOXES: Mutex<Vec<(Stream, Stream)>> = Mutex::new(Vec::new());

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
                host().inherited_by_gateways_only(theirs.as_fd());
                host().inherited_by_gateways_only(ours.as_fd());
            }
            *mailboxes() = pairs;
        }
        Err(error) => {
            log(&format!(
                "forkptyrouter: gateways know of their own sessions only: {}",
                reason(&error)
            ));
        }
    }
}

fn mailboxes() -> std::sync::MutexGuard<'static, Vec<(Stream, Stream)>> {
    MAILBOXES.lock().unwrap_or_else(PoisonError::into_inner)
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
        for (number, (theirs, ours)) in std::mem::take(&mut *mailboxes()).into_iter().enumerate() {
            if number == ordinal {
                mailbox = Some(ours);
            }
            others.push(theirs);
        }
        // An answer to a gateway that was here before is none to us.
        let next = u64::from(std::process::id()) << 32;
        Self { ordinal, mailbox, others, asked: HashMap::new(), next }
    }

    /// Whether there are any.
    pub fn there_are(&self) -> bool {
        self.others.len() > 1 && self.mailbox.is_some()
    }

    /// Their numbers.
    pub fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.others.len()).filter(|number| *number != self.ordinal)
    }
}

/// A message as it is sent: whose it is, whether it is an answer, which
/// question it is about, and the rest.
pub(crate) struct Message<'a> {
    from: usize,
    is_answer: bool,
    number: u64,
    pub(crate) body: &'a [u8],
}

/// Bytes before the rest.
const HEAD: usize = 2 + 8;

impl<'a> Message<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // There are 64 at most.
        let mut bytes = vec![self.from as u8, self.is_answer.into()];
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEAD)?;
        let [from, kind, number @ ..] = head else {
            return None;
        };
        let number = u64::from_le_bytes(number.try_into().ok()?);
        Some(Self { from: usize::from(*from), is_answer: *kind != 0, number, body })
    }
}

impl Siblings {
    /// Asks another gateway, with copies of descriptors; returns whether there will be
    /// an answer, or the word that there was none.
    pub fn ask(
        &mut self,
        cx: &mut Context,
        whom: usize,
        question: Question,
        descriptors: &[BorrowedFd<'_>],
        asker: Asker,
    ) -> bool {
        let Some(to) = self.others.get(whom) else {
            return false;
        };
        let number = self.next;
        let body = encode(&question);
        let message = Message { from: self.ordinal, is_answer: false, number, body: &body };
        if !matches!(to.write_with_descriptors(&message.encode(), descriptors), Written::Bytes(_)) {
            return false;
        }
        self.next += 1;
        self.asked.insert(number, asker);
        cx.after(PATIENCE, Due::Answer(number));
        true
    }

    /// Answers another gateway. Whoever has no room for it will not miss it for
    /// long.
    pub fn reply(&self, to: &Posed, body: &[u8]) {
        let message = Message { from: self.ordinal, is_answer: true, number: to.number, body };
        if let Some(to) = self.others.get(to.from) {
            let _ = to.write(&message.encode());
        }
    }

    /// Somebody has written to us: the loop hears of each question and answer.
    pub fn ready(&mut self, cx: &mut Context) {
        let Some(mailbox) = &self.mailbox else {
            return;
        };
        let mut buffer = vec![0; HEAD + LONGEST];
        for _ in 0..AT_ONCE {
            // What comes along closes here, unless it is asked for.
            let mut passed = Vec::new();
            let (read, sender) = mailbox.read_and_sender(&mut buffer, &mut passed);
            let Read::Bytes(count) = read else {
                return;
            };
            let Some(Message { from, is_answer, number, body }) = Message::decode(&buffer[..count])
            else {
                continue;
            };
            // What another process says, or one that is gone, is nothing to us.
            if !sender.is_some_and(|sender| proof::is_gateway(from, sender.pid)) {
                continue;
            }
            if is_answer {
                let asker = self.asked.remove(&number);
                asker.into_iter().for_each(|asker| {
                    cx.then(Outcome::Answered(asker, Some(body.to_vec())));
                });
            } else if let Some(question) = decode(body) {
                let posed = Posed { from, number, question, passed };
                cx.then(Outcome::Asked(Box::new(posed)));
            }
        }
    }

    /// No answer came in time.
    pub fn unanswered(&mut self, cx: &mut Context, number: u64) {
        if let Some(asker) = self.asked.remove(&number) {
            cx.then(Outcome::Answered(asker, None));
        }
    }

    /// Waits for what others write to us.
    pub fn hear(&self, cx: &Context) {
        if let Some(mailbox) = &self.mailbox {
            let token = Source::Siblings.token();
            if let Err(error) = cx.poller.add(mailbox.as_fd(), token, Interest::READ) {
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
    }
}
