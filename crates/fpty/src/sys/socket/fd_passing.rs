//! Descriptors that a stranger may send along (SCM_RIGHTS, unix(7)): where they
//! are not wanted the kernel is told so; where it does not know that, or they
//! are, each read has room for them, and a connection is closed with none in it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

use super::Stream;
use crate::sys::background_close::{self, UNKNOWN_USER};
use crate::sys::recvmsg::receive;

/// Whether a stranger can send descriptors along. A received descriptor must not be
/// closed by us at once, nor by the kernel in our name (see `background_close.rs`), so each read
/// has room for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FdPassing {
    /// No descriptors can come, or none that are not our own processes'.
    Never,
    /// No more descriptors can come; some that came before may not have been read.
    Refused,
    /// Descriptors can come.
    Possible,
}

/// `SO_PASSRIGHTS` of asm-generic/socket.h.
const SO_PASSRIGHTS: libc::c_int = 83;

sockopt_impl!(
    /// Whether others may send descriptors to a UNIX socket; to what is accepted, of one
    /// that listens (SO_PASSRIGHTS, Linux 6.16). Who tries gets EPERM.
    PassRights, Both, libc::SOL_SOCKET, SO_PASSRIGHTS, bool
);

/// Says whether others may send descriptors; whether the kernel knows that.
pub(super) fn passes_descriptors(socket: impl AsFd, passes: bool) -> bool {
    setsockopt(&socket, PassRights, &passes).is_ok()
}

impl Stream {
    /// A connection of a stranger's that one of our processes has sent: it may
    /// be the last that has it.
    pub fn of_stranger(fd: OwnedFd) -> Self {
        let stream = Self::from(fd);
        stream.may_bring_descriptors();
        stream.refuse_descriptors();
        stream
    }

    /// Descriptors may come from now on, and may have before.
    pub(super) fn may_bring_descriptors(&self) {
        // A byte out of band would be dropped by a read that comes to it, and
        // what was sent along with it.
        let _ = setsockopt(self, sockopt::OobInline, &true);
        self.passing.set(FdPassing::Possible);
    }

    /// The peer on a UNIX socket may send descriptors from now on: they are taken
    /// by [`Stream::read_into_with_descriptors`].
    pub fn accept_descriptors(&self) {
        self.may_bring_descriptors();
        passes_descriptors(self.as_fd(), true);
    }

    /// No descriptors are wanted any more. Before Linux 6.16 they can be sent all
    /// the same, and whoever does has left for us.
    pub fn refuse_descriptors(&self) {
        if self.passing.get() == FdPassing::Possible && passes_descriptors(self.as_fd(), false) {
            self.passing.set(FdPassing::Refused);
        }
    }

    /// The user whose quota descriptors count for that came here.
    pub(in crate::sys) fn user(&self) -> u32 {
        self.peer_uid().unwrap_or(UNKNOWN_USER)
    }

    /// Reads bytes, and closes descriptors that came with them.
    ///
    /// # Errors
    /// As of recvmsg(2); EPROTO: the sender's share of descriptors is used up.
    #[cold]
    pub(super) fn take_guarded(&self, buffer: &mut [MaybeUninit<u8>]) -> nix::Result<usize> {
        if background_close::is_over_quota(|| self.user()) {
            return Err(Errno::EPROTO);
        }
        let buffer_is_empty = buffer.is_empty();
        let received = receive(self.as_fd(), buffer);
        // What came until then was read, and the kernel had said that before: a
        // sender that was on its way held the same lock as this read. After the
        // end nothing comes in any case.
        let is_empty = matches!(&received, Err(Errno::EAGAIN));
        let is_end = !buffer_is_empty
            && received.as_ref().is_ok_and(|it| it.count == 0 && it.descriptors.is_empty());
        if is_end || (is_empty && self.passing.get() == FdPassing::Refused) {
            self.passing.set(FdPassing::Never);
        }
        let received = received?;
        if !received.descriptors.is_empty() || received.truncated {
            let user = self.user();
            received.descriptors.into_iter().for_each(|fd| background_close::close(fd, user));
            return Err(Errno::EPROTO);
        }
        Ok(received.count)
    }
}

/// Closes a connection in which there may be descriptors, but for those itself:
/// first nothing more can come, then what is there is read.
#[cold]
pub(super) fn finish(fd: OwnedFd) {
    const READS: usize = 16;
    let stream = Stream::from(fd);
    let _ = shutdown(stream.fd.as_raw_fd(), Shutdown::Both);
    for _ in 0..READS {
        if background_close::is_over_quota(|| stream.user()) {
            break;
        }
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        match receive(stream.as_fd(), &mut buffer) {
            // Nothing is left.
            Ok(received) if received.count == 0 && received.descriptors.is_empty() => return,
            Err(Errno::EAGAIN) => return,
            Ok(received) if received.descriptors.is_empty() && !received.truncated => {}
            Ok(received) => {
                let user = stream.user();
                received.descriptors.into_iter().for_each(|fd| background_close::close(fd, user));
                break;
            }
            // An error is told once.
            Err(_) => {}
        }
    }
    let user = stream.user();
    background_close::close_later(stream.into(), user);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::background_close::lingering;
    use crate::sys::{ReadOutcome, WriteOutcome};
    use std::io::{IoSlice, Write};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    /// A connection to a stranger, and the stranger's end of it.
    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let ours = Stream::from(OwnedFd::from(ours));
        ours.may_bring_descriptors();
        (ours, theirs)
    }

    fn send(to: &UnixStream, fds: Vec<OwnedFd>, flags: MsgFlags) -> nix::Result<usize> {
        let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&numbers)];
        let sent = sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(b"x")], &control, flags, None);
        // Those that did not go are ours to close.
        fds.into_iter().for_each(|fd| background_close::close(fd, 7));
        sent
    }

    #[track_caller]
    fn at_once<T>(body: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = body();
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        result
    }

    #[test]
    fn who_sends_what_nobody_asked_for_has_left() {
        for flags in [MsgFlags::empty(), MsgFlags::MSG_OOB] {
            let (ours, mut theirs) = pair();
            theirs.write_all(b"first").unwrap();
            let mut buffer = [0; 100];
            assert_eq!(ours.read(&mut buffer), ReadOutcome::Bytes(5));
            send(&theirs, lingering(3), flags).unwrap();
            let read = at_once(|| ours.read(&mut buffer));
            assert_eq!(read, ReadOutcome::Closed, "{flags:?}");
        }
    }

    #[test]
    fn what_is_unread_is_closed_elsewhere() {
        for flags in [MsgFlags::empty(), MsgFlags::MSG_OOB] {
            let (ours, theirs) = pair();
            send(&theirs, lingering(3), flags).unwrap();
            let _ = (&theirs).write_all(&[b'x'; 100_000][..50_000]);
            send(&theirs, lingering(3), MsgFlags::empty()).unwrap();
            at_once(|| drop(ours));
            assert!(send(&theirs, Vec::new(), MsgFlags::empty()).is_err(), "it is closed");
        }
    }

    /// Before Linux 6.16 they still can.
    #[test]
    fn after_the_last_one_a_read_is_a_read() {
        let (ours, theirs) = pair();
        send(&theirs, lingering(1), MsgFlags::empty()).unwrap();
        ours.refuse_descriptors();
        let is_new = ours.passing.get() == FdPassing::Refused;
        assert_eq!(send(&theirs, lingering(1), MsgFlags::empty()).is_err(), is_new);
        assert_eq!(at_once(|| ours.read(&mut [0; 1])), ReadOutcome::Closed);
        let (ours, mut theirs) = pair();
        ours.refuse_descriptors();
        theirs.write_all(b"x").unwrap();
        assert_eq!(ours.read(&mut [0; 10]), ReadOutcome::Bytes(1));
        assert_ne!(ours.passing.get(), FdPassing::Never);
        assert_eq!(ours.read(&mut [0; 10]), ReadOutcome::WouldBlock);
        assert_eq!(ours.passing.get() == FdPassing::Never, is_new);
        ours.accept_descriptors();
        send(&theirs, lingering(1), MsgFlags::empty()).unwrap();
        let mut passed = crate::sys::peer_process::ReceivedFds::default();
        let mut buffer = Vec::with_capacity(10);
        assert_eq!(
            ours.read_into_with_descriptors(&mut buffer, &mut passed),
            ReadOutcome::Bytes(1)
        );
        assert_eq!(passed.descriptors.len(), 1);
        at_once(|| drop(passed));
        assert_eq!(ours.write(b"y"), WriteOutcome::Bytes(1));
    }
}
