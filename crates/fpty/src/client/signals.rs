//! Signals: those that keys raise are for whoever works at the other end, the
//! others stop us, let us go on, or end us.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::outcome::End;
use super::state::Session;
use crate::proto::{self, Protocol};
use crate::sys::pty;
use crate::sys::signal::{ReceivedSignal, StopTarget, is_ignored, stop};
use crate::sys::stdio;

/// Interval of looks at what no signal tells.
pub(super) const FOREGROUND_POLL: Duration = Duration::from_millis(300);

impl Session<'_> {
    /// Handles the signals that came.
    pub(super) fn handle_signals(&mut self) -> ControlFlow<End> {
        while let Some(received) = self.signals.next() {
            self.handle_signal(received)?;
        }
        Continue(())
    }

    fn handle_signal(&mut self, received: ReceivedSignal) -> ControlFlow<End> {
        let ReceivedSignal { signal, by_terminal, .. } = received;
        match signal {
            Signal::SIGWINCH => self.size_changed(),
            // We stopped and go on.
            Signal::SIGCONT => self.resume(),
            // The terminal was made to raise the signal although its keys are bytes, as by
            // a server that has this terminal as one of its own (TIOCSIG): the signal is
            // taken for the key. Where standard input is no terminal, keys are for us:
            // there would be no other way out.
            Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTSTP
                if by_terminal
                    && self.terminal.is_some()
                    && self.config.protocol == Protocol::Uwsgi =>
            {
                return match self.terminal.as_ref().and_then(|own| own.key_of(signal)) {
                    Some(key) => self.handle_input(&[key]),
                    None => self.signal_key(signal),
                };
            }
            Signal::SIGTSTP => self.suspend(StopTarget::Process),
            other => return Break(End::Signal(other)),
        }
        Continue(())
    }

    /// A key was pressed that stands for a signal.
    pub(super) fn signal_key(&mut self, signal: Signal) -> ControlFlow<End> {
        match (self.config.protocol, signal) {
            // Between 1 and 31.
            (Protocol::Uwsgi, _) => self.connection.send(&proto::encode_signal(signal as u8)),
            (Protocol::Raw, _) if is_ignored(signal) => {}
            (Protocol::Raw, Signal::SIGTSTP) => self.suspend(StopTarget::ProcessGroup),
            (Protocol::Raw, other) => return Break(End::Signal(other)),
        }
        Continue(())
    }

    /// Stops, with the terminal as it was before.
    pub(super) fn suspend(&mut self, who: StopTarget) {
        // By somebody who cannot continue us, as a shell without jobs.
        if is_ignored(Signal::SIGTSTP) {
            return self.notice("cannot suspend: SIGTSTP is ignored here");
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.suspend();
        }
        if let Some(escapes) = &mut self.escapes {
            escapes.reset();
        }
        stop(who);
        self.resume();
    }

    /// Goes on after a stop, if the terminal is ours to use.
    fn resume(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            if !stdio::in_foreground() || terminal.resume().is_err() {
                return terminal.lost();
            }
        }
        self.size_changed();
    }

    /// Looks at what no signal tells: that we are in the foreground again (not
    /// every shell continues what runs already), and the size of a terminal
    /// whose signals reach others.
    pub(super) fn poll_foreground(&mut self, now: Instant) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        if terminal.is_raw() && self.is_controlling_terminal {
            self.next_look = None;
        } else if self.next_look.is_none_or(|at| now >= at) {
            self.next_look = Some(now + FOREGROUND_POLL);
            if !terminal.is_raw() {
                self.resume();
            } else if pty::own_size() != self.sent_size {
                self.size_changed();
            }
        }
    }
}
