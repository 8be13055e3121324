//! A process that outlives the one that started it, to see to what that
//! leaves behind.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, fork, pipe2, setsid};

/// Held by the process that is watched: when it ends, by whatever, the
/// kernel closes it.
#[derive(Debug)]
pub struct Watched(#[allow(dead_code)] OwnedFd);

/// Forks a process that sleeps until this one has ended, runs `afterwards`,
/// and ends. It is in a session of its own and keeps no descriptor.
///
/// # Errors
/// There can be no more processes or descriptors.
pub fn after_our_end(afterwards: impl FnOnce()) -> io::Result<Watched> {
    let (end, ours) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the caller has one thread, so the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(Watched(ours)),
        ForkResult::Child => {
            drop(ours);
            let _ = setsid();
            let _ = nix::sys::prctl::set_name(c"fpty-aftercare");
            close_all_but(end.as_raw_fd());
            default_signals();
            let mut end = std::fs::File::from(end);
            // Nobody writes: it returns when the last copy of the other end
            // is closed.
            while matches!(end.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::Interrupted)
            {
            }
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(afterwards));
            // SAFETY: ends the process without the server's exit handlers.
            unsafe { libc::_exit(0) }
        }
    }
}

/// The server's sockets, its log, the terminals of sessions: as long as they
/// are open here, they are open.
fn close_all_but(keep: i32) {
    let Ok(keep) = u32::try_from(keep) else {
        return;
    };
    let ranges = [(0, keep.checked_sub(1)), (keep + 1, Some(u32::MAX))];
    for (first, last) in ranges {
        if let Some(last) = last {
            // SAFETY: this process uses no descriptor but `keep` from here on.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Whoever wants this process to end may end it.
fn default_signals() {
    use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
    for one in Signal::iterator() {
        // SAFETY: the default action is no handler of ours. (KILL and STOP
        // refuse.)
        let _ = unsafe { signal(one, SigHandler::SigDfl) };
    }
    let _ = SigSet::empty().thread_set_mask();
}
