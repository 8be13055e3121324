//! Signals as something to read, so that no work is done in a handler
//! (signalfd(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that were blocked and are read instead.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks these signals for this thread and makes them readable.
    ///
    /// # Errors
    /// signalfd(2).
    pub fn instead_of_handlers(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next signal, if one came.
    pub fn next(&self) -> Option<Arrived> {
        let info = self.0.read_signal().ok()??;
        let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
        // SI_KERNEL: raised by the terminal for a key; kill(2) says SI_USER.
        Some(Arrived { signal, by_terminal: info.ssi_code == libc::SI_KERNEL })
    }
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Which.
    pub signal: Signal,
    /// Whether a key of the terminal raised it.
    pub by_terminal: bool,
}

/// A signal that is blocked until this is dropped.
pub struct Blocked(SigSet);

impl Blocked {
    /// Blocks it for the calling thread.
    pub fn during(signal: Signal) -> Self {
        let before = SigSet::thread_get_mask().unwrap_or(SigSet::empty());
        block(signal);
        Self(before)
    }

    /// Blocks every signal, except those that a fault raises: for a thread
    /// that is started meanwhile, which inherits the mask.
    pub fn all() -> Self {
        let before = SigSet::thread_get_mask().unwrap_or(SigSet::empty());
        block_all();
        Self(before)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = self.0.thread_set_mask();
    }
}

/// Blocks a signal for the calling thread and for good.
pub fn block(signal: Signal) {
    let _ = SigSet::from(signal).thread_block();
}

/// Stops this process until somebody continues it, as Ctrl-Z does.
pub fn stop_ourselves() {
    let _ = nix::sys::signal::raise(Signal::SIGSTOP);
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Blocks every signal for the calling thread, except those that a fault of
/// its own raises.
fn block_all() {
    let mut set = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL] {
        set.remove(fault);
    }
    let _ = set.thread_block();
}
