//! A process that has nothing to do with the one that started it any more.

use std::ffi::CStr;
use std::io;

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, setsid};

/// Runs `body` in a process of its own, of this name, in a session of its
/// own, with no descriptor of ours. It is nobody's child: whoever is asked
/// for its end is init.
///
/// # Errors
/// There can be no more processes.
pub fn run(name: &CStr, body: impl FnOnce()) -> io::Result<()> {
    // SAFETY: the C library makes its allocator usable in the child of a
    // threaded process; `body` is told to use no other lock.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        let _ = waitpid(child, None);
        return Ok(());
    }
    // SAFETY: as above. Errors leave nobody to tell of them.
    if let Ok(ForkResult::Child) = unsafe { fork() } {
        let _ = setsid();
        let _ = nix::sys::prctl::set_name(name);
        // SAFETY: this process uses none of them: sockets, terminals and
        // logs are open for as long as they are open here.
        unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    }
    // SAFETY: ends the process without the server's exit handlers.
    unsafe { libc::_exit(0) }
}
