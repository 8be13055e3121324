//! Signals: those that keys raise are for whoever works at the other end, the
//! others stop us, let us go on, or end us.

use nix::sys::signal::Signal;

use super::outcome::End;
use super::session::Session;
use crate::proto::{self, Protocol};
use crate::sys::signal::{Arrived, Stopped, stop};
use crate::sys::stdio;

impl Session<'_> {
    /// A signal came.
    pub(super) fn signal(&mut self, Arrived { signal, by_terminal, .. }: Arrived) -> Option<End> {
        match signal {
            Signal::SIGWINCH => self.size_changed(),
            // We stopped and go on.
            Signal::SIGCONT => self.resume(),
            // Where standard input is no terminal, keys are for us: there
            // would be no other way out.
            Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTSTP
                if by_terminal && self.terminal.is_some() =>
            {
                return self.key(signal);
            }
            Signal::SIGTSTP => self.suspend(Stopped::Us),
            other => return Some(End::Signal(other)),
        }
        None
    }

    /// A key was pressed that stands for a signal.
    pub(super) fn key(&mut self, signal: Signal) -> Option<End> {
        let escaped = self.escapes.as_mut().is_some_and(|escapes| escapes.signal_key());
        if self.config.protocol == Protocol::Raw {
            match signal {
                Signal::SIGTSTP => self.suspend(Stopped::Us),
                other => return Some(End::Signal(other)),
            }
            return None;
        }
        if escaped && signal == Signal::SIGTSTP {
            // The whole job got it, where the terminal is ours.
            self.suspend(Stopped::Group);
            return None;
        }
        if let Some(tilde) = self.config.escape.filter(|_| escaped) {
            self.send_input(&[tilde]);
        }
        match self.holds_input() {
            true => self.held.key(signal),
            false => self.send_key(signal),
        }
        None
    }

    /// Sends a key that stands for a signal.
    pub(super) fn send_key(&mut self, signal: Signal) {
        let key = self.terminal.as_ref().and_then(|terminal| terminal.key_of(signal));
        match key {
            // The other end's terminal does what a key does.
            Some(key) if !self.speaks_plainly() => self.send_input(&[key]),
            // Between 1 and 31.
            _ => self.send_packet(&proto::encode_signal(signal as u8)),
        }
    }

    /// Stops, with the terminal as it was before.
    pub(super) fn suspend(&mut self, who: Stopped) {
        if let Some(terminal) = &mut self.terminal {
            terminal.suspend();
        }
        stop(who);
        self.resume();
    }

    /// Goes on after a stop; in the background the terminal is not ours, and
    /// the next SIGCONT says more.
    fn resume(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            if !stdio::in_foreground() || terminal.resume().is_err() {
                return terminal.lost();
            }
        }
        self.size_changed();
    }
}
