//! Stream sockets, of the UNIX and the TCP kind (unix(7), tcp(7)).

pub(crate) mod fd_passing;

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, getsockopt, setsockopt, sockopt,
};

use super::fd_query::{self, Query};
use super::recvmsg::as_uninit;
use super::{ReadOutcome, WriteOutcome};
use crate::error::{Context, Error, Result};

use super::socket::fd_passing::{FdPassing, PassRights, finish, passes_descriptors};

/// A socket that waits for connections and belongs to the server.
#[derive(Clone, Copy)]
pub struct ListeningSocket {
    fd: BorrowedFd<'static>,
    transport: Transport,
    /// Whether the kernel refuses descriptors for connections from here; those before
    /// that was set were accepted, too.
    refuses: Option<&'static AtomicBool>,
}

/// A connection. Reads and writes do not wait.
pub struct Stream {
    /// Taken out at the end.
    fd: ManuallyDrop<OwnedFd>,
    passing: Cell<FdPassing>,
}

/// Transport of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A UNIX socket: a peer that closes is told from one that only shuts
    /// down its writing half.
    Unix,
    /// TCP: it is not, until the next byte to it fails.
    Tcp,
}

impl Transport {
    fn of(socket: impl AsFd) -> Self {
        match getsockopt(&socket, fd_query::Domain) {
            Ok(libc::AF_UNIX) => Self::Unix,
            _ => Self::Tcp,
        }
    }
}

/// Refuses descriptors for what is accepted there, where the kernel can
/// (SO_PASSRIGHTS).
pub(super) fn refuse_descriptors(listener: impl AsFd) {
    passes_descriptors(listener, false);
}

impl ListeningSocket {
    /// A listening socket that stays open as long as the process lives.
    ///
    /// # Errors
    /// The number is no listening socket, or cannot be made non-blocking.
    pub fn of_the_server(fd: i32) -> Result<Self> {
        let not = || Error::new(format!("descriptor {fd} is not a listening socket"));
        if fd < 0 {
            return Err(not());
        }
        // SAFETY: the caller says that the server keeps it open; if it is not
        // open at all, the next call says so.
        let listener = unsafe { BorrowedFd::borrow_raw(fd) };
        if getsockopt(&listener, sockopt::AcceptConn) != Ok(true) {
            return Err(not());
        }
        let flags = fcntl(listener, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        flags
            .and_then(|flags| fcntl(listener, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)))
            .context(format!("cannot make descriptor {fd} non-blocking"))?;
        // There are dozens, for as long as the process lives.
        let refuses = passes_descriptors(listener, false)
            .then(|| &*Box::leak(Box::new(AtomicBool::new(false))));
        Ok(Self { fd: listener, transport: Transport::of(listener), refuses })
    }

    /// The transport of its connections.
    pub fn transport(self) -> Transport {
        self.transport
    }

    /// Closes the socket with an exec.
    pub fn close_on_exec(self) {
        let _ = fcntl(self.fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }

    /// Takes the next connection; `None` when there is none now, or when it
    /// went away again.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn accept(self) -> io::Result<Option<(Stream, Transport)>> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = match nix::sys::socket::accept4(self.fd.as_raw_fd(), flags) {
            Ok(fd) => fd,
            Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                return Err(errno.into());
            }
            Err(_) => return Ok(None),
        };
        super::note_descriptor(fd);
        // SAFETY: it is new and ours.
        let stream = Stream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        match self.transport {
            Transport::Tcp => stream.prepare_tcp(),
            Transport::Unix if self.refuses_for(&stream) => {}
            Transport::Unix => stream.may_bring_descriptors(),
        }
        Ok(Some((stream, self.transport)))
    }

    /// Whether nobody can have sent descriptors to a connection: it was made
    /// after that was said to the listener. They come in their order, so after
    /// the first such one nobody has to ask.
    fn refuses_for(self, stream: &Stream) -> bool {
        self.refuses.is_some_and(|all| {
            all.load(Ordering::Relaxed) || {
                let refuses = getsockopt(stream, PassRights) == Ok(false);
                all.store(refuses, Ordering::Relaxed);
                refuses
            }
        })
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

impl Stream {
    /// Two ends of a connection within this machine whose messages stay apart
    /// (SOCK_SEQPACKET, unix(7)).
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self::from(one), Self::from(other)))
    }

    /// Waits until something can be written; not for long.
    pub fn wait_for_room(&self, longest: Duration) {
        let _ = fd_query::poll_one(self, PollFlags::POLLOUT, longest);
    }

    /// Waits until something can be read; not for long. Whether it can.
    pub fn wait_for_more(&self, longest: Duration) -> bool {
        fd_query::poll_one(self, PollFlags::POLLIN, longest).is_ok_and(|found| !found.is_empty())
    }

    /// Reads bytes from a peer that may send more than those: that is closed, and
    /// then nothing more is read.
    ///
    /// # Errors
    /// As of read(2); EPROTO: the sender's share of descriptors is used up.
    pub(super) fn take(&self, buffer: &mut [MaybeUninit<u8>]) -> nix::Result<usize> {
        if self.passing.get() == FdPassing::Never {
            // SAFETY: read(2) writes at most so many bytes there.
            let count = unsafe {
                libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
            };
            // Below 0 it is an errno.
            return Errno::result(count).map(|count| count as usize);
        }
        self.take_guarded(buffer)
    }

    /// Reads; [`ReadOutcome::Eof`] when the peer will send no more.
    pub fn read(&self, buffer: &mut [u8]) -> ReadOutcome {
        super::read_outcome(self.take(as_uninit(buffer)))
    }

    /// Reads as much as the buffer has room for, in place of what was in it.
    pub fn read_into(&self, buffer: &mut Vec<u8>) -> ReadOutcome {
        buffer.clear();
        let outcome = super::read_outcome(self.take(buffer.spare_capacity_mut()));
        if let ReadOutcome::Bytes(count) = outcome {
            // SAFETY: so many were just written.
            unsafe { buffer.set_len(count) };
        }
        outcome
    }

    /// Writes, and never raises SIGPIPE.
    pub fn write(&self, bytes: &[u8]) -> WriteOutcome {
        super::write_outcome(self.send(bytes, MsgFlags::empty()))
    }

    /// send(2), which neither waits nor raises SIGPIPE.
    ///
    /// # Errors
    /// As of send(2).
    pub(super) fn send(&self, bytes: &[u8], flags: MsgFlags) -> nix::Result<usize> {
        let flags = flags | MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        nix::sys::socket::send(self.fd.as_raw_fd(), bytes, flags)
    }

    /// Writes the beginning of something whose rest follows at once (MSG_MORE,
    /// send(2)); returns how much was taken.
    pub fn write_with_more(&self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        self.send(bytes, MsgFlags::from_bits_retain(libc::MSG_MORE)).unwrap_or(0)
    }

    /// Whether the other end was closed.
    pub fn has_hung_up(&self) -> bool {
        !fd_query::poll_now(self, PollFlags::empty()).is_empty()
    }

    /// Whether the socket is a UNIX socket.
    pub fn is_unix(&self) -> bool {
        Transport::of(self) == Transport::Unix
    }

    /// How many bytes the peer has not taken: over TCP its kernel, on a UNIX
    /// socket itself, and there with what the kernel needs for them (SIOCOUTQ,
    /// tcp(7), unix(7)).
    pub fn unsent_bytes(&self) -> usize {
        fd_query::query(self, Query::UNSENT).map_or(0, |count| usize::try_from(count).unwrap_or(0))
    }

    /// Tells the peer that no more will come.
    pub fn end(&self) {
        let _ = nix::sys::socket::shutdown(self.fd.as_raw_fd(), nix::sys::socket::Shutdown::Write);
    }

    /// How long a TCP peer has acknowledged nothing although the kernel has
    /// sent it again; `None`: everything was acknowledged. Zero while the
    /// answer is not late: a peer that is there and does not read answers to
    /// every window probe. (tcp(7), TCP_INFO and SIOCOUTQ)
    pub fn unacknowledged_for(&self) -> Option<Duration> {
        if self.unsent_bytes() == 0 {
            return None;
        }
        let info = self.tcp_info();
        let late = info.tcpi_retransmits >= 3 || info.tcpi_probes >= 2;
        Some(Duration::from_millis(if late { info.tcpi_last_ack_recv.into() } else { 0 }))
    }

    /// Whether a TCP peer sends no more, even if what it sent before that was
    /// not read: it has shut down its writing half, or closed.
    pub fn peer_sends_no_more(&self) -> bool {
        /// TCP_CLOSE_WAIT of netinet/tcp.h.
        const CLOSE_WAIT: u8 = 8;
        self.tcp_info().tcpi_state == CLOSE_WAIT
    }

    /// Whether there is something to read, before the end.
    pub fn has_unread(&self) -> bool {
        fd_query::query(self, Query::UNREAD).is_ok_and(|count| count > 0)
    }

    /// Has a TCP peer that sends no more asked whether it is there every few
    /// seconds: if it has closed in truth, its kernel says so after a minute
    /// (tcp_fin_timeout, tcp(7)), and would not be asked before the next one is
    /// over. One that does not answer at all has as long as any other.
    pub fn probe_often(&self) {
        let _ = setsockopt(self, sockopt::TcpKeepIdle, &5);
        let _ = setsockopt(self, sockopt::TcpKeepInterval, &5);
        let _ = setsockopt(self, sockopt::TcpKeepCount, &24);
    }

    /// All zero for another socket.
    fn tcp_info(&self) -> libc::tcp_info {
        let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: writes at most `length` bytes of a struct of numbers, which
        // begins as all zero.
        unsafe {
            let info_at = info.as_mut_ptr().cast();
            let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
            libc::getsockopt(self.fd.as_raw_fd(), level, name, info_at, &mut length);
            info.assume_init()
        }
    }

    /// Every key wants its echo at once; and a peer whose machine vanished is
    /// noticed within two minutes (tcp(7)).
    fn prepare_tcp(&self) {
        let _ = setsockopt(self, sockopt::TcpNoDelay, &true);
        let _ = setsockopt(self, sockopt::KeepAlive, &true);
        let _ = setsockopt(self, sockopt::TcpKeepIdle, &60);
        let _ = setsockopt(self, sockopt::TcpKeepInterval, &15);
        let _ = setsockopt(self, sockopt::TcpKeepCount, &4);
    }
}

impl From<OwnedFd> for Stream {
    /// A connection within this machine between processes of our own, or one
    /// over TCP.
    fn from(fd: OwnedFd) -> Self {
        Self { fd: ManuallyDrop::new(fd), passing: Cell::new(FdPassing::Never) }
    }
}

impl From<Stream> for OwnedFd {
    /// The descriptor of a stream of which there are more copies: it closes as it is.
    fn from(stream: Stream) -> Self {
        stream.passing.set(FdPassing::Never);
        let mut stream = ManuallyDrop::new(stream);
        // SAFETY: the stream is not used any more, nor dropped.
        unsafe { ManuallyDrop::take(&mut stream.fd) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: it is not used after this.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        if self.passing.get() != FdPassing::Never {
            finish(fd);
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Connects to an address as the server writes it: a path, `@name` or
/// `\0name` (abstract), `host:port`, `:port`, `[::1]:port`.
///
/// # Errors
/// Says the address and why.
pub fn connect(address: &OsStr, timeout: Duration) -> Result<(Stream, Transport)> {
    let failed = || format!("cannot connect to {}", Path::new(address).display());
    let (fd, transport) = match address.as_bytes().contains(&b':') {
        true => (connect_tcp(address, timeout)?, Transport::Tcp),
        false => (connect_unix(address).context(failed())?, Transport::Unix),
    };
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(failed())?;
    let stream = Stream::from(fd);
    match transport {
        Transport::Tcp => stream.prepare_tcp(),
        Transport::Unix => stream.may_bring_descriptors(),
    }
    Ok((stream, transport))
}

fn connect_unix(address: &OsStr) -> io::Result<OwnedFd> {
    let connect = |address: UnixAddr| {
        let socket = nix::sys::socket::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let socket = Stream::from(socket);
        // Before anything can be sent.
        socket.ask_for_sender(true);
        nix::sys::socket::connect(socket.fd.as_raw_fd(), &address)?;
        Ok(socket.into())
    };
    let bytes = address.as_bytes();
    let Some(name) = bytes.strip_prefix(b"@").or_else(|| bytes.strip_prefix(b"\\0")) else {
        return connect(UnixAddr::new(address)?);
    };
    // The server binds an abstract name with a NUL at its end; others do not.
    let with_nul = [name, b"\0"].concat();
    connect(UnixAddr::new_abstract(&with_nul)?).or_else(|_| connect(UnixAddr::new_abstract(name)?))
}

fn connect_tcp(address: &OsStr, timeout: Duration) -> Result<OwnedFd> {
    let failed = || format!("cannot connect to {}", Path::new(address).display());
    // Names of hosts have nothing else.
    let text = address.to_str().ok_or_else(|| Error::new(format!("{}: not a host", failed())))?;
    let host = if text.starts_with(':') { "127.0.0.1" } else { "" };
    let addresses = format!("{host}{text}")
        .to_socket_addrs()
        .map_err(|error| Error::new(format!("{}: {error}", failed())))?;
    let mut last = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
    for candidate in addresses {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(stream) => return Ok(stream.into()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                last = io::Error::from_raw_os_error(libc::ETIMEDOUT);
            }
            Err(error) => last = error,
        }
    }
    Err(last).context(failed())
}
