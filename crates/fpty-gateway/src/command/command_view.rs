//! Commands as lists and statistics show them.

use super::commands::{Commands, LiveCommand};
use crate::control::session_view::SessionView;
use crate::event_loop::slab::Key;
use crate::observe::audit::{ByteTotals, SessionInfo};
use fpty::sys::socket::Stream;

impl Commands {
    /// Keys of the commands from this place of the table on, each with its place.
    pub fn iter_from(&self, place: usize) -> impl Iterator<Item = (usize, Key)> {
        self.running.iter_from(place)
    }

    /// The client of a command that has started and goes on.
    pub fn client_of(&self, key: Key) -> Option<&Stream> {
        let live = self.running.get(key)?;
        let goes_on = live.is_started && live.command.termination().is_none();
        goes_on.then_some(&live.io.client)
    }

    /// A command as lists show it.
    pub fn view(&self, key: Key, info: Option<&SessionInfo>) -> Option<SessionView<'_>> {
        let live = self.running.get(key)?;
        let byte_counts = live.io.byte_counts.as_ref();
        let is_handed_over = live.relayed != [true; 3];
        // Bytes on passed descriptors are not seen.
        let idle = match byte_counts.and_then(|byte_counts| byte_counts.last_activity()) {
            Some(last) => Some(last.elapsed()),
            None if is_handed_over => None,
            None => info.map(|info| info.started.elapsed()),
        };
        Some(SessionView {
            client: &live.io.client,
            listener: live.listener,
            pid: live.io.program,
            master: None,
            idle,
            is_handed_over,
            bytes: live.bytes(),
        })
    }
}

impl LiveCommand {
    /// Bytes of input and output that were relayed; `None`: not all of them were.
    pub fn bytes(&self) -> ByteTotals {
        let (input, output) =
            self.io.byte_counts.as_ref().map(|byte_counts| byte_counts.bytes()).unzip();
        let [input_relayed, output_relayed, error_relayed] = self.relayed;
        (input.filter(|_| input_relayed), output.filter(|_| output_relayed && error_relayed))
    }
}
