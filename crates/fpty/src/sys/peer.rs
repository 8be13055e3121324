//! The process at the other end of a UNIX socket.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, setsockopt, sockopt::PassCred,
};

use super::Read;
use super::child::Pid;
use super::pidfd::PidFd;
use super::socket::Stream;

/// The process that sent something. A connection that it closed orderly and
/// one that broke with its death look the same; this tells them apart.
pub struct Sender(PidFd);

impl Sender {
    /// Whether it has ended, or is about to.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }
}

impl Stream {
    /// Writes a few bytes with copies of descriptors at the first of them
    /// (SCM_RIGHTS, unix(7)). All or nothing; returns whether it was all.
    pub fn write_with_descriptors(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = nix::sys::socket::sendmsg::<UnixAddr>(
            self.as_fd().as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[ControlMessage::ScmRights(&numbers)],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        );
        sent == Ok(bytes.len())
    }

    /// Reads, and notes the sender once it is known; then stops asking.
    /// (The kernel says who sends from the connection on: unix(7),
    /// SO_PASSCRED.)
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
                    // 0 for one that is not in our PID namespace.
                    let pid = Pid::new(credentials.pid());
                    *sender = pid.and_then(PidFd::open).map(Sender);
                }
            }
            if sender.is_some() {
                let _ = setsockopt(self, PassCred, &false);
            }
        }
        super::read_outcome(received.map(|message| message.bytes))
    }
}
