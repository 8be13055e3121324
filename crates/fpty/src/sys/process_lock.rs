//! A lock that a process has for as long as it lives, and that others see whether
//! somebody has (fcntl_locking(2)). The kernel takes it away with the process,
//! however that ends.

use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};

use super::child::Pid;

fn whole_file(kind: libc::c_int) -> libc::flock {
    // SAFETY: a plain struct, of which all zero is one.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    // These constants are small.
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// Takes the lock of a file; whether this process has it now. It is lost when the
/// process closes any descriptor of that file.
pub fn take(file: impl AsFd) -> bool {
    fcntl(file, FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK))).is_ok()
}

/// Whether another process has the lock.
pub fn is_held(file: impl AsFd) -> bool {
    lock_of_other(file).is_some()
}

/// The process that has the lock, where it has a number in this PID namespace.
pub fn holder(file: impl AsFd) -> Option<Pid> {
    Pid::new(lock_of_other(file)?.l_pid)
}

/// The lock that another process has.
fn lock_of_other(file: impl AsFd) -> Option<libc::flock> {
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (libc::c_int::from(lock.l_type) != libc::F_UNLCK).then_some(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shm::SharedWords;

    #[test]
    fn it_is_seen_by_others_and_ends_with_its_process() {
        let (words, fd) = SharedWords::with_descriptor(1).expect("memory");
        assert!(!is_held(&fd));
        // SAFETY: the child makes a few system calls and ends without exit handlers.
        let child = match unsafe { libc::fork() } {
            0 => {
                let taken = take(&fd);
                words.words()[0].store(1 + i32::from(taken), std::sync::atomic::Ordering::SeqCst);
                loop {
                    // SAFETY: pause(2).
                    unsafe { libc::pause() };
                }
            }
            pid => pid,
        };
        while words.words()[0].load(std::sync::atomic::Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(words.words()[0].load(std::sync::atomic::Ordering::SeqCst), 2);
        assert!(is_held(&fd) && !take(&fd));
        assert_eq!(holder(&fd), Pid::new(child));
        let number = nix::unistd::Pid::from_raw(child);
        nix::sys::signal::kill(number, nix::sys::signal::Signal::SIGKILL).expect("a child");
        nix::sys::wait::waitpid(number, None).expect("a child");
        assert!(!is_held(&fd) && take(&fd));
        assert!(!is_held(&fd), "one's own is no other's");
    }
}
