//! Input: what a person types, or a pipe holds, and its end.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::escape::EscapeAction;
use super::outcome::End;
use super::state::{InputState, MAX_EARLY, Session};
use crate::proto::{self, Protocol};
use crate::sys::ReadOutcome;
use crate::sys::signal::StopTarget;
use crate::sys::stdio;

/// Input that may wait before no more is read, in bytes.
const INPUT_LIMIT: usize = 64 * 1024;

/// Limit of input that is kept for another attempt, in bytes.
const MAX_EARLY_INPUT: usize = 256 * 1024;

/// After the end of our input a server that knows no better is told of it when
/// it has been silent for so long, or after so long in all: the C router ends
/// the session at once when it hears of it, whatever output is under way.
const EOF_SILENCE: Duration = Duration::from_millis(100);
const EOF_TIMEOUT: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Whether input is to be read.
    pub(super) fn reads_input(&self) -> bool {
        let stopped = self.terminal.as_ref().is_some_and(|terminal| !terminal.is_raw());
        self.input == InputState::Open
            && !stopped
            && self.is_alive()
            && self.connection.to_server.len() < INPUT_LIMIT
            && self.to_terminal.len() < INPUT_LIMIT
            && self.held.len() < INPUT_LIMIT
            && !(self.early >= MAX_EARLY && self.may_become_extended())
    }

    /// Reads standard input, and handles what was typed.
    pub(super) fn read_input(&mut self) -> ControlFlow<End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = stdio::read_input(&mut buffer);
        let end = match read {
            ReadOutcome::Bytes(count) => self.handle_input(&buffer[..count]),
            ReadOutcome::WouldBlock => Continue(()),
            ReadOutcome::Eof => {
                let now = Instant::now();
                self.input = InputState::Ended(now, now);
                Continue(())
            }
            // The terminal is gone, and the person with it.
            ReadOutcome::Closed => Break(End::Signal(Signal::SIGHUP)),
        };
        self.buffer = buffer;
        end
    }

    /// Handles bytes that were typed, or read from a pipe: escapes, signal keys, input.
    pub(super) fn handle_input(&mut self, bytes: &[u8]) -> ControlFlow<End> {
        let mut at = 0;
        let mut passed = Vec::new();
        while at < bytes.len() {
            passed.clear();
            let (typed, taken) = match &mut self.escapes {
                Some(escapes) => escapes.filter(&bytes[at..], &mut passed),
                None => {
                    passed.extend_from_slice(&bytes[at..]);
                    (EscapeAction::Pass, bytes.len() - at)
                }
            };
            at += taken;
            self.forward_input(&passed)?;
            match typed {
                EscapeAction::Pass => {}
                EscapeAction::Disconnect | EscapeAction::Detach
                    if self.reconnect.is_reconnecting() =>
                {
                    return self.give_up();
                }
                EscapeAction::Disconnect => {
                    self.end_session();
                    return Break(End::Disconnected);
                }
                EscapeAction::Detach => self.detach()?,
                EscapeAction::Help => {
                    let help = self.escapes.as_ref().map(|escapes| escapes.help());
                    self.show(help.unwrap_or_default().as_bytes());
                }
                EscapeAction::Suspend => self.suspend(StopTarget::ProcessGroup),
            }
        }
        Continue(())
    }

    /// Sends what was typed, or keeps it until it is known how.
    fn forward_input(&mut self, bytes: &[u8]) -> ControlFlow<End> {
        if self.reconnect.is_reconnecting() {
            return self.discard_input(bytes);
        }
        if self.config.read_only {
            return Continue(());
        }
        if self.holds_input() {
            self.held.extend_from_slice(bytes);
            return Continue(());
        }
        if self.config.protocol == Protocol::Uwsgi && !self.decoder.is_extended() {
            self.record_early(bytes);
        }
        let signal_keys = self.signal_keys();
        let mut from = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if let Some((_, signal)) = signal_keys.iter().find(|(key, _)| key == byte) {
                self.send_input(&bytes[from..at]);
                from = at + 1;
                self.signal_key(*signal)?;
            }
        }
        self.send_input(&bytes[from..]);
        Continue(())
    }

    /// The keys that are signals, and that the terminal leaves to us. A server that speaks the
    /// extended mode has a terminal that finds them itself.
    fn signal_keys(&self) -> Vec<(u8, Signal)> {
        let signals = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP];
        let terminal = self.terminal.as_ref().filter(|_| self.config.isig && self.is_plain_mode());
        let key_of = |signal| Some((terminal?.disabled_key_of(signal)?, signal));
        signals.into_iter().filter_map(key_of).collect()
    }

    /// Records input that goes to a server which has not agreed to the extended mode.
    fn record_early(&mut self, bytes: &[u8]) {
        self.early = self.early.saturating_add(bytes.len());
        self.early_input = self.early_input.take().filter(|_| self.early <= MAX_EARLY_INPUT);
        if let Some(typed) = &mut self.early_input {
            typed.extend_from_slice(bytes);
        }
    }

    fn send_input(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.handover.terminal().is_some() {
            self.detachable.track_input(bytes);
            return self.to_terminal.push(bytes);
        }
        match self.config.protocol {
            Protocol::Raw => self.connection.to_server.push(bytes),
            Protocol::Uwsgi => {
                let mut packets = Vec::with_capacity(bytes.len() + 8);
                proto::encode_input(bytes, &mut packets);
                self.connection.to_server.push(&packets);
            }
        }
    }

    /// Sends what was kept.
    pub(super) fn release_input(&mut self) {
        if !self.holds_input() {
            let held = std::mem::take(&mut self.held);
            // Only in raw mode a key is an end, and there nothing is kept.
            let _ = self.forward_input(&held);
        }
    }

    /// Tells whoever is to know it that our input has ended, when it is time.
    pub(super) fn send_end_of_input(&mut self) {
        if !matches!(self.input, InputState::Ended(..)) || self.holds_input() {
            return;
        }
        if let Some(terminal) = self.handover.terminal_mut() {
            if self.to_terminal.is_empty() {
                self.input = InputState::EndSent;
                terminal.end_input();
            }
        } else if self.decoder.is_extended() {
            self.input = InputState::EndSent;
            self.connection.send(&proto::encode_bare(proto::END_OF_STREAM, 0));
        } else if self.end_of_input_in() == Some(Duration::ZERO) {
            self.connection.stream.end();
            self.input = InputState::EndSent;
        }
    }

    /// How long until a server that knows no better is told of the end of our
    /// input, where it is to be told.
    pub(super) fn end_of_input_in(&self) -> Option<Duration> {
        let InputState::Ended(ended, heard) = self.input else {
            return None;
        };
        let now = Instant::now();
        let mut quiet = (heard + EOF_SILENCE).min(ended + EOF_TIMEOUT);
        // Half a request is none, to one that agrees later.
        if let Some(until) = self.early_until.filter(|_| self.decoder.is_undecided()) {
            quiet = quiet.max(until);
        }
        self.connection.to_server.is_empty().then(|| quiet.saturating_duration_since(now))
    }

    /// The person does not want to wait any longer.
    fn give_up(&self) -> ControlFlow<End> {
        let attach_argument = self.attach_argument();
        Break(End::NotReconnected { why: String::from("given up"), attach_argument })
    }

    /// Discards what is typed while there is no server: the interrupt key gives up; other
    /// keys ring the bell.
    fn discard_input(&mut self, typed: &[u8]) -> ControlFlow<End> {
        const USUAL: u8 = 3;
        let key = self.terminal.as_ref().and_then(|terminal| terminal.key_of(Signal::SIGINT));
        if typed.contains(&key.unwrap_or(USUAL)) {
            return self.give_up();
        }
        if !typed.is_empty() {
            self.show(b"\x07");
        }
        Continue(())
    }
}
