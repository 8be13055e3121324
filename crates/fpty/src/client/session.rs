//! The loop of a session: waits for both ends, has each part handle what came, and
//! takes a connection up again that broke.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::outcome::{self, End};
use super::reconnect::{
    ACK_TIMEOUT, ConnectThread, MAX_PLAIN, PROBE_AFTER, PROBE_AGAIN, REFUSAL_GRACE,
};
use super::signals::SignalOutcome;
use super::state::{EARLY_TIMEOUT, InputState, PING_INTERVAL, Session};
use crate::proto::{self, EndKind, NO_SUCH_SESSION, SessionEnd};
use crate::sys::poll::PollSet;
use crate::sys::socket::{Stream, Transport};
use crate::sys::stdio;

impl<'a> Session<'a> {
    /// Runs it to its end, over as many connections as that takes; returns that,
    /// and what was typed into a session that came to nothing.
    pub fn run_to_its_end(mut self) -> (End, Vec<u8>) {
        loop {
            let end = self.run_connection();
            let reconnects = self.may_reconnect(&end);
            if !(reconnects && self.reconnect.is_reconnecting()) {
                self.reset_terminal(&end);
                self.end_line(&end);
            }
            if !reconnects {
                let typed = self.take_early_input();
                return (self.final_end(end), typed);
            }
            match self.connect_again(&end) {
                Ok((stream, transport)) => self = self.on_new_connection(stream, transport),
                Err(end) => return (end, Vec::new()),
            }
        }
    }

    /// Runs it to the end of its connection.
    fn run_connection(&mut self) -> End {
        loop {
            if let Some(end) = self.flush().or_else(|| self.check_end()) {
                return end;
            }
            let ready = self.wait();
            let signalled = ready.signal.then(|| self.handle_signals()).flatten();
            if let Some(end) = signalled {
                return end;
            }
            if ready.server {
                if let Some(end) = self.read_server() {
                    return end;
                }
            }
            if ready.terminal && !self.is_detaching() {
                self.read_terminal();
            }
            if ready.input {
                if let Some(end) = self.read_input() {
                    return end;
                }
            }
            if ready.output_closed {
                return End::OutputClosed;
            }
        }
    }

    /// Writes what waits, as far as it is taken, and does what is due.
    fn flush(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.held_until.is_some_and(|until| now >= until) {
            self.held_until = None;
            if self.needs_extended() && self.decoder.is_undecided() {
                return Some(End::NotExtended);
            }
            self.early_until = Some(now + EARLY_TIMEOUT);
            self.release_input();
        }
        if !self.needs_extended() && self.withheld.as_ref().is_some_and(|(_, until)| now >= *until)
        {
            self.show_withheld();
        }
        if self.next_ping.is_some_and(|at| now >= at) {
            self.next_ping = Some(now + PING_INTERVAL);
            self.send_packet(&proto::encode_bare(proto::PING, 0));
        }
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
        if !self.to_server.is_empty() {
            self.probe_later(now);
        }
        if self.probe(now) {
            self.server_closed();
        }
        let (stream, peer) = (&self.stream, &mut self.peer);
        if !self.server_ended && !self.to_server.flush(|bytes| stream.write_to(bytes, peer).taken())
        {
            // What it said before it went is still to be read.
            self.to_server.clear();
        }
        let (output, failure) = (&self.output, &self.failure);
        let read =
            self.to_output.flush(|bytes| output.write_recording_failure(bytes, failure).taken());
        if read { None } else { Some(self.output_ended()) }
    }

    /// Handles the signals that came; the end, where one is that.
    fn handle_signals(&mut self) -> Option<End> {
        loop {
            let end = match self.handle_signal(self.signals.next()?) {
                SignalOutcome::Handled => None,
                SignalOutcome::Typed(key) => self.handle_input(&[key]),
                SignalOutcome::End(end) => Some(end),
            };
            if end.is_some() {
                return end;
            }
        }
    }

    /// What is said of the end stands on a line of its own.
    pub(super) fn end_line(&mut self, end: &End) {
        let for_a_person = outcome::is_for_a_person(self.config);
        if outcome::prints_anything(self.config, end)
            && stdio::is_same_file()
            && self.line_position.is_mid_line(for_a_person)
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
            End::Lost(_) => self.server_ended,
            End::Refused(_) | End::Ended(SessionEnd { ending: EndKind::Refused, .. }) => {
                tried_for.is_some_and(|time| time < REFUSAL_GRACE)
            }
            End::NotExtended | End::HelloTooLate { .. } => {
                tried_for.is_some() && self.reconnect.plain + 1 < MAX_PLAIN
            }
            _ => false,
        }
    }

    /// What is told of an end that another one may stand behind.
    fn final_end(&self, end: End) -> End {
        match (&self.reconnect.key, end) {
            (Some(_), End::Ended(SessionEnd { ending: EndKind::Refused, text, .. }))
                if self.reconnect.is_reconnecting() =>
            {
                let attach_argument =
                    (text != NO_SUCH_SESSION).then(|| self.attach_argument()).flatten();
                End::NotReconnected { why: text, attach_argument }
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
    fn connect_again(&mut self, end: &End) -> std::result::Result<(Stream, Transport), End> {
        match end {
            End::NotExtended | End::HelloTooLate { .. } => self.reconnect.plain += 1,
            End::Lost(why) if self.reconnect.lost.is_none() => self.notice_lost(why),
            _ => {}
        }
        self.reconnect.lost.get_or_insert_with(Instant::now);
        loop {
            let wait = self.reconnect.wait();
            self.wait_interactively(Some(Instant::now() + wait), None)?;
            let Ok(connecting) = ConnectThread::start(self.config) else {
                // Out of threads or descriptors: it is tried again.
                continue;
            };
            self.wait_interactively(None, Some(&connecting.done))?;
            if let Ok(Ok(called)) = connecting.thread.join() {
                return Ok(called);
            }
        }
    }

    fn notice_lost(&self, why: &str) {
        let escape = self.config.escape.map(|escape| format!("{}. or ", char::from(escape)));
        let keys = escape.unwrap_or_default();
        let address = self.config.address.to_string_lossy();
        self.notice(&format!(
            "connection to {address} lost: {why}; coming back (what is typed is dropped; {keys}Ctrl-C gives up)"
        ));
    }

    /// Waits until then, or until this hangs up; hears the person, and signals.
    fn wait_interactively(
        &mut self,
        until: Option<Instant>,
        done: Option<&UnixStream>,
    ) -> std::result::Result<(), End> {
        loop {
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Ok(());
            }
            self.poll_foreground(now);
            let (output, failure) = (&self.output, &self.failure);
            if !self.to_output.flush(|bytes| output.write_recording_failure(bytes, failure).taken())
            {
                return Err(self.output_ended());
            }
            let mut polled = PollSet::default();
            let signal = polled.add(self.signals.as_fd(), true, false);
            let closed = polled.add(self.output.as_fd(), false, !self.to_output.is_empty());
            let is_raw = self.terminal.as_ref().is_some_and(|terminal| terminal.is_raw());
            let reads = is_raw && self.input == InputState::Open && self.to_output.is_empty();
            let input = reads.then(|| polled.add(stdio::stdin(), true, false));
            let done_at = done.map(|done| polled.add(done.as_fd(), true, false));
            let next = [until, self.next_look].into_iter().flatten().min();
            let found = polled.wait(next.map(|at| at.saturating_duration_since(now)));
            let has = |at: Option<usize>| at.is_some_and(|at| found.readable(at));
            let signalled = has(Some(signal)).then(|| self.handle_signals()).flatten();
            if let Some(end) = signalled {
                return Err(end);
            }
            if has(input) {
                if let Some(end) = self.read_input() {
                    return Err(end);
                }
            }
            if found.hung_up(closed) {
                return Err(End::OutputClosed);
            }
            if has(done_at) {
                return Ok(());
            }
        }
    }

    /// The session on another connection, with the same terminal and the same person.
    fn on_new_connection(self, stream: Stream, transport: Transport) -> Self {
        let Self { config, signals, output, terminal, .. } = self;
        let Self { failure, escapes, to_output, line_position, mut reconnect, input, .. } = self;
        (reconnect.look, reconnect.is_silent) = (None, false);
        let session = Self::new(config, stream, transport, signals, output, terminal);
        let mut session =
            Self { failure, escapes, to_output, line_position, reconnect, input, ..session };
        session.greet();
        session
    }

    /// Schedules a probe after something was sent over TCP: whether it was
    /// acknowledged.
    fn probe_later(&mut self, now: Instant) {
        let is_worth_it = self.transport == Transport::Tcp && self.reconnect.key.is_some();
        if is_worth_it && self.reconnect.look.is_none() {
            self.reconnect.look = Some(now + PROBE_AFTER);
        }
    }

    /// Probes whether what was sent was acknowledged; returns whether the connection is
    /// to be given up.
    fn probe(&mut self, now: Instant) -> bool {
        if self.server_ended || self.reconnect.look.is_none_or(|at| now < at) {
            return false;
        }
        let silence = self.stream.unacknowledged_for();
        self.reconnect.look = silence.map(|_| now + PROBE_AGAIN);
        self.reconnect.is_silent = silence.is_some_and(|silence| silence >= ACK_TIMEOUT);
        self.reconnect.is_silent
    }
}
