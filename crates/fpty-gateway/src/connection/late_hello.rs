//! Peers whose first word comes late, as through `ssh -L` over a slow line:
//! their next connection is waited for a little longer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use fpty::proto::Decoder;
use fpty::sys::socket::{Stream, Transport};

/// How long a client that says nothing is waited for: one that only reads, as
/// a plain socket may.
pub const SILENCE: Duration = Duration::from_millis(50);

/// How long one of them is waited for, and how long it is remembered.
pub const PATIENCE: Duration = Duration::from_millis(500);
const REMEMBERED: Duration = Duration::from_secs(10);

/// Those that are remembered, at most.
const MOST: usize = 64;

/// What connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// A process: the number may become another one's, which then is waited for,
    /// too, where it says nothing.
    Process(i32),
    /// A machine.
    Address(IpAddr),
}

impl Whom {
    fn of(client: &Stream, transport: Transport) -> Option<Self> {
        match transport {
            Transport::Unix => client.credentials().map(|peer| Self::Process(peer.pid)),
            Transport::Tcp => client.peer_address().map(|(address, _)| Self::Address(address)),
        }
    }
}

/// A session whose client says hello after all.
pub struct Late {
    /// Its client.
    pub client: Stream,
    /// How it came, and where.
    pub transport: Transport,
    pub door: u16,
    /// What it has said so far.
    pub decoder: Option<Decoder>,
    /// What the program has shown would be taken for something else.
    pub is_too_late: bool,
}

/// Those whose first word was late, of late.
#[derive(Default)]
pub struct Latecomers {
    known: Vec<(Whom, Instant)>,
}

impl Latecomers {
    /// How long the first word of a client that has just connected is waited for.
    pub fn patience(&mut self, client: &Stream, transport: Transport, now: Instant) -> Duration {
        if self.known.is_empty() {
            return SILENCE;
        }
        let whom = Whom::of(client, transport);
        self.patience_with(whom, now)
    }

    fn patience_with(&mut self, whom: Option<Whom>, now: Instant) -> Duration {
        self.known.retain(|(_, at)| now.saturating_duration_since(*at) < REMEMBERED);
        let is_known = self.known.iter().any(|(known, _)| Some(*known) == whom);
        if is_known { PATIENCE } else { SILENCE }
    }

    /// A client said hello, and late.
    pub fn note(&mut self, client: &Stream, transport: Transport, now: Instant) {
        if let Some(whom) = Whom::of(client, transport) {
            self.remember(whom, now);
        }
    }

    fn remember(&mut self, whom: Whom, now: Instant) {
        self.known.retain(|(known, _)| *known != whom);
        if self.known.len() >= MOST {
            self.known.remove(0);
        }
        self.known.push((whom, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_few_and_remembered_for_a_while() {
        let (begin, mut latecomers) = (Instant::now(), Latecomers::default());
        for number in 0..1000 {
            latecomers.remember(Whom::Process(number), begin);
            latecomers.remember(Whom::Process(999), begin);
        }
        assert_eq!(latecomers.known.len(), MOST);
        let mut patience =
            |number, after| latecomers.patience_with(Some(Whom::Process(number)), begin + after);
        assert_eq!(patience(999, Duration::from_secs(1)), PATIENCE);
        assert_eq!(patience(1, Duration::from_secs(1)), SILENCE);
        assert_eq!(patience(999, REMEMBERED), SILENCE);
        assert!(latecomers.known.is_empty());
    }
}
