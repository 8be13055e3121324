//! Signals: those that keys raise are for whoever works at the other end, the
//! others stop us, let us go on, or end us.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::outcome::End;
use super::state::Session;
use crate::proto::{self, Protocol};
use crate::sys::pty;
use crate::sys::signal::{ReceivedSignal, StopTarget, is_ignored, stop};
use crate::sys::stdio;

/// How often that is looked at which no signal tells.
pub(super) const FOREGROUND_POLL: Duration = Duration::from_millis(300);

/// What is to be done after a signal.
pub(super) enum SignalOutcome {
    /// Nothing more is to be done.
    Handled,
    /// The signal stands for this key: it was typed.
    Typed(u8),
    /// The session is over.
    End(End),
}

impl Session<'_> {
    /// Handles a signal that came.
    pub(super) fn handle_signal(&mut self, received: ReceivedSignal) -> SignalOutcome {
        let ReceivedSignal { signal, by_terminal, .. } = received;
        match signal {
            Signal::SIGWINCH => self.size_changed(),
            // We stopped and go on.
            Signal::SIGCONT => self.resume(),
            // Where standard input is no terminal, keys are for us: there
            // would be no other way out.
            Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTSTP
                if by_terminal
                    && self.terminal.is_some()
                    && self.config.protocol == Protocol::Uwsgi =>
            {
                return self.signal_from_terminal(signal);
            }
            Signal::SIGTSTP => self.suspend(StopTarget::Process),
            other => return SignalOutcome::End(End::Signal(other)),
        }
        SignalOutcome::Handled
    }

    /// A signal that the terminal was made to raise although its keys are bytes, as by
    /// a server that has this terminal as one of its own (TIOCSIG): it is taken for the
    /// key.
    fn signal_from_terminal(&mut self, signal: Signal) -> SignalOutcome {
        match self.terminal.as_ref().and_then(|terminal| terminal.key_of(signal)) {
            Some(key) => SignalOutcome::Typed(key),
            None => self.signal_key(signal).map_or(SignalOutcome::Handled, SignalOutcome::End),
        }
    }

    /// A key was pressed that stands for a signal.
    pub(super) fn signal_key(&mut self, signal: Signal) -> Option<End> {
        match (self.config.protocol, signal) {
            // Between 1 and 31.
            (Protocol::Uwsgi, _) => self.send_packet(&proto::encode_signal(signal as u8)),
            (Protocol::Raw, _) if is_ignored(signal) => {}
            (Protocol::Raw, Signal::SIGTSTP) => self.suspend(StopTarget::ProcessGroup),
            (Protocol::Raw, other) => return Some(End::Signal(other)),
        }
        None
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
