//! The connection to the server: how it is made, and what the client says of itself.

use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::config::ClientConfig;
use crate::error::{Context, Result};
use crate::proto::{self, Protocol};
use crate::sys::signal::{self, Signals};
use crate::sys::socket::{Stream, Transport, connect};

/// How long a server may take to answer a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What of our environment goes along, with `*` for the rest of a name; the
/// server has the last word.
const ENVIRONMENT: [&str; 6] = ["TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_*", "TZ"];

/// Connects, and says hello to a server that may understand it.
pub(super) fn connect_and_greet(config: &ClientConfig) -> Result<(Stream, Transport)> {
    let (stream, transport) = connect(&config.address, CONNECT_TIMEOUT)?;
    if config.protocol == Protocol::Uwsgi {
        // At once: a router waits only so long for the first word. A new
        // connection has room for it.
        let _ = stream.write(&proto::encode_bare(proto::HELLO, proto::VERSION));
    }
    Ok((stream, transport))
}

/// Has these signals read, but for those that are ignored here.
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
