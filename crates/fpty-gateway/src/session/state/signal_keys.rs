//! Signal keys of a relayed terminal: Ctrl-C, Ctrl-\ and Ctrl-Z, which clients send as signals.

use nix::sys::signal::Signal;

use super::packets::PendingInput;
use super::{Session, SessionEffects, SignalKey};

/// Signals that a terminal has keys for.
const KEYS: [i32; 3] = [Signal::SIGINT as i32, Signal::SIGQUIT as i32, Signal::SIGTSTP as i32];

/// Whether a terminal has a key for the signal of this number.
pub(super) fn is_key(number: u8) -> bool {
    KEYS.contains(&number.into())
}

impl Session {
    /// Presses a signal key as often as it was pressed. Where the key drops pending input one press
    /// stands for a run of them: the signals of one moment are one to the program, too (signal(7):
    /// standard signals do not queue).
    pub(super) fn press_key(
        &mut self,
        pending: &mut PendingInput<'_>,
        effects: &mut impl SessionEffects,
    ) {
        let Some((number, times)) = pending.pressed.take() else {
            return;
        };
        if !self.terminal_open || !self.program_runs {
            return;
        }
        match effects.key(number) {
            SignalKey::DropsInput(byte) => {
                self.input.clear();
                self.send_input(&[byte], effects);
            }
            // The program may read these bytes.
            SignalKey::AsInput(byte) => {
                pending.coalesced.clear();
                pending.coalesced.resize(times, byte);
                self.send_input(pending.coalesced, effects);
                pending.coalesced.clear();
            }
            SignalKey::None => {}
        }
    }
}
