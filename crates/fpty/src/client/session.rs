//! The loop of a session: waits for both ends, has each part handle what came, and
//! takes a connection up again that broke.

use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::connect::Connection;
use super::outcome::{self, End};
use super::reconnect::{
    ACK_TIMEOUT, MAX_PLAIN, PROBE_AFTER, PROBE_AGAIN, REFUSAL_GRACE, connect_in_thread,
};
use super::state::{EARLY_TIMEOUT, InputState, MAX_EARLY, Session};
use crate::proto::{EndKind, SessionEnd};
use crate::sys::poll::PollSet;
use crate::sys::socket::Transport;
use crate::sys::stdio;

impl<'a> Session<'a> {
    /// Runs it to its end, over as many connections as that takes; returns that,
    /// and what was typed into a session that came to nothing.
    pub fn run_to_its_end(mut self) -> (End, Vec<u8>) {
        loop {
            let end = loop {
                if let Break(end) = self.run_once() {
                    break end;
                }
            };
            let reconnects = self.may_reconnect(&end);
            if !(reconnects && self.reconnect.is_reconnecting()) {
                self.reset_terminal(&end);
                self.end_line(&end);
            }
            if !reconnects {
                let typed = self.early_input.take().unwrap_or_default();
                return (self.final_end(end), typed);
            }
            match self.connect_again(&end) {
                Continue(connection) => self = self.on_new_connection(connection),
                Break(end) => return (end, Vec::new()),
            }
        }
    }

    /// Waits until one of the ends has something, or takes something, and handles that.
    fn run_once(&mut self) -> ControlFlow<End> {
        self.flush()?;
        if let Some(end) = self.check_end() {
            return Break(end);
        }
        let timeout = self.timeout();
        let Connection { stream, to_server, has_ended, .. } = &self.connection;
        let reads_output = self.output.is_flushed();
        let reads_server = !has_ended && reads_output;
        let ours = self.handover.terminal();
        let is_open = ours.is_some_and(|terminal| terminal.is_open());
        let reads_terminal = reads_output && !self.is_detaching() && is_open;
        let mut polled = PollSet::default();
        let signal = polled.add(self.signals.as_fd(), true, false);
        // Output that is a pipe whose reader has gone is worth knowing even
        // while there is nothing to write.
        let output = self.output.fd().map(|fd| polled.add(fd, false, !reads_output));
        // An end that is not waited for is left out: poll(2) tells a hang-up
        // uncalled for, again and again.
        let mut add = |fd, reads, writes| (reads || writes).then(|| polled.add(fd, reads, writes));
        let server = add(stream.as_fd(), reads_server, !to_server.is_empty());
        let input = add(stdio::stdin(), self.reads_input(), false);
        let writes = !self.to_terminal.is_empty();
        let terminal = ours.and_then(|ours| add(ours.as_fd(), reads_terminal, writes));
        // With a timeout that is a short one.
        let waits_for_program = *has_ended && timeout.is_none();
        if let Some(program) = ours.and_then(|ours| ours.program()).filter(|_| waits_for_program) {
            add(program, true, false);
        }
        let found = polled.wait(timeout);
        let has = |at: Option<usize>| at.is_some_and(|at| found.readable(at));
        if found.readable(signal) {
            self.handle_signals()?;
        }
        if reads_server && has(server) {
            self.read_server()?;
        }
        if reads_terminal && has(terminal) && !self.is_detaching() {
            self.read_terminal();
        }
        if has(input) {
            self.read_input()?;
        }
        match output.is_some_and(|at| found.hung_up(at)) {
            true => Break(End::OutputClosed),
            false => Continue(()),
        }
    }

    /// How long until something is to be done without anybody's doing.
    fn timeout(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let server_ended = self.connection.has_ended;
        let terminal = self.handover.terminal_mut().and_then(|ours| ours.run_timers(server_ended));
        let held = self
            .held_until
            .filter(|_| !self.held.is_empty() || matches!(self.input, InputState::Ended(..)));
        let early =
            self.early_until.filter(|_| self.early >= MAX_EARLY && self.may_become_extended());
        let quiet = self.end_of_input_in().filter(|_| self.is_plain_mode()).map(|wait| now + wait);
        let (ping, look) = (self.connection.next_ping, self.next_look);
        let withheld = self.withheld.as_ref().filter(|_| !self.needs_extended()).map(|(_, at)| *at);
        let probe = self.reconnect.look.filter(|_| !server_ended);
        let (detaching, shrunk) = (self.detachable.detaching, self.detachable.shrunk_until);
        [terminal, held, early, quiet, ping, look, withheld, probe, detaching, shrunk]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now))
    }

    /// Writes what waits, as far as it is taken, and does what is due.
    fn flush(&mut self) -> ControlFlow<End> {
        let now = Instant::now();
        if self.held_until.is_some_and(|until| now >= until) {
            self.held_until = None;
            if self.needs_extended() && self.decoder.is_undecided() {
                return Break(End::NotExtended);
            }
            self.early_until = Some(now + EARLY_TIMEOUT);
            self.release_input();
        }
        if !self.needs_extended() && self.withheld.as_ref().is_some_and(|(_, until)| now >= *until)
        {
            self.show_withheld();
        }
        self.connection.ping(now);
        self.poll_foreground(now);
        self.run_detach_timers(now);
        self.send_size();
        if let Some(ours) = self.handover.terminal() {
            if !self.to_terminal.flush(|bytes| ours.write(bytes)) {
                self.to_terminal.clear();
            }
        }
        self.send_detach_request();
        // After the last of the input is there, and before the rest is sent:
        // nothing would wake us for it again.
        self.send_end_of_input();
        if self.probe(now) {
            self.server_closed();
        }
        self.connection.flush();
        self.flush_output()
    }

    fn flush_output(&mut self) -> ControlFlow<End> {
        if self.output.flush().is_some() {
            return Continue(());
        }
        let why = self.output.failure().map(|why| format!("standard output: {why}"));
        Break(why.map_or(End::OutputClosed, End::OutputFailed))
    }

    /// Begins a new line for the message about the end, where one is printed.
    pub(super) fn end_line(&mut self, end: &End) {
        let for_a_person = outcome::is_for_a_person(self.config);
        if outcome::prints_anything(self.config, end)
            && stdio::is_same_file()
            && self.output.is_mid_line(for_a_person)
        {
            self.show_and_flush(b"\r\n");
        }
    }

    /// Whether the end is that of a connection alone. Where nobody types it is not
    /// known what of the input has arrived.
    fn may_reconnect(&self, end: &End) -> bool {
        if !self.config.reconnect || self.terminal.is_none() || self.reconnect.key.is_none() {
            return false;
        }
        let tried_for = self.reconnect.lost.map(|since| since.elapsed());
        match end {
            End::Lost(_) => self.connection.has_ended,
            End::NoSession(_) | End::Ended(SessionEnd { ending: EndKind::Refused, .. }) => {
                tried_for.is_some_and(|time| time < REFUSAL_GRACE)
            }
            End::NotExtended | End::HelloTooLate { .. } => {
                tried_for.is_some() && self.reconnect.plain + 1 < MAX_PLAIN
            }
            _ => false,
        }
    }

    /// The end to report, with the argument that attaches again where the session may go
    /// on.
    fn final_end(&self, end: End) -> End {
        match (&self.reconnect.key, end) {
            (Some(_), End::Ended(refused))
                if refused.ending == EndKind::Refused && self.reconnect.is_reconnecting() =>
            {
                let can_be_there = !refused.is_no_such_session();
                let attach_argument = can_be_there.then(|| self.attach_argument()).flatten();
                End::NotReconnected { why: refused.text, attach_argument }
            }
            (_, End::Ended(mut ended)) if ended.ending == EndKind::Detached && ended.value == 0 => {
                if let Some(attach_argument) = self.reconnect.attach_argument_for(&ended.text) {
                    ended.text = attach_argument;
                }
                End::Ended(ended)
            }
            (_, end) => end,
        }
    }

    /// Calls the server until it answers.
    fn connect_again(&mut self, end: &End) -> ControlFlow<End, Connection> {
        match end {
            End::NotExtended | End::HelloTooLate { .. } => self.reconnect.plain += 1,
            End::Lost(why) if self.reconnect.lost.is_none() => self.notice_lost(why),
            _ => {}
        }
        self.reconnect.lost.get_or_insert_with(Instant::now);
        loop {
            let wait = self.reconnect.wait();
            self.wait_interactively(Some(Instant::now() + wait), None)?;
            let Ok((thread, done)) = connect_in_thread(self.config) else {
                // Out of threads or descriptors: it is tried again.
                continue;
            };
            self.wait_interactively(None, Some(&done))?;
            if let Ok(Ok(connection)) = thread.join() {
                return Continue(connection);
            }
        }
    }

    fn notice_lost(&self, why: &str) {
        let escape = self.config.escape.map(|escape| format!("{}. or ", char::from(escape)));
        let keys = escape.unwrap_or_default();
        let address = self.config.address.to_string_lossy();
        self.notice(&format!(
            "connection to {address} lost: {why}; reconnecting (what is typed is dropped; {keys}Ctrl-C gives up)"
        ));
    }

    /// Waits until then, or until this hangs up; hears the person, and signals.
    fn wait_interactively(
        &mut self,
        until: Option<Instant>,
        done: Option<&UnixStream>,
    ) -> ControlFlow<End> {
        loop {
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Continue(());
            }
            self.poll_foreground(now);
            self.flush_output()?;
            let mut polled = PollSet::default();
            let signal = polled.add(self.signals.as_fd(), true, false);
            let is_flushed = self.output.is_flushed();
            let closed = self.output.fd().map(|fd| polled.add(fd, false, !is_flushed));
            let is_raw = self.terminal.as_ref().is_some_and(|terminal| terminal.is_raw());
            let reads = is_raw && self.input == InputState::Open && is_flushed;
            let input = reads.then(|| polled.add(stdio::stdin(), true, false));
            let done_at = done.map(|done| polled.add(done.as_fd(), true, false));
            let next = [until, self.next_look].into_iter().flatten().min();
            let found = polled.wait(next.map(|at| at.saturating_duration_since(now)));
            let has = |at: Option<usize>| at.is_some_and(|at| found.readable(at));
            if found.readable(signal) {
                self.handle_signals()?;
            }
            if has(input) {
                self.read_input()?;
            }
            if closed.is_some_and(|at| found.hung_up(at)) {
                return Break(End::OutputClosed);
            }
            if has(done_at) {
                return Continue(());
            }
        }
    }

    /// The session on another connection, with the same terminal and the same person.
    fn on_new_connection(self, connection: Connection) -> Self {
        let Self { config, signals, output, terminal, escapes, mut reconnect, input, .. } = self;
        (reconnect.look, reconnect.is_silent) = (None, false);
        let session = Self::new(config, connection, signals, output, terminal);
        let mut session = Self { escapes, reconnect, input, ..session };
        session.greet();
        session
    }

    /// Probes whether what was sent over TCP was acknowledged, some time after it was;
    /// returns whether the connection is to be given up.
    fn probe(&mut self, now: Instant) -> bool {
        let Connection { transport, to_server, .. } = &self.connection;
        let is_worth_it = *transport == Transport::Tcp && self.reconnect.key.is_some();
        if is_worth_it && !to_server.is_empty() {
            self.reconnect.look.get_or_insert(now + PROBE_AFTER);
        }
        if self.connection.has_ended || self.reconnect.look.is_none_or(|at| now < at) {
            return false;
        }
        let silence = self.connection.stream.unacknowledged_for();
        self.reconnect.look = silence.map(|_| now + PROBE_AGAIN);
        self.reconnect.is_silent = silence.is_some_and(|silence| silence >= ACK_TIMEOUT);
        self.reconnect.is_silent
    }
}
