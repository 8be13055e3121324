//! Memory that several processes share: files that only their descriptors lead to
//! (memfd_create(2)), of a length that nobody changes, and mappings (mmap(2)).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Nobody makes it smaller (or whoever reads would get SIGBUS) or larger.
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
/// It is none.
pub(super) fn length_of_sealed(file: impl AsFd) -> io::Result<usize> {
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    let length = usize::try_from(nix::sys::stat::fstat(&file)?.st_size);
    match (seals, length) {
        (Ok(seals), Ok(length)) if seals.contains(SEALS) => Ok(length),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// To read and to write.
pub(super) const BOTH: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Maps so many bytes at an address of the kernel's choice: of a file that cannot become
/// smaller, or of none; they stay until they are unmapped.
///
/// # Errors
/// mmap(2).
pub(super) fn map<F: AsFd>(
    file: Option<F>,
    length: usize,
    rights: libc::c_int,
    flags: libc::c_int,
) -> io::Result<NonNull<u8>> {
    let (fd, flags) = match &file {
        Some(file) => (file.as_fd().as_raw_fd(), flags),
        None => (-1, flags | libc::MAP_ANONYMOUS),
    };
    // SAFETY: a new mapping, over nothing that is there.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, rights, flags, fd, 0) };
    match at {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        at => NonNull::new(at.cast()).ok_or_else(|| Errno::ENOMEM.into()),
    }
}

/// A mapping that ends with its value.
#[derive(Debug)]
pub(super) struct Mapping {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping of the process; whoever uses its address says why he may.
unsafe impl Send for Mapping {}

impl Mapping {
    /// As [`map`] does.
    ///
    /// # Errors
    /// mmap(2).
    pub(super) fn new<F: AsFd>(
        file: Option<F>,
        length: usize,
        rights: libc::c_int,
        flags: libc::c_int,
    ) -> io::Result<Self> {
        Ok(Self { at: map(file, length, rights, flags)?, length })
    }

    /// Where it begins.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.at
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nobody uses any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.length) };
    }
}
