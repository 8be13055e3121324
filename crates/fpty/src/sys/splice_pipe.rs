//! A pipe that bytes pass through without a copy in this process
//! (splice(2)).

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};

use super::pty::Master;
use super::socket::Stream;
use super::{ReadOutcome, read_outcome};

/// A pipe between a terminal and a client.
pub struct Pipe {
    end: OwnedFd,
    start: OwnedFd,
}

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// pipe2(2).
    pub fn new() -> io::Result<Self> {
        let (end, start) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { end, start })
    }

    /// Takes at most so many bytes of what a program wrote. `None`: this
    /// kernel's terminals cannot (before Linux 5.12), or it is forbidden, and
    /// nothing was taken.
    pub fn splice_from(&self, master: &Master, most: usize) -> Option<ReadOutcome> {
        match splice(master, None, &self.start, None, most, SpliceFFlags::SPLICE_F_NONBLOCK) {
            result @ (Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::EIO)) => {
                Some(read_outcome(result))
            }
            Err(_) => None,
        }
    }

    /// Passes so many bytes on to the client. Returns how many it took.
    /// SIGPIPE must be blocked or ignored: it is raised where the client has
    /// left.
    pub fn flush(&self, client: &Stream, count: usize) -> usize {
        let mut taken = 0;
        while taken < count {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            match splice(&self.end, None, client, None, count - taken, flags) {
                Ok(0) | Err(_) => break,
                Ok(some) => taken += some,
            }
        }
        taken
    }

    /// Takes out what is left; the buffer is as large.
    pub fn read(&self, buffer: &mut [u8]) {
        let read = nix::unistd::read(&self.end, buffer);
        debug_assert_eq!(read, Ok(buffer.len()), "a pipe yields all that it holds");
    }
}
