//! The process at the other end of a UNIX socket.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, setsockopt, sockopt::PassCred,
};

use super::socket::Stream;
use super::{Read, child::Pid};

/// The process that sent something. A connection that it closed orderly and
/// one that broke with its death look the same; this tells them apart.
pub struct Sender {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Stream {
    /// Asks the kernel to say who sends (unix(7), SO_PASSCRED).
    pub fn ask_for_sender(&self) {
        let _ = setsockopt(self, PassCred, &true);
    }

    /// Reads, and notes the sender once it is known; then stops asking.
    pub fn read_noting_sender(&self, buffer: &mut [u8], sender: &mut Option<Sender>) -> Read {
        if sender.is_some() {
            return self.read(buffer);
        }
        let mut space = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
        let mut pieces = [IoSliceMut::new(buffer)];
        let received = recvmsg::<UnixAddr>(
            self.as_fd().as_raw_fd(),
            &mut pieces,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        );
        if let Ok(message) = &received {
            for control in message.cmsgs().into_iter().flatten() {
                if let ControlMessageOwned::ScmCredentials(credentials) = control {
                    *sender = Sender::of(credentials.pid());
                }
            }
            if sender.is_some() {
                let _ = setsockopt(self, PassCred, &false);
            }
        }
        super::read_outcome(received.map(|message| message.bytes))
    }
}

impl Sender {
    /// `None` for one that is not in our PID namespace.
    fn of(pid: i32) -> Option<Self> {
        let pid = Pid::new(pid)?;
        // SAFETY: two numbers; returns a new descriptor or -1 (Linux 5.3).
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: it is new and ours.
        Some(Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Whether it has ended, or is about to: a process closes its
    /// descriptors first and is told of as ended last.
    pub fn has_ended(&self) -> bool {
        const PF_EXITING: u64 = 0x4;
        let mut poll = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if nix::poll::poll(&mut poll, PollTimeout::ZERO) == Ok(1) {
            return true;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // proc(5): flags is the ninth field; the second is a name in
        // parentheses.
        stat.rsplit_once(')')
            .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(6)?.parse::<u64>().ok())
            .is_some_and(|flags| flags & PF_EXITING != 0)
    }
}
