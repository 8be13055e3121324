//! Clients that asked for more at once than one turn has time for: the rest of
//! what was read of them waits, in order, and they are not read meanwhile.

use std::collections::VecDeque;

use super::command::Commands;
use super::context::Context;
use super::outcome::Outcome;
use super::recovery::Whose;
use super::table::Key;
use super::traffic::Sessions;
use crate::session::command::{Command, Streams};
use crate::session::{ACTS, Ends, Session};

/// What all clients may ask for in one turn beside input, once for what they
/// send, once for what had to wait. A signal that drops input takes up to 80
/// microseconds, so that a turn with as many takes five milliseconds each.
const ALL_ACTS: usize = 64;

/// What is left to be heard of a client.
#[derive(Debug)]
pub struct Rest {
    whose: Whose,
    bytes: Vec<u8>,
    /// Of these so many were heard.
    heard: usize,
}

/// Those whose turn is still to come, and what this turn has time for.
pub struct Behind {
    waiting: VecDeque<Rest>,
    acts: usize,
}

impl Rest {
    /// Whose it is.
    pub fn whose(&self) -> Whose {
        self.whose
    }
}

impl Behind {
    /// Nobody.
    pub fn new() -> Self {
        Self { waiting: VecDeque::new(), acts: ALL_ACTS }
    }

    /// Whether nobody waits: then the loop may.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Has a client ask for what it may; whoever it is may for something.
    fn share<T>(&mut self, hear: impl FnOnce(&mut usize) -> T) -> T {
        let most = self.acts.clamp(1, ACTS);
        let mut acts = most;
        let heard = hear(&mut acts);
        self.acts = self.acts.saturating_sub(most - acts);
        heard
    }

    /// What there is time for begins anew.
    pub fn renew(&mut self) {
        self.acts = ALL_ACTS;
    }

    /// Whether more of a session's client is to be heard.
    pub fn has(&self, key: Key) -> bool {
        self.waiting.iter().any(|rest| matches!(rest.whose, Whose::Session(it) if it == key))
    }

    /// Keeps what was not heard. Whether there was memory for it.
    fn keep(&mut self, whose: Whose, rest: &[u8]) -> bool {
        let mut bytes = Vec::new();
        if !fpty::relay::is_free(rest.len()) || bytes.try_reserve_exact(rest.len()).is_err() {
            return false;
        }
        bytes.extend_from_slice(rest);
        self.waiting.push_back(Rest { whose, bytes, heard: 0 });
        true
    }
}

impl Context {
    /// Has a session hear what its client sent, which stands in the buffer.
    pub fn hear(&mut self, key: Key, session: &mut Session, ends: &mut impl Ends) {
        let Self { input, gather, behind, .. } = self;
        let left = behind.share(|acts| session.client_sent(input, gather, acts, ends));
        // Not of raw mode, which may have taken the buffer.
        if left > 0 && !behind.keep(Whose::Session(key), &input[input.len() - left..]) {
            session.forget_the_rest();
        }
    }

    /// The same, of a command.
    pub fn hear_command(&mut self, key: Key, command: &mut Command, streams: &mut impl Streams) {
        let Self { input, gather, behind, .. } = self;
        let left = behind.share(|acts| command.client_sent(input, gather, acts, streams));
        if left > 0 && !behind.keep(Whose::Command(key), &input[input.len() - left..]) {
            command.forget_the_rest();
        }
    }
}

impl Context {
    /// A turn begins: those on whose behalf something had to wait are to be heard,
    /// one after the other.
    pub fn catch_up(&mut self) {
        self.behind.renew();
        for rest in std::mem::take(&mut self.behind.waiting) {
            self.then(Outcome::GoOn(Box::new(rest)));
        }
    }

    /// Hears more of a session's client, as far as this turn has time for it.
    pub fn hear_rest(&mut self, mut rest: Rest, sessions: &mut Sessions, commands: &mut Commands) {
        let Context { gather, behind, .. } = self;
        if behind.acts == 0 {
            return behind.waiting.push_back(rest);
        }
        let bytes = &rest.bytes[rest.heard..];
        let left = match rest.whose {
            Whose::Session(key) => {
                // It may have been left, or ended.
                let Some(attached) = sessions.get_mut(key) else { return };
                let _armed = attached.wires.master.arm();
                let (session, wires) = (&mut attached.session, &mut attached.wires);
                behind.share(|acts| session.client_goes_on(bytes, gather, acts, wires))
            }
            Whose::Command(key) => match commands.hears_more(key) {
                Some((command, wires)) => {
                    behind.share(|acts| command.client_sent(bytes, gather, acts, wires))
                }
                None => return,
            },
            _ => return,
        };
        let whose = rest.whose;
        rest.heard = rest.bytes.len() - left;
        if left > 0 {
            behind.waiting.push_back(rest);
        }
        match whose {
            Whose::Session(key) => self.then(Outcome::Settle(key)),
            Whose::Command(key) => self.then(Outcome::SettleCommand(key)),
            _ => {}
        }
    }
}
