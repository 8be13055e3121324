//! Calls that should not wait, of descriptors that others have copies of: who
//! has one can take the flag away that keeps a call from waiting (O_NONBLOCK
//! belongs to what was opened, not to the descriptor). A timer then ends the
//! wait.
//!
//! For the loop of a gateway signal and timer are the process's: one thread
//! arms, the one that gets SIGALRM, and every other one has to block that. A
//! thread that closes what others have sent has a timer of its own
//! ([`ThreadTimer`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use super::signal::{dispose, disposition};

/// How long a call can wait. One that does not wait takes a thousandth of that.
const MAX_WAIT: Duration = Duration::from_millis(2);

/// The timer runs.
static ARMED: AtomicBool = AtomicBool::new(false);

/// Whether the timer has expired since this was last asked.
static FIRED: AtomicBool = AtomicBool::new(false);

/// The process's timer while it is armed: until this is dropped it ends calls that
/// block, where this was the first to arm it.
#[derive(Debug)]
pub struct ArmedTimer {
    is_first: bool,
}

extern "C" fn note(_: libc::c_int) {
    FIRED.store(true, Ordering::Relaxed);
}

/// From now on the signal is this process's own, and this thread's.
fn take_signal() {
    let handler: extern "C" fn(libc::c_int) = note;
    // SAFETY: a handler that stores one atomic.
    unsafe { dispose(libc::SIGALRM, handler as libc::sighandler_t) };
    mask(libc::SIG_UNBLOCK, libc::SIGALRM);
}

/// Ends calls that take longer than they should (SIGALRM, setitimer(2)).
pub fn arm() -> ArmedTimer {
    static ONCE: Once = Once::new();
    ONCE.call_once(take_signal);
    FIRED.store(false, Ordering::Relaxed);
    let is_first = !ARMED.swap(true, Ordering::Relaxed);
    if is_first {
        set(MAX_WAIT);
    }
    ArmedTimer { is_first }
}

impl ArmedTimer {
    /// Whether the time ran out since the last call of [`arm`]: a call may have
    /// been ended, or the machine is slow.
    pub fn has_fired(&self) -> bool {
        FIRED.load(Ordering::Relaxed)
    }
}

impl Drop for ArmedTimer {
    fn drop(&mut self) {
        if self.is_first {
            set(Duration::ZERO);
            ARMED.store(false, Ordering::Relaxed);
        }
    }
}

/// Sets the timer to expire again and again: a signal that comes before the call would
/// not end it.
fn set(every: Duration) {
    // Less than a second.
    let time = libc::timeval { tv_sec: 0, tv_usec: every.as_micros() as libc::suseconds_t };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: setitimer(2) reads one struct.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// The signal of threads' own timers: the last but one of the real-time ones.
fn own_signal() -> libc::c_int {
    libc::SIGRTMAX() - 1
}

/// Timer that ends calls of this thread that a signal can end, so that none waits long,
/// until it is dropped (timer_create(2)). Where the process uses that signal itself, or
/// there is no timer, calls wait as ever.
#[derive(Debug)]
pub struct ThreadTimer(Option<libc::timer_t>);

impl ThreadTimer {
    /// Starts the timer.
    pub fn start() -> Self {
        if !takes_own_signal() {
            return Self(None);
        }
        let mut timer: libc::timer_t = std::ptr::null_mut();
        let mut event = std::mem::MaybeUninit::<libc::sigevent>::zeroed();
        let nanoseconds = MAX_WAIT.as_nanos() as libc::c_long;
        let time = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let times = libc::itimerspec { it_interval: time, it_value: time };
        // SAFETY: a struct that is all zero but for three numbers; the timer is
        // written by the kernel before it is used, and is this value's own.
        unsafe {
            let event = event.as_mut_ptr();
            (*event).sigev_notify = libc::SIGEV_THREAD_ID;
            (*event).sigev_signo = own_signal();
            (*event).sigev_notify_thread_id = libc::gettid();
            if libc::timer_create(libc::CLOCK_MONOTONIC, event, &mut timer) < 0 {
                return Self(None);
            }
            libc::timer_settime(timer, 0, &times, std::ptr::null_mut());
        }
        mask(libc::SIG_UNBLOCK, own_signal());
        Self(Some(timer))
    }

    /// Whether there is a timer: else calls may wait.
    pub fn has_timer(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        if let Some(timer) = self.0.take() {
            // SAFETY: this value's own, and not used any more.
            unsafe { libc::timer_delete(timer) };
            mask(libc::SIG_BLOCK, own_signal());
        }
    }
}

/// Whether the signal is ours: nobody else had a handler for it.
fn takes_own_signal() -> bool {
    static IS_OURS: OnceLock<bool> = OnceLock::new();
    *IS_OURS.get_or_init(|| {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: a handler that does nothing.
        let takes = || unsafe { dispose(own_signal(), handler as libc::sighandler_t) };
        disposition(own_signal()) == libc::SIG_DFL && takes()
    })
}

extern "C" fn nothing(_: libc::c_int) {}

/// (To nix a real-time signal is none.)
fn mask(how: libc::c_int, signal: libc::c_int) {
    let mut signals = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset(3) makes a set of it before that is used.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), signal);
        libc::pthread_sigmask(how, signals.as_ptr(), std::ptr::null_mut());
    }
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
                let begin = Instant::now();
                let outer = arm();
                let inner = arm();
                let read = nix::unistd::read(&reading, &mut [0]);
                let fired = inner.has_fired();
                drop(inner);
                // The first one is still there.
                let again = nix::unistd::read(&reading, &mut [0]);
                drop(outer);
                let ended = [read, again].iter().all(|it| *it == Err(nix::errno::Errno::EINTR));
                let soon = begin.elapsed() < Duration::from_secs(5);
                // SAFETY: ends without the test's exit handlers.
                unsafe { libc::_exit(i32::from(!(ended && fired && soon))) };
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }
}
