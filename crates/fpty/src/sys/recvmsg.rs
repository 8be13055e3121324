//! recvmsg(2) with all that may come beside the bytes: descriptors (SCM_RIGHTS),
//! who has sent them (SCM_CREDENTIALS), a pidfd of the sender (SCM_PIDFD).

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::ancillary_data;
use super::syscall_timeout::ThreadTimer;

/// `SCM_PIDFD` of linux/socket.h (Linux 6.5).
const SCM_PIDFD: i32 = 4;

/// Descriptors that one read has room for: as many as the kernel passes at
/// most (SCM_MAX_FD). What it finds no room for it closes in our name, and that
/// may take as long as whoever has sent it likes.
const MAX_DESCRIPTORS: usize = 253;

/// Room for those, and for what else may be asked for: who sends, by number,
/// pidfd and label.
const CONTROL_SPACE: usize = 16 + (4 * MAX_DESCRIPTORS).next_multiple_of(8) + 512;

/// Control data begins at a multiple of its head's alignment.
#[repr(align(8))]
struct ControlBuffer(MaybeUninit<[u8; CONTROL_SPACE]>);

/// The sender of a message, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageSender {
    /// The process; 0: one of another PID namespace.
    pub pid: i32,
    /// The sender's user.
    pub uid: u32,
}

/// A message of recvmsg(2) with all that came along.
pub(super) struct ReceivedMessage {
    pub(super) count: usize,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Control data was cut: for want of descriptors, as there is room.
    pub(super) truncated: bool,
    pub(super) sender: Option<MessageSender>,
    /// The sender, where [`SCM_PIDFD`] came along.
    pub(super) pidfd: Option<OwnedFd>,
}

/// recvmsg(2) with room for descriptors and credentials; does not wait.
///
/// # Errors
/// As of recvmsg(2): EAGAIN where there is nothing.
pub(super) fn receive(
    from: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
) -> nix::Result<ReceivedMessage> {
    // What finds no number the kernel closes in our name.
    let _hurried = super::may_lack_descriptors().then(ThreadTimer::start);
    let mut control = ControlBuffer(MaybeUninit::uninit());
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
        (*header).msg_controllen = CONTROL_SPACE as _;
        (libc::recvmsg(from.as_raw_fd(), header, flags), message.assume_init())
    };
    // Below 0 it is an errno.
    let count = Errno::result(count)? as usize;
    let length = message.msg_controllen.min(CONTROL_SPACE);
    // SAFETY: so many bytes the kernel has written there.
    let written = unsafe { std::slice::from_raw_parts(control.0.as_ptr().cast::<u8>(), length) };
    let mut received = ReceivedMessage {
        count,
        descriptors: Vec::new(),
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
        sender: None,
        pidfd: None,
    };
    let all =
        ancillary_data::control_messages(written).filter(|item| item.level == libc::SOL_SOCKET);
    for ancillary_data::Item { kind, data, .. } in all {
        match kind {
            libc::SCM_RIGHTS => {
                // SAFETY: of this kind each number is a descriptor that was just
                // made for this process, and nobody else knows it.
                let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                received.descriptors.extend(ancillary_data::descriptors(data).map(owned));
            }
            // Process, user, group (struct ucred).
            libc::SCM_CREDENTIALS => {
                let mut numbers = ancillary_data::descriptors(data);
                let sender = numbers.next().zip(numbers.next());
                // A user has the bits of a number without a sign.
                received.sender = sender.map(|(pid, uid)| MessageSender { pid, uid: uid as u32 });
            }
            // Negative: an errno.
            SCM_PIDFD => {
                let fd = ancillary_data::descriptors(data).next().filter(|fd| *fd >= 0);
                // SAFETY: of this kind a number that is no error is a descriptor that was
                // just made for this process, and nobody else knows it.
                received.pidfd = fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
            }
            _ => {}
        }
    }
    Ok(received)
}

/// A buffer as memory that is written before it is read.
pub(super) fn as_uninit(buffer: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the same bytes; whoever has them writes bytes alone.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), buffer.len()) }
}
