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

/// The process that sent something. A connection that it closed orderly and
/// one that broke with its death look the same; this tells them apart.
pub struct Sender(PidFd);

impl Sender {
    /// Whether it has ended, or is about to.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended_or_does()
    }
}

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
    /// Reads, with the descriptors that come along (SCM_RIGHTS, unix(7)); they
    /// are not passed to children. Of the sender see
    /// [`Stream::read_noting_sender`].
    pub fn read_with_descriptors(
        &self,
        buffer: &mut [u8],
        arrived: &mut Arrived,
        sender: &mut Option<Sender>,
    ) -> Read {
        let mut space =
            nix::cmsg_space!(nix::sys::socket::UnixCredentials, [std::os::fd::RawFd; ROOM]);
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
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::ScmRights(numbers) => {
                        // SAFETY: they were just made for this process, and
                        // nobody else knows them.
                        let owned =
                            numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                        arrived.descriptors.extend(owned);
                    }
                    ControlMessageOwned::ScmCredentials(credentials) if sender.is_none() => {
                        // 0 for one that is not in our PID namespace.
                        *sender = Pid::new(credentials.pid()).and_then(PidFd::open).map(Sender);
                    }
                    _ => {}
                }
            }
            if sender.is_some() {
                let _ = setsockopt(self, PassCred, &false);
            }
        }
        super::read_outcome(received.map(|message| message.bytes))
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
