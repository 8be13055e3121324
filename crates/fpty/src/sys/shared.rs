//! Memory that a process shares with those it forks (mmap(2)).

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU64};

/// What may lie in shared memory: all zero is one, and it may be read and
/// changed from several processes at once.
///
/// # Safety
/// Both must hold; it must not be larger than a page.
pub unsafe trait Word: Sync + 'static {}

// SAFETY: an atomic number.
unsafe impl Word for AtomicI32 {}
// SAFETY: an atomic number.
unsafe impl Word for AtomicU64 {}

/// A fixed number of words, zero at first. It is never unmapped.
pub struct Shared<T: Word> {
    words: NonNull<T>,
    count: usize,
    of: PhantomData<T>,
}

/// Small ones.
pub type SharedWords = Shared<AtomicI32>;

impl<T: Word> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Word> Copy for Shared<T> {}

// SAFETY: a mapping that stays, of atomics.
unsafe impl<T: Word> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Word> Sync for Shared<T> {}

impl<T: Word> Shared<T> {
    /// Reserves the words; a page of memory is used when one in it is.
    ///
    /// # Errors
    /// mmap(2).
    pub fn new(count: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count.max(1) * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { words, count, of: PhantomData })
    }

    /// The words.
    pub fn words(&self) -> &'static [T] {
        // SAFETY: a mapping of that many zeroed words, which stays; atomics
        // may be shared.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}
