//! Files made below a directory descriptor (openat(2)): links that others could have laid
//! are not followed.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::UnlinkatFlags;

use super::fd_query;

/// A folder that is open, whatever its name means by now.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// Links on a way, at most: as many as the kernel follows.
const MAX_SYMLINKS: u32 = 40;

/// A way to a folder, of which each step is taken from the folder before it: what
/// a name means by then is of no concern.
struct PathWalk {
    at: OwnedFd,
    rest: VecDeque<OsString>,
    links: u32,
}

impl PathWalk {
    fn new(path: &Path) -> io::Result<Self> {
        let start = if path.is_absolute() { c"/" } else { c"." };
        let at = open(start, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut way = Self { at, rest: VecDeque::new(), links: 0 };
        way.push_components(path);
        Ok(way)
    }

    fn push_components(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.rest.push_front(name.into()),
                Component::ParentDir => self.rest.push_front("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }

    /// Goes as far as the last name; the folder that it is in is `at` then.
    fn walk_to_parent(&mut self) -> io::Result<OsString> {
        while let Some(name) = self.rest.pop_front() {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let there = match openat(&self.at, name.as_os_str(), flags, Mode::empty()) {
                // It is to be made.
                Err(Errno::ENOENT) if self.rest.is_empty() => return Ok(name),
                there => there?,
            };
            let stat = fstat(&there)?;
            match fd_query::file_type_of(stat.st_mode) {
                SFlag::S_IFLNK => self.follow_symlink(&there, &stat, &name)?,
                SFlag::S_IFDIR if self.rest.is_empty() && name != ".." => return Ok(name),
                SFlag::S_IFDIR => self.at = there,
                _ => return Err(Errno::ENOTDIR.into()),
            }
        }
        Ok(".".into())
    }

    /// A link is followed where nobody could have laid it but root, and we: it is
    /// one of them, and so is the folder that it is in.
    fn follow_symlink(&mut self, link: &OwnedFd, stat: &FileStat, name: &OsStr) -> io::Result<()> {
        let we = nix::unistd::geteuid().as_raw();
        let is_ours = |stat: &FileStat| stat.st_uid == 0 || stat.st_uid == we;
        let folder = fstat(&self.at)?;
        if !is_ours(stat) || !is_ours(&folder) || folder.st_mode & 0o022 != 0 {
            return Err(io::Error::other(format!(
                "{} on the way is a link that others may have made: name the folder that is meant",
                name.to_string_lossy()
            )));
        }
        self.links += 1;
        if self.links > MAX_SYMLINKS {
            return Err(Errno::ELOOP.into());
        }
        // Of this very link.
        let target = PathBuf::from(readlinkat(link, c"")?);
        if target.is_absolute() {
            self.at = Self::new(Path::new("/"))?.at;
        }
        self.push_components(&target);
        Ok(())
    }
}

impl Dir {
    /// Opens a folder, and makes it where there is none: for its owner alone.
    /// Links on the way are followed where only root, or we, could have made
    /// them.
    ///
    /// # Errors
    /// The folder cannot be made, is something else, or another link is on the way.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut way = PathWalk::new(path)?;
        let name = way.walk_to_parent()?;
        let only_us = Mode::S_IRWXU;
        let is_new = match mkdirat(&way.at, name.as_os_str(), only_us) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let folder = openat(&way.at, name.as_os_str(), flags, Mode::empty())?;
        if is_new {
            // Another user may have put their own in its place by now.
            if fstat(&folder)?.st_uid != nix::unistd::geteuid().as_raw() {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            // Whatever the umask left of it.
            fchmod(&folder, only_us)?;
        }
        Ok(Self(folder))
    }

    /// Whether others than its owner could take a file away from there, or the
    /// owner is neither we nor root.
    pub fn is_writable_by_others(&self) -> bool {
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
    /// A file of that name exists, or openat(2) fails.
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
        if stat.st_ino != inode || fd_query::file_type_of(stat.st_mode) != SFlag::S_IFREG {
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

    /// The directory of a descriptor that is one.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Dir> for OwnedFd {
    fn from(folder: Dir) -> Self {
        folder.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_are_followed_that_nobody_else_could_lay() {
        let place = std::env::temp_dir().join(format!("fpty-links-{}", std::process::id()));
        for name in ["real", "safe", "others"] {
            std::fs::create_dir_all(place.join(name)).unwrap();
        }
        let mode = |name: &str, mode: u32| {
            std::fs::set_permissions(place.join(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        mode("safe", 0o755);
        mode("others", 0o1777);
        for folder in ["safe", "others"] {
            symlink("../real", place.join(folder).join("relative")).unwrap();
            symlink(place.join("real"), place.join(folder).join("absolute")).unwrap();
            symlink("loop", place.join(folder).join("loop")).unwrap();
        }
        let refusal = |path: &str| Dir::open(&place.join(path)).unwrap_err().to_string();
        for path in ["relative/one", "absolute/two", "../safe/relative/../real/three", "absolute"] {
            Dir::open(&place.join("safe").join(path)).expect(path);
            if !path.starts_with("..") {
                let why = refusal(&format!("others/{path}"));
                assert!(why.contains("is a link that others may have made"), "{why}");
            }
        }
        assert!(place.join("real/one").is_dir() && place.join("real/two").is_dir());
        assert!(refusal("safe/loop/x").contains("symbolic links"), "{}", refusal("safe/loop/x"));
        std::fs::write(place.join("real/file"), "").unwrap();
        assert!(refusal("real/file").contains("Not a directory"));
        assert!(refusal("real/file/x").contains("Not a directory"));
        assert!(refusal("real/none/x").contains("No such file"));
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn a_file_is_new_and_its_owners_alone() {
        let place = std::env::temp_dir().join(format!("fpty-folder-{}", std::process::id()));
        let path = place.join("recordings");
        assert!(Dir::open(&path).is_err());
        std::fs::create_dir(&place).unwrap();
        let folder = Dir::open(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o700);
        assert!(!folder.is_writable_by_others());
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
        assert!(folder.is_writable_by_others());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
