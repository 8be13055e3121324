//! The terminal that a person sits at (termios(3)).

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::termios::{
    InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr,
    tcsetattr,
};

/// A terminal in raw mode; dropping it restores every setting exactly.
pub struct RawMode {
    before: Termios,
    raw: Termios,
}

impl RawMode {
    /// Puts the terminal on standard input into raw mode: every key is
    /// passed on as it is. With `signals`, the terminal still turns its
    /// special characters (Ctrl-C, Ctrl-\, Ctrl-Z) into signals for us.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter(signals: bool) -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.input_flags.insert(InputFlags::IGNPAR);
        raw.input_flags.remove(
            InputFlags::ISTRIP
                | InputFlags::IMAXBEL
                | InputFlags::BRKINT
                | InputFlags::INLCR
                | InputFlags::IGNCR
                | InputFlags::ICRNL
                | InputFlags::IXON
                | InputFlags::IXANY
                | InputFlags::IXOFF,
        );
        raw.local_flags.remove(
            LocalFlags::ICANON
                | LocalFlags::ECHO
                | LocalFlags::ECHOE
                | LocalFlags::ECHOK
                | LocalFlags::ECHONL
                | LocalFlags::IEXTEN,
        );
        if !signals {
            raw.local_flags.remove(LocalFlags::ISIG);
        }
        raw.output_flags.remove(OutputFlags::OPOST);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        let mode = Self { before, raw };
        mode.resume()?;
        Ok(mode)
    }

    /// Restores the settings from before, for as long as we are stopped.
    pub fn suspend(&self) {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.before);
    }

    /// Sets raw mode again.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resume(&self) -> io::Result<()> {
        Ok(tcsetattr(stdin(), SetArg::TCSANOW, &self.raw)?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.suspend();
    }
}

fn stdin() -> BorrowedFd<'static> {
    // SAFETY: descriptor 0 is never closed by us.
    unsafe { BorrowedFd::borrow_raw(0) }
}
