//! Connections to which the last word was said, or waits behind output that the client has not
//! read yet: they stay open until the client has closed, for a while.
//!
//! Who closes a TCP connection while something is still on its way to him has
//! the kernel answer it with a reset, and a reset throws away what the other
//! end has not read yet (RFC 1122, 4.2.2.13; tcp(7)): the rest of the output,
//! and how the program ended. What is on its way may be an acknowledgement, a
//! ping or a key, so there is no telling when nothing is. So what comes is read
//! and thrown away until the client closes. A UNIX socket loses nothing of what
//! it holds, but whoever stands between it and the client may give up when it
//! cannot write there any more.
//!
//! These connections count for no limit and stand in no list: their sessions
//! are over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::event_loop::slab::{Key, Slab, Token};
use fpty::backlog::Backlog;
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

/// How the client learns of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseNotice {
    /// By EOF, which is to be sent.
    Eof,
    /// By EOF, which was sent.
    EofSent,
    /// By an END packet. uWSGI's routers close both ways when one ends: the stream is left
    /// open.
    Packet {
        /// The client will answer it by a window update.
        is_answered: bool,
    },
}

/// All lingering connections of a gateway.
pub struct LingeringCloses {
    connections: Slab<LingeringConnection>,
    /// Connections by peer, of those that were counted.
    counts: HashMap<PeerKey, usize>,
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
    peer: Option<PeerKey>,
    /// Counted under its peer.
    counted: bool,
}

/// The key under which connections count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PeerKey {
    User(u32),
    Address(IpAddr),
    Nobody,
}

impl PeerKey {
    fn of(client: &Stream) -> Self {
        match (client.credentials(), client.peer_address()) {
            (Some(peer), _) => Self::User(peer.uid),
            // Of IPv6 a user has 64 bits.
            (None, Some((IpAddr::V6(address), _))) => {
                Self::Address(IpAddr::V6((address.to_bits() >> 64 << 64).into()))
            }
            (None, Some((address, _))) => Self::Address(address),
            (None, None) => Self::Nobody,
        }
    }
}

impl LingeringCloses {
    /// No connection, for a process with this limit of descriptors.
    pub fn new(descriptors: Option<u64>) -> Self {
        let most = descriptors.map_or(MAX_CONNECTIONS, |all| {
            usize::try_from(all / FD_FRACTION).unwrap_or(MAX_CONNECTIONS).clamp(1, MAX_CONNECTIONS)
        });
        Self { connections: Slab::new(), counts: HashMap::new(), most, is_scheduled: false }
    }

    /// Closes all: descriptors are needed for new connections.
    pub fn close_all(&mut self) {
        self.connections = Slab::new();
        self.counts.clear();
    }

    /// Closes one without a word.
    pub fn discard(&mut self, key: Key) {
        self.remove(key);
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
            peer: None,
            counted: false,
        });
        let Some(one) = self.connections.get_mut(key) else { return false };
        let (client, token) = (one.client.as_fd(), Token::LingeringClose(key).token());
        let interest = one.interest();
        // A session's is waited for already.
        let waits =
            poller.change(client, token, interest).or_else(|_| poller.add(client, token, interest));
        if waits.is_err() {
            self.remove(key);
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
                return self.remove(key);
            }
        }
        match one.client.read(buffer) {
            ReadOutcome::Bytes(_) => one.last_read = clock::now(),
            ReadOutcome::WouldBlock if !ready.hang_up => {}
            // It sends no more, so nothing would be answered by a reset.
            ReadOutcome::WouldBlock | ReadOutcome::Eof | ReadOutcome::Closed => self.remove(key),
        }
    }

    /// Closes connections whose time is over. Returns whether others linger: to be checked
    /// after [`CHECK_INTERVAL`].
    pub fn expire(&mut self) -> bool {
        let now = clock::now();
        for key in self.of(|_| true) {
            let Some(one) = self.connections.get_mut(key) else { continue };
            if one.check_time(now) {
                self.remove(key);
            }
        }
        self.is_scheduled = self.connections.len() > 0;
        self.is_scheduled
    }

    fn insert(&mut self, mut one: LingeringConnection) -> Key {
        // Below that nobody has too many, and nobody has to be asked for.
        if self.connections.len() >= MAX_PER_PEER {
            self.count_all();
            let peer = one.peer();
            if self.count(peer) >= MAX_PER_PEER {
                self.make_room(peer);
            } else if self.connections.len() >= self.most {
                let most = self.counts.iter().max_by_key(|(_, count)| **count);
                if let Some(peer) = most.map(|(peer, _)| *peer) {
                    self.make_room(peer);
                }
            }
            *self.counts.entry(peer).or_default() += 1;
            one.counted = true;
        }
        self.connections.insert(one)
    }

    fn remove(&mut self, key: Key) {
        let Some(one) = self.connections.remove(key) else { return };
        let peer = one.peer.filter(|_| one.counted);
        if let Some(count) = peer.and_then(|peer| self.counts.get_mut(&peer)) {
            *count -= 1;
            if *count == 0 {
                self.counts.retain(|_, count| *count > 0);
            }
        }
    }

    fn count(&self, peer: PeerKey) -> usize {
        self.counts.get(&peer).copied().unwrap_or(0)
    }

    /// Counts connections that were added while there were few.
    fn count_all(&mut self) {
        let keys: Vec<Key> = self.of(|one| !one.counted);
        for key in keys {
            if let Some(one) = self.connections.get_mut(key) {
                *self.counts.entry(one.peer()).or_default() += 1;
                one.counted = true;
            }
        }
    }

    fn of(&self, is_one: impl Fn(&LingeringConnection) -> bool) -> Vec<Key> {
        self.connections.iter().filter(|(_, one)| is_one(one)).map(|(key, _)| key).collect()
    }

    /// Closes the oldest connection of a peer, if possible one with an empty send queue.
    fn make_room(&mut self, peer: PeerKey) {
        let of_peer = self.connections.iter().filter(|(_, one)| one.peer == Some(peer));
        let first = of_peer.min_by_key(|(_, one)| (one.client.unsent_bytes() > 0, one.since));
        if let Some((key, _)) = first {
            self.remove(key);
        }
    }
}

impl LingeringConnection {
    fn peer(&mut self) -> PeerKey {
        *self.peer.get_or_insert_with(|| PeerKey::of(&self.client))
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

    fn connection(peer: PeerKey) -> (LingeringConnection, UnixStream) {
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
            peer: Some(peer),
            counted: false,
        };
        (one, theirs)
    }

    #[test]
    fn nobody_takes_the_places_of_others() {
        let most = 2 * MAX_PER_PEER as u64 + 2;
        let mut closing = LingeringCloses::new(Some(most * FD_FRACTION));
        let mut theirs = Vec::new();
        let mut insert = |closing: &mut LingeringCloses, user| {
            let (one, other) = connection(PeerKey::User(user));
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
        assert_eq!(closing.count(PeerKey::User(2)), MAX_PER_PEER);
        // There is room for so many, and for two more.
        for _ in 0..MAX_PER_PEER {
            insert(&mut closing, 3);
        }
        insert(&mut closing, 4);
        insert(&mut closing, 4);
        assert!(closing.connections.has(one));
        assert_eq!(closing.connections.len(), 2 * MAX_PER_PEER + 2);
        assert_eq!(
            closing.count(PeerKey::User(2)) + closing.count(PeerKey::User(3)),
            2 * MAX_PER_PEER - 1
        );
        for key in closing.of(|_| true) {
            closing.remove(key);
        }
        assert!(closing.counts.is_empty());
    }

    #[test]
    fn output_that_waits_is_written_when_there_is_room() {
        use std::io::Read as _;
        let (one, mut theirs) = connection(PeerKey::Nobody);
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
        let (mut one, mut theirs) = connection(PeerKey::Nobody);
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
        let (mut other, _theirs) = connection(PeerKey::Nobody);
        assert!(other.check_time(begin + IDLE_TIMEOUT + CHECK_INTERVAL));
    }
}
