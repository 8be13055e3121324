//! Pseudo-terminals (pty(7), ioctl_tty(2)).

pub(crate) mod untrusted;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag};
use nix::sys::termios::{FlushArg, LocalFlags, SetArg, SpecialCharacterIndices, tcflush};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use once_cell::sync::OnceCell;

use super::fd_query::{self, IoctlFlag, Query};
use super::passable_stdio::{ERROR, INPUT, OUTPUT, standard_fd};
use super::termios::index_of;
use super::{ReadOutcome, Size, WriteOutcome};
use crate::error::{Context, Error, Result};

/// The side of a pseudo-terminal that we keep.
pub struct Master {
    fd: OwnedFd,
    /// Others have copies, or had: what they do to the one terminal must not
    /// have us wait.
    shared: bool,
    /// How often a process with a copy made a call block, of late.
    strikes: Cell<u8>,
    /// The period of those, a number that comes round.
    period: Cell<u8>,
}

/// A key that stands for a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalKey {
    /// The byte that the key sends.
    pub byte: u8,
    /// Whether the terminal raises the signal and drops, first, all input
    /// that was not read.
    pub flushes_input: bool,
}

/// The side that becomes a program's terminal.
pub struct Slave(OwnedFd);

impl Slave {
    /// Gives the terminal to a user, as login(1) does: programs open their terminal by
    /// its path, too. The group is that of terminals where there is one.
    pub fn chown_to(&self, uid: u32) {
        let user = nix::unistd::Uid::from_raw(uid);
        let group = GROUP.get().copied().flatten();
        // Where it cannot be given away the program has it open all the same.
        let _ = nix::unistd::fchown(&self.0, Some(user), group);
    }
}

/// The group that terminals have; `None` in there: there is no such group.
static GROUP: OnceCell<Option<nix::unistd::Gid>> = OnceCell::new();

/// Looks up which group terminals have: to be called before [`Slave::chown_to`],
/// and where it may wait, as a directory service may have to be asked.
pub fn look_up_tty_group() {
    GROUP
        .get_or_init(|| nix::unistd::Group::from_name("tty").ok().flatten().map(|group| group.gid));
}

/// Opens a terminal of this size. Neither end becomes our controlling
/// terminal or survives an exec, and the master does not block.
///
/// # Errors
/// There is no pty left, no descriptor, or no devpts in this jail.
pub fn open(size: Size) -> Result<(Master, Slave)> {
    let master = open_master()?;
    // The slave starts locked (unlockpt(3)).
    fd_query::switch(&master, IoctlFlag::LOCK, false).context("cannot unlock the new terminal")?;
    let slave = open_slave(&master)?;
    let master = Master::of(master, false);
    master.resize(size).context("cannot set the size of the new terminal")?;
    // So that a backspace in cooked mode takes a character, not a byte.
    if let Some(settings) = initial_settings(&slave) {
        // SAFETY: TCSETS reads what TCGETS wrote.
        let _ = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TCSETS, settings) };
    }
    Ok((master, Slave(slave)))
}

/// Initial settings of a new terminal, with IUTF8: all terminals begin with the same, so
/// they are asked for once.
fn initial_settings(terminal: &OwnedFd) -> Option<&'static libc::termios> {
    static SETTINGS: OnceCell<libc::termios> = OnceCell::new();
    SETTINGS
        .get_or_try_init(|| {
            let mut settings = settings_of(terminal)?;
            settings.c_iflag |= libc::IUTF8;
            Ok::<_, Errno>(settings)
        })
        .ok()
}

/// The settings of a terminal; asked of a master, those of its slave.
fn settings_of(terminal: &OwnedFd) -> nix::Result<libc::termios> {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: TCGETS writes the kernel's termios, with which the C library's
    // begins; all zero is a valid one.
    unsafe {
        let at = settings.as_mut_ptr();
        Errno::result(libc::ioctl(terminal.as_raw_fd(), libc::TCGETS, at))?;
        Ok(settings.assume_init())
    }
}

fn open_master() -> Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let open = |path: &str| nix::fcntl::open(path, flags, Mode::empty());
    // A jail may have mounted a devpts of its own, without a /dev/ptmx.
    open("/dev/ptmx")
        .or_else(|errno| match errno {
            Errno::ENOENT | Errno::EACCES => open("/dev/pts/ptmx").map_err(|_| errno),
            other => Err(other),
        })
        .context("cannot open a terminal (/dev/ptmx)")
}

fn open_slave(master: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let error = match peer_of(master, flags.bits()) {
        Ok(slave) => return Ok(slave),
        Err(error) => error,
    };
    // An older kernel, or it is forbidden.
    const CANNOT: [i32; 4] = [libc::EINVAL, libc::ENOTTY, libc::EPERM, libc::ENOSYS];
    if !error.raw_os_error().is_some_and(|errno| CANNOT.contains(&errno)) {
        return Err(error).context("cannot open the slave of the new terminal");
    }
    let path = path_of_slave(master).context("cannot name the new terminal")?;
    nix::fcntl::open(path.as_str(), flags, Mode::empty()).context(format!("cannot open {path}"))
}

/// Opens a master's slave by the master, whatever is mounted on /dev/pts here (Linux
/// 4.13).
fn peer_of(master: &OwnedFd, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: TIOCGPTPEER takes open(2) flags and returns a descriptor.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: it is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The path of a master's slave, where devpts is mounted as usual (ptsname(3)).
fn path_of_slave(master: impl AsFd) -> io::Result<String> {
    Ok(format!("/dev/pts/{}", fd_query::query(master, Query::PTY_NUMBER)?))
}

impl Master {
    fn of(fd: OwnedFd, shared: bool) -> Self {
        Self { fd, shared, strikes: Cell::new(0), period: Cell::new(0) }
    }

    /// The terminal's size as it is now, whoever has set it (TIOCGWINSZ).
    pub fn size(&self) -> Option<Size> {
        let _armed = self.arm();
        fd_query::window_size(self)
    }

    /// The name of its slave, where devpts is mounted as usual (ptsname(3)).
    pub fn slave_name(&self) -> Option<String> {
        let _armed = self.arm();
        path_of_slave(self).ok()
    }

    /// The master of a pseudo-terminal, received from a process that says it is one.
    ///
    /// # Errors
    /// The descriptor is no master: the reason.
    pub fn received(fd: OwnedFd) -> Result<Self> {
        let not = |what: &str| Error::new(format!("the gateway sent {what} instead of a terminal"));
        let status = nix::sys::stat::fstat(&fd).map_err(|_| not("something"))?;
        let is_device = fd_query::file_type_of(status.st_mode) == SFlag::S_IFCHR;
        // /dev/ptmx, of whatever devpts (devices.txt of the kernel).
        if !is_device || status.st_rdev != libc::makedev(5, 2) {
            return Err(not("something else"));
        }
        path_of_slave(&fd).map_err(|_| not("something else"))?;
        let slave = open_slave(&fd).map_err(|_| not("a closed terminal"))?;
        let slave = nix::sys::stat::fstat(&slave).map_err(|_| not("something"))?;
        let is_ours = [INPUT, OUTPUT, ERROR].into_iter().any(|standard| {
            nix::sys::stat::fstat(standard_fd(standard))
                .is_ok_and(|ours| (ours.st_dev, ours.st_ino) == (slave.st_dev, slave.st_ino))
        });
        if is_ours {
            return Err(not("our own"));
        }
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags))
            .context("cannot use the terminal")?;
        Ok(Self::of(fd, false))
    }

    /// Reads what the program wrote. [`ReadOutcome::Closed`] (EIO) is the end: no
    /// process has the slave open, and everything written to it was read.
    pub fn read(&self, buffer: &mut [u8]) -> ReadOutcome {
        super::read_outcome(self.nonblocking(|fd| nix::unistd::read(fd, buffer)))
    }

    /// Writes input for the program.
    pub fn write(&self, bytes: &[u8]) -> WriteOutcome {
        super::write_outcome(self.nonblocking(|fd| nix::unistd::write(fd, bytes)))
    }

    /// A read or a write: of a terminal that others have it could wait, and is
    /// ended then.
    #[inline]
    fn nonblocking(&self, call: impl FnOnce(&OwnedFd) -> nix::Result<usize>) -> nix::Result<usize> {
        match self.shared {
            true => self.interruptible(|| call(&self.fd)),
            false => call(&self.fd),
        }
    }

    /// A master that another process had for a while; someone may still have a copy.
    ///
    /// # Errors
    /// The descriptor is no terminal's master.
    pub fn returned(fd: OwnedFd, shared: bool) -> Result<Self> {
        path_of_slave(&fd).context("no terminal")?;
        let master = Self::of(fd, shared);
        master.take_back();
        Ok(master)
    }

    /// Reads and writes do not wait from now on; whoever has a copy can change
    /// that again.
    pub fn set_nonblocking(&self) {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        let _ = nix::fcntl::fcntl(&self.fd, nix::fcntl::FcntlArg::F_SETFL(flags));
    }

    /// Takes the terminal away from everybody who has it, as vhangup(2) does: who
    /// has its slave open reads the end and writes nothing any more, nor does
    /// whoever has a copy of this; its session loses it, and the leader gets SIGHUP
    /// and SIGCONT. Nobody opens it again. What was not read is lost. Returns
    /// whether that is so: it takes CAP_SYS_ADMIN (TIOCVHANGUP in the kernel's
    /// drivers/tty/tty_io.c).
    pub fn hang_up(&self) -> bool {
        const TIOCVHANGUP: libc::Ioctl = 0x5437;
        // SAFETY: TIOCVHANGUP takes nothing.
        let hang_up = |fd: &OwnedFd| unsafe { libc::ioctl(fd.as_raw_fd(), TIOCVHANGUP, 0) == 0 };
        // Whoever has a copy may have locked it.
        let _ = fd_query::switch(self, IoctlFlag::LOCK, false);
        let slave = open_slave(&self.fd);
        let _ = fd_query::switch(self, IoctlFlag::LOCK, true);
        let _ = slave.as_ref().map(hang_up);
        hang_up(&self.fd)
    }

    /// The device and the inode of the slave; no other terminal has them as long as this
    /// master is open.
    pub(super) fn slave_file(&self) -> Option<(u64, u64)> {
        // Only its path, or where the kernel cannot do that, itself.
        let path = peer_of(&self.fd, libc::O_PATH | libc::O_CLOEXEC);
        let slave = path.or_else(|_| open_slave(&self.fd)).ok()?;
        let status = nix::sys::stat::fstat(&slave).ok()?;
        Some((status.st_dev, status.st_ino))
    }

    /// Another descriptor of the master.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::of(self.fd.try_clone()?, self.shared))
    }

    /// Sets the size; the foreground process group gets SIGWINCH if it is
    /// another one than before.
    ///
    /// # Errors
    /// ioctl(2) TIOCSWINSZ.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        let _armed = self.arm();
        let size =
            libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize.
        let set = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        Ok(Errno::result(set).map(drop)?)
    }

    /// Sends SIGINT, SIGQUIT or SIGTSTP to the foreground process group, as
    /// the terminal itself does for its special characters: the kernel finds
    /// the group and asks for no permission.
    ///
    /// # Errors
    /// ioctl(2) TIOCSIG: another signal than these.
    pub fn signal_foreground(&self, signal: i32) -> io::Result<()> {
        let _armed = self.arm();
        // SAFETY: TIOCSIG takes a number.
        let sent = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCSIG, signal) };
        Ok(Errno::result(sent).map(drop)?)
    }

    /// The key that stands for SIGINT, SIGQUIT or SIGTSTP, as the program has
    /// set it (termios(3)); `None` where there is none.
    pub fn signal_key(&self, signal: i32) -> Option<SignalKey> {
        let _armed = self.arm();
        let index = index_of(Signal::try_from(signal).ok()?)?;
        let settings = settings_of(&self.fd).ok()?;
        let byte = settings.c_cc[index];
        let flags = settings.c_lflag;
        (byte != libc::_POSIX_VDISABLE).then_some(SignalKey {
            byte,
            flushes_input: flags & libc::ISIG != 0 && flags & libc::NOFLSH == 0,
        })
    }

    /// How long the program has neither read nor written, at least: the kernel
    /// keeps that for terminals in steps of eight seconds (`tty_update_time`
    /// in its drivers/tty/tty_io.c), by the wall clock, which may have been set
    /// meanwhile ([`super::clock::observe_wall_clock`]). `None` where it cannot be
    /// known.
    pub fn idle_time(&self) -> Option<Duration> {
        let _armed = self.arm();
        const STEP: Duration = Duration::from_secs(8);
        let slave = open_slave(&self.fd).ok()?;
        let times = nix::sys::stat::fstat(&slave).ok()?;
        let last = times.st_atime.max(times.st_mtime);
        Some(super::clock::since_wall(last).saturating_sub(STEP))
    }

    /// Drops the input that the program has not read: what is on its way to
    /// the terminal, then what has arrived there.
    pub fn flush_input(&self) {
        let _armed = self.arm();
        let _ = tcflush(&self.fd, FlushArg::TCOFLUSH);
        let _ = open_slave(&self.fd).map(|slave| tcflush(&slave, FlushArg::TCIFLUSH));
    }

    /// The foreground process group; `None` where the session is over: the
    /// kernel then says 0, and a signal to group 0 would hit ourselves.
    pub fn foreground_group(&self) -> Option<i32> {
        let _armed = self.arm();
        fd_query::query(self, Query::FOREGROUND_GROUP).ok().filter(|group| *group > 1)
    }

    /// Lets the program's next read see the end of file, as the terminal's
    /// own end-of-file character does; not while other input, or an earlier
    /// end, is still to be read. In raw mode every byte is data: there is no
    /// end. In a line editor's mode (no ICANON, but ISIG) the editor takes
    /// the character for it.
    pub fn end_input(&self) {
        let _armed = self.arm();
        let Ok(slave) = open_slave(&self.fd) else {
            return;
        };
        if fd_query::has_input(&slave) {
            return;
        }
        let Ok(attributes) = nix::sys::termios::tcgetattr(&slave) else {
            return;
        };
        if attributes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ISIG) {
            let character = match attributes.control_chars[SpecialCharacterIndices::VEOF as usize] {
                0 => 4,
                character => character,
            };
            let _ = self.write(&[character]);
        }
    }
}

impl AsFd for Master {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Slave {
    /// Makes it the standard input, output and error of this process and,
    /// where the process can begin a session, its controlling terminal
    /// (login_tty(3)); keeps a copy, so that the terminal stays open whatever
    /// the process does with those.
    ///
    /// # Errors
    /// dup2(2).
    pub fn make_stdio(&self) -> io::Result<()> {
        // It has no reason to fail in a process that was just forked; where
        // it does, the process has a session and a terminal of its own.
        if nix::unistd::setsid().is_ok() {
            // SAFETY: TIOCSCTTY takes a number.
            let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSCTTY, 0) };
        }
        dup2_stdin(&self.0)?;
        dup2_stdout(&self.0)?;
        Ok(dup2_stderr(&self.0)?)
    }

    /// Makes our process group the foreground one, after a job has ended, and
    /// has the terminal raise no signals for keys: those would end us. To be
    /// called with SIGTTOU blocked.
    pub fn take_back(&self) {
        let _ = nix::unistd::tcsetpgrp(&self.0, nix::unistd::getpgrp());
        if let Ok(mut settings) = nix::sys::termios::tcgetattr(&self.0) {
            settings.local_flags.remove(LocalFlags::ISIG);
            let _ = nix::sys::termios::tcsetattr(&self.0, SetArg::TCSANOW, &settings);
        }
    }

    /// Whether our process group is the foreground one, and no program's.
    pub fn is_ours(&self) -> bool {
        nix::unistd::tcgetpgrp(&self.0).map_or(true, |group| group == nix::unistd::getpgrp())
    }

    /// Whether there is input that no program has read: a whole line, where
    /// it is read by lines.
    pub fn has_input(&self) -> bool {
        fd_query::has_input(self)
    }

    /// The slave's name (ttyname(3)), as far as this mount namespace knows it.
    pub fn name(&self) -> String {
        nix::unistd::ttyname(&self.0)
            .map_or_else(|_| String::from("a terminal"), |name| name.display().to_string())
    }
}

impl AsFd for Slave {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The size of the terminal at standard input or, where that is none, at
/// standard output (ioctl(2) TIOCGWINSZ); `None` where neither is one or it
/// does not know its size.
pub fn own_size() -> Option<Size> {
    let known = |size: &Size| size.rows > 0 && size.cols > 0;
    [INPUT, OUTPUT]
        .into_iter()
        .find_map(|number| fd_query::window_size(standard_fd(number)).filter(known))
}
