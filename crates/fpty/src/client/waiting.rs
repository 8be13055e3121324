//! Waits for both ends, and for what is due.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::session::{EARLY, Session};
use super::typing::Input;
use crate::sys::stdio;

/// What a wait found.
pub struct Ready {
    pub signal: bool,
    pub server: bool,
    pub input: bool,
    pub terminal: bool,
    pub output_closed: bool,
}

/// Waits until this takes something, or until then.
pub fn until_writable<'a>(what: &'a impl AsFd, end: Instant) {
    let fd: BorrowedFd<'a> = what.as_fd();
    let left = end.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    let _ = nix::poll::poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout);
}

impl Session<'_> {
    /// Waits until one of the ends has something, or takes something.
    pub(super) fn wait(&mut self) -> Ready {
        let timeout = self.timeout();
        let reads_output = self.to_output.is_empty();
        let mut server = PollFlags::empty();
        server.set(PollFlags::POLLIN, !self.server_ended && reads_output);
        server.set(PollFlags::POLLOUT, !self.to_server.is_empty());
        let mut output = PollFlags::empty();
        output.set(PollFlags::POLLOUT, !reads_output);
        let ours = self.takeover.ours();
        let mut terminal = PollFlags::empty();
        let reads_terminal = reads_output && !self.is_leaving();
        terminal.set(PollFlags::POLLIN, reads_terminal && ours.is_some_and(|t| t.is_open()));
        terminal.set(PollFlags::POLLOUT, !self.to_terminal.is_empty());

        // An end that is not waited for is left out: poll(2) tells a hang-up
        // uncalled for, again and again.
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // Output that is a pipe whose reader has gone is worth knowing even
        // while there is nothing to write.
        polled.push(PollFd::new(self.output.as_fd(), output));
        let mut add = |fd, flags: PollFlags| {
            (!flags.is_empty()).then(|| {
                polled.push(PollFd::new(fd, flags));
                polled.len() - 1
            })
        };
        let server_at = add(self.stream.as_fd(), server);
        let mut input = PollFlags::empty();
        input.set(PollFlags::POLLIN, self.reads_input());
        let input_at = add(stdio::stdin(), input);
        let terminal_at = ours.and_then(|ours| add(ours.as_fd(), terminal));
        if let Some(program) = ours.and_then(|ours| ours.program()).filter(|_| self.server_ended) {
            // Then the timeout is short.
            if timeout.is_none() {
                add(program, PollFlags::POLLIN);
            }
        }
        let timeout = timeout.map_or(PollTimeout::NONE, |wait| {
            let millis = u16::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u16::MAX);
            PollTimeout::from(millis)
        });
        let _ = nix::poll::poll(&mut polled, timeout);
        let at =
            |index: Option<usize>| index.is_some_and(|index| polled[index].any() == Some(true));
        // A pipe says POLLERR, a socket and a terminal POLLHUP.
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let output_closed = polled[1].revents().is_some_and(|events| events.intersects(gone));
        Ready {
            signal: at(Some(0)),
            server: server.contains(PollFlags::POLLIN) && at(server_at),
            input: at(input_at),
            terminal: terminal.contains(PollFlags::POLLIN) && at(terminal_at),
            output_closed,
        }
    }

    /// How long until something is to be done without anybody's doing.
    fn timeout(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let server_ended = self.server_ended;
        let terminal = self.takeover.ours_mut().and_then(|ours| ours.when(server_ended));
        let held = self
            .held_until
            .filter(|_| !self.held.is_empty() || matches!(self.input, Input::Ended(..)));
        let early = self.early_until.filter(|_| self.early >= EARLY && self.may_agree());
        let quiet = self.quiet_in().filter(|_| self.speaks_plainly()).map(|wait| now + wait);
        let (ping, look) = (self.next_ping, self.next_look);
        let own = [self.coming.when(), self.again.when().filter(|_| !server_ended)];
        let withheld = self.withheld.as_ref().filter(|_| !self.needs_more()).map(|(_, at)| *at);
        [terminal, held, early, quiet, ping, look, withheld]
            .into_iter()
            .chain(own)
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now))
    }
}
