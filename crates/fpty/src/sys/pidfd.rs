//! A process that is not ours to reap (pidfd_open(2)).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use once_cell::sync::OnceCell;

use super::child::{Exit, Pid};
use super::fd_query;
use super::procfs;

/// A process, and no other that gets its number later.
#[derive(Debug)]
pub struct PidFd {
    pid: Pid,
    fd: OwnedFd,
}

impl From<PidFd> for OwnedFd {
    fn from(process: PidFd) -> Self {
        process.fd
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PidFd {
    /// `None` where there is no such process, or a kernel before Linux 5.3.
    pub fn open(pid: Pid) -> Option<Self> {
        Some(Self { pid, fd: open(pid.as_raw())? })
    }

    /// Whether this kernel has pidfds, and this process may open them.
    pub fn are_supported() -> bool {
        open(nix::unistd::getpid().as_raw()).is_some()
    }

    /// The process that started this one; `None` also where it is outside of
    /// our PID namespace.
    pub fn parent() -> Option<Self> {
        Pid::new(nix::unistd::getppid().as_raw()).and_then(Self::open)
    }

    /// The pidfd of a process that was opened under this id, in this namespace.
    pub fn reopened(pid: Pid, fd: OwnedFd) -> Self {
        Self { pid, fd }
    }

    /// Sends it a signal, whatever its number means by now
    /// (pidfd_send_signal(2)).
    pub fn signal(&self, number: i32) {
        if can_send() {
            let _ = send(&self.fd, number, 0);
        } else if !self.is_over() {
            let _ = self.pid.signal(number);
        }
    }

    /// Sends a signal to the process group that it leads, or led: what is left
    /// of that (PIDFD_SIGNAL_PROCESS_GROUP). Returns whether the kernel knows
    /// how to (Linux 6.9).
    pub fn signal_group(&self, number: i32) -> bool {
        const PROCESS_GROUP: libc::c_uint = 1 << 2;
        let sent = send(&self.fd, number, PROCESS_GROUP);
        can_send() && !matches!(sent, Err(Errno::EINVAL | Errno::ENOSYS))
    }

    /// Whether the process still has its number: it runs, or waits to be reaped.
    pub fn has_its_number(&self) -> bool {
        match can_send() {
            true => send(&self.fd, 0, 0) != Err(Errno::ESRCH),
            false => !self.is_over(),
        }
    }

    /// Inode in pidfs (Linux 6.9), which no other process has until the next boot.
    /// `None`: this kernel has no pidfs.
    pub fn inode(&self) -> Option<u64> {
        // PIDFS_MAGIC of linux/magic.h; before, all had the same inode.
        const PIDFS: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x5049_4446);
        let is_one = nix::sys::statfs::fstatfs(&self.fd).ok()?.filesystem_type() == PIDFS;
        let status = nix::sys::stat::fstat(&self.fd).ok().filter(|_| is_one)?;
        Some(status.st_ino)
    }

    /// Another descriptor of the process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { pid: self.pid, fd: self.fd.try_clone()? })
    }

    /// The process id, as long as the process was not reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A pidfd that was received; `None`: the descriptor is none.
    pub fn received(fd: OwnedFd) -> Option<Self> {
        // It answers to no signal at all, or says that the process is gone.
        let is_one = matches!(send(&fd, 0, 0), Ok(()) | Err(Errno::ESRCH | Errno::EPERM));
        // Its number is in another namespace, and not needed.
        is_one.then_some(Self { pid: Pid::UNKNOWN, fd })
    }

    /// Exit of the process, as far as a process that is not its parent can know: where
    /// it waits to be reaped, or the kernel remembers.
    pub fn exit(&self) -> Option<Exit> {
        self.exit_from_info().or_else(|| self.exit_from_stat())
    }

    /// exit_code of proc(5)'s stat, while the number is its own.
    fn exit_from_stat(&self) -> Option<Exit> {
        if procfs::stat(self.pid, 3)? != "Z" {
            return None;
        }
        // 0 also for those who may not know.
        let status: i32 = procfs::number(self.pid, 52)?;
        (status != 0 && send(&self.fd, 0, 0).is_ok()).then(|| Exit::of_wait_status(status))
    }

    /// PIDFD_GET_INFO with PIDFD_INFO_EXIT, of one that was reaped (Linux
    /// 6.15).
    fn exit_from_info(&self) -> Option<Exit> {
        /// `struct pidfd_info` of linux/pidfd.h, in its first version.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            mask: u64,
            cgroup: u64,
            ids: [u32; 11],
            exit_code: i32,
        }
        const PIDFD_INFO_EXIT: u64 = 1 << 3;
        // _IOWR(0xFF, 11, struct pidfd_info); of another type in musl.
        const REQUEST: u32 = (3 << 30) | ((size_of::<Info>() as u32) << 16) | (0xff << 8) | 11;
        const PIDFD_GET_INFO: libc::Ioctl = REQUEST as libc::Ioctl;
        let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
        // SAFETY: the kernel reads and writes as much of the struct as its
        // size, a part of the request, says.
        let answer = unsafe { libc::ioctl(self.fd.as_raw_fd(), PIDFD_GET_INFO, &mut info) };
        let status = info.exit_code;
        let is_known = answer == 0 && info.mask & PIDFD_INFO_EXIT != 0;
        is_known.then(|| Exit::of_wait_status(status))
    }

    /// Whether the process has ended, as far as the kernel itself tells.
    pub fn is_over(&self) -> bool {
        !fd_query::poll_now(self, PollFlags::POLLIN).is_empty()
    }

    /// Whether the process has ended, or is about to: it closes its descriptors first and
    /// is reported as ended last.
    pub fn has_ended(&self) -> bool {
        const PF_EXITING: u64 = 0x4;
        if self.is_over() {
            return true;
        }
        let flags: Option<u64> = procfs::number(self.pid, 9);
        // Reaped meanwhile; or there is no /proc for us.
        flags.map_or_else(|| self.is_over(), |flags| flags & PF_EXITING != 0)
    }

    /// Whether the process has ended, or does within a moment, for which this waits
    /// where the kernel does not tell that the process is about to end.
    pub fn has_ended_soon(&self) -> bool {
        const MOMENT: Duration = Duration::from_millis(100);
        if self.has_ended() {
            return true;
        }
        let nobody_tells = self.pid == Pid::UNKNOWN || !procfs::is_own_namespace();
        let ends = || fd_query::poll_one(self, PollFlags::POLLIN, MOMENT);
        nobody_tells && ends().is_ok_and(|found| !found.is_empty())
    }
}

/// Signals a process that was taken hold of before it was looked at; where that cannot be,
/// whoever has its number.
pub(super) fn signal(pid: Pid, held: Option<&PidFd>, number: i32) {
    match held {
        Some(pidfd) => pidfd.signal(number),
        None => drop(pid.signal(number)),
    }
}

fn open(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: two numbers; returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: it is new and ours.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a process can be told from others by an inode of its own.
pub(super) fn have_inodes() -> bool {
    let own = open(nix::unistd::getpid().as_raw());
    own.is_some_and(|fd| PidFd { pid: Pid::UNKNOWN, fd }.inode().is_some())
}

/// Sends a signal; 0 is none, and asks whether one could be sent.
fn send(pidfd: &OwnedFd, number: i32, flags: libc::c_uint) -> nix::Result<()> {
    let nothing = std::ptr::null::<u8>();
    // SAFETY: numbers, and no more information; no memory is involved.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, nothing, flags)
    };
    Errno::result(sent).map(drop)
}

/// Whether signals can be sent by descriptors at all: in a jail only
/// pidfd_open(2) may be allowed. It is found out once in a process and its
/// children.
fn can_send() -> bool {
    static CAN: OnceCell<bool> = OnceCell::new();
    *CAN.get_or_init(|| {
        open(nix::unistd::getpid().as_raw()).is_some_and(|own| send(&own, 0, 0).is_ok())
    })
}
