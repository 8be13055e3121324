//! Who may come in at a socket, and how long they may stay.

use std::time::Duration;

use super::context::Context;
use super::doors::Newcomer;
use super::idle::{ENDS_SOON, Idleness};
use super::seats::{self, Full};
use super::table::Key;
use super::timers::{Due, LifeDue};
use super::told::{Refusal, Rejection, Traffic};
use super::traffic::Attached;
use crate::config::rules::Rules;
use fpty::proto::{Ending, Protocol};
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
        let origin = self.told.origin(door, protocol);
        let line = format!("forkptyrouter: {name}: {who} is refused: {why}");
        self.doors.log_refusal(&line);
        let _ = client.write(format!("forkptyrouter: session refused: {REFUSED}\r\n").as_bytes());
        self.told.refused(&origin, Some(client), Refusal::Denied, why);
        false
    }
}

/// What a client is told whose time is over.
const TIME_IS_OVER: &str = "session ended: its time is over (max-time)";

/// What it is told before that.
const LIMIT_COMES: &str = "this session ends in a minute: its time is over then (max-time)";

/// What the client of a session is told that was ended at somebody's wish.
pub const BY_AN_OPERATOR: &str = "session ended by an operator (fpty --kill)";

/// How long before that it is told that it will be.
const NOTICE: Duration = Duration::from_secs(60);

/// How long a client may take to hear that its time is over, or that it was idle.
const LAST_WORD: Duration = Duration::from_secs(5);

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
        let wait = seats::wait_for_rate(door, rate);
        if wait > 0 {
            self.doors.rest(door, &self.poller);
            self.after(Duration::from_micros(wait.into()), Due::Door(door));
        }
        wait > 0
    }

    /// Nobody was there after all.
    pub fn nobody_came(&self, door: u16) {
        if let Some(rate) = self.doors.rules(door).and_then(|rules| rules.rate) {
            seats::nobody_came(door, rate);
        }
    }
}

/// What may take only so long, and be idle only for so long.
pub trait Timed {
    /// What it is.
    const WHAT: &'static str;
    /// Something that is due for it.
    fn due(key: Key, due: LifeDue) -> Due;
    /// How long it may be idle where these rules hold.
    fn timeout(rules: &Rules) -> Option<Duration>;
    /// Where its client came in.
    fn door(&self) -> u16;
    /// How much goes and when.
    fn traffic(&mut self) -> &mut Option<Box<Traffic>>;
    /// How long nothing has gone either way, as far as that is known.
    fn idle_for(&self) -> Option<Duration>;
    /// Its client is told this.
    fn notice(&mut self, line: &str);
    /// It ends, and its client is told why.
    fn dismiss(&mut self, why: Ending, line: &str);

    /// Its time begins that it may take and be idle, of which so much is over.
    fn watch_time(&mut self, cx: &mut Context, key: Key, over: Duration) {
        let Some(rules) = cx.doors.rules(self.door()) else { return };
        let (timeout, limit) = (Self::timeout(rules), rules.max_time);
        if let Some(left) = limit.map(|limit| limit.saturating_sub(over)) {
            if left > NOTICE {
                cx.after(left - NOTICE, Self::due(key, LifeDue::LimitSoon));
            }
            cx.after(left, Self::due(key, LifeDue::Limit));
        }
        if let Some(timeout) = timeout {
            // A terminal that is handed over keeps its times by that one.
            fpty::sys::clock::look_at_wall_clock();
            self.traffic().get_or_insert_with(Box::default).note();
            if let Idleness::Wait(wait) = Idleness::of(Duration::ZERO, timeout, false) {
                cx.after(wait, Self::due(key, LifeDue::Idle));
            }
        }
    }

    /// Some of that time is over.
    fn time_passes(&mut self, cx: &mut Context, key: Key, due: LifeDue) {
        match due {
            LifeDue::LimitSoon => self.notice(LIMIT_COMES),
            LifeDue::Limit => self.end_with(cx, key, Ending::Limit, TIME_IS_OVER),
            LifeDue::Idle => self.look_for_idleness(cx, key, false),
            LifeDue::IdleSoon => self.look_for_idleness(cx, key, true),
            LifeDue::Unanswered | LifeDue::Dismissed | LifeDue::Executed => {}
        }
    }

    /// It may have been idle for too long, or will have been before long, which its
    /// client is told once.
    fn look_for_idleness(&mut self, cx: &mut Context, key: Key, was_told: bool) {
        let Some(timeout) = cx.doors.rules(self.door()).and_then(Self::timeout) else { return };
        match Idleness::of(self.idle_for().unwrap_or(timeout), timeout, was_told) {
            Idleness::Wait(wait) => cx.after(wait, Self::due(key, LifeDue::Idle)),
            Idleness::WaitOfTold(wait) => cx.after(wait, Self::due(key, LifeDue::IdleSoon)),
            Idleness::Tell(wait) => {
                self.notice(ENDS_SOON);
                cx.after(wait, Self::due(key, LifeDue::IdleSoon));
            }
            Idleness::Over => {
                self.end_with(cx, key, Ending::Idle, &Idleness::line(Self::WHAT, timeout));
            }
        }
    }

    /// It ends; its client is told why, and has a moment to hear that.
    fn end_with(&mut self, cx: &mut Context, key: Key, why: Ending, line: &str) {
        self.dismiss(why, line);
        cx.after(LAST_WORD, Self::due(key, LifeDue::Dismissed));
    }
}

impl Timed for Attached {
    const WHAT: &'static str = "session";

    fn due(key: Key, due: LifeDue) -> Due {
        Due::Session(key, due)
    }

    fn timeout(rules: &Rules) -> Option<Duration> {
        rules.timeout
    }

    fn door(&self) -> u16 {
        self.door
    }

    fn traffic(&mut self) -> &mut Option<Box<Traffic>> {
        &mut self.wires.traffic
    }

    fn idle_for(&self) -> Option<Duration> {
        match self.session.is_handed_over() {
            true => self.wires.master.idle_for(),
            false => self.silent_for(),
        }
    }

    fn notice(&mut self, line: &str) {
        self.session.notice(line, &mut self.wires);
    }

    fn dismiss(&mut self, why: Ending, line: &str) {
        self.session.dismiss(why, line, &mut self.wires);
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
