//! The process at the other end of a UNIX socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, setsockopt, sockopt::PassCred};
use nix::{setsockopt_impl, sockopt_impl};

use super::background_close::{ReceivedFd, UNKNOWN_USER};
use super::child::Pid;
use super::pidfd::PidFd;
use super::recvmsg::{ReceivedMessage, as_uninit, receive};
use super::socket::Stream;
use super::{ReadOutcome, WriteOutcome};
use crate::error::errno_text;

/// Process at the other end of a connection, as far as it is known.
#[derive(Default)]
pub struct Peer {
    /// The process that sends. A connection that it closed orderly and one
    /// that broke with its death look the same; this tells them apart.
    sender: Option<PidFd>,
    failure: Option<Errno>,
}

impl Peer {
    /// Whether the process that sent something has ended, or is about to.
    pub fn has_ended(&self) -> bool {
        self.sender.as_ref().is_some_and(PidFd::has_ended_soon)
    }

    /// Whether the sending process is known.
    pub fn is_known(&self) -> bool {
        self.sender.is_some()
    }

    /// The reason why the connection can be used no more, where that is not because the
    /// other end has closed it: errno's text.
    pub fn failure(&self) -> Option<String> {
        self.failure.map(|errno| errno_text(errno as i32))
    }

    /// The kernel says a failure once.
    fn note<T: Copy>(&mut self, result: nix::Result<T>) -> nix::Result<T> {
        match result {
            Err(Errno::EAGAIN | Errno::EINTR | Errno::EPIPE) | Ok(_) => {}
            Err(errno) => self.failure = Some(errno),
        }
        result
    }
}

/// `SO_PASSPIDFD` of linux/socket.h.
const SO_PASSPIDFD: libc::c_int = 76;

sockopt_impl!(
    /// Whether the kernel sends a pidfd of the sender along, whatever PID namespace that
    /// is in (SO_PASSPIDFD, Linux 6.5).
    PassPidfd, SetOnly, libc::SOL_SOCKET, SO_PASSPIDFD, bool
);

/// Descriptors that a stranger has sent: those that nobody takes are closed
/// where nobody waits.
#[derive(Debug, Default)]
pub struct ReceivedFds {
    /// In their order.
    pub descriptors: Vec<ReceivedFd>,
    /// Some descriptors were lost: this process has too many open.
    pub truncated: bool,
}

impl ReceivedFds {
    /// Descriptors of an unknown sender.
    pub fn of(descriptors: Vec<OwnedFd>) -> Self {
        let descriptors =
            descriptors.into_iter().map(|fd| ReceivedFd::new(fd, UNKNOWN_USER)).collect();
        Self { descriptors, truncated: false }
    }
}

impl Stream {
    /// Has the kernel say who sends; see [`Stream::read_from`].
    pub(super) fn ask_for_sender(&self, on: bool) {
        let _ = setsockopt(self, PassCred, &on);
        let _ = setsockopt(self, PassPidfd, &on);
    }

    /// Reads, and notes the sender once it is known; then stops asking.
    /// (The kernel says who sends from the connection on: unix(7),
    /// SO_PASSCRED.) A failure is noted, too.
    pub fn read_from(&self, buffer: &mut [u8], peer: &mut Peer) -> ReadOutcome {
        if peer.sender.is_some() {
            return super::read_outcome(peer.note(self.take(as_uninit(buffer))));
        }
        let mut passed = ReceivedFds::default();
        let read = self.read_from_with_descriptors(buffer, &mut passed, peer);
        match passed.descriptors.is_empty() {
            true => read,
            // As it is once the sender is known.
            false => super::read_outcome(peer.note(Err(Errno::EPROTO))),
        }
    }

    /// Writes, and never raises SIGPIPE; notes a failure.
    pub fn write_to(&self, bytes: &[u8], peer: &mut Peer) -> WriteOutcome {
        super::write_outcome(peer.note(self.send(bytes, MsgFlags::empty())))
    }

    /// Reads as [`Stream::read_from`] does, with the descriptors that come along
    /// (SCM_RIGHTS, unix(7)) from a stranger; they are not passed to children.
    pub fn read_from_with_descriptors(
        &self,
        buffer: &mut [u8],
        passed: &mut ReceivedFds,
        peer: &mut Peer,
    ) -> ReadOutcome {
        let read = self.receive_with_descriptors(as_uninit(buffer), passed).map(|received| {
            if peer.sender.is_none() {
                let number = received.sender.and_then(|sender| Pid::new(sender.pid));
                peer.sender = match received.pidfd {
                    Some(pidfd) => Some(PidFd::reopened(number.unwrap_or(Pid::UNKNOWN), pidfd)),
                    None => number.and_then(PidFd::open),
                };
                if peer.sender.is_some() {
                    self.ask_for_sender(false);
                }
            }
            received.count
        });
        super::read_outcome(peer.note(read))
    }

    fn receive_with_descriptors(
        &self,
        buffer: &mut [MaybeUninit<u8>],
        passed: &mut ReceivedFds,
    ) -> nix::Result<ReceivedMessage> {
        let mut received = receive(self.as_fd(), buffer)?;
        passed.truncated |= received.truncated;
        if !received.descriptors.is_empty() {
            let user = self.user();
            let new = received.descriptors.drain(..).map(|fd| ReceivedFd::new(fd, user));
            passed.descriptors.extend(new);
        }
        Ok(received)
    }

    /// Reads with the descriptors of a stranger, as much as the buffer has room for, in
    /// place of what was in it.
    pub fn read_into_with_descriptors(
        &self,
        buffer: &mut Vec<u8>,
        passed: &mut ReceivedFds,
    ) -> ReadOutcome {
        buffer.clear();
        let received = self.receive_with_descriptors(buffer.spare_capacity_mut(), passed);
        super::read_outcome(received.map(|received| {
            // SAFETY: so many were just written.
            unsafe { buffer.set_len(received.count) };
            received.count
        }))
    }

    /// Writes a few bytes with copies of descriptors at the first of them
    /// (SCM_RIGHTS, unix(7)): all or nothing.
    pub fn write_with_descriptors(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> WriteOutcome {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = nix::sys::socket::sendmsg::<UnixAddr>(
            self.as_fd().as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[ControlMessage::ScmRights(&numbers)],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            // More descriptors are on their way than there may be.
            Err(Errno::ETOOMANYREFS) => WriteOutcome::WouldBlock,
            sent => super::write_outcome(sent),
        }
    }
}
