//! A client of uwsgi mode has connected: what it says before its program
//! starts is waited for, shortly, so that the program begins with the size of
//! its terminal, and, where both ends speak the extended mode, with its
//! environment.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::GatewayLoop;
use super::doors::Newcomer;
use super::recovery::Whose;
use super::seats::{Full, Seat};
use super::table::{Key, Source};
use super::timers::Due;
use super::told::{Refusal, Said};
use super::traffic::LINGERS;
use crate::session::greeting::{Greeting, Heard};
use fpty::error::reason;
use fpty::proto::{Ended, Ending, Protocol, TOO_LATE};
use fpty::sys::Read;
use fpty::sys::peer::Passed;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::{Stream, Transport};

/// How long a client that says nothing is waited for: one that only reads, as
/// a plain socket may.
pub const SILENCE: Duration = Duration::from_millis(50);

/// After a hello a client that goes on sending has so many times as long, in
/// all, as it may be silent.
const IN_ALL: u32 = 30;

/// Why nothing was started for a client that sends no more.
const CUT: &str = "the connection was shut down in the midst of the request: nothing was started";

/// Why a client gets nothing whose hello came when its program had something
/// to say already. Its own end knows how it begins ([`fpty::proto::TOO_LATE`]).
const WHAT_IS_LATE: &str = "the program had been started for a silent client by then";

/// How long the end of a program that was started for a silent client waits
/// for a hello that is late: whoever says it would take that for its own.
const LINGER: Duration = Duration::from_millis(200);

/// Descriptors that a client can pass.
const DESCRIPTORS: usize = 3;

/// A client whose program has not started yet.
pub struct Caller {
    client: Stream,
    transport: Transport,
    /// The socket that it came to, by its index.
    door: u16,
    greeting: Greeting,
    /// Its seat, where there are any.
    seat: Result<Option<Seat>, Full>,
    /// Descriptors that it passes.
    arrived: Passed,
    /// When it came.
    since: Instant,
    /// When it is no longer waited for, and the latest that this can be.
    until: Instant,
    latest: Instant,
    waited_for: bool,
}

impl Caller {
    /// It says hello: it has so long for each part of what it wants.
    fn has_greeted(&mut self, now: Instant, patience: Duration) {
        self.latest = now + patience * IN_ALL;
        self.until = now + patience;
    }

    /// Its seat, where there are any and it has one.
    pub fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref().ok()?.as_ref()
    }
}

impl GatewayLoop {
    /// Hears what a client has to say that has just connected: most speak at
    /// once.
    pub(super) fn greet(&mut self, client: Stream, transport: Transport, door: u16) {
        let Some(rules) = self.cx.doors.rules(door) else { return };
        let seat = self.cx.seats.take(rules, &client);
        let now = Instant::now();
        let until = now + self.latecomers.patience(&client, transport, now);
        let key = self.callers.insert(Caller {
            seat,
            client,
            transport,
            door,
            greeting: Greeting::default(),
            arrived: Passed::default(),
            since: now,
            until,
            latest: until,
            waited_for: false,
        });
        self.faults.made = Some(Whose::Caller(key));
        self.hear(key, false);
    }

    /// A client that is waited for said something, or has left.
    pub(super) fn caller_ready(&mut self, key: Key, ready: Ready) {
        self.hear(key, ready.hang_up);
    }

    /// It was waited for long enough.
    pub(super) fn silent(&mut self, key: Key) {
        let is_over = |caller: &Caller| Instant::now() >= caller.until;
        // What has come meanwhile counts: this process may have been busy, or
        // stopped.
        if self.callers.get_mut(key).is_some_and(|caller| is_over(caller)) {
            self.hear(key, false);
        }
        let Some(caller) = self.callers.get_mut(key) else {
            return;
        };
        let now = Instant::now();
        if now < caller.until {
            let wait = caller.until - now;
            return self.cx.after(wait, Due::Silent(key));
        }
        super::fault::point("silence");
        if !caller.greeting.is_extended() {
            return self.begin(key, 0, false);
        }
        let patience = self.cx.config.handshake_timeout;
        let why = match caller.until < caller.latest {
            true => format!("no complete request came: silence for {} seconds", patience.as_secs()),
            false => {
                format!("no complete request came in {} seconds", (patience * IN_ALL).as_secs())
            }
        };
        self.refuse_caller(key, &format!("{why} (forkptyrouter-handshake-timeout)"));
    }

    fn hear(&mut self, key: Key, hang_up: bool) {
        let Some(caller) = self.callers.get_mut(key) else {
            return;
        };
        // Only who has had the answer to its hello passes anything.
        let passes = caller.transport == Transport::Unix && caller.greeting.is_extended();
        let read = match passes {
            true => {
                let (input, arrived) = (&mut self.cx.input, &mut caller.arrived);
                caller.client.read_into_with_descriptors(input, arrived)
            }
            false => caller.client.read_into(&mut self.cx.input),
        };
        // One that sends as many as it likes.
        if caller.arrived.descriptors.len() > DESCRIPTORS {
            return self.forget_caller(key);
        }
        match read {
            Read::Bytes(_) => self.heard(key),
            Read::Blocked if !hang_up => self.wait_for(key),
            Read::End if !hang_up => match caller.greeting.is_extended() {
                // Half a request is none.
                true => self.refuse_caller(key, CUT),
                // It only reads.
                false => self.begin(key, 0, true),
            },
            // It left before there was anything for it.
            Read::Blocked | Read::End | Read::Gone => self.forget_caller(key),
        }
    }

    /// Takes what a client has sent, which stands in the turn's buffer.
    fn heard(&mut self, key: Key) {
        let Some(caller) = self.callers.get_mut(key) else {
            return;
        };
        let patience = self.cx.config.handshake_timeout;
        if caller.greeting.is_extended() {
            caller.until = caller.latest.min(Instant::now() + patience);
        }
        super::fault::strike("greeting", || &self.cx.input);
        let commands = self.cx.doors.rules(caller.door).is_some_and(|rules| rules.allow_command);
        let takes_streams = commands && self.cx.config.pass_stdio;
        let mut bytes = self.cx.input.as_slice();
        loop {
            match caller.greeting.hear(&mut bytes) {
                Heard::Answer(answer) => {
                    // It may pass its streams from here on, and no sooner.
                    if caller.transport == Transport::Unix && takes_streams {
                        caller.client.accept_descriptors();
                    }
                    let _ = caller.client.write(&answer);
                    let now = Instant::now();
                    if now - caller.since > SILENCE {
                        self.latecomers.note(&caller.client, caller.transport, now);
                    }
                    caller.has_greeted(now, patience);
                }
                Heard::Waiting => return self.wait_for(key),
                Heard::Begin => {
                    let left = bytes.len();
                    return self.begin(key, left, false);
                }
                Heard::Refuse(why) => return self.refuse_caller(key, why),
                Heard::Web => return self.begin_no_more(key),
            }
        }
    }

    fn wait_for(&mut self, key: Key) {
        let Some(caller) = self.callers.get_mut(key) else {
            return;
        };
        if caller.waited_for {
            return;
        }
        let (client, token) = (caller.client.as_fd(), Source::Caller(key).token());
        if let Err(error) = self.cx.poller.add(client, token, Interest::READ) {
            let why = format!("cannot wait for the client: {}", reason(&error));
            return self.refuse_caller(key, &why);
        }
        caller.waited_for = true;
        let wait = caller.until.saturating_duration_since(Instant::now());
        self.cx.after(wait, Due::Silent(key));
    }

    /// Starts the program; so many bytes of what was read last are for the
    /// session. The client may have said that it sends no more.
    fn begin(&mut self, key: Key, left: usize, ended: bool) {
        if self.callers.get(key).is_some_and(|caller| caller.greeting.may_be_web()) {
            return self.begin_no_more(key);
        }
        let Some(caller) = self.callers.remove(key) else {
            return;
        };
        let heard = self.cx.input.len() - left;
        self.cx.input.drain(..heard);
        let Caller { client, transport, door, greeting, seat, arrived, waited_for, .. } = *caller;
        if waited_for {
            // It gets another token.
            let _ = self.cx.poller.remove(client.as_fd());
        }
        client.refuse_descriptors();
        let newcomer = Newcomer { client, transport, door, seat };
        self.open(newcomer, greeting.opening(), arrived, ended);
    }

    /// Starts nothing, and says why.
    pub(super) fn refuse_caller(&mut self, key: Key, why: &str) {
        let Some(caller) = self.callers.remove(key) else {
            return;
        };
        let Caller { client, transport, door, greeting, seat, waited_for, .. } = *caller;
        if waited_for {
            let _ = self.cx.poller.remove(client.as_fd());
        }
        let opening = greeting.opening();
        let mode = if opening.extended { "extended" } else { Protocol::Uwsgi.name() };
        self.cx.told.hears(door, mode, || Said::of(&opening.variables));
        self.cx.told.refuses(Refusal::Handshake);
        let newcomer = Newcomer { client, transport, door, seat };
        self.turn_back(newcomer, opening.extended, Ended::because(Ending::Refused, why));
    }

    /// The session of a client that has said nothing is over.
    pub(super) fn linger(&mut self, key: Key) {
        if let Some(attached) = self.sessions.get_mut(key) {
            attached.forget_terminal(&self.cx.poller);
            if std::mem::replace(&mut attached.drains, LINGERS) != LINGERS {
                self.cx.after(LINGER, Due::Dismissed(key));
            }
        }
    }

    /// A client that said nothing in time says hello after all: its first
    /// packets stand in the turn's buffer. The program that was started for a
    /// silent one ends. Where it has shown nothing, and runs, this is as if it
    /// never had been; else the client would take it for what it asks for.
    pub(super) fn greets_late(&mut self, key: Key) {
        self.tell_end(key);
        self.forget_left(key);
        let Some(mut attached) = self.sessions.remove(key) else {
            return;
        };
        let (transport, door) = (attached.transport, attached.door);
        let is_too_late = attached.has_shown() || !attached.session.program_runs();
        let decoder = attached.session.take_decoder();
        let _ = self.cx.poller.remove(attached.wires.client.as_fd());
        attached.forget_terminal(&self.cx.poller);
        let client = self.let_go(key, *attached);
        let now = Instant::now();
        self.latecomers.note(&client, transport, now);
        let Some(rules) = self.cx.doors.rules(door) else { return };
        let seat = self.cx.seats.take(rules, &client);
        if is_too_late {
            self.cx.told.hears(door, Protocol::Uwsgi.name(), Said::default);
            self.cx.told.refuses(Refusal::Handshake);
            // What it has shown may end within a line.
            let _ = client.write(b"\r\n");
            let why = Ended::because(Ending::Refused, format!("{TOO_LATE}: {WHAT_IS_LATE}"));
            return self.turn_back(Newcomer { client, transport, door, seat }, false, why);
        }
        let key = self.callers.insert(Caller {
            seat,
            client,
            transport,
            door,
            greeting: Greeting::late(decoder.unwrap_or_default()),
            arrived: Passed::default(),
            since: now,
            until: now + SILENCE,
            latest: now + SILENCE,
            waited_for: false,
        });
        self.faults.made = Some(Whose::Caller(key));
        self.heard(key);
    }

    /// A web page has no business here.
    fn begin_no_more(&mut self, key: Key) {
        let Some(caller) = self.callers.remove(key) else { return };
        let Caller { client, door, seat, .. } = *caller;
        if let Ok(Some(seat)) = seat {
            self.cx.seats.leave(seat);
        }
        self.refuse_web_caller(door, client);
    }

    pub(super) fn forget_caller(&mut self, key: Key) {
        // The poller forgets it as it closes.
        if let Some(Ok(Some(seat))) = self.callers.remove(key).map(|caller| caller.seat) {
            self.cx.seats.leave(seat);
        }
    }
}
