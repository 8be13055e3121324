//! Peers: the other gateways. Each gateway has an inbox, a socket pair made before any was
//! forked, that all of them can write to. A request gets a reply or none in time.
//!
//! | file | subject |
//! | --- | --- |
//! | `peer_request.rs` | requests between gateways: a page of sessions, a kill, a client |
//! | `attach_request.rs` | the search for a session to attach to |

pub mod attach_request;
pub mod peer_request;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::event_loop::context::Context;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::Token;
use crate::event_loop::timers::Timer;
use crate::host::host;
use crate::log::log;
use crate::process::gateway_token;
use crate::process::ipc::{decode, encode};
use fpty::error::reason;
use fpty::sys::poll::Interest;
use fpty::sys::socket::Stream;
use fpty::sys::{ReadOutcome, WriteOutcome};

pub use super::peers::peer_request::{ForwardedClient, IncomingRequest, PeerRequest, Requester};

/// The timeout of a reply.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 32 * 1024;

/// Messages that one turn receives.
const BATCH: usize = 16;

/// The two ends of each gateway's inbox, by ordinal: the peers', and its own.
static INBOXES: Mutex<Vec<(Stream, Stream)>> = Mutex::new(Vec::new());

/// Makes the inboxes, in the master, before it forks the gateways. A single gateway has no
/// peers.
pub fn reserve(gateways: u32) {
    if gateways < 2 {
        return;
    }
    let pairs: std::io::Result<Vec<_>> =
        (0..gateways).map(|_| Stream::credentialed_pair()).collect();
    match pairs {
        Ok(pairs) => {
            for (theirs, ours) in &pairs {
                host().inherited_by_gateways_only(theirs.as_fd());
                host().inherited_by_gateways_only(ours.as_fd());
            }
            *inboxes() = pairs;
        }
        Err(error) => {
            log(&format!(
                "forkptyrouter: gateways know of their own sessions only: {}",
                reason(&error)
            ));
        }
    }
}

fn inboxes() -> std::sync::MutexGuard<'static, Vec<(Stream, Stream)>> {
    INBOXES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The peers of a gateway.
pub struct Peers {
    ordinal: usize,
    inbox: Option<Stream>,
    /// The inboxes to write to, by ordinal; the own one is not used.
    others: Vec<Stream>,
    response: HashMap<u64, Requester>,
    next: u64,
}

impl Peers {
    /// The peers of this gateway.
    pub fn of(ordinal: usize) -> Self {
        let (others, own): (_, Vec<_>) = std::mem::take(&mut *inboxes()).into_iter().unzip();
        let inbox = own.into_iter().nth(ordinal);
        // An answer to a gateway that was here before is none to us.
        let next = u64::from(std::process::id()) << 32;
        Self { ordinal, inbox, others, response: HashMap::new(), next }
    }

    /// Whether there are peers.
    pub fn has_peers(&self) -> bool {
        self.others.len() > 1 && self.inbox.is_some()
    }

    /// The ordinals of the peers.
    pub fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.others.len()).filter(|number| *number != self.ordinal)
    }
}

/// A message: sender, request or reply, number of the request, body.
pub(crate) struct Message<'a> {
    from: usize,
    is_answer: bool,
    number: u64,
    pub(crate) body: &'a [u8],
}

/// Bytes before the body.
const HEAD: usize = 2 + 8;

impl<'a> Message<'a> {
    /// The bytes of the message.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // There are 64 at most.
        let mut bytes = vec![self.from as u8, self.is_answer.into()];
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// Decodes a message; `None`: it is too short.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (&[from, kind], rest) = bytes.split_first_chunk()?;
        let (number, body) = rest.split_first_chunk()?;
        let number = u64::from_le_bytes(*number);
        Some(Self { from: from.into(), is_answer: kind != 0, number, body })
    }
}

impl Peers {
    /// Sends a request to a peer, with copies of descriptors. Returns whether there will be
    /// a reply, or the outcome that there was none.
    pub fn request(
        &mut self,
        cx: &mut Context,
        whom: usize,
        request: &PeerRequest,
        descriptors: &[BorrowedFd<'_>],
        requester: Requester,
    ) -> bool {
        let Some(to) = self.others.get(whom) else {
            return false;
        };
        let number = self.next;
        let body = encode(request);
        let message = Message { from: self.ordinal, is_answer: false, number, body: &body };
        let sent = to.write_with_descriptors(&message.encode(), descriptors);
        if !matches!(sent, WriteOutcome::Bytes(_)) {
            return false;
        }
        self.next += 1;
        self.response.insert(number, requester);
        cx.schedule(REPLY_TIMEOUT, Timer::PeerReply(number));
        true
    }

    /// Replies to a peer. A peer without room for it times out.
    pub fn reply(&self, to: &IncomingRequest, body: &[u8]) {
        let message = Message { from: self.ordinal, is_answer: true, number: to.number, body };
        if let Some(to) = self.others.get(to.from) {
            let _ = to.write(&message.encode());
        }
    }

    /// Receives messages: each request and reply is an outcome.
    pub fn ready(&mut self, cx: &mut Context) {
        let Some(inbox) = &self.inbox else {
            return;
        };
        let mut buffer = vec![0; HEAD + MAX_MESSAGE];
        for _ in 0..BATCH {
            // What comes along closes here, unless it is asked for.
            let mut passed = Vec::new();
            let (read, sender) = inbox.read_credentialed(&mut buffer, &mut passed);
            let ReadOutcome::Bytes(count) = read else {
                return;
            };
            let Some(Message { from, is_answer, number, body }) = Message::decode(&buffer[..count])
            else {
                continue;
            };
            // What another process says, or one that is gone, is nothing to us.
            if !sender.is_some_and(|sender| gateway_token::is_gateway(from, sender.pid)) {
                continue;
            }
            if is_answer {
                let requester = self.response.remove(&number);
                requester.into_iter().for_each(|requester| {
                    cx.push_outcome(Outcome::PeerReply(requester, Some(body.to_vec())));
                });
            } else if let Some(request) = decode(body) {
                let incoming = IncomingRequest { from, number, request, passed };
                cx.push_outcome(Outcome::PeerRequest(Box::new(incoming)));
            }
        }
    }

    /// The timeout of a reply.
    pub fn timed_out(&mut self, cx: &mut Context, number: u64) {
        if let Some(requester) = self.response.remove(&number) {
            cx.push_outcome(Outcome::PeerReply(requester, None));
        }
    }

    /// Registers the inbox at the poller.
    pub fn listen(&self, cx: &Context) {
        if let Some(inbox) = &self.inbox {
            let token = Token::Peers.token();
            if let Err(error) = cx.poller.add(inbox.as_fd(), token, Interest::READ) {
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
