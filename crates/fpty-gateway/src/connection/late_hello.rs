//! Peers whose first word comes late, as through `ssh -L` over a slow line:
//! their next connection is waited for a little longer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use fpty::proto::ClientPacketDecoder;
use fpty::sys::socket::{Stream, Transport};

/// How long a client that says nothing is waited for: one that only reads, as
/// a plain socket may.
pub const HELLO_TIMEOUT: Duration = Duration::from_millis(50);

/// How long one of them is waited for, and how long it is remembered.
pub const LATE_HELLO_TIMEOUT: Duration = Duration::from_millis(500);
const REMEMBER_TIME: Duration = Duration::from_secs(10);

/// Those that are remembered, at most.
const MAX_PEERS: usize = 64;

/// What connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerKey {
    /// A process: the number may become another one's, which then is waited for,
    /// too, where it says nothing.
    Process(i32),
    /// A machine.
    Address(IpAddr),
}

impl PeerKey {
    fn of(client: &Stream, transport: Transport) -> Option<Self> {
        match transport {
            Transport::Unix => client.credentials().map(|peer| Self::Process(peer.pid)),
            Transport::Tcp => client.peer_address().map(|(address, _)| Self::Address(address)),
        }
    }
}

/// A session whose client says hello after all.
pub struct LateHello {
    /// Its client.
    pub client: Stream,
    /// How it came, and where.
    pub transport: Transport,
    pub listener: u16,
    /// What it has said so far.
    pub decoder: Option<ClientPacketDecoder>,
    /// What the program has shown would be taken for something else.
    pub is_too_late: bool,
}

/// Those whose first word was late, of late.
#[derive(Default)]
pub struct LatePeers {
    known: Vec<(PeerKey, Instant)>,
}

impl LatePeers {
    /// How long the first word of a client that has just connected is waited for.
    pub fn hello_timeout(
        &mut self,
        client: &Stream,
        transport: Transport,
        now: Instant,
    ) -> Duration {
        if self.known.is_empty() {
            return HELLO_TIMEOUT;
        }
        let peer = PeerKey::of(client, transport);
        self.timeout_of(peer, now)
    }

    fn timeout_of(&mut self, peer: Option<PeerKey>, now: Instant) -> Duration {
        self.known.retain(|(_, at)| now.saturating_duration_since(*at) < REMEMBER_TIME);
        let is_known = self.known.iter().any(|(known, _)| Some(*known) == peer);
        if is_known { LATE_HELLO_TIMEOUT } else { HELLO_TIMEOUT }
    }

    /// A client said hello, and late.
    pub fn note(&mut self, client: &Stream, transport: Transport, now: Instant) {
        if let Some(peer) = PeerKey::of(client, transport) {
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
