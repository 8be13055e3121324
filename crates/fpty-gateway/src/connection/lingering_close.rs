//! Lingering connections: the last word was said to the client, or waits behind output that it
//! has not read yet. They stay open until the client has closed, for a while.
//!
//! To close a TCP connection while something is still on its way here has the kernel answer
//! that with a reset, and a reset throws away what the other end has not read yet (RFC 1122,
//! 4.2.2.13; tcp(7)): the rest of the output, and how the program ended. What is on its way may
//! be an acknowledgement, a ping or a key, so there is no telling when nothing is. So what
//! comes is read and thrown away until the client closes. A UNIX socket loses nothing of what
//! it holds, but a proxy between it and the client may give up when it cannot write there any
//! more.
//!
//! These connections count for no limit and stand in no list: their sessions are over.

use std::cell::OnceCell;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::event_loop::slab::{Key, Slab, Token};
use fpty::backlog::Backlog;
use fpty::fair_share::{Principal, to_evict};
use fpty::sys::ReadOutcome;
use fpty::sys::clock;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::socket::Stream;

/// Timeout without progress of the client's reads.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout in all.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Delay of the EOF behind an END packet, for clients that wait for the EOF.
const EOF_DELAY: Duration = Duration::from_secs(1);

/// Interval of the checks.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The most at once; and one in so many of the descriptor limit.
const MAX_CONNECTIONS: usize = 1024;
const FD_FRACTION: u64 = 16;

/// The most of one user, or of one address.
const MAX_PER_PEER: usize = 48;

/// Notice of the end to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseNotice {
    /// EOF, which is to be sent.
    Eof,
    /// EOF, which was sent.
    EofSent,
    /// An END packet. uWSGI's routers close both ways when one ends: the stream is left
    /// open.
    Packet {
        /// The client will answer it by a window update.
        is_answered: bool,
    },
}

/// All lingering connections of a gateway.
pub struct LingeringCloses {
    connections: Slab<LingeringConnection>,
    most: usize,
    is_scheduled: bool,
}

struct LingeringConnection {
    client: Stream,
    /// Bytes that the connection has no room for yet, the END packet last.
    output: Backlog,
    since: Instant,
    /// The last byte from the client.
    last_read: Instant,
    /// The last progress of the client's reads.
    last_progress: Instant,
    /// Bytes in the send queue at the last check.
    untaken: Option<usize>,
    /// EOF was sent.
    ended: bool,
    /// The principal of the peer, where it was looked up.
    peer: OnceCell<Principal>,
}

impl LingeringCloses {
    /// No connection, for a process with this limit of descriptors.
    pub fn new(descriptors: Option<u64>) -> Self {
        let most = descriptors.map_or(MAX_CONNECTIONS, |all| {
            usize::try_from(all / FD_FRACTION).unwrap_or(MAX_CONNECTIONS).clamp(1, MAX_CONNECTIONS)
        });
        Self { connections: Slab::new(), most, is_scheduled: false }
    }

    /// Closes all: descriptors are needed for new connections.
    pub fn close_all(&mut self) {
        self.connections = Slab::new();
    }

    /// Closes one without a word.
    pub fn discard(&mut self, key: Key) {
        self.connections.remove(key);
    }

    /// Adds a connection whose last byte is written, or stands in `output` where its client is to
    /// learn of the end by a packet, until its client has closed, or the timeout. Returns whether a
    /// check is to be scheduled, after [`CHECK_INTERVAL`].
    pub fn add(
        &mut self,
        client: Stream,
        mut output: Backlog,
        last: CloseNotice,
        poller: &Poller,
        buffer: &mut [u8],
    ) -> bool {
        if !output.flush(|bytes| client.write(bytes).taken()) {
            return false;
        }
        if last == CloseNotice::Eof {
            client.end();
        }
        let is_heard = match client.read(buffer) {
            ReadOutcome::Bytes(_) => true,
            ReadOutcome::WouldBlock => false,
            // Nothing can come any more.
            ReadOutcome::Eof | ReadOutcome::Closed => return false,
        };
        let mut ended = matches!(last, CloseNotice::Eof | CloseNotice::EofSent);
        let is_last = last == (CloseNotice::Packet { is_answered: false }) && output.is_empty();
        if is_last && !is_heard && client.is_unix() {
            // Nothing is lost by that at such a socket.
            client.end();
            ended = true;
        }
        let now = clock::now();
        let key = self.insert(LingeringConnection {
            client,
            output,
            since: now,
            last_read: now,
            last_progress: now,
            untaken: None,
            ended,
            peer: OnceCell::new(),
        });
        let Some(one) = self.connections.get_mut(key) else { return false };
        let (client, token) = (one.client.as_fd(), Token::LingeringClose(key).token());
        let interest = one.interest();
        // A session's is waited for already.
        let waits =
            poller.change(client, token, interest).or_else(|_| poller.add(client, token, interest));
        if waits.is_err() {
            self.discard(key);
            return false;
        }
        !std::mem::replace(&mut self.is_scheduled, true)
    }

    /// A lingering connection is readable or writable, or hung up.
    pub fn ready(&mut self, key: Key, ready: Ready, poller: &Poller, buffer: &mut [u8]) {
        let Some(one) = self.connections.get_mut(key) else { return };
        if ready.write {
            let is_open = one.output.flush(|bytes| one.client.write(bytes).taken());
            let token = Token::LingeringClose(key).token();
            let changed = poller.change(one.client.as_fd(), token, one.interest());
            if !is_open || changed.is_err() {
                return self.discard(key);
            }
        }
        match one.client.read(buffer) {
            ReadOutcome::Bytes(_) => one.last_read = clock::now(),
            ReadOutcome::WouldBlock if !ready.hang_up => {}
            // It sends no more, so nothing would be answered by a reset.
            ReadOutcome::WouldBlock | ReadOutcome::Eof | ReadOutcome::Closed => self.discard(key),
        }
    }

    /// Closes connections whose time is over. Returns whether others linger: to be checked
    /// after [`CHECK_INTERVAL`].
    pub fn expire(&mut self) -> bool {
        let now = clock::now();
        let keys: Vec<Key> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            if self.connections.get_mut(key).is_some_and(|one| one.check_time(now)) {
                self.discard(key);
            }
        }
        self.is_scheduled = self.connections.len() > 0;
        self.is_scheduled
    }

    fn insert(&mut self, one: LingeringConnection) -> Key {
        // Below that nobody has too many, and nobody has to be asked for.
        if self.connections.len() >= MAX_PER_PEER {
            let shares = self.connections.iter().map(|(key, one)| (key, one.peer(), one.since));
            let evicted = to_evict(shares, one.peer(), MAX_PER_PEER, self.most);
            if let Some(peer) =
                evicted.and_then(|key| self.connections.get(key)).map(|it| it.peer())
            {
                self.make_room(peer);
            }
        }
        self.connections.insert(one)
    }

    /// Closes the oldest connection of a peer, if possible one with an empty send queue.
    fn make_room(&mut self, peer: Principal) {
        let of_peer = self.connections.iter().filter(|(_, one)| one.peer() == peer);
        let first = of_peer.min_by_key(|(_, one)| (one.client.unsent_bytes() > 0, one.since));
        if let Some((key, _)) = first {
            self.discard(key);
        }
    }
}

impl LingeringConnection {
    fn peer(&self) -> Principal {
        *self.peer.get_or_init(|| Principal::of(&self.client))
    }

    fn interest(&self) -> Interest {
        Interest { read: true, write: !self.output.is_empty() }
    }

    fn check_time(&mut self, now: Instant) -> bool {
        let untaken = self.client.unsent_bytes() + self.output.len();
        if self.untaken.replace(untaken).is_some_and(|before| untaken < before) {
            self.last_progress = now;
        }
        if !self.ended && untaken == 0 && now - self.last_read >= EOF_DELAY {
            self.ended = true;
            self.client.end();
        }
        now - self.last_progress >= IDLE_TIMEOUT || now - self.since >= TOTAL_TIMEOUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn connection(peer: Principal) -> (LingeringConnection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        let now = Instant::now();
        let one = LingeringConnection {
            client: Stream::from(OwnedFd::from(ours)),
            output: Backlog::default(),
            since: now,
            last_read: now,
            last_progress: now,
            untaken: None,
            ended: false,
            peer: OnceCell::from(peer),
        };
        (one, theirs)
    }

    #[test]
    fn nobody_takes_the_places_of_others() {
        let most = 2 * MAX_PER_PEER as u64 + 2;
        let mut closing = LingeringCloses::new(Some(most * FD_FRACTION));
        let mut theirs = Vec::new();
        let count = |closing: &LingeringCloses, user| {
            let peers = closing.connections.iter().map(|(_, one)| one.peer());
            peers.filter(|peer| *peer == Principal::User(user)).count()
        };
        let mut insert = |closing: &mut LingeringCloses, user| {
            let (one, other) = connection(Principal::User(user));
            theirs.push(other);
            closing.insert(one)
        };
        let one = insert(&mut closing, 1);
        let first = insert(&mut closing, 2);
        let second = insert(&mut closing, 2);
        let third = insert(&mut closing, 2);
        // It has not taken what there was for it.
        closing.connections.get_mut(second).expect("it is there").client.write(b"more");
        for _ in 3..MAX_PER_PEER {
            insert(&mut closing, 2);
        }
        assert!(closing.connections.has(first));
        insert(&mut closing, 2);
        assert!(!closing.connections.has(first));
        insert(&mut closing, 2);
        assert!(closing.connections.has(second) && !closing.connections.has(third));
        assert_eq!(count(&closing, 2), MAX_PER_PEER);
        // There is room for so many, and for two more.
        for _ in 0..MAX_PER_PEER {
            insert(&mut closing, 3);
        }
        insert(&mut closing, 4);
        insert(&mut closing, 4);
        assert!(closing.connections.has(one));
        assert_eq!(closing.connections.len(), 2 * MAX_PER_PEER + 2);
        assert_eq!(count(&closing, 2) + count(&closing, 3), 2 * MAX_PER_PEER - 1);
    }

    #[test]
    fn output_that_waits_is_written_when_there_is_room() {
        use std::io::Read as _;
        let (one, mut theirs) = connection(Principal::Unknown);
        let mut filled = 0;
        while let fpty::sys::WriteOutcome::Bytes(count) = one.client.write(&[7; 4096]) {
            filled += count;
        }
        let mut output = Backlog::default();
        output.push(b"the end");
        let mut poller = Poller::new(4).expect("an epoll");
        let mut closing = LingeringCloses::new(None);
        let last = CloseNotice::Packet { is_answered: false };
        assert!(closing.add(one.client, output, last, &poller, &mut [0; 64]));
        assert_eq!(poller.wait(Some(Duration::ZERO)).ok(), Some(0), "there is no room");
        let mut taken = vec![0; filled];
        theirs.read_exact(&mut taken).expect("what was written before");
        assert_eq!(poller.wait(Some(IDLE_TIMEOUT)).ok(), Some(1));
        let ready = poller.ready(0);
        let Token::LingeringClose(key) = Token::of(ready.token) else { panic!("{ready:?}") };
        closing.ready(key, ready, &poller, &mut [0; 64]);
        theirs.read_exact(&mut taken[..7]).expect("what waited");
        assert_eq!(&taken[..7], b"the end");
        assert_eq!(poller.wait(Some(Duration::ZERO)).ok(), Some(0), "room alone is no event");
    }

    #[test]
    fn one_that_takes_what_there_is_has_longer() {
        use std::io::Read as _;
        let (mut one, mut theirs) = connection(Principal::Unknown);
        let begin = one.since;
        one.client.write(&[7; 100_000]);
        assert!(!one.check_time(begin + IDLE_TIMEOUT / 2));
        let mut taken = vec![0; 99_999];
        theirs.read_exact(&mut taken).expect("there are more");
        assert!(!one.check_time(begin + IDLE_TIMEOUT - CHECK_INTERVAL));
        assert!(!one.check_time(begin + IDLE_TIMEOUT));
        assert!(!one.ended, "it has not taken all");
        theirs.read_exact(&mut taken[..1]).expect("the last one");
        assert!(!one.check_time(begin + IDLE_TIMEOUT + CHECK_INTERVAL));
        assert!(one.ended);
        assert_eq!(theirs.read(&mut taken).ok(), Some(0), "it is told by the end, too");
        assert!(one.check_time(begin + 3 * IDLE_TIMEOUT));
        let (mut other, _theirs) = connection(Principal::Unknown);
        assert!(other.check_time(begin + IDLE_TIMEOUT + CHECK_INTERVAL));
    }
}
