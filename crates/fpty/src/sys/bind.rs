//! UNIX sockets that nobody reaches before they have their mode and owner.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{Gid, Uid, fchownat};

use crate::error::{Context, Error, Result};

/// Mode and owner of a UNIX socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The mode; `None`: what the umask leaves of all rights.
    pub mode: Option<u32>,
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

/// Binds a listening socket at a path, with this mode and owner. A socket that is there is replaced, and
/// nothing else is. To be called while there is one thread: the umask is the
/// process's.
///
/// # Errors
/// bind(2), or the owner cannot be set; nothing listens then.
pub fn bind_unix(path: &Path, ownership: Ownership, backlog: i32) -> Result<OwnedFd> {
    let Ownership { mode, uid, gid } = ownership;
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {
            std::fs::remove_file(path).context("cannot remove the old socket")?;
        }
        Ok(_) => return Err(Error::new("it exists and is not a socket")),
        Err(_) => {}
    }
    let bound = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .context("cannot make a socket")?;
    let address = UnixAddr::new(path.as_os_str().as_bytes()).context("not an address")?;
    // The file is made with all rights but those.
    let before = mode.map(|mode| umask(Mode::from_bits_truncate(!mode & 0o777)));
    let outcome = bind(bound.as_raw_fd(), &address);
    if let Some(before) = before {
        umask(before);
    }
    outcome.context("bind")?;
    if uid.is_some() || gid.is_some() {
        // Whatever lies there by now: no link is followed, and only a socket
        // that is ours, or was just made by us, is given away.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = open(path, flags, Mode::empty()).context("cannot open it")?;
        let status = fstat(&file).context("cannot look at it")?;
        let is_socket = super::fd_query::file_type_of(status.st_mode) == SFlag::S_IFSOCK;
        if !is_socket || status.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(Error::new("somebody has put something else in its place"));
        }
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        fchownat(&file, "", uid, gid, AtFlags::AT_EMPTY_PATH)
            .context("cannot give it its owner")?;
    }
    // To nobody who connects anybody sends descriptors, where the kernel can
    // see to that.
    super::socket::refuse_descriptors(&bound);
    // Only now can anybody connect.
    // SAFETY: listen(2) with two numbers.
    Errno::result(unsafe { libc::listen(bound.as_raw_fd(), backlog) }).context("listen")?;
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn mode_and_type_are_what_was_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("s");
        for mode in [0o600, 0o666, 0o000, 0o750] {
            let _bound =
                super::bind_unix(&at, Ownership { mode: Some(mode), ..Ownership::default() }, 8)
                    .expect("it is bound");
            let is = std::fs::metadata(&at).expect("it").permissions().mode() & 0o777;
            assert_eq!(is, mode);
            std::os::unix::net::UnixStream::connect(&at).map(drop).unwrap_or_default();
        }
        let file = folder.path().join("file");
        std::fs::write(&file, b"kept").expect("a file");
        assert!(super::bind_unix(&file, Ownership::default(), 8).is_err());
        assert_eq!(std::fs::read(&file).expect("it"), b"kept");
    }
}
