//! Processes that leave their parent: a session of their own, no inherited descriptors.

use std::any::Any;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, fork, setsid};

use super::background_close;
use super::child::wait_for;

/// Runs `body` in a child, which ends with it: with status 1 where it panics.
fn fork_child(body: impl FnOnce()) -> nix::Result<nix::unistd::Pid> {
    let forking = background_close::lock_for_fork();
    // SAFETY: the C library makes its allocator usable in the child of a
    // threaded process; of other locks `body` is told to use none but the one
    // that is held meanwhile.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        return Ok(child);
    }
    forking.reset_in_child();
    let outcome = catch_panic(body);
    // SAFETY: ends the process without the server's exit handlers.
    unsafe { libc::_exit(outcome.is_err().into()) }
}

/// Runs `body` in a process of its own, of this name, in a session of its
/// own, with no descriptor of ours but those `kept`, which it is given. It is
/// nobody's child: whoever is asked for its end is init.
///
/// # Errors
/// There can be no more processes.
pub fn spawn(name: &CStr, kept: Vec<OwnedFd>, body: impl FnOnce(Vec<OwnedFd>)) -> io::Result<()> {
    let child = fork_child(|| {
        // Our descriptors are closed before whoever called goes on: a socket's
        // address is free when it has closed its own.
        let Some(kept) = close_all_but(kept) else {
            return;
        };
        // Errors leave nobody to tell of them.
        let _ = fork_child(|| {
            let _ = setsid();
            let _ = nix::sys::prctl::set_name(name);
            // Who started it may read these instead.
            let ends: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
            let _ = ends.thread_unblock();
            // What a panic says would go to whatever has the number 2 here.
            std::panic::set_hook(Box::new(|_| {}));
            body(kept);
        });
    })?;
    let _ = wait_for(child);
    Ok(())
}

/// Runs `body` in a child of this name and waits for its end; returns whether it
/// ended by itself.
///
/// # Errors
/// There can be no more processes.
pub fn run_and_wait(name: &CStr, body: impl FnOnce()) -> io::Result<bool> {
    let child = fork_child(|| {
        let _ = nix::sys::prctl::set_name(name);
        body();
    })?;
    Ok(wait_for(child) == Ok(WaitStatus::Exited(child, 0)))
}

/// Runs `body` in a child, which ends with it. For tests: their master forks its gateways
/// as a server does.
///
/// # Errors
/// There can be no more processes.
#[cfg(feature = "testing")]
pub fn child(body: impl FnOnce()) -> io::Result<super::child::Pid> {
    let child = fork_child(body)?;
    super::child::Pid::new(child.as_raw()).ok_or_else(|| io::ErrorKind::Other.into())
}

/// Ends this process at once, without exit handlers.
#[cfg(feature = "testing")]
pub fn exit(status: i32) -> ! {
    // SAFETY: takes a number, and does not return.
    unsafe { libc::_exit(status) }
}

/// Does something for one of many. Where that panics, whom it was about is to
/// be let go; the others do not suffer.
///
/// # Errors
/// The body panicked: the panic's payload.
pub fn catch_panic<R>(body: impl FnOnce() -> R) -> Result<R, Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(body))
}

/// Closes every descriptor but these, which become the first ones.
fn close_all_but(kept: Vec<OwnedFd>) -> Option<Vec<OwnedFd>> {
    // No more than a few.
    let count = kept.len() as i32;
    let mut moved = Vec::new();
    for fd in &kept {
        // SAFETY: fcntl(2) with two numbers. Out of the way of the next loop.
        moved.push(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, count) });
    }
    // Their numbers are about to mean something else.
    std::mem::forget(kept);
    for (number, fd) in (0..).zip(&moved) {
        // SAFETY: dup2(2) with two numbers; this process uses none of those
        // that it had: sockets, terminals and logs are open for as long as
        // they are open here.
        if unsafe { libc::dup2(*fd, number) } < 0 {
            return None;
        }
    }
    close_from(count);
    // SAFETY: just made, and nobody else's.
    Some((0..count).map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// Closes this descriptor and all above it (close_range(2); before Linux 5.9,
/// or where that is forbidden, one by one).
fn close_from(first: i32) {
    // SAFETY: close_range(2) with numbers; nothing here uses these descriptors any more.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } == 0 {
        return;
    }
    use nix::sys::resource::{Resource, getrlimit};
    const MAX_DESCRIPTOR: i32 = 1 << 20;
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(MAX_DESCRIPTOR, |(_, hard)| {
        i32::try_from(hard).unwrap_or(MAX_DESCRIPTOR).min(MAX_DESCRIPTOR)
    });
    for fd in first..limit {
        // SAFETY: close(2) with a number; nothing here uses these
        // descriptors any more.
        unsafe { libc::close(fd) };
    }
}
