//! Files that are made below a folder, whatever anybody lays in their way
//! (openat(2)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::UnlinkatFlags;

/// A folder that is open, whatever its name means by now.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder, and makes it where there is none: for its owner alone.
    ///
    /// # Errors
    /// It cannot be made, or is something else.
    pub fn open(path: &Path) -> io::Result<Self> {
        let only_us = std::fs::Permissions::from_mode(0o700);
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            // Whatever the umask left of it.
            Ok(()) => std::fs::set_permissions(path, only_us)?,
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    /// Whether others than its owner could take a file away from there, or the
    /// owner is neither we nor root.
    pub fn is_open_to_others(&self) -> bool {
        let we = nix::unistd::geteuid().as_raw();
        fstat(&self.0).is_ok_and(|stat| {
            let sticky = stat.st_mode & libc::S_ISVTX != 0;
            (stat.st_mode & 0o022 != 0 && !sticky) || (stat.st_uid != we && stat.st_uid != 0)
        })
    }

    /// Makes a new file of this name, which only its owner may read and write;
    /// no link is followed.
    ///
    /// # Errors
    /// There is something of that name, or openat(2).
    pub fn create(&self, name: &str) -> io::Result<File> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Whoever empties the file meanwhile (logrotate's copytruncate) makes no
        // hole in it.
        let flags = OFlag::O_WRONLY
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NOCTTY;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(&self.0, name, flags, mode)?;
        // Whatever the umask and the folder's own lists (acl(5)) made of it.
        fchmod(&file, mode)?;
        Ok(file.into())
    }

    /// Makes a file as long as it was, or takes it away (`None`): if it is this
    /// very one.
    ///
    /// # Errors
    /// There is no such file here, or it cannot be changed.
    pub fn cut(&self, name: &str, inode: u64, length: Option<u64>) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::empty())?);
        let stat = fstat(&file)?;
        if stat.st_ino != inode || stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(io::ErrorKind::NotFound.into());
        }
        match length {
            Some(length) if u64::try_from(stat.st_size).is_ok_and(|now| now > length) => {
                file.set_len(length)
            }
            Some(_) => Ok(()),
            None => Ok(nix::unistd::unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?),
        }
    }

    /// Of a descriptor that is one.
    pub fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> Self {
        folder.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_new_and_its_owners_alone() {
        let place = std::env::temp_dir().join(format!("fpty-folder-{}", std::process::id()));
        let path = place.join("recordings");
        assert!(Folder::open(&path).is_err());
        std::fs::create_dir(&place).unwrap();
        let folder = Folder::open(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o700);
        assert!(!folder.is_open_to_others());
        folder.create("new").unwrap().write_all(b"x").unwrap();
        assert_eq!(mode(&path.join("new")), 0o600);
        assert_eq!(folder.create("new").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        symlink(place.join("elsewhere"), path.join("link")).unwrap();
        assert_eq!(folder.create("link").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!place.join("elsewhere").exists());
        for name in ["", ".", "..", "../x", "a/b", ".x"] {
            assert!(folder.create(name).is_err(), "{name}");
        }
        // Its name may come to mean something else.
        std::fs::rename(&path, place.join("moved")).unwrap();
        symlink("/", &path).unwrap();
        folder.create("later").unwrap();
        assert!(place.join("moved/later").exists());
        std::fs::set_permissions(place.join("moved"), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(folder.is_open_to_others());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
