//! The terminal that a person sits at (termios(3)).

use std::io;

use nix::sys::signal::Signal;

use super::signal::Blocked;
use super::stdio;

/// A terminal in raw mode; dropping it restores every setting exactly.
///
/// The C structs are used as they are: what they hold beyond the flags that
/// have a name must come back, too.
pub struct RawMode {
    before: libc::termios,
    raw: libc::termios,
    is_raw: bool,
}

impl RawMode {
    /// Puts the terminal on standard input into raw mode: every key is
    /// passed on as it is. With `signals`, the terminal still turns its
    /// special characters (Ctrl-C, Ctrl-\, Ctrl-Z) into signals for us.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter(signals: bool) -> io::Result<Self> {
        let mut before = std::mem::MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: tcgetattr(3) fills one termios.
        let before = unsafe {
            if libc::tcgetattr(0, before.as_mut_ptr()) < 0 {
                return Err(io::Error::last_os_error());
            }
            before.assume_init()
        };
        let mut raw = before;
        raw.c_iflag |= libc::IGNPAR;
        raw.c_iflag &= !(libc::ISTRIP
            | libc::IMAXBEL
            | libc::BRKINT
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IUCLC
            | libc::IXON
            | libc::IXANY
            | libc::IXOFF);
        raw.c_lflag &=
            !(libc::ICANON | libc::ECHO | libc::ECHOE | libc::ECHOK | libc::ECHONL | libc::IEXTEN);
        if !signals {
            raw.c_lflag &= !libc::ISIG;
        }
        raw.c_oflag &= !libc::OPOST;
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        let mut mode = Self { before, raw, is_raw: false };
        mode.resume()?;
        Ok(mode)
    }

    /// Has the terminal raise no signals for its special characters any more:
    /// they are bytes like others.
    pub fn without_signals(&mut self) {
        self.raw.c_lflag &= !libc::ISIG;
        if self.is_raw && stdio::in_foreground() {
            let _ = set(&self.raw);
        }
    }

    /// The character that the terminal takes for this signal's key; `None`:
    /// it has none.
    pub fn key_of(&self, signal: Signal) -> Option<u8> {
        let index = match signal {
            Signal::SIGINT => libc::VINTR,
            Signal::SIGQUIT => libc::VQUIT,
            Signal::SIGTSTP => libc::VSUSP,
            _ => return None,
        };
        Some(self.before.c_cc[index]).filter(|key| *key != libc::_POSIX_VDISABLE)
    }

    /// Restores the settings from before, for as long as we are stopped.
    pub fn suspend(&mut self) {
        // Settings that somebody else has made since then are theirs; so are
        // those that a foreground program has while we are in the background.
        if !std::mem::take(&mut self.is_raw) || !stdio::in_foreground() {
            return;
        }
        // Or a group that loses the foreground at this moment is stopped.
        let _blocked = Blocked::during(Signal::SIGTTOU);
        let _ = set(&self.before);
    }

    /// Sets raw mode again.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resume(&mut self) -> io::Result<()> {
        set(&self.raw)?;
        self.is_raw = true;
        Ok(())
    }

    /// The terminal is somebody else's for now: see [`RawMode::resume`].
    pub fn lost(&mut self) {
        self.is_raw = false;
    }

    /// Leaves raw mode set for good.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    /// Whether raw mode is set.
    pub fn is_raw(&self) -> bool {
        self.is_raw
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.suspend();
    }
}

fn set(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: tcsetattr(3) reads one termios.
    if unsafe { libc::tcsetattr(0, libc::TCSANOW, settings) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
