//! The process at the other end of a UNIX socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, setsockopt, sockopt::PassCred};

use super::ancillary_data;
use super::child::Pid;
use super::closer::{Foreign, NOBODY};
use super::fd_query;
use super::itimer_guard::Hurried;
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
const SCM_PIDFD: i32 = 4;

/// Descriptors that a stranger has sent: those that nobody takes are closed
/// where nobody waits.
#[derive(Debug, Default)]
pub struct Passed {
    /// In their order.
    pub descriptors: Vec<Foreign>,
    /// Some were lost: we have too many open.
    pub truncated: bool,
}

impl Passed {
    /// Of whom nothing is known.
    pub fn of(descriptors: Vec<OwnedFd>) -> Self {
        let descriptors = descriptors.into_iter().map(|fd| Foreign::new(fd, NOBODY)).collect();
        Self { descriptors, truncated: false }
    }

    fn add(&mut self, received: &mut Received, user: impl FnOnce() -> u32) {
        self.truncated |= received.truncated;
        if !received.descriptors.is_empty() {
            let user = user();
            let new = received.descriptors.drain(..).map(|fd| Foreign::new(fd, user));
            self.descriptors.extend(new);
        }
    }
}

/// Descriptors that one read has room for: as many as the kernel passes at
/// most (SCM_MAX_FD). What it finds no room for it closes in our name, and that
/// may take as long as whoever has sent it likes.
const ROOM: usize = 253;

/// Room for those, and for what else may be asked for: who sends, by number,
/// pidfd and label.
const SPACE: usize = 16 + (4 * ROOM).next_multiple_of(8) + 512;

/// Control data begins at a multiple of its head's alignment.
#[repr(align(8))]
struct Control(MaybeUninit<[u8; SPACE]>);

/// What a message has brought.
pub(super) struct Received {
    pub(super) count: usize,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Control data was cut: for want of descriptors, as there is room.
    pub(super) truncated: bool,
    /// Process and user; a process that is not in our PID namespace is 0.
    pub(super) sender: Option<(i32, u32)>,
    pidfd: Option<OwnedFd>,
}

/// Reads bytes with all that comes along; does not wait.
pub(super) fn receive(
    from: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
) -> nix::Result<Received> {
    // What finds no number the kernel closes in our name.
    let _hurried = super::is_short_of_descriptors().then(Hurried::new);
    let mut control = Control(MaybeUninit::uninit());
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = MaybeUninit::<libc::msghdr>::zeroed();
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: a header that is all zero but for two buffers, each of the length
    // that is said, which outlive the call; recvmsg(2) writes no more than that.
    let (count, message) = unsafe {
        let header = message.as_mut_ptr();
        (*header).msg_iov = &raw mut piece;
        (*header).msg_iovlen = 1;
        (*header).msg_control = control.0.as_mut_ptr().cast();
        (*header).msg_controllen = SPACE as _;
        (libc::recvmsg(from.as_raw_fd(), header, flags), message.assume_init())
    };
    // Below 0 it is an errno.
    let count = Errno::result(count)? as usize;
    let length = message.msg_controllen.min(SPACE);
    // SAFETY: so many bytes the kernel has written there.
    let written = unsafe { std::slice::from_raw_parts(control.0.as_ptr().cast::<u8>(), length) };
    let mut received = Received {
        count,
        descriptors: Vec::new(),
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
        sender: None,
        pidfd: None,
    };
    let all = ancillary_data::items(written).filter(|item| item.level == libc::SOL_SOCKET);
    for ancillary_data::Item { kind, data, .. } in all {
        match kind {
            libc::SCM_RIGHTS => {
                // SAFETY: of this kind each number is a descriptor that was just
                // made for this process, and nobody else knows it.
                let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                received.descriptors.extend(ancillary_data::numbers(data).map(owned));
            }
            // Process, user, group (struct ucred).
            libc::SCM_CREDENTIALS => {
                let mut numbers = ancillary_data::numbers(data);
                // A user has the bits of a number without a sign.
                received.sender = numbers.next().zip(numbers.next().map(|uid| uid as u32));
            }
            // Negative: an errno.
            SCM_PIDFD => {
                let fd = ancillary_data::numbers(data).next().filter(|fd| *fd >= 0);
                // SAFETY: as above.
                received.pidfd = fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
            }
            _ => {}
        }
    }
    Ok(received)
}

/// A buffer that is written before it is read.
pub(super) fn room(buffer: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the same bytes; whoever has them writes bytes alone.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), buffer.len()) }
}

impl Stream {
    /// Has the kernel say who sends; see [`Stream::read_from`].
    pub(super) fn ask_for_sender(&self, on: bool) {
        let _ = setsockopt(self, PassCred, &on);
        let _ = fd_query::set_option(self, SO_PASSPIDFD, on.into());
    }

    /// Reads, and notes the sender once it is known; then stops asking.
    /// (The kernel says who sends from the connection on: unix(7),
    /// SO_PASSCRED.) A failure is noted, too.
    pub fn read_from(&self, buffer: &mut [u8], peer: &mut Peer) -> Read {
        if peer.sender.is_some() {
            return super::read_outcome(peer.note(self.take(room(buffer))));
        }
        let mut passed = Passed::default();
        let read = self.read_passed(buffer, &mut passed, peer);
        match passed.descriptors.is_empty() {
            true => read,
            // As it is once the sender is known.
            false => super::read_outcome(peer.note(Err(Errno::EPROTO))),
        }
    }

    /// Writes, and never raises SIGPIPE; notes a failure.
    pub fn write_to(&self, bytes: &[u8], peer: &mut Peer) -> Written {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let sent = nix::sys::socket::send(self.as_fd().as_raw_fd(), bytes, flags);
        super::write_outcome(peer.note(sent))
    }

    /// The same, with the descriptors that come along (SCM_RIGHTS, unix(7)) from a
    /// stranger; they are not passed to children.
    pub fn read_passed(&self, buffer: &mut [u8], passed: &mut Passed, peer: &mut Peer) -> Read {
        let received = self.receive_from(room(buffer), peer);
        let read = received.map(|mut received| {
            passed.add(&mut received, || self.user());
            received.count
        });
        super::read_outcome(peer.note(read))
    }

    fn receive_from(
        &self,
        buffer: &mut [MaybeUninit<u8>],
        peer: &mut Peer,
    ) -> nix::Result<Received> {
        let mut received = receive(self.as_fd(), buffer)?;
        if peer.sender.is_none() {
            let number = received.sender.and_then(|(pid, _)| Pid::new(pid));
            peer.sender = match (number, received.pidfd.take()) {
                (Some(pid), Some(pidfd)) => Some(PidFd::reopened(pid, pidfd)),
                (None, Some(pidfd)) => Some(PidFd::reopened(Pid::UNKNOWN, pidfd)),
                (number, None) => number.and_then(PidFd::open),
            };
            if peer.sender.is_some() {
                self.ask_for_sender(false);
            }
        }
        Ok(received)
    }

    /// The same from a stranger, as much as the buffer has room for, in place of
    /// what was in it.
    pub fn read_into_with_descriptors(&self, buffer: &mut Vec<u8>, passed: &mut Passed) -> Read {
        buffer.clear();
        let received = receive(self.as_fd(), buffer.spare_capacity_mut());
        if let Ok(received) = &received {
            // SAFETY: so many were just written.
            unsafe { buffer.set_len(received.count) };
        }
        super::read_outcome(received.map(|mut received| {
            passed.add(&mut received, || self.user());
            received.count
        }))
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
