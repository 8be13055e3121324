//! Who may come in at a socket.

use std::time::Duration;

use super::limits::{self, Full};
use super::listeners::Newcomer;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::timers::Due;
use crate::observe::audit::{Refusal, Rejection};
use fpty::proto::Protocol;
use fpty::sys::socket::{Stream, Transport};

/// All that a stranger hears.
const REFUSED: &str = "not permitted";

impl Context {
    /// Whether a client may come in at a socket; else it is told that it may
    /// not, and the log is told why.
    pub fn admit(
        &mut self,
        door: u16,
        client: &Stream,
        transport: Transport,
        protocol: Protocol,
    ) -> bool {
        let Some(rules) = self.doors.rules(door) else {
            return false;
        };
        if !rules.access.has_users() && !rules.access.addresses.exist() {
            return true;
        }
        let outcome = match transport {
            Transport::Unix => admits_process(rules, client),
            Transport::Tcp => admits_address(rules, client),
        };
        let Err((who, why)) = outcome else {
            return true;
        };
        let name = self.doors.door(door).map(|door| door.name.clone()).unwrap_or_default();
        let origin = self.told.origin(door, protocol);
        let line = format!("forkptyrouter: {name}: {who} is refused: {why}");
        self.doors.log_refusal(&line);
        let _ = client.write(format!("forkptyrouter: session refused: {REFUSED}\r\n").as_bytes());
        self.told.refused(origin, Some(client), Refusal::Denied, why);
        false
    }
}

impl Context {
    /// Why somebody gets no session: for want of a seat.
    ///
    /// # Errors
    /// There is none.
    pub fn check_limits(&self, newcomer: &Newcomer) -> Result<(), Rejection> {
        let full = |full: &Full| Rejection::because(Refusal::Limit, full.text());
        newcomer.seat.as_ref().map(|_| ()).map_err(full)
    }

    /// Where clients come faster than a socket takes them it takes none for a
    /// moment. Whether that is so.
    pub fn slow_down(&mut self, door: u16) -> bool {
        let Some(rate) = self.doors.rules(door).and_then(|rules| rules.rate) else {
            return false;
        };
        let wait = limits::wait_for_rate(door, rate);
        if wait > 0 {
            self.doors.rest(door, &self.poller);
            self.after(Duration::from_micros(wait.into()), Due::Door(door));
        }
        wait > 0
    }

    /// Nobody was there after all.
    pub fn nobody_came(&self, door: u16) {
        if let Some(rate) = self.doors.rules(door).and_then(|rules| rules.rate) {
            limits::nobody_came(door, rate);
        }
    }
}

fn admits_process(rules: &Rules, client: &Stream) -> Result<(), (String, &'static str)> {
    if !rules.access.has_users() {
        return Ok(());
    }
    let Some(peer) = client.credentials() else {
        return Err((String::from("somebody"), "nobody knows who it is"));
    };
    let groups = match rules.access.groups.exist() {
        true => client.peer_groups(),
        false => Vec::new(),
    };
    rules.access.admits(peer, &groups).map_err(|why| (who(client), why))
}

/// Who has connected, for the log.
pub fn who(client: &Stream) -> String {
    match (client.credentials(), client.peer_address()) {
        (Some(peer), _) => format!("user {} (process {})", peer.uid, peer.pid),
        (None, Some((address, port))) => format!("{address} port {port}"),
        (None, None) => String::from("somebody"),
    }
}

fn admits_address(rules: &Rules, client: &Stream) -> Result<(), (String, &'static str)> {
    let Some((address, port)) = client.peer_address() else {
        return Err((String::from("somebody"), "it has left"));
    };
    let who = || format!("{address} port {port}");
    // Whoever comes over TCP is no user that is known.
    if rules.access.has_users() && !rules.own_addresses {
        return Err((who(), "over TCP nobody is known"));
    }
    rules.access.admits_address(address).map_err(|why| (who(), why))
}
