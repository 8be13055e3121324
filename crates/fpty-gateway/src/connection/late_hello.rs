//! Peers whose hello comes late, as through `ssh -L` over a slow line: their next connection
//! has a longer timeout.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use fpty::proto::ClientPacketDecoder;
use fpty::sys::socket::{Stream, Transport};

/// The timeout of a hello: a client that only reads may never send one.
pub const HELLO_TIMEOUT: Duration = Duration::from_millis(50);

/// The timeout for a late peer, and how long it is remembered.
pub const LATE_HELLO_TIMEOUT: Duration = Duration::from_millis(500);
const REMEMBER_TIME: Duration = Duration::from_secs(10);

/// The most late peers that are remembered.
const MAX_PEERS: usize = 64;

/// The key of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerKey {
    /// A process; a reused pid only costs a longer timeout.
    Process(i32),
    /// An address.
    Address(IpAddr),
}

impl PeerKey {
    fn of(client: &Stream) -> Option<Self> {
        let process = client.credentials().map(|peer| Self::Process(peer.pid));
        process.or_else(|| client.peer_address().map(|(address, _)| Self::Address(address)))
    }
}

/// A client whose hello came after the silent start.
pub struct LateHello {
    /// The client.
    pub client: Stream,
    /// UNIX or TCP, and the listener.
    pub transport: Transport,
    pub listener: u16,
    /// The decoder, with a part of the hello perhaps.
    pub decoder: Option<ClientPacketDecoder>,
    /// The program has written, or has ended: it is too late for a request.
    pub is_too_late: bool,
}

/// Peers whose hello was late.
#[derive(Default)]
pub struct LatePeers {
    known: Vec<(PeerKey, Instant)>,
}

impl LatePeers {
    /// The timeout of the hello of a new connection.
    pub fn hello_timeout(&mut self, client: &Stream, now: Instant) -> Duration {
        match self.known.is_empty() {
            true => HELLO_TIMEOUT,
            false => self.timeout_of(PeerKey::of(client), now),
        }
    }

    fn timeout_of(&mut self, peer: Option<PeerKey>, now: Instant) -> Duration {
        self.known.retain(|(_, at)| now.saturating_duration_since(*at) < REMEMBER_TIME);
        let is_known = self.known.iter().any(|(known, _)| Some(*known) == peer);
        if is_known { LATE_HELLO_TIMEOUT } else { HELLO_TIMEOUT }
    }

    /// Remembers the peer of a late hello.
    pub fn note(&mut self, client: &Stream, now: Instant) {
        if let Some(peer) = PeerKey::of(client) {
            self.remember(peer, now);
        }
    }

    fn remember(&mut self, peer: PeerKey, now: Instant) {
        self.known.retain(|(known, _)| *known != peer);
        if self.known.len() >= MAX_PEERS {
            self.known.remove(0);
        }
        self.known.push((peer, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_few_and_remembered_for_a_while() {
        let (begin, mut late_peers) = (Instant::now(), LatePeers::default());
        for number in 0..1000 {
            late_peers.remember(PeerKey::Process(number), begin);
            late_peers.remember(PeerKey::Process(999), begin);
        }
        assert_eq!(late_peers.known.len(), MAX_PEERS);
        let mut patience =
            |number, after| late_peers.timeout_of(Some(PeerKey::Process(number)), begin + after);
        assert_eq!(patience(999, Duration::from_secs(1)), LATE_HELLO_TIMEOUT);
        assert_eq!(patience(1, Duration::from_secs(1)), HELLO_TIMEOUT);
        assert_eq!(patience(999, REMEMBER_TIME), HELLO_TIMEOUT);
        assert!(late_peers.known.is_empty());
    }
}
