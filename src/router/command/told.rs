//! What is told of commands without a terminal: as of sessions.

use std::time::Duration;

use super::{Commanded, Key};
use crate::router::GatewayLoop;
use crate::router::listing::Described;
use crate::router::timers::Due;
use crate::router::told::{Gone, New, Refusal, Subject};
use fpty::proto::Ended;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::socket::Stream;

/// How soon it is looked again whether a program was executed that takes long
/// for it.
const EXECUTED: Duration = Duration::from_millis(10);

impl GatewayLoop {
    /// Notes what is known of a new command, where somebody wants to know it.
    pub(super) fn note_command(&mut self, key: Key) {
        let keeps_facts = self.cx.told.keeps_facts();
        let commanded = self.commands.running.get_mut(key).filter(|_| keeps_facts);
        if let Some(Commanded { wires, .. }) = commanded {
            let new = New { pid: wires.program, tty: None, size: None };
            let id = self.cx.ids.of(("command", key));
            self.cx.told.note(Subject::Command(key), id, &wires.client, new);
            wires.traffic.get_or_insert_with(Box::default);
        }
        self.command_executed(key);
    }

    /// A command has begun when its program was executed.
    pub(in crate::router) fn command_executed(&mut self, key: Key) {
        let Some(commanded) = self.commands.running.get_mut(key) else {
            return;
        };
        let program = commanded.wires.program;
        if !commanded.begun && program.is_some_and(|program| !self.cx.spawner.has_executed(program))
        {
            return self.cx.after(EXECUTED, Due::CommandExecuted(key));
        }
        self.command_has_begun(key);
    }

    fn command_has_begun(&mut self, key: Key) {
        let commanded = self.commands.running.get_mut(key);
        if commanded.is_some_and(|one| !std::mem::replace(&mut one.begun, true)) {
            self.cx.told.begun(Subject::Command(key));
        }
    }

    /// A command's program has ended, or could not be executed.
    pub(super) fn note_command_ended(&mut self, key: Key, exit: Exit, failure: Option<&Ended>) {
        if let Some(why) = failure {
            let Some(commanded) = self.commands.running.get_mut(key) else {
                return;
            };
            // There is nothing to tell of its end.
            commanded.refused = true;
            self.cx.told.was_none(Subject::Command(key));
            return self.cx.told.refused(
                Some(&commanded.wires.client),
                Refusal::of(why),
                &why.text,
            );
        }
        self.command_has_begun(key);
        if let Some(commanded) = self.commands.running.get_mut(key) {
            commanded.exit = Some(Gone::of_exit(exit));
        }
        self.cx.told.program_ended(Subject::Command(key), exit);
    }

    /// A command is over.
    pub(super) fn tell_command_end(&mut self, key: Key) {
        let Some(commanded) = self.commands.running.get_mut(key) else {
            return;
        };
        if commanded.refused {
            return;
        }
        let command = &commanded.command;
        let why = match (command.dismissed(), commanded.exit) {
            (Some(ending), _) => Gone::of(ending),
            (None, Some(gone)) => gone,
            (None, None) if command.client_is_gone() => Gone::Hangup,
            (None, None) => Gone::Lost,
        };
        let bytes = commanded.bytes();
        self.command_has_begun(key);
        if let Some(last) = self.cx.told.ended(Subject::Command(key), why, bytes) {
            self.cx.told.tell_last(&last, None);
        }
    }

    /// The commands from this place on, each with its place.
    pub(in crate::router) fn commands_from(
        &self,
        place: usize,
    ) -> impl Iterator<Item = (usize, Key)> {
        self.commands.running.from(place)
    }

    /// The client of a command that has begun and goes on.
    pub(in crate::router) fn client_of_command(&self, key: Key) -> Option<&Stream> {
        let commanded = self.commands.running.get(key)?;
        let goes_on = commanded.begun && commanded.command.dismissed().is_none();
        goes_on.then_some(&commanded.wires.client)
    }

    /// What a list has of a command.
    pub(in crate::router) fn described_command(&self, key: Key) -> Option<Described<'_>> {
        let commanded = self.commands.running.get(key)?;
        let traffic = commanded.wires.traffic.as_ref();
        Some(Described {
            client: &commanded.wires.client,
            door: commanded.door,
            pid: commanded.wires.program,
            tty: None,
            size: None,
            // What was passed is not seen.
            idle: traffic.and_then(|traffic| traffic.last()).map(|last| last.elapsed()),
        })
    }

    /// A command as it is now, as JSON.
    pub(in crate::router) fn command_as_json(&self, key: Key) -> Option<String> {
        let facts = self.cx.told.of(Subject::Command(key))?;
        let commanded = self.commands.running.get(key).filter(|commanded| commanded.begun)?;
        let traffic = commanded.wires.traffic.as_ref();
        let is_passed = commanded.relayed != [true; 3];
        // What was passed is not seen.
        let idle = match traffic.and_then(|traffic| traffic.last()) {
            Some(last) => Some(last.elapsed()),
            None if is_passed => None,
            None => Some(facts.started.elapsed()),
        };
        Some(facts.as_json(None, idle, is_passed, commanded.bytes()))
    }
}

impl super::Commands {
    /// Whose program this is.
    pub fn of_program(&self, program: Pid) -> Option<Key> {
        self.by_program.get(&program).copied()
    }
}

impl Commanded {
    /// Bytes of input and output that came through here; `None`: not all did.
    fn bytes(&self) -> (Option<u64>, Option<u64>) {
        let (input, output) = self.wires.traffic.as_ref().map(|traffic| traffic.bytes()).unzip();
        let [input_relayed, output_relayed, error_relayed] = self.relayed;
        (input.filter(|_| input_relayed), output.filter(|_| output_relayed && error_relayed))
    }
}
