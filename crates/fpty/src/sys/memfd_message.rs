//! Bytes that go to another process as a descriptor, where they are too many for a
//! message (memfd_create(2)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file that only its descriptor leads to, with these bytes.
///
/// # Errors
/// Out of descriptors or memory.
pub fn create(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"fpty-bytes", MFdFlags::MFD_CLOEXEC)?;
    let file = File::from(fd);
    file.write_all_at(bytes, 0)?;
    Ok(file.into())
}

/// The bytes of such a file.
///
/// # Errors
/// The file has more bytes than this, or cannot be read.
pub fn read(fd: OwnedFd, most: usize) -> io::Result<Vec<u8>> {
    let file = File::from(fd);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_and_no_more_than_that() {
        let copy = |fd: &OwnedFd| fd.try_clone().expect("a copy");
        let fd = create(b"bytes").expect("a file");
        assert_eq!(read(copy(&fd), 5).ok().as_deref(), Some(&b"bytes"[..]));
        assert!(read(copy(&fd), 4).is_err());
        assert_eq!(read(create(b"").expect("a file"), 0).ok(), Some(Vec::new()));
    }
}
