//! The terminal that a person sits at (termios(3)).

use std::io;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::signal::{self, BlockedSignals};
use super::stdio;

/// How often a job stops that is continued in the background.
const MAX_STOPS: usize = 100;

/// Stops a job in the background that is about to use its terminal, as the
/// terminal would (SIGTTOU), until it is in the foreground. One that lets
/// itself not be stopped, or that nobody could continue, goes on.
pub fn wait_for_foreground() {
    let may_be_stopped = stdio::stdin_is_a_terminal() && !signal::is_ignored(Signal::SIGTTOU);
    for _ in 0..MAX_STOPS {
        if !may_be_stopped || stdio::in_foreground() {
            return;
        }
        let _ = nix::sys::signal::killpg(nix::unistd::getpgrp(), Signal::SIGTTOU);
    }
}

/// A terminal in raw mode; dropping it restores every setting exactly.
///
/// The C structs are used as they are: what they hold beyond the flags that
/// have a name must come back, too.
pub struct RawMode {
    before: libc::termios,
    raw: libc::termios,
    raises: KeySignals,
    is_raw: bool,
}

/// Keys that still raise signals for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySignals {
    /// Ctrl-C, Ctrl-\ and Ctrl-Z.
    All,
    /// All but Ctrl-Z: who waits for us would stop at once, too, and have
    /// somebody go on at a raw terminal.
    Interrupts,
    /// No keys.
    Nothing,
}

impl RawMode {
    /// Puts the terminal on standard input into raw mode: every key is
    /// passed on as it is, but for those that still raise signals.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter(raises: KeySignals) -> io::Result<Self> {
        // What a line editor has set while we are in the background is not what is
        // to come back.
        wait_for_foreground();
        let before = get()?;
        let mut mode = Self { before, raw: raw_of(before, raises), raises, is_raw: false };
        // One that lets itself not be stopped would change it under the foreground
        // program.
        if stdio::in_foreground() || !signal::is_ignored(Signal::SIGTTOU) {
            mode.resume()?;
        }
        Ok(mode)
    }

    /// The character that raised this signal before, and is a byte now.
    pub fn disabled_key_of(&self, signal: Signal) -> Option<u8> {
        let raises = |settings: &libc::termios| {
            let key = settings.c_cc[index_of(signal)?];
            let is_one = settings.c_lflag & libc::ISIG != 0 && key != libc::_POSIX_VDISABLE;
            is_one.then_some(key)
        };
        raises(&self.before).filter(|_| raises(&self.raw).is_none())
    }

    /// The character that the terminal takes for this signal's key; `None`:
    /// it has none.
    pub fn key_of(&self, signal: Signal) -> Option<u8> {
        Some(self.before.c_cc[index_of(signal)?]).filter(|key| *key != libc::_POSIX_VDISABLE)
    }

    /// Restores the settings from before, for as long as we are stopped.
    pub fn suspend(&mut self) {
        if !std::mem::take(&mut self.is_raw) {
            return;
        }
        // Settings that a foreground program has made while we are in the
        // background are its own; ours are not to be left to it.
        if !stdio::in_foreground() && !self.are_still_ours() {
            return;
        }
        // Or a group that loses the foreground at this moment is stopped.
        let _blocked = BlockedSignals::during(Signal::SIGTTOU);
        let _ = set(&self.before);
    }

    /// Sets raw mode again. What was set there is what comes back at the end: what
    /// we found in the background, or before we stopped, may have been a line
    /// editor's, and somebody may have changed it since.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resume(&mut self) -> io::Result<()> {
        if !self.is_raw && !self.are_still_ours() {
            self.before = get()?;
            self.raw = raw_of(self.before, self.raises);
        }
        set(&self.raw)?;
        self.is_raw = true;
        Ok(())
    }

    /// Notes that the terminal is another job's for now: see [`RawMode::resume`].
    pub fn lost(&mut self) {
        self.is_raw = false;
    }

    fn are_still_ours(&self) -> bool {
        let ours = &self.raw;
        get().is_ok_and(|now| {
            (now.c_iflag, now.c_oflag, now.c_cflag, now.c_lflag, now.c_cc)
                == (ours.c_iflag, ours.c_oflag, ours.c_cflag, ours.c_lflag, ours.c_cc)
        })
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

/// The index of a signal's key in a terminal's settings.
pub(super) fn index_of(signal: Signal) -> Option<usize> {
    match signal {
        Signal::SIGINT => Some(libc::VINTR),
        Signal::SIGQUIT => Some(libc::VQUIT),
        Signal::SIGTSTP => Some(libc::VSUSP),
        _ => None,
    }
}

/// The settings of raw mode, made of these.
fn raw_of(before: libc::termios, raises: KeySignals) -> libc::termios {
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
    match raises {
        KeySignals::All => {}
        KeySignals::Interrupts => raw.c_cc[libc::VSUSP] = libc::_POSIX_VDISABLE,
        KeySignals::Nothing => raw.c_lflag &= !libc::ISIG,
    }
    raw.c_oflag &= !libc::OPOST;
    raw.c_cc[libc::VMIN] = 1;
    raw.c_cc[libc::VTIME] = 0;
    raw
}

fn get() -> io::Result<libc::termios> {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: tcgetattr(3) fills one termios.
    unsafe {
        Errno::result(libc::tcgetattr(0, settings.as_mut_ptr()))?;
        Ok(settings.assume_init())
    }
}

fn set(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: tcsetattr(3) reads one termios.
    Ok(Errno::result(unsafe { libc::tcsetattr(0, libc::TCSANOW, settings) }).map(drop)?)
}
