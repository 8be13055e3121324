//! Memory that a process shares with those it forks (mmap(2)).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicI32;

/// A fixed number of words, zero at first. It is never unmapped.
#[derive(Clone, Copy)]
pub struct SharedWords {
    words: NonNull<AtomicI32>,
    count: usize,
}

// SAFETY: a mapping that stays, of atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Reserves the words; a page of memory is used when one in it is.
    ///
    /// # Errors
    /// mmap(2).
    pub fn new(count: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count.max(1) * size_of::<AtomicI32>(),
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
        Ok(Self { words, count })
    }

    /// The words.
    pub fn words(&self) -> &'static [AtomicI32] {
        // SAFETY: a mapping of that many zeroed words, which stays; atomics
        // may be shared.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}
