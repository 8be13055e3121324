//! Processes that we started: signals for them, and their status.

use std::io;
use std::num::NonZeroI32;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};

/// A process that is not us, not init, and no group: above 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(NonZeroI32);

/// Exit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The process ended by exit(3) with this status.
    Status(i32),
    /// A signal ended the process.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether the kernel wrote a core file.
        core: bool,
    },
}

impl Exit {
    /// Exit from a wait(2) status.
    pub(super) fn of_wait_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal { number: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
        } else {
            Self::Status(libc::WEXITSTATUS(status))
        }
    }
}

impl Pid {
    /// The id of a process in another namespace, which is never signalled.
    pub(super) const UNKNOWN: Self = Self(NonZeroI32::MAX);

    /// `None` for anything that kill(2) would take for more than one process.
    pub fn new(pid: libc::pid_t) -> Option<Self> {
        NonZeroI32::new(pid).filter(|pid| pid.get() > 1).map(Self)
    }

    /// Sends a signal by its number. It must not have been reaped, so that
    /// the number is still its own.
    ///
    /// # Errors
    /// No such signal, or no permission (a set-user-ID program).
    pub fn signal(self, number: i32) -> io::Result<()> {
        // SAFETY: no memory is involved; the pid is above 1.
        Ok(Errno::result(unsafe { libc::kill(self.0.get(), number) }).map(drop)?)
    }

    /// The number.
    pub fn as_raw(self) -> libc::pid_t {
        self.0.get()
    }

    /// Waits until it has ended, and reaps it.
    pub fn reap(self) {
        let _ = wait_for(nix::unistd::Pid::from_raw(self.as_raw()));
    }
}

/// Waits until a child has ended, and reaps it.
///
/// # Errors
/// The process is no child of ours, or was reaped.
pub(super) fn wait_for(child: nix::unistd::Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            outcome => return outcome,
        }
    }
}

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Sends a signal to the process group of a leader that has not been reaped, so
/// that the number is still its own; or of one that was proved a moment ago,
/// where the kernel has no better way. Returns whether there is such a group.
pub fn signal_group(leader: Pid, number: i32) -> bool {
    // SAFETY: no memory is involved; the group is above 1.
    unsafe { libc::kill(-leader.as_raw(), number) == 0 }
}

/// Reaps this child, if it has ended; `None`: one that has, whichever. The kernel looks
/// through all of them then.
pub fn reap_ended(child: Option<Pid>) -> Option<(Pid, Exit)> {
    loop {
        let mut status = 0;
        let which = child.map_or(-1, Pid::as_raw);
        // SAFETY: waitpid(2) writes one int.
        let pid = unsafe { libc::waitpid(which, &mut status, libc::WNOHANG) };
        if pid < 0 && Errno::last() == Errno::EINTR {
            continue;
        }
        // Not nix's: to that a real-time signal is an error.
        let exit = Exit::of_wait_status(status);
        // 1 is no child of anybody.
        return Pid::new(pid).map(|pid| (pid, exit));
    }
}
