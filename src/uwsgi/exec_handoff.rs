//! Descriptors that the server keeps when it executes itself anew (a reload).

use std::ffi::{OsStr, OsString, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::ffi;

/// Environment variables that hold the kept descriptors' numbers.
const VARIABLES: [&str; 4] =
    ["FORKPTYROUTER_KEPT", "FORKPTYROUTER_MEMORY", "FORKPTYROUTER_PROOF", "FORKPTYROUTER_RECORDER"];

/// Keeps a descriptor from the server, which after a reload closes what it does
/// not know.
pub fn protect(fd: BorrowedFd<'_>) {
    // SAFETY: the server puts the number on a list.
    unsafe { ffi::uwsgi_add_safe_fd(fd.as_raw_fd()) };
}

/// Has a descriptor close with an exec, or not; whether there is one of that number.
pub(super) fn close_with_exec(number: c_int, closes: bool) -> bool {
    let flags = if closes { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: fcntl(2) with numbers.
    unsafe { libc::fcntl(number, libc::F_SETFD, flags) == 0 }
}

/// Keeps descriptors, with a note, for the server's next image. To be called
/// by the master as the last thing before that; they were protected before.
pub fn keep(name: &str, fds: &[BorrowedFd<'_>], note: &OsStr) {
    let number = |fd: &BorrowedFd<'_>| {
        close_with_exec(fd.as_raw_fd(), false);
        fd.as_raw_fd().to_string()
    };
    let numbers = fds.iter().map(number).collect::<Vec<_>>().join(",");
    let value = [numbers.as_bytes(), b" ", note.as_bytes()].concat();
    // SAFETY: the master is about to execute itself, and no other thread of it reads
    // the environment at this moment.
    unsafe { std::env::set_var(name, OsString::from_vec(value)) };
}

/// Sets close-on-exec again on the descriptors that the image before this one has kept:
/// as soon as the library is loaded, before the server executes anything. Returns
/// whether there are any: nobody may look into this process then, who could take them.
pub fn close_on_exec_again() -> bool {
    let mut has_kept = false;
    for value in VARIABLES.iter().filter_map(std::env::var_os) {
        has_kept = true;
        // A part that is no number is not of this plugin.
        for number in parse_note(value.as_bytes()).0.into_iter().flatten() {
            // Also where `take` will refuse the descriptor: the exec kept it open.
            close_with_exec(number, true);
        }
    }
    has_kept
}

/// Takes what was kept under this name: sockets that are open under the numbers
/// that are said, and the note.
pub fn take(name: &str) -> Option<(Vec<OwnedFd>, OsString)> {
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    take_if(name, |fd| getsockopt(fd, sockopt::SockType) == Ok(SockType::SeqPacket))
}

/// Takes a memfd that [`keep`] has kept under this name.
pub fn take_memory(name: &str) -> Option<(OwnedFd, OsString)> {
    let is_memory = |fd: &OwnedFd| {
        // SAFETY: fcntl(2) with numbers.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) > 0 }
    };
    take_if(name, is_memory).and_then(|(fds, note)| Some((fds.into_iter().next()?, note)))
}

fn take_if(name: &str, is_it: impl Fn(&OwnedFd) -> bool) -> Option<(Vec<OwnedFd>, OsString)> {
    let value = std::env::var_os(name)?;
    // SAFETY: the server starts, and has one thread.
    unsafe { std::env::remove_var(name) };
    let (numbers, note) = parse_note(value.as_bytes());
    let fds = numbers.into_iter().map(|number| take_fd(number?, &is_it));
    Some((fds.collect::<Option<_>>()?, note.to_owned()))
}

/// Parses the note that [`keep`] has written: the numbers, `None` for a descriptor that
/// is not ours, and the note.
fn parse_note(value: &[u8]) -> (Vec<Option<c_int>>, &OsStr) {
    let blank = value.iter().position(|byte| *byte == b' ');
    let (numbers, note) = value.split_at(blank.unwrap_or(value.len()));
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok().filter(|fd| *fd > 2);
    let numbers = numbers.split(|byte| *byte == b',').map(number).collect();
    (numbers, OsStr::from_bytes(note.get(1..).unwrap_or_default()))
}

fn take_fd(number: c_int, is_it: impl Fn(&OwnedFd) -> bool) -> Option<OwnedFd> {
    if !close_with_exec(number, true) {
        return None;
    }
    // SAFETY: the descriptor is open, as fcntl(2) has just shown, and has no other owner
    // in this image: the image before this one kept it open for this plugin.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    if !is_it(&fd) {
        // The variable was set by somebody else: the descriptor of that number may be
        // the server's, and is not closed.
        std::mem::forget(fd);
        return None;
    }
    Some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_a_number() {
        let apart = |text: &'static str| parse_note(text.as_bytes());
        assert_eq!(apart("7,8 a note"), (vec![Some(7), Some(8)], OsStr::new("a note")));
        assert_eq!(apart("7 "), (vec![Some(7)], OsStr::new("")));
        assert_eq!(apart("7,8,1"), (vec![Some(7), Some(8), None], OsStr::new("")));
        assert_eq!(apart("2,x,-1 "), (vec![None, None, None], OsStr::new("")));
        assert_eq!(apart(""), (vec![None], OsStr::new("")));
    }
}
