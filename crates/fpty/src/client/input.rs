//! Input: what a person types, or a pipe holds, and its end.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::escape::Typed;
use super::outcome::End;
use super::session::{EARLY, Session};
use crate::proto::{self, Protocol};
use crate::sys::Read;
use crate::sys::signal::Stopped;
use crate::sys::stdio;

/// Input that may wait before no more is read, in bytes.
const INPUT_LIMIT: usize = 64 * 1024;

/// What is kept of input for another attempt, in bytes.
const EARLY_TYPED: usize = 256 * 1024;

/// After the end of our input a server that knows no better is told of it when
/// it has been silent for so long, or after so long in all: the C router ends
/// the session at once when it hears of it, whatever output is under way.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_AT_LAST: Duration = Duration::from_secs(1);

/// Where our input stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// There may be more.
    Open,
    /// It ended at the first time; the server last said something at the second.
    Ended(Instant, Instant),
    /// The server knows.
    Told,
}

impl Session<'_> {
    /// Whether input is to be read.
    pub(super) fn reads_input(&self) -> bool {
        let stopped = self.terminal.as_ref().is_some_and(|terminal| !terminal.is_raw());
        self.input == Input::Open
            && !stopped
            && self.is_going_on()
            && self.to_server.len() < INPUT_LIMIT
            && self.to_terminal.len() < INPUT_LIMIT
            && self.held.len() < INPUT_LIMIT
            && !(self.early >= EARLY && self.may_agree())
    }

    /// There is input.
    pub(super) fn typed(&mut self) -> Option<End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = stdio::read_input(&mut buffer);
        let end = match read {
            Read::Bytes(count) => self.typed_bytes(&buffer[..count]),
            Read::Blocked => None,
            Read::End => {
                let now = Instant::now();
                self.input = Input::Ended(now, now);
                None
            }
            // The terminal is gone, and the person with it.
            Read::Gone => Some(End::Signal(Signal::SIGHUP)),
        };
        self.buffer = buffer;
        end
    }

    /// These bytes were typed, or read from a pipe.
    pub(super) fn typed_bytes(&mut self, bytes: &[u8]) -> Option<End> {
        let mut at = 0;
        let mut passed = Vec::new();
        while at < bytes.len() {
            passed.clear();
            let (typed, taken) = match &mut self.escapes {
                Some(escapes) => escapes.filter(&bytes[at..], &mut passed),
                None => {
                    passed.extend_from_slice(&bytes[at..]);
                    (Typed::Pass, bytes.len() - at)
                }
            };
            at += taken;
            if let Some(end) = self.pass(&passed) {
                return Some(end);
            }
            match typed {
                Typed::Pass => {}
                Typed::Leave | Typed::Detach if self.again.is_awaited() => return self.gives_up(),
                Typed::Leave => {
                    self.end_for_good();
                    return Some(End::Left);
                }
                Typed::Detach => {
                    if let Some(end) = self.detach() {
                        return Some(end);
                    }
                }
                Typed::Help => {
                    let help = self.escapes.as_ref().map(|escapes| escapes.help());
                    self.show(help.unwrap_or_default().as_bytes());
                }
                Typed::Suspend => self.suspend(Stopped::Group),
            }
        }
        None
    }

    /// Sends what was typed, or keeps it until it is known how.
    fn pass(&mut self, bytes: &[u8]) -> Option<End> {
        if self.again.is_awaited() {
            return self.drops(bytes);
        }
        if self.config.read_only {
            return None;
        }
        if self.holds_input() {
            self.held.extend_from_slice(bytes);
            return None;
        }
        if self.config.protocol == Protocol::Uwsgi && !self.hearing.is_extended() {
            self.note_early(bytes);
        }
        let keys = self.keys();
        let mut from = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if let Some((_, signal)) = keys.iter().find(|(key, _)| key == byte) {
                self.send_input(&bytes[from..at]);
                from = at + 1;
                if let Some(end) = self.key(*signal) {
                    return Some(end);
                }
            }
        }
        self.send_input(&bytes[from..]);
        None
    }

    /// The keys that are signals, and that the terminal leaves to us. A server that speaks the
    /// extended mode has a terminal that finds them itself.
    fn keys(&self) -> Vec<(u8, Signal)> {
        let signals = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP];
        let terminal = self.terminal.as_ref().filter(|_| self.config.isig && self.speaks_plainly());
        let key_of = |signal| Some((terminal?.taken_key_of(signal)?, signal));
        signals.into_iter().filter_map(key_of).collect()
    }

    /// This goes to a server that has not said that it speaks the extended mode.
    fn note_early(&mut self, bytes: &[u8]) {
        self.early = self.early.saturating_add(bytes.len());
        self.early_typed = self.early_typed.take().filter(|_| self.early <= EARLY_TYPED);
        if let Some(typed) = &mut self.early_typed {
            typed.extend_from_slice(bytes);
        }
    }

    /// Has what was typed before, for nobody, sent as well.
    pub fn holds(&mut self, typed: Vec<u8>) {
        self.held = typed;
    }

    /// What was typed into this session, if it came to nothing.
    pub fn take_typed(&mut self) -> Vec<u8> {
        self.early_typed.take().unwrap_or_default()
    }

    fn send_input(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.takeover.ours().is_some() {
            self.coming.typed(bytes);
            return self.to_terminal.push(bytes);
        }
        match self.config.protocol {
            Protocol::Raw => self.to_server.push(bytes),
            Protocol::Uwsgi => {
                let mut packets = Vec::with_capacity(bytes.len() + 8);
                proto::encode_input(bytes, &mut packets);
                self.to_server.push(&packets);
            }
        }
    }

    /// Sends what was kept.
    pub(super) fn release_input(&mut self) {
        if !self.holds_input() {
            let held = std::mem::take(&mut self.held);
            // Only in raw mode a key is an end, and there nothing is kept.
            let _ = self.pass(&held);
        }
    }

    /// Tells whoever is to know it that our input has ended, when it is time.
    pub(super) fn tell_the_end_of_input(&mut self) {
        if !matches!(self.input, Input::Ended(..)) || self.holds_input() {
            return;
        }
        if let Some(terminal) = self.takeover.ours_mut() {
            if self.to_terminal.is_empty() {
                self.input = Input::Told;
                terminal.end_input();
            }
        } else if self.hearing.is_extended() {
            self.input = Input::Told;
            self.send_packet(&proto::encode_bare(proto::END_OF_STREAM, 0));
        } else if self.quiet_in() == Some(Duration::ZERO) {
            self.stream.end();
            self.input = Input::Told;
        }
    }

    /// How long until a server that knows no better is told of the end of our
    /// input, where it is to be told.
    pub(super) fn quiet_in(&self) -> Option<Duration> {
        let Input::Ended(ended, heard) = self.input else {
            return None;
        };
        let now = Instant::now();
        let mut quiet = (heard + QUIET).min(ended + QUIET_AT_LAST);
        // Half a request is none, to one that agrees later.
        if let Some(until) = self.early_until.filter(|_| self.hearing.is_undecided()) {
            quiet = quiet.max(until);
        }
        self.to_server.is_empty().then(|| quiet.saturating_duration_since(now))
    }
}
