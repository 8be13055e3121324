//! A program on a real terminal of its own: what a person sits at.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use nix::errno::Errno;
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::{Wire, wait_until};

/// The terminal and the program.
pub struct Terminal {
    pub wire: Wire,
    slave: OwnedFd,
    program: Child,
}

impl Terminal {
    /// Runs a program with the terminal as its controlling one.
    pub fn run(mut command: Command, rows: u16, cols: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal");
        // No child may hold the terminal open, the program itself included.
        for end in [&pty.master, &pty.slave] {
            let flag = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
            nix::fcntl::fcntl(end, flag).expect("close-on-exec");
        }
        let slave = || File::from(pty.slave.try_clone().expect("a copy of the terminal"));
        command.stdin(slave()).stdout(slave()).stderr(slave());
        // SAFETY: setsid and ioctl are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let program = command.spawn().expect("the program starts");
        Self { wire: Wire::over(pty.master, "the terminal"), slave: pty.slave, program }
    }

    /// Changes its size: the program gets SIGWINCH.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize.
        let set = unsafe { libc::ioctl(self.wire.fd().as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(set, 0, "the terminal's size can be set");
    }

    /// Every setting of it, as the kernel has them.
    pub fn settings(&self) -> Settings {
        Settings::of(&self.slave)
    }

    /// The process that leads the session on it.
    pub fn leader(&self) -> i32 {
        self.program.id() as i32
    }

    /// Takes the terminal away, as a closed window does; returns how the
    /// program ended.
    #[track_caller]
    pub fn hang_up(mut self) -> ExitStatus {
        let nothing: OwnedFd = File::open("/dev/null").expect("/dev/null").into();
        self.wire = Wire::over(nothing, "the closed terminal");
        self.wait()
    }

    /// Whether the terminal is raw: no echo, no lines.
    pub fn is_raw(&self) -> bool {
        tcgetattr(&self.slave).is_ok_and(|attributes| {
            !attributes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
        })
    }

    /// Waits for the program to end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the program on the terminal ends", || {
            status = self.program.try_wait().expect("a child of ours");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

/// A terminal's settings: all fields of the C struct, to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    flags: [libc::tcflag_t; 4],
    line: libc::cc_t,
    characters: [libc::cc_t; libc::NCCS],
    speeds: [libc::speed_t; 2],
}

impl Settings {
    fn of(terminal: &OwnedFd) -> Self {
        let mut termios = std::mem::MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: tcgetattr fills one termios, which zeros are a valid one of.
        let (got, termios) = unsafe {
            (libc::tcgetattr(terminal.as_raw_fd(), termios.as_mut_ptr()), termios.assume_init())
        };
        assert_eq!(got, 0, "the terminal's settings can be read: {}", Errno::last());
        Self {
            flags: [termios.c_iflag, termios.c_oflag, termios.c_cflag, termios.c_lflag],
            line: termios.c_line,
            characters: termios.c_cc,
            speeds: [termios.c_ispeed, termios.c_ospeed],
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
