//! A client of uwsgi mode has connected: what it says before its program
//! starts is waited for, shortly, so that the program begins with the size of
//! its terminal, and, where both ends speak the extended mode, with its
//! environment.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::client_hello::{Greeting, Heard, Opening};
use super::late_hello::{self, Late, Latecomers, SILENCE};
use super::lingering_close::LastWord;
use super::listeners::Newcomer;
use super::shared_counts::Tally;
use crate::event_loop::context::Context;
use crate::event_loop::slab::{Key, Source, Table};
use crate::event_loop::subject::Whose;
use crate::event_loop::timers::{Due, LifeDue};
use crate::observe::audit::{Origin, Refusal, Rejection};
use crate::process::table::Programs;
use crate::session::relay::{AWAITS_HELLO, Sessions};
use fpty::error::reason;
use fpty::proto::{Protocol, TOO_LATE};
use fpty::sys::Read;
use fpty::sys::peer_process::Passed;
use fpty::sys::poll::Interest;
use fpty::sys::socket::{Stream, Transport};

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
struct Caller {
    /// Who it is; where it comes from is known when it has spoken.
    newcomer: Newcomer,
    greeting: Greeting,
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
    /// One that came just now, and is waited for so long, at first.
    fn new(newcomer: Newcomer, greeting: Greeting, patience: Duration) -> Self {
        let since = Instant::now();
        let until = since + patience;
        let (arrived, waited_for, latest) = (Passed::default(), false, until);
        Self { newcomer, greeting, arrived, since, until, latest, waited_for }
    }

    /// It has said what it wants.
    fn comes(self, cx: &Context) -> (Newcomer, Opening) {
        if self.waited_for {
            // It gets another token.
            let _ = cx.poller.remove(self.newcomer.client.as_fd());
        }
        let opening = self.greeting.opening();
        let origin = cx.told.origin_of(self.newcomer.door, &opening);
        (Newcomer { origin, ..self.newcomer }, opening)
    }

    /// It says hello: it has so long for each part of what it wants.
    fn renew(&mut self, now: Instant, patience: Duration) {
        self.latest = now + patience * IN_ALL;
        self.until = now + patience;
    }
}

/// Clients whose program has not started.
#[derive(Default)]
pub struct Callers {
    callers: Table<Caller>,
    latecomers: Latecomers,
}

/// What a client that has connected comes to.
#[must_use]
pub enum Greeted {
    /// It is waited for, or is gone.
    Waits,
    /// It has said what it wants; what it sent after that stands in the buffer.
    Opens(Box<Opened>),
}

/// A client that has said what it wants.
pub struct Opened {
    /// Who it is.
    pub newcomer: Newcomer,
    /// What it has said.
    pub opening: Opening,
    /// Descriptors that came with that.
    pub arrived: Passed,
    /// Whether it sends no more.
    pub ended: bool,
    /// The name that it has for a session that it begins.
    pub name: Option<Tally>,
}

impl Callers {
    /// Whether it is still one.
    pub fn has(&self, key: Key) -> bool {
        self.callers.has(key)
    }

    /// One is closed as it is.
    pub fn drop_one(&mut self, key: Key) {
        self.callers.remove(key);
    }

    /// Hears what a client has to say that has just connected: most speak at
    /// once.
    pub fn greet(
        &mut self,
        cx: &mut Context,
        client: Stream,
        transport: Transport,
        door: u16,
    ) -> Greeted {
        let Some(rules) = cx.doors.rules(door) else { return Greeted::Waits };
        let seat = cx.seats.take(rules, &client);
        let patience = self.latecomers.patience(&client, transport, Instant::now());
        let newcomer = Newcomer { client, transport, door, seat, origin: Origin::default() };
        let key = self.callers.insert(Caller::new(newcomer, Greeting::default(), patience));
        cx.faults.made = Some(Whose::Caller(key));
        self.hear(cx, key, false)
    }

    /// It was waited for long enough.
    pub fn silent(&mut self, cx: &mut Context, key: Key) -> Greeted {
        let is_over = |caller: &Caller| Instant::now() >= caller.until;
        // What has come meanwhile counts: this process may have been busy, or
        // stopped.
        if self.callers.get(key).is_some_and(is_over) {
            if let Greeted::Opens(opened) = self.hear(cx, key, false) {
                return Greeted::Opens(opened);
            }
        }
        let Some(caller) = self.callers.get_mut(key) else {
            return Greeted::Waits;
        };
        let now = Instant::now();
        if now < caller.until {
            let wait = caller.until - now;
            cx.after(wait, Due::Silent(key));
            return Greeted::Waits;
        }
        crate::event_loop::fault_injection::point("silence");
        if !caller.greeting.is_extended() {
            // It would be refused now. Those who list, end or come back to a session need no
            // seat, and what they want may be late.
            let rules = cx.doors.rules(caller.newcomer.door);
            let latest = caller.since + late_hello::PATIENCE;
            if now < latest
                && rules.is_some_and(|rules| cx.seats.are_taken(rules, &caller.newcomer.seat))
            {
                caller.until = latest;
                cx.after(latest - now, Due::Silent(key));
                return Greeted::Waits;
            }
            return self.begin(cx, key, 0, false);
        }
        let patience = cx.config.handshake_timeout;
        let why = match caller.until < caller.latest {
            true => format!("no complete request came: silence for {} seconds", patience.as_secs()),
            false => {
                format!("no complete request came in {} seconds", (patience * IN_ALL).as_secs())
            }
        };
        self.refuse(cx, key, &format!("{why} (forkptyrouter-handshake-timeout)"))
    }

    /// A client that is waited for said something, or has left.
    pub fn hear(&mut self, cx: &mut Context, key: Key, hang_up: bool) -> Greeted {
        let Some(caller) = self.callers.get_mut(key) else {
            return Greeted::Waits;
        };
        // Only who has had the answer to its hello passes anything.
        let passes = caller.newcomer.transport == Transport::Unix && caller.greeting.is_extended();
        let read = match passes {
            true => {
                let (input, arrived) = (&mut cx.input, &mut caller.arrived);
                caller.newcomer.client.read_into_with_descriptors(input, arrived)
            }
            false => caller.newcomer.client.read_into(&mut cx.input),
        };
        // One that sends as many as it likes.
        if caller.arrived.descriptors.len() > DESCRIPTORS {
            return self.forget(key);
        }
        match read {
            Read::Bytes(_) => self.heard(cx, key),
            Read::Blocked if !hang_up => self.wait_for(cx, key),
            Read::End if !hang_up => match caller.greeting.is_extended() {
                // Half a request is none.
                true => self.refuse(cx, key, CUT),
                // It only reads.
                false => self.begin(cx, key, 0, true),
            },
            // It left before there was anything for it.
            Read::Blocked | Read::End | Read::Gone => self.forget(key),
        }
    }

    /// Takes what a client has sent, which stands in the buffer.
    fn heard(&mut self, cx: &mut Context, key: Key) -> Greeted {
        let Some(caller) = self.callers.get_mut(key) else {
            return Greeted::Waits;
        };
        let patience = cx.config.handshake_timeout;
        if caller.greeting.is_extended() {
            caller.until = caller.latest.min(Instant::now() + patience);
        }
        crate::event_loop::fault_injection::strike("greeting", || &cx.input);
        let commands =
            cx.doors.rules(caller.newcomer.door).is_some_and(|rules| rules.allow_command);
        let takes_streams = commands && cx.config.pass_stdio;
        let mut bytes = cx.input.as_slice();
        loop {
            match caller.greeting.hear(&mut bytes) {
                Heard::Answer(answer) => {
                    // It may pass its streams from here on, and no sooner.
                    if caller.newcomer.transport == Transport::Unix && takes_streams {
                        caller.newcomer.client.accept_descriptors();
                    }
                    let _ = caller.newcomer.client.write(&answer);
                    let now = Instant::now();
                    if now - caller.since > SILENCE {
                        self.latecomers.note(
                            &caller.newcomer.client,
                            caller.newcomer.transport,
                            now,
                        );
                    }
                    caller.renew(now, patience);
                }
                Heard::Waiting => return self.wait_for(cx, key),
                Heard::Begin => {
                    let left = bytes.len();
                    return self.begin(cx, key, left, false);
                }
                Heard::Refuse(why) => return self.refuse(cx, key, why),
                Heard::Web => return self.begin_no_more(cx, key),
            }
        }
    }

    fn wait_for(&mut self, cx: &mut Context, key: Key) -> Greeted {
        let Some(caller) = self.callers.get_mut(key) else {
            return Greeted::Waits;
        };
        if caller.waited_for {
            return Greeted::Waits;
        }
        let (client, token) = (caller.newcomer.client.as_fd(), Source::Caller(key).token());
        if let Err(error) = cx.poller.add(client, token, Interest::READ) {
            let why = format!("cannot wait for the client: {}", reason(&error));
            return self.refuse(cx, key, &why);
        }
        caller.waited_for = true;
        let wait = caller.until.saturating_duration_since(Instant::now());
        cx.after(wait, Due::Silent(key));
        Greeted::Waits
    }

    /// Its program is to start; so many bytes of what was read last are for the
    /// session. The client may have said that it sends no more.
    fn begin(&mut self, cx: &mut Context, key: Key, left: usize, ended: bool) -> Greeted {
        if self.callers.get(key).is_some_and(|caller| caller.greeting.may_be_web()) {
            return self.begin_no_more(cx, key);
        }
        let Some(mut caller) = self.callers.remove(key) else {
            return Greeted::Waits;
        };
        let heard = cx.input.len() - left;
        cx.input.drain(..heard);
        let arrived = std::mem::take(&mut caller.arrived);
        caller.newcomer.client.refuse_descriptors();
        let (newcomer, opening) = caller.comes(cx);
        Greeted::Opens(Box::new(Opened { newcomer, opening, arrived, ended, name: None }))
    }

    /// Starts nothing, and says why.
    pub fn refuse(&mut self, cx: &mut Context, key: Key, why: &str) -> Greeted {
        if let Some(caller) = self.callers.remove(key) {
            let (newcomer, opening) = caller.comes(cx);
            cx.reject(newcomer, opening.extended, Rejection::because(Refusal::Handshake, why));
        }
        Greeted::Waits
    }

    /// A client that said nothing in time says hello after all: its first
    /// packets stand in the buffer. Where the program that was started for a
    /// silent one has shown nothing, and ran, this is as if it never had been; else
    /// the client would take it for what it asks for.
    pub fn greet_late(&mut self, cx: &mut Context, late: Late) -> Greeted {
        let Late { client, transport, door, decoder, is_too_late } = late;
        self.latecomers.note(&client, transport, Instant::now());
        let Some(rules) = cx.doors.rules(door) else { return Greeted::Waits };
        let seat = cx.seats.take(rules, &client);
        let origin = cx.told.origin(door, Protocol::Uwsgi);
        let newcomer = Newcomer { client, transport, door, seat, origin };
        if is_too_late {
            // What it has shown may end within a line.
            let _ = newcomer.client.write(b"\r\n");
            let text = format!("{TOO_LATE}: {WHAT_IS_LATE}");
            cx.reject(newcomer, false, Rejection::because(Refusal::Handshake, text));
            return Greeted::Waits;
        }
        let greeting = Greeting::late(decoder.unwrap_or_default());
        let key = self.callers.insert(Caller::new(newcomer, greeting, SILENCE));
        cx.faults.made = Some(Whose::Caller(key));
        self.heard(cx, key)
    }

    /// A web page has no business here.
    fn begin_no_more(&mut self, cx: &mut Context, key: Key) -> Greeted {
        let Some(caller) = self.callers.remove(key) else { return Greeted::Waits };
        let Newcomer { client, door, .. } = caller.newcomer;
        cx.refuse_page(door, Protocol::Uwsgi, &client, true);
        cx.close_when_read(client, LastWord::Eof);
        Greeted::Waits
    }

    fn forget(&mut self, key: Key) -> Greeted {
        // The poller forgets it as it closes.
        self.callers.remove(key);
        Greeted::Waits
    }
}

impl Sessions {
    /// The session of a client that has said nothing is over.
    pub fn linger(&mut self, cx: &mut Context, key: Key) {
        if let Some(attached) = self.get_mut(key) {
            attached.unregister_terminal(&cx.poller);
            if std::mem::replace(&mut attached.drains, AWAITS_HELLO) != AWAITS_HELLO {
                cx.after(LINGER, Due::Session(key, LifeDue::Dismissed));
            }
        }
    }

    /// Ends the session of one that says hello late, for whom it was started as for
    /// one that is silent.
    pub fn take_late(
        &mut self,
        cx: &mut Context,
        programs: &mut Programs,
        key: Key,
    ) -> Option<Late> {
        let mut attached = self.end(cx, key)?;
        let (transport, door) = (attached.transport, attached.door);
        let is_too_late = attached.has_written() || !attached.session.program_runs();
        let decoder = attached.session.take_decoder();
        let _ = cx.poller.remove(attached.io.client.as_fd());
        attached.unregister_terminal(&cx.poller);
        let client = programs.release(cx, key, *attached);
        Some(Late { client, transport, door, decoder, is_too_late })
    }
}
