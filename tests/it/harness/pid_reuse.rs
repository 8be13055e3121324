//! Processes that get the number of one that was there before.

use std::ffi::CString;
use std::io;

use super::process::Process;
use super::{comes_true, users};

/// Arguments of clone3(2), in its first version that takes a number.
#[repr(C)]
#[derive(Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

/// A stranger: it leads a session and a process group of its own, sleeps, and
/// ends by any signal.
pub struct Stranger(i32);

impl Stranger {
    /// Whether the kernel lets us choose a number.
    pub fn can_be() -> bool {
        users::can_be_others()
    }

    /// One with this number, as soon as nobody has it.
    #[track_caller]
    pub fn with_number(number: i32) -> Self {
        let mut failure = None;
        let came = comes_true(super::DEADLINE, || match clone_with(number) {
            Ok(()) => true,
            Err(error) => {
                failure = Some(error);
                false
            }
        });
        assert!(came, "no process can have the number {number}: {failure:?}");
        let stranger = Self(number);
        assert!(comes_true(super::DEADLINE, || stranger.lives()), "it does not sleep");
        stranger
    }

    /// Whether the process still sleeps: nobody has signalled it.
    pub fn lives(&self) -> bool {
        Process::of(self.0).is_some_and(|it| it.name == "sleep" && it.state == 'S')
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0);
        // It is our child, and was not reaped.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}

fn clone_with(number: i32) -> io::Result<()> {
    let sleep = CString::new("/bin/sleep").unwrap();
    let seconds = CString::new("1000").unwrap();
    let argv = [sleep.as_ptr(), seconds.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    let mut arguments = Arguments {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: (&raw const number) as u64,
        set_tid_size: 1,
        ..Arguments::default()
    };
    // SAFETY: a child with a copy of our memory, as after fork(2), which makes
    // system calls and nothing else.
    unsafe {
        let size = size_of::<Arguments>();
        match libc::syscall(libc::SYS_clone3, &raw mut arguments, size) {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::setsid();
                libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
                libc::execve(sleep.as_ptr(), argv.as_ptr(), environment.as_ptr());
                libc::_exit(127)
            }
            _ => Ok(()),
        }
    }
}
