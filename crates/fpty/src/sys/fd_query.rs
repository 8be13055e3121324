//! What any descriptor is asked, or told, in one number (fstat(2), getsockopt(2),
//! ioctl(2), poll(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::{SFlag, fstat};

use super::Size;

/// A number that the kernel writes as an int.
#[derive(Clone, Copy)]
pub(super) enum Query {
    /// Bytes that were not read (FIONREAD).
    Unread = libc::FIONREAD as isize,
    /// Bytes that the peer has not taken (SIOCOUTQ, which is TIOCOUTQ).
    Unsent = libc::TIOCOUTQ as isize,
    /// The number of a pseudo-terminal, asked of its master (TIOCGPTN).
    PtyNumber = libc::TIOCGPTN as isize,
    /// A terminal's foreground process group (TIOCGPGRP).
    ForegroundGroup = libc::TIOCGPGRP as isize,
}

/// Asks for a number.
pub(super) fn query(fd: impl AsFd, which: Query) -> io::Result<libc::c_int> {
    let (request, mut query) = (which as libc::Ioctl, 0);
    // SAFETY: each of these requests writes one int.
    let asked = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut query) };
    Ok(Errno::result(asked).map(|_| query)?)
}

/// What is told in an int.
#[derive(Clone, Copy)]
pub(super) enum Switch {
    /// A terminal's slave cannot be opened (TIOCSPTLCK).
    Lock = libc::TIOCSPTLCK as isize,
    /// Each read of a terminal's master begins with a byte of its own (TIOCPKT).
    Packets = libc::TIOCPKT as isize,
}

/// Switches something on or off.
pub(super) fn switch(fd: impl AsFd, which: Switch, on: bool) -> io::Result<()> {
    let (request, on) = (which as libc::Ioctl, libc::c_int::from(on));
    // SAFETY: each of these requests reads one int.
    let told = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw const on) };
    Ok(Errno::result(told).map(drop)?)
}

/// Asks for an option of a socket (socket(7)) that is an int.
pub(super) fn option(socket: impl AsFd, name: libc::c_int) -> nix::Result<libc::c_int> {
    let mut value: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: writes at most as many bytes as one int has.
    let asked = unsafe {
        let (socket, value) = (socket.as_fd().as_raw_fd(), (&raw mut value).cast());
        libc::getsockopt(socket, libc::SOL_SOCKET, name, value, &mut length)
    };
    Errno::result(asked).map(|_| value)
}

/// Sets such an option.
pub(super) fn set_option(
    socket: impl AsFd,
    name: libc::c_int,
    value: libc::c_int,
) -> nix::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: reads one int.
    let set = unsafe {
        let (socket, value) = (socket.as_fd().as_raw_fd(), (&raw const value).cast());
        libc::setsockopt(socket, libc::SOL_SOCKET, name, value, length)
    };
    Errno::result(set).map(drop)
}

/// What kind of file it is; empty: nobody knows.
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

/// What it has now; nothing also where it cannot be asked.
pub(super) fn poll_now(fd: impl AsFd, events: PollFlags) -> PollFlags {
    poll_one(fd, events, Duration::ZERO).unwrap_or(PollFlags::empty())
}
