//! What is told of commands without a terminal: as of sessions.

use super::{Commanded, Commands, Key};
use crate::router::listing::Described;
use crate::router::told::{Subject, Told};
use fpty::sys::child::Pid;
use fpty::sys::socket::Stream;

impl Commands {
    /// The commands from this place on, each with its place.
    pub fn from(&self, place: usize) -> impl Iterator<Item = (usize, Key)> {
        self.running.from(place)
    }

    /// The client of a command that has begun and goes on.
    pub fn client_of(&self, key: Key) -> Option<&Stream> {
        let commanded = self.running.get(key)?;
        let goes_on = commanded.begun && commanded.command.dismissed().is_none();
        goes_on.then_some(&commanded.wires.client)
    }

    /// What a list has of a command.
    pub fn described(&self, key: Key) -> Option<Described<'_>> {
        let commanded = self.running.get(key)?;
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
    pub fn as_json(&self, told: &Told, key: Key) -> Option<String> {
        let facts = told.of(Subject::Command(key))?;
        let commanded = self.running.get(key).filter(|commanded| commanded.begun)?;
        let traffic = commanded.wires.traffic.as_ref();
        let is_passed = commanded.relayed != [true; 3];
        // What was passed is not seen.
        let idle = match traffic.and_then(|traffic| traffic.last()) {
            Some(last) => Some(last.elapsed()),
            None if is_passed => None,
            None => Some(facts.since.elapsed()),
        };
        Some(facts.as_json(None, idle, is_passed, commanded.bytes()))
    }
}

impl Commands {
    /// Whose program this is.
    pub fn of_program(&self, program: Pid) -> Option<Key> {
        self.by_program.get(&program).copied()
    }
}

impl Commanded {
    /// Bytes of input and output that came through here; `None`: not all did.
    pub fn bytes(&self) -> (Option<u64>, Option<u64>) {
        let (input, output) = self.wires.traffic.as_ref().map(|traffic| traffic.bytes()).unzip();
        let [input_relayed, output_relayed, error_relayed] = self.relayed;
        (input.filter(|_| input_relayed), output.filter(|_| output_relayed && error_relayed))
    }
}
