//! Clients are heard, as far as a turn has time for each: the rest waits.

use super::context::Context;
use super::deferred::Rest;
use super::outcome::Outcome;
use super::slab::Key;
use super::subject::Whose;
use crate::command::command_state::{Command, CommandEffects};
use crate::command::commands::Commands;
use crate::session::relay::Sessions;
use crate::session::state::{Session, SessionEffects};

impl Context {
    /// Has a session hear what its client sent, which stands in the buffer.
    pub fn hear(&mut self, key: Key, session: &mut Session, ends: &mut impl SessionEffects) {
        let Self { input, gather, behind, .. } = self;
        let left = behind.share(|acts| session.client_sent(input, gather, acts, ends));
        // Not of raw mode, which may have taken the buffer.
        if left > 0 && !behind.keep(Whose::Session(key), &input[input.len() - left..]) {
            session.drop_deferred_input();
        }
    }

    /// The same, of a command.
    pub fn hear_command(
        &mut self,
        key: Key,
        command: &mut Command,
        streams: &mut impl CommandEffects,
    ) {
        let Self { input, gather, behind, .. } = self;
        let left = behind.share(|acts| command.client_sent(input, gather, acts, streams));
        if left > 0 && !behind.keep(Whose::Command(key), &input[input.len() - left..]) {
            command.drop_deferred_input();
        }
    }

    /// A turn begins: those on whose behalf something had to wait are to be heard,
    /// one after the other.
    pub fn catch_up(&mut self) {
        self.behind.renew();
        for rest in self.behind.take_waiting() {
            self.then(Outcome::GoOn(Box::new(rest)));
        }
    }

    /// Hears more of a session's client, as far as this turn has time for it.
    pub fn hear_rest(&mut self, rest: Rest, sessions: &mut Sessions, commands: &mut Commands) {
        let Context { gather, behind, .. } = self;
        let (whose, bytes) = (rest.whose(), rest.bytes());
        let left = match whose {
            _ if !behind.has_time() => {
                let left = bytes.len();
                return behind.wait_on(rest, left);
            }
            Whose::Session(key) => {
                // It may have been left, or ended.
                let Some(attached) = sessions.get_mut(key) else { return };
                let _armed = attached.io.master.arm();
                let (session, io) = (&mut attached.session, &mut attached.io);
                behind.share(|acts| session.resume_client(bytes, gather, acts, io))
            }
            Whose::Command(key) => match commands.input_target(key) {
                Some((command, io)) => {
                    behind.share(|acts| command.client_sent(bytes, gather, acts, io))
                }
                None => return,
            },
            _ => return,
        };
        behind.wait_on(rest, left);
        match whose {
            Whose::Session(key) => self.then(Outcome::Settle(key)),
            Whose::Command(key) => self.then(Outcome::SettleCommand(key)),
            _ => {}
        }
    }
}
