//! The three streams of a command without a terminal: which descriptors may
//! be passed to another machine's program, and the pipes for those that may
//! not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{SockType, SockaddrStorage, getpeername, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::pipe2;

use super::fd_query::{self, file_type_of};
use super::poll::HANG_UP;
use super::{ReadOutcome, WriteOutcome};

/// Standard input, by its number.
pub const INPUT: usize = 0;
/// Standard output.
pub const OUTPUT: usize = 1;
/// Standard error.
pub const ERROR: usize = 2;

/// /dev/null: the first memory device is 1:1 (Linux, devices.txt).
pub(super) const NULL: libc::dev_t = libc::makedev(1, 3);

/// Whether a descriptor of ours can become this stream of a program that we
/// do not trust: a pipe, a stream socket, or /dev/null, open for it. Not a
/// terminal, which could be typed into (TIOCSTI, ioctl_tty(2)), and not a
/// file or folder, which leads to others (/proc/self/fd, `..`).
pub fn can_be_passed(fd: BorrowedFd<'_>, number: usize) -> bool {
    let Ok(status) = fstat(fd) else {
        return false;
    };
    let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL) else {
        return false;
    };
    let flags = OFlag::from_bits_retain(flags);
    let access = flags & OFlag::O_ACCMODE;
    let wanted = if number == INPUT { OFlag::O_RDONLY } else { OFlag::O_WRONLY };
    if flags.contains(OFlag::O_PATH) || (access != wanted && access != OFlag::O_RDWR) {
        return false;
    }
    match file_type_of(status.st_mode) {
        SFlag::S_IFIFO => true,
        SFlag::S_IFSOCK => is_connected_stream(fd),
        SFlag::S_IFCHR => status.st_rdev == NULL,
        _ => false,
    }
}

/// Whether a program of this user could open a stream of its own once more
/// (`/dev/stdin`, `/dev/stderr`; proc_pid_fd(5)), as scripts do: a pipe that
/// belongs to somebody else lets nobody in. What is no pipe is no matter of
/// its owner's: a socket cannot be opened in any case, /dev/null always.
pub fn can_be_reopened(fd: BorrowedFd<'_>, number: usize, uid: u32) -> bool {
    let Ok(status) = fstat(fd) else {
        return false;
    };
    let (of_owner, of_others) = if number == INPUT { (0o400, 0o004) } else { (0o200, 0o002) };
    file_type_of(status.st_mode) != SFlag::S_IFIFO
        || uid == 0
        || status.st_mode & of_others != 0
        || (status.st_uid == uid && status.st_mode & of_owner != 0)
}

/// Gives a pipe to the user whose program gets it, or that could not open it
/// once more.
pub fn chown_to(pipe: &OwnedFd, uid: u32) {
    // Where it cannot be given away the program has it open all the same.
    let _ = nix::unistd::fchown(pipe, Some(nix::unistd::Uid::from_raw(uid)), None);
}

/// Whether a descriptor is one end of a byte stream: not a socket that listens, whose
/// connections a program could take, and none without another end.
fn is_connected_stream(fd: BorrowedFd<'_>) -> bool {
    let is_one = |domain| matches!(domain, libc::AF_UNIX | libc::AF_INET | libc::AF_INET6);
    getsockopt(&fd, fd_query::Domain).is_ok_and(is_one)
        && getsockopt(&fd, sockopt::SockType) == Ok(SockType::Stream)
        && getsockopt(&fd, sockopt::AcceptConn) == Ok(false)
        && getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok()
}

/// Our end of the pipe that a program has for a stream: it does not wait, the program's
/// does.
pub struct PipeEnd(OwnedFd);

impl PipeEnd {
    /// A new pipe for a standard input, and its end for the program.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn for_input() -> io::Result<(Self, OwnedFd)> {
        let (reads, writes) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&writes, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self(writes), reads))
    }

    /// A new pipe for an output, and its end for the program.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn for_output() -> io::Result<(Self, OwnedFd)> {
        /// Bytes that the pipe holds.
        const CAPACITY: libc::c_int = 256 * 1024;
        let (reads, writes) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&reads, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Fewer wake-ups for a stream, where the user may have so much.
        let _ = fcntl(&writes, FcntlArg::F_SETPIPE_SZ(CAPACITY));
        Ok((Self(reads), writes))
    }

    /// Writes what there is room for. SIGPIPE must be blocked or ignored.
    pub fn write(&self, bytes: &[u8]) -> WriteOutcome {
        super::write_outcome(nix::unistd::write(&self.0, bytes))
    }

    /// Reads what there is.
    pub fn read(&self, buffer: &mut [u8]) -> ReadOutcome {
        super::read_outcome(nix::unistd::read(&self.0, buffer))
    }
}

impl AsFd for PipeEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A standard descriptor of this process, by its number.
pub fn standard_fd(number: usize) -> BorrowedFd<'static> {
    debug_assert!(number < 3);
    // SAFETY: 0, 1 and 2 are never closed by us.
    unsafe { BorrowedFd::borrow_raw(number.min(2) as i32) }
}

/// Puts /dev/null in place of one of our own standard descriptors: whoever is
/// at its other end sees that we have closed it.
pub fn replace_by_null(number: usize) {
    let Ok(nothing) = std::fs::File::options().read(true).write(true).open("/dev/null") else {
        return;
    };
    // SAFETY: dup2(2) with two numbers, the second one of them 0, 1 or 2.
    while unsafe { libc::dup2(nothing.as_raw_fd(), standard_fd(number).as_raw_fd()) } < 0
        && Errno::last() == Errno::EINTR
    {}
}

/// A descriptor that was given away, and whose reader is asked for: we do not
/// have it open any more, or that reader would never see its end.
pub enum PassedStream {
    /// A pipe, by a descriptor that is for no reading or writing (O_PATH,
    /// open(2)).
    Pipe(OwnedFd),
    /// A stream socket.
    Socket,
    /// Any other file: it has no reader that could leave.
    Other,
}

impl PassedStream {
    /// The stream behind a standard descriptor of this process, before it is given
    /// away.
    pub fn of(number: usize) -> Self {
        match fd_query::file_type(standard_fd(number)) {
            SFlag::S_IFIFO => {
                reopen(standard_fd(number), OFlag::O_PATH).map_or(Self::Other, Self::Pipe)
            }
            SFlag::S_IFSOCK => Self::Socket,
            _ => Self::Other,
        }
    }

    /// Whether a pipe has no reader any more; `None`: nobody can tell.
    pub fn has_no_reader(&self) -> Option<bool> {
        let Self::Pipe(pipe) = self else {
            return None;
        };
        // Open for a moment: whoever reads it notices nothing of that.
        match reopen(pipe, OFlag::O_WRONLY | OFlag::O_NONBLOCK) {
            // A named one says so at once.
            Err(Errno::ENXIO) => Some(true),
            Err(_) => None,
            Ok(writes) => Some(!fd_query::poll_now(writes, PollFlags::empty()).is_empty()),
        }
    }
}

/// Opens what a descriptor of ours stands for once more.
///
/// # Errors
/// As of open(2); there is no /proc.
pub(super) fn reopen(fd: impl AsFd, flags: OFlag) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    nix::fcntl::open(path.as_str(), flags | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

/// Whether nobody can read any more what is written to one of our own
/// standard descriptors: a pipe or socket whose other end is closed.
pub fn has_no_reader(number: usize) -> bool {
    matches!(fd_query::file_type(standard_fd(number)), SFlag::S_IFIFO | SFlag::S_IFSOCK)
        && fd_query::poll_now(standard_fd(number), PollFlags::empty()).intersects(HANG_UP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, socket};
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    #[test]
    fn a_pipe_that_was_given_away_is_not_held_open() {
        let (reads, writes) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let path = reopen(&writes, OFlag::O_PATH).expect("/proc");
        let away = PassedStream::Pipe(path);
        assert_eq!(away.has_no_reader(), Some(false));
        drop(writes);
        assert_eq!(away.has_no_reader(), Some(false));
        assert_eq!(nix::unistd::read(&reads, &mut [0]), Ok(0), "its end is seen");
        drop(reads);
        assert_eq!(away.has_no_reader(), Some(true));
        assert_eq!(PassedStream::Socket.has_no_reader(), None);
    }

    #[test]
    fn only_what_leads_nowhere_is_passed() {
        let (reads, writes) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        assert!(can_be_passed(reads.as_fd(), INPUT) && !can_be_passed(reads.as_fd(), OUTPUT));
        assert!(can_be_passed(writes.as_fd(), ERROR) && !can_be_passed(writes.as_fd(), INPUT));
        let (stream, _other) = UnixStream::pair().expect("a socket");
        assert!(can_be_passed(stream.as_fd(), INPUT) && can_be_passed(stream.as_fd(), OUTPUT));
        let (ended, _other_end) = UnixStream::pair().expect("a socket");
        let (datagrams, _other) = UnixDatagram::pair().expect("a socket");
        assert!(!can_be_passed(datagrams.as_fd(), INPUT));
        // One whose other end has closed is a stream still.
        drop(_other_end);
        assert!(can_be_passed(ended.as_fd(), INPUT));
        let listener = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(listener.path().join("s")).expect("a listener");
        assert!(!can_be_passed(listener.as_fd(), INPUT));
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(tcp.local_addr().expect("its address")).expect("it");
        assert!(!can_be_passed(tcp.as_fd(), INPUT) && can_be_passed(client.as_fd(), OUTPUT));
        for (family, kind) in [
            (AddressFamily::Unix, SockType::Stream),
            (AddressFamily::Inet, SockType::Stream),
            (AddressFamily::Netlink, SockType::Raw),
            (AddressFamily::Unix, SockType::SeqPacket),
        ] {
            let alone = socket(family, kind, SockFlag::empty(), None).expect("a socket");
            assert!(!can_be_passed(alone.as_fd(), INPUT), "{family:?} {kind:?}");
        }
        let (packets, _other) = crate::sys::socket::Stream::pair().expect("a pair");
        assert!(!can_be_passed(packets.as_fd(), INPUT));
        let path = nix::fcntl::open("/dev/null", OFlag::O_PATH, nix::sys::stat::Mode::empty());
        assert!(!can_be_passed(path.expect("it").as_fd(), INPUT));
        let ring = crate::sys::scrollback_ring::Ring::new(0).expect("a memfd");
        assert!(!can_be_passed(ring.file().expect("its file"), INPUT));
        let pidfd = crate::sys::pidfd::PidFd::parent().expect("a pidfd");
        assert!(!can_be_passed(pidfd.as_fd(), INPUT));
        let poller = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty());
        assert!(!can_be_passed(poller.expect("an epoll").0.as_fd(), INPUT));
        let nothing = File::open("/dev/null").expect("/dev/null");
        assert!(can_be_passed(nothing.as_fd(), INPUT) && !can_be_passed(nothing.as_fd(), OUTPUT));
        for path in ["/dev/zero", "/", "/etc/passwd", "/dev/ptmx"] {
            let file = File::open(path).expect(path);
            assert!(!can_be_passed(file.as_fd(), INPUT), "{path}");
        }
    }
}
