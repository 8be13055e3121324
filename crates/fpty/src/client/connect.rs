//! The connection to the server: how it is made, what waits to be sent along it, and
//! what the client says of itself.

use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::buffered_output::flush_with_timeout;
use super::config::ClientConfig;
use crate::backlog::Backlog;
use crate::error::{Context, Result};
use crate::proto::{self, Protocol};
use crate::sys::peer_process::Peer;
use crate::sys::signal::{self, Signals};
use crate::sys::socket::{Stream, Transport, connect};

/// How long a server may take to answer a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a TCP connection is kept busy: uWSGI's routers end idle ones
/// after a minute.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Variables of our environment that are sent, with `*` for the rest of a name; the
/// server decides which it accepts.
const ENVIRONMENT: [&str; 6] = ["TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_*", "TZ"];

/// A connection to a server.
pub struct Connection {
    pub(super) stream: Stream,
    pub(super) transport: Transport,
    /// The server's process, and how the connection to it failed.
    pub(super) peer: Peer,
    /// Bytes that the server has not taken yet: whole packets in uwsgi mode.
    pub(super) to_server: Backlog,
    /// The server sends no more, and reads no more.
    pub(super) has_ended: bool,
    pub(super) next_ping: Option<Instant>,
}

impl Connection {
    /// Connects, and says hello to a server that may understand it.
    ///
    /// # Errors
    /// There is no such server, it does not answer in time, or the connection is refused.
    pub(super) fn open(config: &ClientConfig) -> Result<Self> {
        let (stream, transport) = connect(&config.address, CONNECT_TIMEOUT)?;
        if config.protocol == Protocol::Uwsgi {
            // At once: a gateway waits only so long for the first word. A new
            // connection has room for it.
            let _ = stream.write(&proto::encode_bare(proto::HELLO, proto::VERSION));
        }
        let (peer, to_server) = (Peer::default(), Backlog::default());
        Ok(Self { stream, transport, peer, to_server, has_ended: false, next_ping: None })
    }

    /// Queues packets, or bytes in raw mode, for a server that reads them.
    pub(super) fn send(&mut self, packets: &[u8]) {
        if !self.has_ended {
            self.to_server.push(packets);
        }
    }

    /// Pings the server from now on, where the connection is one of TCP.
    pub(super) fn start_pings(&mut self) {
        let is_tcp = self.transport == Transport::Tcp;
        self.next_ping = is_tcp.then(|| Instant::now() + PING_INTERVAL);
    }

    /// Queues the ping that is due.
    pub(super) fn ping(&mut self, now: Instant) {
        if self.next_ping.is_some_and(|at| now >= at) {
            self.next_ping = Some(now + PING_INTERVAL);
            self.send(&proto::encode_bare(proto::PING, 0));
        }
    }

    /// Sends what is queued, as far as there is room.
    pub(super) fn flush(&mut self) {
        let (stream, peer) = (&self.stream, &mut self.peer);
        let write = |bytes: &[u8]| stream.write_to(bytes, peer).taken();
        if !self.has_ended && !self.to_server.flush(write) {
            // What the server said before it went is still to be read.
            self.to_server.clear();
        }
    }

    /// Sends the last packets, if the server takes them soon.
    pub(super) fn flush_with_timeout(&mut self) {
        let (stream, peer) = (&self.stream, &mut self.peer);
        let write = |bytes: &[u8]| stream.write_to(bytes, peer).taken();
        flush_with_timeout(&mut self.to_server, stream, write);
    }

    /// The server's end of the connection was found.
    pub(super) fn note_end(&mut self) {
        (self.has_ended, self.next_ping) = (true, None);
        self.to_server.clear();
    }
}

/// Has these signals read, but for those that are ignored here.
///
/// # Errors
/// signalfd(2) fails.
pub(super) fn read_signals(config: &ClientConfig, signals: &[Signal]) -> Result<Signals> {
    let is_taken =
        |signal: &Signal| config.never_ignored.contains(signal) || !signal::is_ignored(*signal);
    let taken: Vec<Signal> = signals.iter().copied().filter(is_taken).collect();
    Signals::read_by_signalfd(&taken).context("cannot read signals")
}

/// The packets with our environment, and what else is to be said.
pub(super) fn client_variables(config: &ClientConfig, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let ours = std::env::vars_os().filter(|(name, _)| {
        let name = name.as_encoded_bytes();
        ENVIRONMENT.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix.as_bytes()),
            None => name == pattern.as_bytes(),
        })
    });
    // What is too much is left out at the end, and is to be none of these.
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> =
        more.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let ours = ours.chain(config.environment.iter().cloned());
    pairs.extend(ours.map(|(name, value)| (name.into_vec(), value.into_vec())));
    // Whom the person behind sshd is said to be; nobody has to believe it.
    for (ours, theirs) in [
        ("SSH_CONNECTION", proto::variables::SSH_CONNECTION),
        ("LOGNAME", proto::variables::LOGNAME),
    ] {
        if let Some(value) = std::env::var_os(ours) {
            pairs.push((theirs.to_vec(), value.into_vec()));
        }
    }
    let mut packets = Vec::new();
    let pairs = pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    proto::variables::encode(pairs, &mut packets);
    packets
}
