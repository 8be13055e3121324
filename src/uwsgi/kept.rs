//! Descriptors that the server keeps when it executes itself anew (a reload).

use std::ffi::{OsStr, OsString, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::ffi;

/// What they are kept under.
const NAMES: [&str; 3] = ["FORKPTYROUTER_KEPT", "FORKPTYROUTER_PROOF", "FORKPTYROUTER_RECORDER"];

/// Keeps a descriptor from the server, which after a reload closes what it does
/// not know.
pub fn protect(fd: BorrowedFd<'_>) {
    // SAFETY: a number on a list of the server's.
    unsafe { ffi::uwsgi_add_safe_fd(fd.as_raw_fd()) };
}

/// Keeps a descriptor, with a note, for the server's next image. To be called
/// by the master as the last thing before that; it was protected before.
pub fn keep(name: &str, fd: BorrowedFd<'_>, note: &OsStr) {
    let number = fd.as_raw_fd();
    // SAFETY: fcntl(2) with numbers.
    unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
    let value = [number.to_string().as_bytes(), b" ", note.as_bytes()].concat();
    // SAFETY: the master has no other thread that looks at the environment at
    // this moment: it is about to be executed.
    unsafe { std::env::set_var(name, OsString::from_vec(value)) };
}

/// As soon as the library is loaded: what was kept closes with an exec again,
/// before the server executes anything, and nobody looks into this process, who
/// could take it from there.
pub fn found() {
    let values = NAMES.iter().filter_map(std::env::var_os);
    for value in values {
        super::inherited::forbid_inspection();
        let text = value.to_string_lossy();
        let numbers = text.split(' ').next().unwrap_or_default().split(',');
        // What else is noted there is no descriptor of ours.
        let numbers = numbers.filter_map(|number| number.parse::<c_int>().ok());
        for number in numbers.filter(|number| *number > 2) {
            // SAFETY: fcntl(2) with numbers; whatever it is, it was left open
            // for us.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

/// Takes what was kept under this name: a socket that is open under the number
/// that is said, and the note.
pub fn take(name: &str) -> Option<(OwnedFd, OsString)> {
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    take_if(name, |fd| getsockopt(fd, sockopt::SockType) == Ok(SockType::SeqPacket))
}

/// The same of memory.
pub fn take_memory(name: &str) -> Option<OwnedFd> {
    let is_memory = |fd: &OwnedFd| {
        // SAFETY: fcntl(2) with numbers.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) > 0 }
    };
    take_if(name, is_memory).map(|(fd, _)| fd)
}

fn take_if(name: &str, is_it: impl Fn(&OwnedFd) -> bool) -> Option<(OwnedFd, OsString)> {
    let value = std::env::var_os(name)?;
    // SAFETY: the server's only thread, while it starts.
    unsafe { std::env::remove_var(name) };
    let bytes = value.as_bytes();
    let blank = bytes.iter().position(|byte| *byte == b' ')?;
    let (number, note) = bytes.split_at(blank);
    let number: c_int = std::str::from_utf8(number).ok()?.parse().ok().filter(|fd| *fd > 2)?;
    // SAFETY: fcntl(2) with numbers: says so where there is no such descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: open, as we just saw, and ours: our last image left it to us.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    if !is_it(&fd) {
        // Somebody set the variable: the number is not ours to close.
        std::mem::forget(fd);
        return None;
    }
    Some((fd, OsString::from_vec(note[1..].to_vec())))
}
