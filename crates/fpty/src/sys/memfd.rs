//! Memory that several processes share: files that only their descriptors lead to
//! (memfd_create(2)), of a length that nobody changes, and mappings (mmap(2)).

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// The seals: the file becomes neither smaller (or a reader would get SIGBUS) nor
/// larger.
const SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A file of this length, all zero.
///
/// # Errors
/// Out of memory or descriptors, or the kernel has no such thing.
pub(super) fn sealed(name: &CStr, length: usize) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    nix::unistd::ftruncate(&file, length as libc::off_t)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file)
}

/// The length of such a file, which may be anybody's.
///
/// # Errors
/// The file is no sealed memfd.
pub(super) fn length_of_sealed(file: impl AsFd) -> io::Result<usize> {
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    let length = usize::try_from(nix::sys::stat::fstat(&file)?.st_size);
    match (seals, length) {
        (Ok(seals), Ok(length)) if seals.contains(SEALS) => Ok(length),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Pages that may be read and written.
pub(super) const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Maps so many bytes at an address of the kernel's choice: of a file that cannot become
/// smaller, or of none; they stay until they are unmapped.
///
/// # Errors
/// mmap(2); EINVAL of no bytes.
pub(super) fn map<F: AsFd>(
    file: Option<F>,
    length: usize,
    rights: ProtFlags,
    flags: MapFlags,
) -> io::Result<NonNull<u8>> {
    let length = NonZeroUsize::new(length).ok_or(Errno::EINVAL)?;
    // SAFETY: a new mapping, over nothing that is there.
    let start = unsafe {
        match file {
            Some(file) => mmap(None, length, rights, flags, file, 0),
            None => mmap_anonymous(None, length, rights, flags),
        }
    };
    Ok(start?.cast())
}

/// A mapping that ends with its value. Other processes may write the memory at any
/// time: its bytes are read and written by relaxed atomic accesses alone.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping of the process, which any of its threads may use and end.
unsafe impl Send for Mapping {}

/// Length of the words that are read and written at once, in bytes.
const WORD: usize = size_of::<u64>();

impl Mapping {
    /// Maps as [`map`] does.
    ///
    /// # Errors
    /// mmap(2).
    pub(super) fn new<F: AsFd>(
        file: Option<F>,
        length: usize,
        rights: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<Self> {
        Ok(Self { start: map(file, length, rights, flags)?, length })
    }

    /// The address of the byte at `offset`, from which `length` bytes are mapped.
    #[inline]
    pub(super) fn at(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(length <= self.length && offset <= self.length - length);
        // SAFETY: within the mapping, as was just checked.
        unsafe { self.start.add(offset).as_ptr() }
    }

    /// The number at `offset`, a multiple of its length.
    #[inline]
    pub(super) fn number(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % WORD == 0);
        // SAFETY: mapped for as long as this value lives, and aligned, as the mapping
        // begins with a page; an atomic number may be shared with other processes.
        unsafe { AtomicU64::from_ptr(self.at(offset, WORD).cast()) }
    }

    /// Copies bytes out of the mapping. What another process writes meanwhile may come
    /// in part.
    #[inline]
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        let mut at = self.at(offset, into.len());
        let (head, rest) = into.split_at_mut(at.align_offset(WORD).min(into.len()));
        let mut words = rest.chunks_exact_mut(WORD);
        // SAFETY: as many bytes as `into` has are mapped from here on; what is read as a
        // word is aligned, as the head ends where the first such word begins.
        unsafe {
            for byte in head {
                *byte = AtomicU8::from_ptr(at).load(Relaxed);
                at = at.add(1);
            }
            for word in &mut words {
                let number = AtomicU64::from_ptr(at.cast()).load(Relaxed);
                word.copy_from_slice(&number.to_ne_bytes());
                at = at.add(WORD);
            }
            for byte in words.into_remainder() {
                *byte = AtomicU8::from_ptr(at).load(Relaxed);
                at = at.add(1);
            }
        }
    }

    /// Copies bytes into the mapping, which must have been mapped to be written.
    #[inline]
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let mut at = self.at(offset, bytes.len());
        let (head, rest) = bytes.split_at(at.align_offset(WORD).min(bytes.len()));
        let mut words = rest.chunks_exact(WORD);
        // SAFETY: as many bytes as `bytes` has are mapped from here on; what is written as a
        // word is aligned, as the head ends where the first such word begins.
        unsafe {
            for byte in head {
                AtomicU8::from_ptr(at).store(*byte, Relaxed);
                at = at.add(1);
            }
            for word in &mut words {
                let mut number = [0; WORD];
                number.copy_from_slice(word);
                AtomicU64::from_ptr(at.cast()).store(u64::from_ne_bytes(number), Relaxed);
                at = at.add(WORD);
            }
            for byte in words.remainder() {
                AtomicU8::from_ptr(at).store(*byte, Relaxed);
                at = at.add(1);
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nobody uses any more.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_at_any_offset_come_back_and_no_others_change() {
        const PAGE: usize = 4096;
        let rights = READ_WRITE;
        let mapping = Mapping::new::<OwnedFd>(None, PAGE, rights, MapFlags::MAP_PRIVATE).unwrap();
        for (offset, length) in [(0, 0), (0, 8), (1, 30), (7, 9), (13, 2), (PAGE - 5, 5)] {
            let before = vec![0xaa; PAGE];
            mapping.write(0, &before);
            let bytes: Vec<u8> = (1..=length as u8).collect();
            mapping.write(offset, &bytes);
            let mut all = vec![0; PAGE];
            mapping.read(0, &mut all);
            assert_eq!(&all[offset..offset + length], bytes);
            assert!(all[..offset].iter().chain(&all[offset + length..]).all(|byte| *byte == 0xaa));
            let mut read = vec![0; length];
            mapping.read(offset, &mut read);
            assert_eq!(read, bytes);
        }
        assert!(std::panic::catch_unwind(|| mapping.at(PAGE - 1, 2)).is_err());
    }
}
