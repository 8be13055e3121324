//! Queries and switches of any descriptor, in one number (fstat(2), getsockopt(2),
//! ioctl(2), poll(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::{SFlag, fstat};
use nix::{getsockopt_impl, sockopt_impl};

use super::Size;

/// A number that the kernel writes as an int.
#[derive(Clone, Copy)]
pub(super) struct Query(libc::Ioctl);

impl Query {
    /// Bytes that were not read (FIONREAD).
    pub(super) const UNREAD: Self = Self(libc::FIONREAD);
    /// Bytes that the peer has not taken (SIOCOUTQ, which is TIOCOUTQ).
    pub(super) const UNSENT: Self = Self(libc::TIOCOUTQ);
    /// The number of a pseudo-terminal, asked of its master (TIOCGPTN).
    pub(super) const PTY_NUMBER: Self = Self(libc::TIOCGPTN);
    /// A terminal's foreground process group (TIOCGPGRP).
    pub(super) const FOREGROUND_GROUP: Self = Self(libc::TIOCGPGRP);
}

/// Asks for a number.
///
/// # Errors
/// The descriptor does not know the request (ENOTTY), or is closed.
pub(super) fn query(fd: impl AsFd, which: Query) -> io::Result<libc::c_int> {
    let (request, mut query) = (which.0, 0);
    // SAFETY: each of these requests writes one int.
    let asked = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut query) };
    Ok(Errno::result(asked).map(|_| query)?)
}

/// Switch that is set by an int (ioctl(2)).
#[derive(Clone, Copy)]
pub(super) struct IoctlFlag(libc::Ioctl);

impl IoctlFlag {
    /// A terminal's slave cannot be opened (TIOCSPTLCK).
    pub(super) const LOCK: Self = Self(libc::TIOCSPTLCK);
    /// Each read of a terminal's master begins with a byte of its own (TIOCPKT).
    pub(super) const PACKETS: Self = Self(libc::TIOCPKT);
}

/// Switches something on or off.
///
/// # Errors
/// The descriptor does not know the request (ENOTTY), or is closed.
pub(super) fn switch(fd: impl AsFd, which: IoctlFlag, on: bool) -> io::Result<()> {
    let (request, on) = (which.0, libc::c_int::from(on));
    // SAFETY: each of these requests reads one int.
    let told = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw const on) };
    Ok(Errno::result(told).map(drop)?)
}

sockopt_impl!(
    /// The domain of a socket: `AF_UNIX` (SO_DOMAIN, socket(7)).
    Domain, GetOnly, libc::SOL_SOCKET, libc::SO_DOMAIN, i32
);

/// The file type; empty: it is not known.
pub(super) fn file_type(fd: impl AsFd) -> SFlag {
    fstat(fd).map_or(SFlag::empty(), |status| file_type_of(status.st_mode))
}

/// The file type in a mode (inode(7)).
pub(super) fn file_type_of(mode: libc::mode_t) -> SFlag {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT
}

/// The size of a terminal as it is now, whoever has set it; `None`: it is none.
pub(super) fn window_size(terminal: impl AsFd) -> Option<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize.
    let asked =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (asked == 0).then_some(Size { rows: size.ws_row, cols: size.ws_col })
}

/// Waits for one descriptor, at most so long: what it has then; nothing, where it has
/// nothing.
///
/// # Errors
/// A signal has ended the wait (EINTR).
pub(super) fn poll_one(
    fd: impl AsFd,
    events: PollFlags,
    longest: Duration,
) -> nix::Result<PollFlags> {
    let timeout = PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(fd.as_fd(), events)];
    match nix::poll::poll(&mut polled, timeout)? {
        0 => Ok(PollFlags::empty()),
        _ => Ok(polled[0].revents().unwrap_or(events)),
    }
}

/// Whether a read finds something, or its end, or fails: of a terminal also what is on its
/// way there, which the kernel brings first (n_tty_poll in drivers/tty/n_tty.c).
pub(super) fn has_input(fd: impl AsFd) -> bool {
    poll_one(fd, PollFlags::POLLIN, Duration::ZERO) != Ok(PollFlags::empty())
}

/// The events of a descriptor now; none also where it cannot be asked.
pub(super) fn poll_now(fd: impl AsFd, events: PollFlags) -> PollFlags {
    poll_one(fd, events, Duration::ZERO).unwrap_or(PollFlags::empty())
}
