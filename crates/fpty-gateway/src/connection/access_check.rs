//! Access rules applied to the peer of a connection, and the rate of a listener.

use std::time::Duration;

use super::limits::{self, LimitReached};
use super::listeners::Connection;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::timers::Timer;
use crate::observe::audit::{RejectReason, Rejection};
use fpty::proto::Protocol;
use fpty::sys::socket::{Stream, Transport};

/// All that a rejected client is told.
const NOT_PERMITTED: &str = "not permitted";

impl Context {
    /// Whether the access rules of a listener allow a client. A client that they do not
    /// allow is told so, and the log has the reason.
    pub fn admit(
        &mut self,
        listener: u16,
        client: &Stream,
        transport: Transport,
        protocol: Protocol,
    ) -> bool {
        let Some(rules) = self.listeners.rules(listener) else {
            return false;
        };
        if !rules.access.has_users() && !rules.access.addresses.is_set() {
            return true;
        }
        let outcome = match transport {
            Transport::Unix => check_process(rules, client),
            Transport::Tcp => check_tcp_peer(rules, client),
        };
        let Err(why) = outcome else {
            return true;
        };
        self.deny(listener, protocol, client, why);
        let _ =
            client.write(format!("forkptyrouter: session refused: {NOT_PERMITTED}\r\n").as_bytes());
        false
    }

    /// Logs that a client is denied access, and tells the audit.
    pub fn deny(&mut self, listener: u16, protocol: Protocol, client: &Stream, why: &str) {
        let origin = self.audit.origin(listener, protocol);
        self.rejected(&origin, Some(client), RejectReason::Denied, why);
        let name = self.listeners.get(listener).map_or("", |listener| listener.name.as_str());
        let line = format!("forkptyrouter: {name}: {} is refused: {why}", describe_peer(client));
        self.listeners.log_rejection(&line);
    }

    /// Whether a connection has a permit.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn check_limits(&self, connection: &Connection) -> Result<(), Rejection> {
        let full = |full: &LimitReached| Rejection::because(RejectReason::Limit, full.text());
        connection.permit.as_ref().map(|_| ()).map_err(full)
    }

    /// Pauses a listener whose rate is exceeded. Returns whether it is.
    pub fn throttle(&mut self, listener: u16) -> bool {
        let Some(rate) = self.listeners.rules(listener).and_then(|rules| rules.rate) else {
            return false;
        };
        let wait = limits::rate_delay(listener, rate);
        if wait > 0 {
            self.listeners.pause(listener, &self.poller);
            self.schedule(Duration::from_micros(wait.into()), Timer::Listener(listener));
        }
        wait > 0
    }

    /// Gives back what a connection counted for the rate: another gateway has accepted it.
    pub fn refund_rate(&self, listener: u16) {
        if let Some(rate) = self.listeners.rules(listener).and_then(|rules| rules.rate) {
            limits::refund_rate(listener, rate);
        }
    }
}

fn check_process(rules: &Rules, client: &Stream) -> Result<(), &'static str> {
    if !rules.access.has_users() {
        return Ok(());
    }
    let peer = client.credentials().ok_or("nobody knows who it is")?;
    let groups = match rules.access.groups.is_set() {
        true => client.peer_groups(),
        false => Vec::new(),
    };
    rules.access.check_user(peer, &groups)
}

fn check_tcp_peer(rules: &Rules, client: &Stream) -> Result<(), &'static str> {
    let (address, _) = client.peer_address().ok_or("it has left")?;
    // Whoever comes over TCP is no user that is known.
    if rules.access.has_users() && !rules.own_addresses {
        return Err("over TCP nobody is known");
    }
    rules.access.check_address(address)
}

/// The peer, for the log.
fn describe_peer(client: &Stream) -> String {
    match (client.credentials(), client.peer_address()) {
        (Some(peer), _) => format!("user {} (process {})", peer.uid, peer.pid),
        (None, Some((address, port))) => format!("{address} port {port}"),
        (None, None) => String::from("somebody"),
    }
}
