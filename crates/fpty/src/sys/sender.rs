//! Messages between processes of the house, each with the word of the kernel on
//! who has sent it (SO_PASSCRED, unix(7)).

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt,
    sockopt::PassCred,
};

use super::socket::Stream;
use super::{Read, read_outcome};

/// Who has sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The process; 0: one of another PID namespace.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Descriptors that one message has room for: as many as the kernel passes at
/// most (SCM_MAX_FD).
const ROOM: usize = 253;

impl Stream {
    /// Both ends of a connection, of which the second is told who sends.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn pair_that_tells() -> std::io::Result<(Self, Self)> {
        let (one, other) = Self::pair()?;
        setsockopt(&other, PassCred, &true)?;
        Ok((one, other))
    }

    /// Reads a message, with the descriptors that come along, and who has sent
    /// it: `None` where the kernel was not asked, or cannot say.
    pub fn read_and_sender(
        &self,
        buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> (Read, Option<Sender>) {
        let mut space = nix::cmsg_space!(UnixCredentials, RawFd, [RawFd; ROOM]);
        let mut pieces = [IoSliceMut::new(buffer)];
        let received = recvmsg::<UnixAddr>(
            self.as_fd().as_raw_fd(),
            &mut pieces,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let mut sender = None;
        for control in received.iter().flat_map(|message| message.cmsgs()).flatten() {
            match control {
                ControlMessageOwned::ScmRights(numbers) => {
                    // SAFETY: they were just made for this process, and nobody
                    // else knows them.
                    let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                    descriptors.extend(numbers.into_iter().map(owned));
                }
                ControlMessageOwned::ScmCredentials(from) => {
                    sender = Some(Sender { pid: from.pid(), uid: from.uid() });
                }
                _ => {}
            }
        }
        (read_outcome(received.map(|message| message.bytes)), sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_sends() {
        let (one, other) = Stream::pair_that_tells().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        one.write(b"plain");
        one.write_with_descriptors(b"more", &[null.as_fd(), null.as_fd()]);
        let we = Sender { pid: std::process::id() as i32, uid: nix::unistd::geteuid().as_raw() };
        let mut descriptors = Vec::new();
        let mut buffer = [0; 16];
        let (read, sender) = other.read_and_sender(&mut buffer, &mut descriptors);
        assert_eq!((read, sender, descriptors.len()), (Read::Bytes(5), Some(we), 0));
        let (read, sender) = other.read_and_sender(&mut buffer, &mut descriptors);
        assert_eq!((read, sender, descriptors.len()), (Read::Bytes(4), Some(we), 2));
        let (read, sender) = other.read_and_sender(&mut buffer, &mut descriptors);
        assert_eq!((read, sender), (Read::Blocked, None));
    }
}
