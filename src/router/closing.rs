//! Connections to which the last word was said: they stay open until the
//! client has closed, for a while.
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

use super::GatewayLoop;
use super::table::{Key, Source, Table};
use super::timers::Due;
use fpty::sys::Read;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::Stream;

/// How long a client may take to close, after the last of what waited for it
/// went.
const PATIENCE: Duration = Duration::from_secs(10);

/// And in all, where it reads slowly.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a client that was told in a packet is silent before it is told by
/// the end of the stream, too, for those that wait for that.
const SILENCE: Duration = Duration::from_secs(1);

/// How often they are looked after.
const LOOK: Duration = Duration::from_millis(500);

/// So many at once, where there are descriptors enough: one in so many.
const MOST: usize = 1024;
const SHARE: u64 = 16;

/// How a client learns that this was all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastWord {
    /// By the end of the stream.
    Eof,
    /// By a packet. uWSGI's routers end both ways when one ends, and would do
    /// to the client what we avoid: the stream is left open.
    Packet {
        /// It is known to have more to say: what it took.
        is_answered: bool,
    },
}

/// All such connections of a gateway.
pub struct Closing {
    connections: Table<Connection>,
    most: usize,
    is_due: bool,
}

struct Connection {
    client: Stream,
    since: Instant,
    /// When something came of it last.
    heard: Instant,
    /// When it took something last.
    took: Instant,
    /// What it had not taken then; `None`: it was not looked yet.
    untaken: Option<usize>,
    /// It was told by the end of the stream.
    ended: bool,
    peer: Option<Peer>,
}

/// Whose connections count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Peer {
    User(u32),
    Address(IpAddr),
    Nobody,
}

impl Peer {
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

impl Closing {
    /// None, of a process that may have so many descriptors.
    pub fn new(descriptors: Option<u64>) -> Self {
        let most = descriptors
            .map_or(MOST, |all| usize::try_from(all / SHARE).unwrap_or(MOST).clamp(1, MOST));
        Self { connections: Table::new(), most, is_due: false }
    }

    /// Closes all of them: descriptors are needed for those who come.
    pub fn close_all(&mut self) {
        self.connections = Table::new();
    }

    /// Closes one.
    pub fn drop_one(&mut self, key: Key) {
        self.connections.remove(key);
    }

    /// Makes room for one more: whoever has most of them loses the one that has
    /// been there longest. So nobody takes the places of others.
    fn make_room(&mut self) {
        if self.connections.len() < self.most {
            return;
        }
        let keys: Vec<Key> = self.connections.iter().map(|(key, _)| key).collect();
        let mut held: HashMap<Peer, (usize, Instant, Key)> = HashMap::new();
        for key in keys {
            let Some(one) = self.connections.get_mut(key) else { continue };
            let (since, client) = (one.since, &one.client);
            let peer = *one.peer.get_or_insert_with(|| Peer::of(client));
            let (count, oldest, whose) = held.entry(peer).or_insert((0, since, key));
            *count += 1;
            if since < *oldest {
                (*oldest, *whose) = (since, key);
            }
        }
        let most = held.into_values().max_by_key(|(count, since, _)| (*count, since.elapsed()));
        if let Some((_, _, key)) = most {
            self.connections.remove(key);
        }
    }
}

impl GatewayLoop {
    /// Closes a connection whose last word has been written, when its client
    /// has closed, or has had time to.
    pub(super) fn close_when_read(&mut self, client: Stream, last: LastWord) {
        if last == LastWord::Eof {
            client.end();
        }
        let is_heard = match client.read(&mut self.turn.buffer[..]) {
            Read::Bytes(_) => true,
            Read::Blocked => false,
            // Nothing can come any more.
            Read::End | Read::Gone => return,
        };
        let mut ended = last == LastWord::Eof;
        if last == (LastWord::Packet { is_answered: false }) && !is_heard && client.is_unix() {
            // Nothing is lost by that at such a socket.
            client.end();
            ended = true;
        }
        self.closing.make_room();
        let now = Instant::now();
        let key = self.closing.connections.insert(Connection {
            client,
            since: now,
            heard: now,
            took: now,
            untaken: None,
            ended,
            peer: None,
        });
        let Some(one) = self.closing.connections.get_mut(key) else { return };
        let (poller, token) = (&self.turn.poller, Source::Closing(key).token());
        // A session's is waited for already.
        let waits = poller
            .change(one.client.as_fd(), token, Interest::READ)
            .or_else(|_| poller.add(one.client.as_fd(), token, Interest::READ));
        if waits.is_err() {
            self.closing.connections.remove(key);
            return;
        }
        if !std::mem::replace(&mut self.closing.is_due, true) {
            self.after(LOOK, Due::Closing);
        }
    }

    /// A client that was told its last says something all the same, or has
    /// closed.
    pub(super) fn closing_ready(&mut self, key: Key, ready: Ready) {
        let Some(one) = self.closing.connections.get_mut(key) else { return };
        match one.client.read(&mut self.turn.buffer[..]) {
            Read::Bytes(_) => one.heard = Instant::now(),
            Read::Blocked if !ready.hang_up => {}
            // It sends no more, so nothing would be answered by a reset.
            Read::Blocked | Read::End | Read::Gone => {
                self.closing.connections.remove(key);
            }
        }
    }

    /// Closes those that have had their time.
    pub(super) fn look_after_closing(&mut self) {
        let now = Instant::now();
        let keys: Vec<Key> = self.closing.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(one) = self.closing.connections.get_mut(key) else { continue };
            if one.has_had_its_time(now) {
                self.closing.connections.remove(key);
            }
        }
        self.closing.is_due = self.closing.connections.len() > 0;
        if self.closing.is_due {
            self.after(LOOK, Due::Closing);
        }
    }
}

impl Connection {
    fn has_had_its_time(&mut self, now: Instant) -> bool {
        let untaken = self.client.untaken();
        if self.untaken.replace(untaken).is_some_and(|before| untaken < before) {
            self.took = now;
        }
        if !self.ended && untaken == 0 && now - self.heard >= SILENCE {
            self.ended = true;
            self.client.end();
        }
        now - self.took >= PATIENCE || now - self.since >= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn connection(peer: Peer) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        let now = Instant::now();
        let one = Connection {
            client: Stream::from(OwnedFd::from(ours)),
            since: now,
            heard: now,
            took: now,
            untaken: None,
            ended: false,
            peer: Some(peer),
        };
        (one, theirs)
    }

    #[test]
    fn who_has_most_of_them_makes_room() {
        let mut closing = Closing::new(Some(4 * SHARE));
        let mut theirs = Vec::new();
        let mut insert = |closing: &mut Closing, user| {
            closing.make_room();
            let (one, other) = connection(Peer::User(user));
            theirs.push(other);
            closing.connections.insert(one)
        };
        let one = insert(&mut closing, 1);
        let first = insert(&mut closing, 2);
        let second = insert(&mut closing, 2);
        insert(&mut closing, 2);
        insert(&mut closing, 2);
        assert!(closing.connections.has(one) && !closing.connections.has(first));
        insert(&mut closing, 3);
        assert!(closing.connections.has(one) && !closing.connections.has(second));
        assert_eq!(closing.connections.len(), 4);
        closing.close_all();
        assert_eq!(closing.connections.len(), 0);
    }

    #[test]
    fn one_that_takes_what_there_is_has_longer() {
        use std::io::Read as _;
        let (mut one, mut theirs) = connection(Peer::Nobody);
        let begin = one.since;
        one.client.write(&[7; 100_000]);
        assert!(!one.has_had_its_time(begin + PATIENCE / 2));
        let mut taken = vec![0; 99_999];
        theirs.read_exact(&mut taken).expect("there are more");
        assert!(!one.has_had_its_time(begin + PATIENCE - LOOK));
        assert!(!one.has_had_its_time(begin + PATIENCE));
        assert!(!one.ended, "it has not taken all");
        theirs.read_exact(&mut taken[..1]).expect("the last one");
        assert!(!one.has_had_its_time(begin + PATIENCE + LOOK));
        assert!(one.ended);
        assert_eq!(theirs.read(&mut taken).ok(), Some(0), "it is told by the end, too");
        assert!(one.has_had_its_time(begin + 3 * PATIENCE));
        let (mut other, _theirs) = connection(Peer::Nobody);
        assert!(other.has_had_its_time(begin + PATIENCE + LOOK));
    }
}
