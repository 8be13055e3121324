//! Who may come in at a socket.

use super::GatewayLoop;
use super::told::{Refusal, Said};
use crate::config::rules::Rules;
use fpty::proto::Protocol;
use fpty::sys::socket::{Stream, Transport};

/// All that a stranger hears.
const REFUSED: &str = "not permitted";

impl GatewayLoop {
    /// Whether a client may come in at a socket; else it is told that it may
    /// not, and the log is told why.
    pub(super) fn may_enter(
        &mut self,
        door: u16,
        client: &Stream,
        transport: Transport,
        protocol: Protocol,
    ) -> bool {
        let Some(rules) = self.doors.rules(door) else {
            return false;
        };
        if !rules.access.has_users() && !rules.access.has_addresses() {
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
        self.told.hears(door, protocol.name(), Said::default);
        let line = format!("forkptyrouter: {name}: {who} is refused: {why}");
        self.doors.log_refusal(&line);
        let _ = client.write(format!("forkptyrouter: session refused: {REFUSED}\r\n").as_bytes());
        client.end();
        // Unread input would turn our close into a reset, which may overtake
        // the line.
        let _ = client.read(&mut self.turn.buffer[..]);
        self.told.refused(Some(client), Refusal::Denied, why);
        false
    }
}

fn admits_process(rules: &Rules, client: &Stream) -> Result<(), (String, &'static str)> {
    if !rules.access.has_users() {
        return Ok(());
    }
    let Some(peer) = client.credentials() else {
        return Err((String::from("somebody"), "nobody knows who it is"));
    };
    let groups = match rules.access.asks_for_groups() {
        true => client.peer_groups(),
        false => Vec::new(),
    };
    let who = || format!("user {} (process {})", peer.uid, peer.pid);
    rules.access.admits(peer, &groups).map_err(|why| (who(), why))
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
