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

use crate::event_loop::slab::{Key, Source, Table};
use fpty::sys::Read;
use fpty::sys::poll::{Interest, Poller, Ready};
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
pub const LOOK: Duration = Duration::from_millis(500);

/// So many at once, where there are descriptors enough: one in so many.
const MOST: usize = 1024;
const SHARE: u64 = 16;

/// So many of one user, or over TCP of one address.
const OF_ONE: usize = 48;

/// How a client learns that this was all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastWord {
    /// By the end of the stream.
    Eof,
    /// The same, and the stream has ended already.
    Ended,
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
    /// How many of each of those that were asked for.
    counts: HashMap<Peer, usize>,
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
    /// It is in the counts.
    counted: bool,
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
        Self { connections: Table::new(), counts: HashMap::new(), most, is_due: false }
    }

    /// Closes all of them: descriptors are needed for those who come.
    pub fn close_all(&mut self) {
        self.connections = Table::new();
        self.counts.clear();
    }

    /// Closes one.
    pub fn drop_one(&mut self, key: Key) {
        self.remove(key);
    }

    /// Takes a connection whose last word has been written, until its client has
    /// closed, or has had time to. Whether they are to be looked after, after [`LOOK`].
    pub fn take(
        &mut self,
        client: Stream,
        last: LastWord,
        poller: &Poller,
        buffer: &mut [u8],
    ) -> bool {
        if last == LastWord::Eof {
            client.end();
        }
        let is_heard = match client.read(buffer) {
            Read::Bytes(_) => true,
            Read::Blocked => false,
            // Nothing can come any more.
            Read::End | Read::Gone => return false,
        };
        let mut ended = matches!(last, LastWord::Eof | LastWord::Ended);
        if last == (LastWord::Packet { is_answered: false }) && !is_heard && client.is_unix() {
            // Nothing is lost by that at such a socket.
            client.end();
            ended = true;
        }
        let now = Instant::now();
        let key = self.insert(Connection {
            client,
            since: now,
            heard: now,
            took: now,
            untaken: None,
            ended,
            peer: None,
            counted: false,
        });
        let Some(one) = self.connections.get_mut(key) else { return false };
        let token = Source::Closing(key).token();
        // A session's is waited for already.
        let waits = poller
            .change(one.client.as_fd(), token, Interest::READ)
            .or_else(|_| poller.add(one.client.as_fd(), token, Interest::READ));
        if waits.is_err() {
            self.remove(key);
            return false;
        }
        !std::mem::replace(&mut self.is_due, true)
    }

    /// A client that was told its last says something all the same, or has
    /// closed.
    pub fn ready(&mut self, key: Key, ready: Ready, buffer: &mut [u8]) {
        let Some(one) = self.connections.get_mut(key) else { return };
        match one.client.read(buffer) {
            Read::Bytes(_) => one.heard = Instant::now(),
            Read::Blocked if !ready.hang_up => {}
            // It sends no more, so nothing would be answered by a reset.
            Read::Blocked | Read::End | Read::Gone => self.remove(key),
        }
    }

    /// Closes those that have had their time. Whether there are others, to be looked
    /// after after [`LOOK`].
    pub fn look_after(&mut self) -> bool {
        let now = Instant::now();
        for key in self.of(|_| true) {
            let Some(one) = self.connections.get_mut(key) else { continue };
            if one.check_time(now) {
                self.remove(key);
            }
        }
        self.is_due = self.connections.len() > 0;
        self.is_due
    }

    fn insert(&mut self, mut one: Connection) -> Key {
        // Below that nobody has too many, and nobody has to be asked for.
        if self.connections.len() >= OF_ONE {
            self.count_all();
            let peer = one.peer();
            if self.count(peer) >= OF_ONE {
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

    fn count(&self, peer: Peer) -> usize {
        self.counts.get(&peer).copied().unwrap_or(0)
    }

    /// Asks for those who came while there were few.
    fn count_all(&mut self) {
        let keys: Vec<Key> = self.of(|one| !one.counted);
        for key in keys {
            if let Some(one) = self.connections.get_mut(key) {
                *self.counts.entry(one.peer()).or_default() += 1;
                one.counted = true;
            }
        }
    }

    fn of(&self, is_one: impl Fn(&Connection) -> bool) -> Vec<Key> {
        self.connections.iter().filter(|(_, one)| is_one(one)).map(|(key, _)| key).collect()
    }

    /// Somebody loses the connection that has been there longest, if possible
    /// of those that have taken everything.
    fn make_room(&mut self, peer: Peer) {
        let of_peer = self.connections.iter().filter(|(_, one)| one.peer == Some(peer));
        let first = of_peer.min_by_key(|(_, one)| (one.client.untaken() > 0, one.since));
        if let Some((key, _)) = first {
            self.remove(key);
        }
    }
}

impl Connection {
    fn peer(&mut self) -> Peer {
        *self.peer.get_or_insert_with(|| Peer::of(&self.client))
    }

    fn check_time(&mut self, now: Instant) -> bool {
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
            counted: false,
        };
        (one, theirs)
    }

    #[test]
    fn nobody_takes_the_places_of_others() {
        let most = 2 * OF_ONE as u64 + 2;
        let mut closing = Closing::new(Some(most * SHARE));
        let mut theirs = Vec::new();
        let mut insert = |closing: &mut Closing, user| {
            let (one, other) = connection(Peer::User(user));
            theirs.push(other);
            closing.insert(one)
        };
        let one = insert(&mut closing, 1);
        let first = insert(&mut closing, 2);
        let second = insert(&mut closing, 2);
        let third = insert(&mut closing, 2);
        // It has not taken what there was for it.
        closing.connections.get_mut(second).expect("it is there").client.write(b"more");
        for _ in 3..OF_ONE {
            insert(&mut closing, 2);
        }
        assert!(closing.connections.has(first));
        insert(&mut closing, 2);
        assert!(!closing.connections.has(first));
        insert(&mut closing, 2);
        assert!(closing.connections.has(second) && !closing.connections.has(third));
        assert_eq!(closing.count(Peer::User(2)), OF_ONE);
        // There is room for so many, and for two more.
        for _ in 0..OF_ONE {
            insert(&mut closing, 3);
        }
        insert(&mut closing, 4);
        insert(&mut closing, 4);
        assert!(closing.connections.has(one));
        assert_eq!(closing.connections.len(), 2 * OF_ONE + 2);
        assert_eq!(closing.count(Peer::User(2)) + closing.count(Peer::User(3)), 2 * OF_ONE - 1);
        for key in closing.of(|_| true) {
            closing.remove(key);
        }
        assert!(closing.counts.is_empty());
    }

    #[test]
    fn one_that_takes_what_there_is_has_longer() {
        use std::io::Read as _;
        let (mut one, mut theirs) = connection(Peer::Nobody);
        let begin = one.since;
        one.client.write(&[7; 100_000]);
        assert!(!one.check_time(begin + PATIENCE / 2));
        let mut taken = vec![0; 99_999];
        theirs.read_exact(&mut taken).expect("there are more");
        assert!(!one.check_time(begin + PATIENCE - LOOK));
        assert!(!one.check_time(begin + PATIENCE));
        assert!(!one.ended, "it has not taken all");
        theirs.read_exact(&mut taken[..1]).expect("the last one");
        assert!(!one.check_time(begin + PATIENCE + LOOK));
        assert!(one.ended);
        assert_eq!(theirs.read(&mut taken).ok(), Some(0), "it is told by the end, too");
        assert!(one.check_time(begin + 3 * PATIENCE));
        let (mut other, _theirs) = connection(Peer::Nobody);
        assert!(other.check_time(begin + PATIENCE + LOOK));
    }
}
