//! Descriptors that a process keeps to itself: what it forks without an exec
//! does not have them (pthread_atfork(3); close-on-exec does nothing there),
//! or a connection would last until the last of such processes has ended.

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The highest number that is known, as the kernel's own limit is by default
/// (fs.nr_open).
const MAX_DESCRIPTOR: usize = 1 << 20;

/// A bit for each descriptor. The memory is used as far as numbers are.
static PRIVATE: [AtomicU64; MAX_DESCRIPTOR / 64] =
    [const { AtomicU64::new(0) }; MAX_DESCRIPTOR / 64];

/// Above all words that ever had a bit.
static WORDS_USED: AtomicUsize = AtomicUsize::new(0);

/// Held while a descriptor is opened or closed, and during a fork: a number
/// and its bit are one.
struct Lock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a mutex is made to be shared.
unsafe impl Sync for Lock {}

static LOCK: Lock = Lock(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

extern "C" fn lock() {
    // SAFETY: an initialized mutex that is never moved; no thread forks while it holds
    // the mutex.
    unsafe { libc::pthread_mutex_lock(LOCK.0.get()) };
}

extern "C" fn unlock() {
    // SAFETY: an initialized mutex that is never moved; this thread holds it.
    unsafe { libc::pthread_mutex_unlock(LOCK.0.get()) };
}

/// In the child: only calls that a signal handler might make.
extern "C" fn close_private() {
    for (word, at) in PRIVATE.iter().take(WORDS_USED.load(Ordering::Relaxed)).zip(0i32..) {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            // Below 64.
            let bit = bits.trailing_zeros() as i32;
            bits &= bits - 1;
            // SAFETY: open, or its bit were not set; nobody in this process
            // uses it: the thread that did is not part of it.
            unsafe { libc::close(at * 64 + bit) };
        }
    }
    unlock();
}

/// Something that owns a descriptor which no process has that is forked from
/// ours (fork(3); not one that is made by a bare clone(2), nor by vfork(2),
/// after which a program is executed). It must be used on threads alone that
/// do not fork.
pub struct Private<T: AsFd>(ManuallyDrop<T>);

impl<T: AsFd> Private<T> {
    /// Keeps what `open` opens; that must not wait.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open<E>(open: impl FnOnce() -> Result<Option<T>, E>) -> Result<Option<Self>, E> {
        let _held = ForkLock::new();
        Ok(open()?.map(Self::marked))
    }

    /// Keeps what is open already.
    pub fn of(opened: T) -> Self {
        let _held = ForkLock::new();
        Self::marked(opened)
    }

    fn marked(opened: T) -> Self {
        mark(&opened, true);
        Self(ManuallyDrop::new(opened))
    }
}

/// A lock that keeps this process from forking.
struct ForkLock;

impl ForkLock {
    fn new() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: three functions that live as long as the process. Where
            // there is no memory for them, children have what we have.
            unsafe { libc::pthread_atfork(Some(lock), Some(unlock), Some(close_private)) };
        });
        lock();
        Self
    }
}

impl Drop for ForkLock {
    fn drop(&mut self) {
        unlock();
    }
}

fn mark(opened: &impl AsFd, private: bool) {
    let Ok(number) = usize::try_from(opened.as_fd().as_raw_fd()) else {
        return;
    };
    let Some(word) = PRIVATE.get(number / 64) else {
        return;
    };
    let bit = 1 << (number % 64);
    match private {
        true => {
            word.fetch_or(bit, Ordering::Relaxed);
            WORDS_USED.fetch_max(number / 64 + 1, Ordering::Relaxed);
        }
        false => {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

impl<T: AsFd> Deref for Private<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: AsFd> Drop for Private<T> {
    fn drop(&mut self) {
        let _held = ForkLock::new();
        mark(&*self.0, false);
        // SAFETY: here alone, and nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ReadOutcome;
    use crate::sys::socket::Stream;
    use std::time::{Duration, Instant};

    /// Forks a process that ends when the other end of a pipe is closed.
    fn forked(waits_for: &std::os::fd::OwnedFd) -> nix::unistd::Pid {
        // SAFETY: the child makes two system calls.
        match unsafe { libc::fork() } {
            // SAFETY: one byte into one; and an end without exit handlers.
            0 => unsafe {
                libc::read(waits_for.as_raw_fd(), [0u8; 1].as_mut_ptr().cast(), 1);
                libc::_exit(0);
            },
            pid => nix::unistd::Pid::from_raw(pid),
        }
    }

    #[test]
    fn what_is_forked_does_not_have_it() {
        let (ours, theirs) = Stream::pair().unwrap();
        let (reading, writing) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let ours = Private::of(ours);
        let child = forked(&reading);
        drop(ours);
        let end = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 1];
        while theirs.read(&mut buffer) == ReadOutcome::WouldBlock {
            assert!(Instant::now() < end, "it is still open");
        }
        // Its number means something else now, which children do have.
        let (ours, theirs) = Stream::pair().unwrap();
        let second = forked(&reading);
        drop(ours);
        assert_eq!(theirs.read(&mut buffer), ReadOutcome::WouldBlock);
        // Both ends are open in the children.
        nix::unistd::write(&writing, b"..").unwrap();
        for pid in [child, second] {
            nix::sys::wait::waitpid(pid, None).unwrap();
        }
    }
}
