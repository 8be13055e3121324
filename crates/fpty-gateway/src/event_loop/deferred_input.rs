//! Delivery of clients' input, as far as the budget of a turn goes: the rest is deferred.

use super::context::Context;
use super::deferred_queue::DeferredChunk;
use super::fault_domain::FaultDomain;
use super::outcome::Outcome;
use super::slab::Key;
use crate::command::command_state::{Command, CommandEffects};
use crate::command::commands::{Commands, LiveCommand};
use crate::session::relay::Sessions;
use crate::session::state::{Session, SessionEffects};

impl Context {
    /// Delivers a client's input, which stands in the buffer, to its session.
    pub fn deliver_input(
        &mut self,
        key: Key,
        session: &mut Session,
        ends: &mut impl SessionEffects,
    ) {
        let Self { input, coalesced, deferred_input, .. } = self;
        let left =
            deferred_input.with_budget(|acts| session.client_sent(input, coalesced, acts, ends));
        // Not of raw mode, which may have taken the buffer.
        if left > 0
            && !deferred_input.defer(FaultDomain::Session(key), &input[input.len() - left..])
        {
            session.drop_deferred_input();
        }
    }

    /// Delivers a client's input to its command.
    pub fn deliver_command_input(
        &mut self,
        key: Key,
        command: &mut Command,
        streams: &mut impl CommandEffects,
    ) {
        let Self { input, coalesced, deferred_input, .. } = self;
        let left =
            deferred_input.with_budget(|acts| command.client_sent(input, coalesced, acts, streams));
        if left > 0
            && !deferred_input.defer(FaultDomain::Command(key), &input[input.len() - left..])
        {
            command.drop_deferred_input();
        }
    }

    /// Emits all deferred input, at the start of a turn.
    pub fn resume_deferred(&mut self) {
        self.deferred_input.reset_budget();
        for chunk in self.deferred_input.take_waiting() {
            self.push_outcome(Outcome::ResumeInput(Box::new(chunk)));
        }
    }

    /// Delivers a deferred chunk, as far as the budget goes.
    pub fn deliver_deferred(
        &mut self,
        chunk: DeferredChunk,
        sessions: &mut Sessions,
        commands: &mut Commands,
    ) {
        let Context { coalesced, deferred_input, .. } = self;
        let (fault_domain, bytes) = (chunk.fault_domain, chunk.bytes());
        let left = match fault_domain {
            _ if !deferred_input.has_budget() => {
                let left = bytes.len();
                return deferred_input.put_back(chunk, left);
            }
            FaultDomain::Session(key) => {
                // It may have been left, or ended.
                let Some(attached) = sessions.get_mut(key) else { return };
                let _armed = attached.io.master.arm();
                let (session, io) = (&mut attached.session, &mut attached.io);
                deferred_input.with_budget(|acts| session.resume_client(bytes, coalesced, acts, io))
            }
            FaultDomain::Command(key) => {
                let Some(LiveCommand { command, io, .. }) = commands.get_mut(key) else { return };
                deferred_input.with_budget(|acts| command.client_sent(bytes, coalesced, acts, io))
            }
            _ => return,
        };
        deferred_input.put_back(chunk, left);
        match fault_domain {
            FaultDomain::Session(key) => self.push_outcome(Outcome::Settle(key)),
            FaultDomain::Command(key) => self.push_outcome(Outcome::SettleCommand(key)),
            _ => {}
        }
    }
}
