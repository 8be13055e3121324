//! Waits for both ends, and for what is due.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::state::{InputState, MAX_EARLY, Session};
use crate::sys::poll::PollSet;
use crate::sys::stdio;

/// What a wait found.
pub struct Ready {
    pub signal: bool,
    pub server: bool,
    pub input: bool,
    pub terminal: bool,
    pub output_closed: bool,
}

impl Session<'_> {
    /// Waits until one of the ends has something, or takes something.
    pub(super) fn wait(&mut self) -> Ready {
        let timeout = self.timeout();
        let reads_output = self.to_output.is_empty();
        let reads_server = !self.server_ended && reads_output;
        let ours = self.handover.terminal();
        let is_open = ours.is_some_and(|terminal| terminal.is_open());
        let reads_terminal = reads_output && !self.is_detaching() && is_open;
        let mut polled = PollSet::default();
        let signal = polled.add(self.signals.as_fd(), true, false);
        // Output that is a pipe whose reader has gone is worth knowing even
        // while there is nothing to write.
        let output = polled.add(self.output.as_fd(), false, !reads_output);
        // An end that is not waited for is left out: poll(2) tells a hang-up
        // uncalled for, again and again.
        let mut add = |fd, reads, writes| (reads || writes).then(|| polled.add(fd, reads, writes));
        let server = add(self.stream.as_fd(), reads_server, !self.to_server.is_empty());
        let input = add(stdio::stdin(), self.reads_input(), false);
        let writes = !self.to_terminal.is_empty();
        let terminal = ours.and_then(|ours| add(ours.as_fd(), reads_terminal, writes));
        // With a timeout that is a short one.
        let waits_for_it = self.server_ended && timeout.is_none();
        if let Some(program) = ours.and_then(|ours| ours.program()).filter(|_| waits_for_it) {
            add(program, true, false);
        }
        let found = polled.wait(timeout);
        let has = |at: Option<usize>| at.is_some_and(|at| found.readable(at));
        Ready {
            signal: has(Some(signal)),
            server: reads_server && has(server),
            input: has(input),
            terminal: reads_terminal && has(terminal),
            output_closed: found.hung_up(output),
        }
    }

    /// How long until something is to be done without anybody's doing.
    fn timeout(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let server_ended = self.server_ended;
        let terminal = self.handover.terminal_mut().and_then(|ours| ours.run_timers(server_ended));
        let held = self
            .held_until
            .filter(|_| !self.held.is_empty() || matches!(self.input, InputState::Ended(..)));
        let early =
            self.early_until.filter(|_| self.early >= MAX_EARLY && self.may_become_extended());
        let quiet = self.end_of_input_in().filter(|_| self.is_plain_mode()).map(|wait| now + wait);
        let (ping, look) = (self.next_ping, self.next_look);
        let own = [self.detachable.deadline(), self.reconnect.deadline().filter(|_| !server_ended)];
        let withheld = self.withheld.as_ref().filter(|_| !self.needs_extended()).map(|(_, at)| *at);
        [terminal, held, early, quiet, ping, look, withheld]
            .into_iter()
            .chain(own)
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now))
    }
}
