//! Signals as something to read, so that no work is done in a handler
//! (signalfd(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::child::Pid;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that were blocked and are read instead.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks these signals for this thread and makes them readable.
    ///
    /// # Errors
    /// signalfd(2).
    pub fn read_by_signalfd(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next signal, if one came.
    pub fn next(&self) -> Option<ReceivedSignal> {
        let info = self.0.read_signal().ok()??;
        let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
        // SI_KERNEL: raised by the terminal for a key; kill(2) says SI_USER.
        let sender = i32::try_from(info.ssi_pid).ok().and_then(Pid::new);
        Some(ReceivedSignal { signal, by_terminal: info.ssi_code == libc::SI_KERNEL, sender })
    }
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedSignal {
    /// Which.
    pub signal: Signal,
    /// Whether a key of the terminal raised the signal.
    pub by_terminal: bool,
    /// The process that sent the signal; of SIGCHLD a child that ended, while others
    /// may have too.
    pub sender: Option<Pid>,
}

/// A signal that is blocked until this is dropped.
pub struct BlockedSignals(SigSet);

impl BlockedSignals {
    /// Blocks a signal for the calling thread.
    pub fn during(signal: Signal) -> Self {
        Self::set(SigSet::from(signal))
    }

    /// Blocks every signal, except those that a fault raises: for a thread
    /// that is started meanwhile, which inherits the mask.
    pub fn all() -> Self {
        let mut set = SigSet::all();
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL] {
            set.remove(fault);
        }
        Self::set(set)
    }

    fn set(signals: SigSet) -> Self {
        Self(signals.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap_or(SigSet::empty()))
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let _ = self.0.thread_set_mask();
    }
}

/// Blocks a signal for the calling thread and for good.
pub fn block(signal: Signal) {
    let _ = SigSet::from(signal).thread_block();
}

/// Makes what becomes of signals this process's own, in one that was forked
/// from a program whose application may have set anything: handlers of that
/// are no use here, an ignored SIGCHLD reaps children before they are asked
/// for, and a blocked signal would stay blocked. `kept` have handlers that
/// belong here.
pub fn own_dispositions(kept: &[Signal]) {
    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    const FAULTS: [i32; 7] = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP];
    for number in 1..=libc::SIGRTMAX() {
        let is_kept = FAULTS.contains(&number) || kept.iter().any(|kept| *kept as i32 == number);
        let handler = disposition(number);
        let ours = match number {
            libc::SIGCHLD => libc::SIG_DFL,
            _ if is_kept || handler == libc::SIG_DFL || handler == libc::SIG_IGN => continue,
            // By default they only tell, stop, or end on somebody's wish.
            libc::SIGQUIT | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH => libc::SIG_DFL,
            _ => libc::SIG_IGN,
        };
        // SAFETY: a disposition that is no handler.
        unsafe { dispose(number, ours) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// The target of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopTarget {
    /// This process alone.
    Process,
    /// The whole process group, as for a key: a shell's job.
    ProcessGroup,
}

/// Stops until somebody continues it, as Ctrl-Z does: by SIGTSTP, which is
/// blocked here and has its default action. The kernel ignores that where
/// nobody could continue us (an orphaned process group, setpgid(2)); SIGSTOP
/// would be for good.
pub fn stop(who: StopTarget) {
    // First the group: what is blocked here waits until below.
    let sent = match who {
        StopTarget::Process => nix::sys::signal::raise(Signal::SIGTSTP),
        StopTarget::ProcessGroup => {
            nix::sys::signal::killpg(nix::unistd::getpgrp(), Signal::SIGTSTP)
        }
    };
    if sent.is_ok() {
        let set = SigSet::from(Signal::SIGTSTP);
        // Here we stop.
        let _ = set.thread_unblock();
        let _ = set.thread_block();
    }
}

/// Whether a signal is ignored.
pub fn is_ignored(signal: Signal) -> bool {
    disposition(signal as i32) == libc::SIG_IGN
}

/// Disposition of a signal (sigaction(2)).
pub(super) fn disposition(number: libc::c_int) -> libc::sighandler_t {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action it fills one struct; all zero is a valid one.
    unsafe {
        libc::sigaction(number, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

/// Sets the disposition of a signal: without SA_RESTART, a call that the signal ends is
/// not begun again. Returns whether it was set.
///
/// # Safety
/// It is a disposition, or a handler that calls what a handler may.
pub(super) unsafe fn dispose(number: libc::c_int, disposition: libc::sighandler_t) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a struct that is all zero but for the disposition.
    unsafe {
        (*action.as_mut_ptr()).sa_sigaction = disposition;
        libc::sigaction(number, action.as_ptr(), std::ptr::null_mut()) == 0
    }
}

/// Ignores a signal from now on.
pub fn ignore(signal: Signal) {
    // SAFETY: no handler is installed.
    unsafe { dispose(signal as i32, libc::SIG_IGN) };
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
