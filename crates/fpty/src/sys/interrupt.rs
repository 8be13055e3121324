//! Calls that should not wait, of descriptors that others have copies of: who
//! has one can take the flag away that keeps a call from waiting (O_NONBLOCK
//! belongs to what was opened, not to the descriptor). A timer then ends the
//! wait.

use std::time::Duration;

/// How long a call can wait.
const LONGEST: Duration = Duration::from_millis(20);

/// A signal that ends calls, and does nothing else (SIGALRM).
#[derive(Debug)]
pub struct Interrupts(());

/// Calls are ended until this is dropped.
#[derive(Debug)]
pub struct Armed(());

extern "C" fn nothing(_: libc::c_int) {}

impl Interrupts {
    /// From now on the signal is this process's own.
    pub fn new() -> Self {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: a struct that is all zero but for a handler that does
        // nothing; without SA_RESTART a call is not begun again.
        unsafe {
            (*action.as_mut_ptr()).sa_sigaction = handler as libc::sighandler_t;
            libc::sigaction(libc::SIGALRM, action.as_ptr(), std::ptr::null_mut());
        }
        Self(())
    }

    /// Ends calls that take longer than they should.
    pub fn arm(&self) -> Armed {
        set(LONGEST);
        Armed(())
    }
}

impl Default for Interrupts {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        set(Duration::ZERO);
    }
}

/// Again and again: a signal that comes before the call would not end it.
fn set(every: Duration) {
    // Less than a second.
    let time = libc::timeval { tv_sec: 0, tv_usec: every.as_micros() as libc::suseconds_t };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: setitimer(2) reads one struct.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A pipe in blocking mode, in a process of its own: other tests' threads
    /// would get the signal.
    #[test]
    fn a_call_that_waits_is_ended() {
        let (reading, _writing) = nix::unistd::pipe().unwrap();
        // SAFETY: the child makes a few system calls.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let interrupts = Interrupts::new();
                let begin = Instant::now();
                let armed = interrupts.arm();
                let read = nix::unistd::read(&reading, &mut [0]);
                drop(armed);
                let ended = read == Err(nix::errno::Errno::EINTR);
                let soon = begin.elapsed() < Duration::from_secs(5);
                // SAFETY: ends without the test's exit handlers.
                unsafe { libc::_exit(i32::from(!(ended && soon))) };
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }
}
