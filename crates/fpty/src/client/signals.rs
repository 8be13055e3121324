//! Signals: those that keys raise are for whoever works at the other end, the
//! others stop us, let us go on, or end us.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::outcome::End;
use super::session::Session;
use crate::proto::{self, Protocol};
use crate::sys::pty;
use crate::sys::signal::{Arrived, Stopped, is_ignored, stop};
use crate::sys::stdio;

/// How often that is looked at which no signal tells.
pub(super) const LOOK: Duration = Duration::from_millis(300);

impl Session<'_> {
    /// Does what the signals say that came; the end, where one is that.
    pub(super) fn signals_came(&mut self) -> Option<End> {
        loop {
            let end = self.signal(self.signals.next()?);
            if end.is_some() {
                return end;
            }
        }
    }

    /// A signal came.
    fn signal(&mut self, Arrived { signal, by_terminal, .. }: Arrived) -> Option<End> {
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
                return self.raised_by_terminal(signal);
            }
            Signal::SIGTSTP => self.suspend(Stopped::Us),
            other => return Some(End::Signal(other)),
        }
        None
    }

    /// Somebody had the terminal raise a signal, although its keys are bytes:
    /// a server that our terminal is one of (TIOCSIG). It is the key's.
    fn raised_by_terminal(&mut self, signal: Signal) -> Option<End> {
        match self.terminal.as_ref().and_then(|terminal| terminal.key_of(signal)) {
            Some(key) => self.typed_bytes(&[key]),
            None => self.key(signal),
        }
    }

    /// A key was pressed that stands for a signal.
    pub(super) fn key(&mut self, signal: Signal) -> Option<End> {
        match (self.config.protocol, signal) {
            // Between 1 and 31.
            (Protocol::Uwsgi, _) => self.send_packet(&proto::encode_signal(signal as u8)),
            (Protocol::Raw, _) if is_ignored(signal) => {}
            (Protocol::Raw, Signal::SIGTSTP) => self.suspend(Stopped::Group),
            (Protocol::Raw, other) => return Some(End::Signal(other)),
        }
        None
    }

    /// Stops, with the terminal as it was before.
    pub(super) fn suspend(&mut self, who: Stopped) {
        // By somebody who cannot continue us, as a shell without jobs.
        if is_ignored(Signal::SIGTSTP) {
            return self.notice("cannot suspend: SIGTSTP is ignored here");
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.suspend();
        }
        if let Some(escapes) = &mut self.escapes {
            escapes.forget();
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
    pub(super) fn look(&mut self, now: Instant) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        if terminal.is_raw() && self.terminal_is_ours {
            self.next_look = None;
        } else if self.next_look.is_none_or(|at| now >= at) {
            self.next_look = Some(now + LOOK);
            if !terminal.is_raw() {
                self.resume();
            } else if pty::size_of_ours() != self.said_size {
                self.size_changed();
            }
        }
    }
}
