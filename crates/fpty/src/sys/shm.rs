//! Memory that a process shares with those it forks (mmap(2)).

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU64};

use nix::sys::mman::{MapFlags, mmap_anonymous};

use super::memfd::{self, READ_WRITE};

/// Word in shared memory: all zero is a valid value, and it may be read and changed from
/// several processes at once.
///
/// # Safety
/// Both must hold; it must not be larger than a page.
pub unsafe trait SharedWord: Sync + 'static {}

// SAFETY: an atomic number.
unsafe impl SharedWord for AtomicI32 {}
// SAFETY: an atomic number.
unsafe impl SharedWord for AtomicU64 {}

/// A fixed number of words, zero at first. It is never unmapped.
pub struct SharedMemory<T: SharedWord>(&'static [T]);

/// Words of 32 bits.
pub type SharedWords = SharedMemory<AtomicI32>;

impl<T: SharedWord> Clone for SharedMemory<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: SharedWord> Copy for SharedMemory<T> {}

/// All mappings of this process: where, and how long.
static ALL: Mutex<Vec<(NonZeroUsize, NonZeroUsize)>> = Mutex::new(Vec::new());

impl<T: SharedWord> SharedMemory<T> {
    /// Reserves the words; a page of memory is used when one in it is.
    ///
    /// # Errors
    /// mmap(2).
    pub fn new(count: usize) -> io::Result<Self> {
        Self::map::<OwnedFd>(None, count)
    }

    /// Reserves the words in memory that has a descriptor, by which it can outlive an
    /// exec.
    ///
    /// # Errors
    /// memfd_create(2), mmap(2); no file may become as large (RLIMIT_FSIZE of
    /// getrlimit(2)).
    pub fn with_descriptor(count: usize) -> io::Result<(Self, OwnedFd)> {
        use nix::sys::resource::{Resource, getrlimit};
        // Or a signal would end us.
        let (most, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if most < length::<T>(count) as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let fd = memfd::sealed(c"fpty-shared", length::<T>(count))?;
        Ok((Self::of(fd.as_fd(), count)?, fd))
    }

    /// The words in memory that was kept.
    ///
    /// # Errors
    /// The memory is no sealed memfd, or of another length; mmap(2) fails.
    pub fn of(fd: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        if memfd::length_of_sealed(fd)? != length::<T>(count) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(Some(fd), count)
    }

    fn map<F: AsFd>(file: Option<F>, count: usize) -> io::Result<Self> {
        let flags = match file {
            Some(_) => MapFlags::MAP_SHARED,
            None => MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
        };
        let at = memfd::map(file, length::<T>(count), READ_WRITE, flags)?;
        if let (Ok(mut all), Some(length)) = (ALL.lock(), NonZeroUsize::new(length::<T>(count))) {
            all.push((at.addr(), length));
        }
        // SAFETY: a mapping of that many words, which stays; atomics may be
        // shared, and any value is one.
        Ok(Self(unsafe { std::slice::from_raw_parts(at.cast().as_ptr(), count) }))
    }

    /// The words.
    pub fn words(&self) -> &'static [T] {
        self.0
    }
}

/// The memory of these words as words of half the size: for whoever has it to use
/// alone.
pub fn halves(words: &'static [AtomicU64]) -> &'static [AtomicI32] {
    // SAFETY: as much memory, which stays as long, and is aligned for larger ones;
    // any value is one of either, and both may be changed while they are shared.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) }
}

/// Sets all words in memory that was kept to zero, for all who share it, and gives
/// its pages back.
///
/// # Errors
/// fallocate(2).
pub fn clear(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let size = nix::sys::stat::fstat(fd)?.st_size;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(fd, flags, 0, size)?)
}

fn length<T>(count: usize) -> usize {
    count.max(1) * size_of::<T>()
}

/// Puts memory of this process's own, all zero, in the place of all that it
/// shares: it sees nothing of the others any more, nor they of it. For a process
/// that was just forked; it makes system calls alone.
pub fn forget() {
    // No thread forks while it holds this lock.
    let Ok(all) = ALL.try_lock() else { return };
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
    for (address, length) in all.iter() {
        // SAFETY: a mapping of ours that stays one of as many words, of which
        // zero is a value: references to them stay good.
        unsafe {
            let _ = mmap_anonymous(Some(*address), *length, READ_WRITE, flags);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn a_child_that_forgets_sees_zero_and_changes_nothing() {
        let anonymous: SharedMemory<AtomicU64> = SharedMemory::new(3000).unwrap();
        let (kept, fd) = SharedWords::with_descriptor(10).unwrap();
        anonymous.words()[2999].store(5, SeqCst);
        kept.words()[9].store(6, SeqCst);
        let again = SharedWords::of(fd.as_fd(), 10).unwrap();
        assert_eq!(again.words()[9].load(SeqCst), 6);
        assert!(SharedWords::of(fd.as_fd(), 11).is_err());
        // SAFETY: the child makes a few system calls and ends without exit
        // handlers.
        let child = match unsafe { libc::fork() } {
            0 => {
                kept.words()[0].store(1, SeqCst);
                forget();
                let seen =
                    anonymous.words()[2999].load(SeqCst) + kept.words()[9].load(SeqCst) as u64;
                anonymous.words()[0].store(7, SeqCst);
                kept.words()[1].store(7, SeqCst);
                // SAFETY: _exit(2) takes a number, and does not return.
                unsafe { libc::_exit(seen as i32) }
            }
            pid => nix::unistd::Pid::from_raw(pid),
        };
        let ended = nix::sys::wait::waitpid(child, None).unwrap();
        assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
        assert_eq!(anonymous.words()[0].load(SeqCst), 0);
        let words = kept.words();
        assert_eq!((words[0].load(SeqCst), words[1].load(SeqCst)), (1, 0));
        clear(fd.as_fd()).unwrap();
        assert_eq!((words[0].load(SeqCst), again.words()[9].load(SeqCst)), (0, 0));
    }
}
