//! Sockets that somebody has bound and passed to the server (`fd://N`).

use std::ffi::c_int;
use std::io;
use std::ptr::addr_of_mut;
use std::sync::Mutex;

use super::guard::locked;
use crate::ffi;
use fpty::error::{Context, Result};
use fpty::sys::socket::ListeningSocket;

/// Those of the service manager's that are ours.
static OURS: Mutex<Vec<c_int>> = Mutex::new(Vec::new());

/// Takes the socket of this number; returns a copy of it, which closes with an
/// exec. The number itself stays open, for the server after a reload.
///
/// To be called before the server looks for sockets of the service manager,
/// and [`keep_from_the_server`] after that.
///
/// # Errors
/// It is no listening socket, or there is no descriptor left.
pub fn take(number: c_int) -> Result<c_int> {
    ListeningSocket::of_the_server(number)?;
    if is_of_the_service_manager(number) {
        locked(&OURS).push(number);
    }
    // SAFETY: a descriptor's number.
    unsafe { ffi::uwsgi_add_safe_fd(number) };
    // SAFETY: fcntl(2) with two numbers.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error()).context("cannot copy the descriptor");
    }
    Ok(copy)
}

/// The server takes every socket that the service manager passed for one of
/// its own (sd_listen_fds(3)): its workers would accept our clients. Takes ours
/// off its list, before it counts its workers.
pub fn keep_from_the_server() {
    let ours = locked(&OURS);
    if ours.is_empty() {
        return;
    }
    // SAFETY: a list of the server's that nobody walks now, on its only
    // thread; what is taken off is not freed.
    unsafe {
        let mut next = addr_of_mut!((*addr_of_mut!(ffi::uwsgi)).sockets);
        while let Some(socket) = (*next).as_mut() {
            if ours.contains(&socket.fd) {
                *next = socket.next;
            } else {
                next = &mut socket.next;
            }
        }
    }
}

fn is_of_the_service_manager(number: c_int) -> bool {
    let variable = |name| std::env::var(name).ok()?.trim().parse::<u32>().ok();
    variable("LISTEN_PID") == Some(std::process::id())
        && u32::try_from(number).is_ok_and(|number| {
            number >= 3 && variable("LISTEN_FDS").is_some_and(|count| number - 3 < count)
        })
}
