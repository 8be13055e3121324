//! A client of uwsgi mode has connected: what it says before its program
//! starts is waited for, shortly, so that the program begins with the size of
//! its terminal, and, where both ends speak the extended mode, with its
//! environment.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::GatewayLoop;
use super::doors::Newcomer;
use super::seats::{Full, Seat};
use super::table::{Key, Source};
use super::timers::Due;
use crate::session::greeting::{Greeting, Heard};
use fpty::sys::Read;
use fpty::sys::peer::Passed;
use fpty::sys::poll::{Interest, Ready};
use fpty::sys::socket::{Stream, Transport};

/// How long a client that says nothing is waited for: one that only reads, as
/// a plain socket may.
const SILENCE: Duration = Duration::from_millis(50);

/// How long one is that has said hello, over a slow link.
const AFTER_HELLO: Duration = Duration::from_secs(1);

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
    /// When it is no longer waited for.
    until: Instant,
    waited_for: bool,
}

impl GatewayLoop {
    /// Hears what a client has to say that has just connected: most speak at
    /// once.
    pub(super) fn greet(&mut self, client: Stream, transport: Transport, door: u16) {
        let Some(rules) = self.doors.rules(door) else { return };
        let seat = self.seats.take(rules, &client);
        let key = self.callers.insert(Caller {
            seat,
            client,
            transport,
            door,
            greeting: Greeting::default(),
            arrived: Passed::default(),
            until: Instant::now() + SILENCE,
            waited_for: false,
        });
        self.hear(key, false);
    }

    /// A client that is waited for said something, or has left.
    pub(super) fn caller_ready(&mut self, key: Key, ready: Ready) {
        self.hear(key, ready.hang_up);
    }

    /// It was waited for long enough.
    pub(super) fn silent(&mut self, key: Key) {
        let Some(caller) = self.callers.get_mut(key) else {
            return;
        };
        let now = Instant::now();
        if now < caller.until {
            let wait = caller.until - now;
            return self.after(wait, Due::Silent(key));
        }
        self.begin(key, 0, false);
    }

    fn hear(&mut self, key: Key, hang_up: bool) {
        let Some(caller) = self.callers.get_mut(key) else {
            return;
        };
        // Only who has had the answer to its hello passes anything.
        let passes = caller.transport == Transport::Unix && caller.greeting.is_extended();
        let read = match passes {
            true => {
                let (input, arrived) = (&mut self.turn.input, &mut caller.arrived);
                caller.client.read_into_with_descriptors(input, arrived)
            }
            false => caller.client.read_into(&mut self.turn.input),
        };
        // One that sends as many as it likes.
        if caller.arrived.descriptors.len() > DESCRIPTORS {
            return self.forget_caller(key);
        }
        match read {
            Read::Bytes(_) => {}
            Read::Blocked if !hang_up => return self.wait_for(key),
            // It only reads.
            Read::End if !hang_up => return self.begin(key, 0, true),
            // It left before there was anything for it.
            Read::Blocked | Read::End | Read::Gone => return self.forget_caller(key),
        }
        let commands = self.doors.rules(caller.door).is_some_and(|rules| rules.allow_command);
        let takes_streams = commands && self.config.pass_stdio;
        let mut bytes = self.turn.input.as_slice();
        loop {
            match caller.greeting.hear(&mut bytes) {
                Heard::Answer(answer) => {
                    // It may pass its streams from here on, and no sooner.
                    if caller.transport == Transport::Unix && takes_streams {
                        caller.client.accept_descriptors();
                    }
                    let _ = caller.client.write(&answer);
                    caller.until = Instant::now() + AFTER_HELLO;
                }
                Heard::Waiting => return self.wait_for(key),
                Heard::Begin => {
                    let left = bytes.len();
                    return self.begin(key, left, false);
                }
            }
        }
    }

    fn wait_for(&mut self, key: Key) {
        let Some(caller) = self.callers.get_mut(key) else {
            return;
        };
        let interest = Interest { read: caller.greeting.listens(), write: false };
        let (client, token) = (caller.client.as_fd(), Source::Caller(key).token());
        let waits = match caller.waited_for {
            false => self.turn.poller.add(client, token, interest),
            true if !interest.read => self.turn.poller.change(client, token, interest),
            true => return,
        };
        if waits.is_err() {
            return self.begin(key, 0, false);
        }
        if !std::mem::replace(&mut caller.waited_for, true) {
            let wait = caller.until.saturating_duration_since(Instant::now());
            self.after(wait, Due::Silent(key));
        }
    }

    /// Starts the program; so many bytes of what was read last are for the
    /// session. The client may have said that it sends no more.
    fn begin(&mut self, key: Key, left: usize, ended: bool) {
        let Some(caller) = self.callers.remove(key) else {
            return;
        };
        let heard = self.turn.input.len() - left;
        self.turn.input.drain(..heard);
        let Caller { client, transport, door, greeting, seat, arrived, waited_for, .. } = *caller;
        if waited_for {
            // It gets another token.
            let _ = self.turn.poller.remove(client.as_fd());
        }
        client.refuse_descriptors();
        let newcomer = Newcomer { client, transport, door, seat };
        self.open(newcomer, greeting.opening(), arrived, ended);
    }

    pub(super) fn forget_caller(&mut self, key: Key) {
        // The poller forgets it as it closes.
        if let Some(Ok(Some(seat))) = self.callers.remove(key).map(|caller| caller.seat) {
            self.seats.leave(seat);
        }
    }
}
