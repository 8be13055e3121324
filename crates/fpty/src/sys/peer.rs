//! The process at the other end of a UNIX socket.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, setsockopt, sockopt::PassCred,
};

use super::child::Pid;
use super::pidfd::PidFd;
use super::socket::Stream;
use super::{Read, Written};
use crate::error::errno_text;

/// What is known of the other end of a connection.
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
        self.sender.as_ref().is_some_and(PidFd::has_ended_or_does)
    }

    /// Whether it is known who sends.
    pub fn is_known(&self) -> bool {
        self.sender.is_some()
    }

    /// Why the connection can be used no more, where that is not because the
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

/// `SO_PASSPIDFD` and `SCM_PIDFD` of linux/socket.h (Linux 6.5): the kernel
/// sends a pidfd of the sender along, whatever PID namespace that is in.
const SO_PASSPIDFD: libc::c_int = 76;
const SCM_PIDFD: libc::c_int = 4;

/// Descriptors that came with bytes.
#[derive(Debug, Default)]
pub struct Arrived {
    /// In their order.
    pub descriptors: Vec<OwnedFd>,
    /// Some were lost: more came than there is room for.
    pub truncated: bool,
}

/// Descriptors that one read has room for: as many as the kernel passes at
/// most (SCM_MAX_FD).
const ROOM: usize = 253;

impl Stream {
    /// Has the kernel say who sends; see [`Stream::read_from`].
    pub(super) fn ask_for_sender(&self, on: bool) {
        let _ = setsockopt(self, PassCred, &on);
        let on = libc::c_int::from(on);
        // SAFETY: reads one int.
        let _ = unsafe {
            libc::setsockopt(
                self.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PASSPIDFD,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }

    /// Reads, and notes the sender once it is known; then stops asking.
    /// (The kernel says who sends from the connection on: unix(7),
    /// SO_PASSCRED.) A failure is noted, too.
    pub fn read_from(&self, buffer: &mut [u8], peer: &mut Peer) -> Read {
        if peer.sender.is_some() {
            return super::read_outcome(peer.note(nix::unistd::read(self, buffer)));
        }
        self.read_with_descriptors(buffer, &mut Arrived::default(), peer)
    }

    /// Writes, and never raises SIGPIPE; notes a failure.
    pub fn write_to(&self, bytes: &[u8], peer: &mut Peer) -> Written {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let sent = nix::sys::socket::send(self.as_fd().as_raw_fd(), bytes, flags);
        super::write_outcome(peer.note(sent))
    }

    /// Reads, with the descriptors that come along (SCM_RIGHTS, unix(7)); they
    /// are not passed to children.
    pub fn read_with_descriptors(
        &self,
        buffer: &mut [u8],
        arrived: &mut Arrived,
        peer: &mut Peer,
    ) -> Read {
        let mut space = nix::cmsg_space!(
            nix::sys::socket::UnixCredentials,
            std::os::fd::RawFd,
            [std::os::fd::RawFd; ROOM]
        );
        let mut pieces = [IoSliceMut::new(buffer)];
        let received = recvmsg::<UnixAddr>(
            self.as_fd().as_raw_fd(),
            &mut pieces,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        );
        if let Ok(message) = &received {
            // Not for want of room, but of descriptors: nix does not walk what
            // was cut, so whoever is told of it had better end.
            arrived.truncated |= message.flags.contains(MsgFlags::MSG_CTRUNC);
            let mut number = None;
            let mut pidfd = None;
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::ScmRights(numbers) => {
                        arrived.descriptors.extend(numbers.into_iter().map(owned));
                    }
                    ControlMessageOwned::ScmCredentials(credentials) => {
                        // 0 for one that is not in our PID namespace.
                        number = Pid::new(credentials.pid());
                    }
                    ControlMessageOwned::Unknown(control)
                        if control.cmsg_header.cmsg_type == SCM_PIDFD =>
                    {
                        let bytes = control.data_bytes.first_chunk();
                        let fd = bytes.map_or(-1, |bytes| i32::from_ne_bytes(*bytes));
                        // Negative: an errno.
                        pidfd = (fd >= 0).then(|| owned(fd));
                    }
                    _ => {}
                }
            }
            if peer.sender.is_none() {
                peer.sender = match (number, pidfd) {
                    (Some(pid), Some(pidfd)) => Some(PidFd::reopened(pid, pidfd)),
                    (None, Some(pidfd)) => Some(PidFd::reopened(Pid::UNKNOWN, pidfd)),
                    (number, None) => number.and_then(PidFd::open),
                };
                if peer.sender.is_some() {
                    self.ask_for_sender(false);
                }
            }
        }
        super::read_outcome(peer.note(received.map(|message| message.bytes)))
    }

    /// The same, as much as the buffer has room for, in place of what was in
    /// it.
    pub fn read_into_with_descriptors(&self, buffer: &mut Vec<u8>, arrived: &mut Arrived) -> Read {
        buffer.resize(buffer.capacity(), 0);
        let outcome = self.read_with_descriptors(buffer, arrived, &mut Peer::default());
        buffer.truncate(if let Read::Bytes(count) = outcome { count } else { 0 });
        outcome
    }

    /// Writes a few bytes with copies of descriptors at the first of them
    /// (SCM_RIGHTS, unix(7)): all or nothing.
    pub fn write_with_descriptors(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Written {
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
            Err(Errno::ETOOMANYREFS) => Written::Blocked,
            sent => super::write_outcome(sent),
        }
    }
}

/// A descriptor that came with a message.
fn owned(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: it was just made for this process, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
