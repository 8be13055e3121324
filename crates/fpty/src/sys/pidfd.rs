//! A process that is not ours to reap (pidfd_open(2)).

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::child::Pid;

/// A process, and no other that gets its number later.
#[derive(Debug)]
pub struct PidFd {
    pid: Pid,
    fd: OwnedFd,
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PidFd {
    /// `None` where there is no such process, or a kernel before Linux 5.3.
    pub fn open(pid: Pid) -> Option<Self> {
        // SAFETY: two numbers; returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: it is new and ours.
        Some(Self { pid, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Its number, as long as it has not been reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has ended, or is about to: a process closes its
    /// descriptors first and is told of as ended last.
    pub fn has_ended(&self) -> bool {
        const PF_EXITING: u64 = 0x4;
        let told = || {
            let mut poll = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            nix::poll::poll(&mut poll, PollTimeout::ZERO) == Ok(1)
        };
        if told() {
            return true;
        }
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            // Reaped meanwhile; or there is no /proc here.
            return told();
        };
        // proc(5): flags is the ninth field; the second is a name in
        // parentheses.
        stat.rsplit_once(')')
            .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(6)?.parse::<u64>().ok())
            .is_some_and(|flags| flags & PF_EXITING != 0)
    }
}
