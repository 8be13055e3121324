//! The standard descriptors of a process that a person or a pipe is at.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::socket::MsgFlags;
use nix::sys::stat::{SFlag, fstat};
use once_cell::sync::OnceCell;

use super::fd_query::{self, Query, file_type_of};
use super::passable_stdio::{ERROR, INPUT, OUTPUT, reopen, standard_fd};
use super::{ReadOutcome, WriteOutcome};

/// Standard input. Reads wait, unless a poll said that there is something.
pub fn stdin() -> BorrowedFd<'static> {
    standard_fd(INPUT)
}

/// Standard output.
pub fn stdout() -> BorrowedFd<'static> {
    standard_fd(OUTPUT)
}

/// Standard error.
pub fn stderr() -> BorrowedFd<'static> {
    standard_fd(ERROR)
}

/// Puts /dev/null on those of the three standard descriptors that are closed:
/// or the next socket that is opened gets such a number, and what is written
/// to standard output goes to the other end of it. To be called before
/// anything is opened.
pub fn fill_closed() {
    for number in 0..=2 {
        // SAFETY: fcntl(2) F_GETFD looks a number up.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0 {
            continue;
        }
        // SAFETY: a NUL-terminated path. The lowest free number is this one,
        // since those below it are open; where it is not, it is closed again.
        unsafe {
            let opened = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            if opened > 2 {
                libc::close(opened);
            }
        }
    }
}

/// Writes a line to standard error, if anybody is there. (eprintln! panics
/// where nobody is, as when the terminal was closed.) Much of it may be
/// somebody else's words: it is one line, and does nothing to a terminal.
pub fn say(line: &str) {
    say_between("", line, "\n");
}

/// Writes a line to a terminal in raw mode, whose cursor may be anywhere.
pub fn say_raw(line: &str) {
    say_between("\r\n", line, "\r\n");
}

/// Ends the line on standard error that somebody else has begun there.
pub fn end_line() {
    use std::io::Write;
    let _ = std::io::stderr().write_all(b"\n");
}

/// Whether what is written to standard output and to standard error comes to the
/// same place: one terminal, pipe or file.
pub fn is_same_file() -> bool {
    let is_terminal = |fd| nix::unistd::isatty(fd).unwrap_or(false);
    let place = |fd| fstat(fd).map(|status| (status.st_dev, status.st_ino)).ok();
    let is_same = place(stdout()).is_some_and(|out| place(stderr()) == Some(out));
    // One terminal has several names.
    is_same || is_terminal(stdout()) && is_terminal(stderr())
}

fn say_between(before: &str, line: &str, after: &str) {
    use std::io::Write;
    // In one write(2), or what others write comes in between.
    let whole = format!("{before}{}{after}", crate::text::shown(line));
    let _ = std::io::stderr().write_all(whole.as_bytes());
}

/// Whether standard error takes a line of up to PIPE_BUF bytes without
/// waiting for whoever reads it.
pub fn stderr_has_room() -> bool {
    // A file takes it always.
    if IS_FILE.load(Ordering::Relaxed) {
        return true;
    }
    let found = fd_query::poll_one(stderr(), PollFlags::POLLOUT, Duration::ZERO);
    if found == Ok(PollFlags::empty()) {
        return false;
    }
    // What has no room for ever (POLLERR, POLLNVAL) takes it at once, too.
    let has_room = found.is_ok_and(|found| found == PollFlags::POLLOUT);
    let most = MOST_UNREAD.load(Ordering::Relaxed);
    most == 0 || !has_room || unread(stderr()) <= most
}

/// Whether standard error is known to be a file.
static IS_FILE: AtomicBool = AtomicBool::new(false);

/// How many bytes may be unread in it for a line more, where it is a pipe that
/// others write to; 0: it is none.
static MOST_UNREAD: AtomicUsize = AtomicUsize::new(0);

/// From now on this process's standard error stays what it is. Others like it
/// may look at once whether it takes a line: then there is to be room for all
/// of them.
pub fn keep_stderr(others_write: bool) {
    let kind = fd_query::file_type(stderr());
    IS_FILE.store(kind == SFlag::S_IFREG, Ordering::Relaxed);
    if others_write && kind == SFlag::S_IFIFO {
        let size = nix::fcntl::fcntl(stderr(), nix::fcntl::FcntlArg::F_GETPIPE_SZ);
        // A page may be half full: that leaves half of them.
        let most = size.map_or(0, |size| usize::try_from(size).unwrap_or(0) / 4);
        MOST_UNREAD.store(most, Ordering::Relaxed);
    }
}

fn unread(pipe: BorrowedFd<'_>) -> usize {
    fd_query::query(pipe, Query::UNREAD).map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// Reads from a descriptor that was inherited.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> ReadOutcome {
    super::read_outcome(nix::unistd::read(fd, buffer))
}

/// Reads from standard input. Only a terminal that is gone takes the person
/// with it ([`ReadOutcome::Closed`]); what cannot be read has ended: nohup(1) gives one
/// that is open for writing only.
///
/// A read of a terminal never waits: while we were stopped, or in the background,
/// somebody else may have taken what a poll found there.
pub fn read_input(buffer: &mut [u8]) -> ReadOutcome {
    // What was waited for in the foreground comes in the background, too, where a
    // read stops us (SIGTTIN).
    if !in_foreground() {
        return ReadOutcome::WouldBlock;
    }
    let read = match own_terminal() {
        Some(terminal) => nix::unistd::read(terminal, buffer),
        None if !fd_query::has_input(stdin()) => return ReadOutcome::WouldBlock,
        None => nix::unistd::read(stdin(), buffer),
    };
    match read {
        // Nobody can stop us there, and it is not ours to read.
        Err(Errno::EIO) if !in_foreground() => ReadOutcome::WouldBlock,
        Err(Errno::EIO) if stdin_is_a_terminal() => ReadOutcome::Closed,
        Err(Errno::EAGAIN | Errno::EINTR) => ReadOutcome::WouldBlock,
        Ok(count) if count > 0 => ReadOutcome::Bytes(count),
        _ => ReadOutcome::Eof,
    }
}

/// A description of our own of the terminal on standard input, which does not
/// wait; to make the inherited one so would make it so for the shell, too. `None`:
/// it is none, or cannot be opened again.
fn own_terminal() -> Option<&'static OwnedFd> {
    static OWN: OnceCell<Option<OwnedFd>> = OnceCell::new();
    let open = || reopen(stdin(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).ok();
    OWN.get_or_init(|| stdin_is_a_terminal().then(open)?).as_ref()
}

/// Whether the terminal on standard input is our controlling one: the keys
/// that are signals reach us. Below su(1) or setsid(1) they reach others.
pub fn is_controlling_terminal() -> bool {
    // It fails for another's; 0 is a session outside of this PID namespace.
    nix::sys::termios::tcgetsid(stdin())
        .is_ok_and(|session| session.as_raw() > 0 && nix::unistd::getsid(None) == Ok(session))
}

/// Whether standard input is a terminal.
pub fn stdin_is_a_terminal() -> bool {
    nix::unistd::isatty(stdin()).unwrap_or(false)
}

/// Columns of the terminal on standard output; `None`: it is no terminal, or has no
/// size.
pub fn columns_of_output() -> Option<usize> {
    let cols = fd_query::window_size(stdout())?.cols;
    (cols > 0).then_some(cols.into())
}

/// Whether our process group is the terminal's foreground one, or the
/// terminal one that has none for us.
pub fn in_foreground() -> bool {
    nix::unistd::tcgetpgrp(stdin()).map_or(true, |group| group == nix::unistd::getpgrp())
}

/// An output that was inherited and is not to be waited for.
pub struct Output {
    fd: OwnedFd,
    kind: OutputKind,
}

/// Way of writing to an output.
#[derive(Clone, Copy)]
enum OutputKind {
    /// A description of our own, which does not wait. (To make the inherited
    /// one so would make it so for everyone who shares it, the shell too.)
    Reopened,
    /// The inherited descriptor: a terminal or pipe that cannot be opened again, written
    /// to in pieces that a poll has found room for.
    Inherited,
    /// The inherited descriptor: a file, where a write never waits for anybody.
    File,
    /// A socket.
    Socket,
}

/// Failure of an output that takes no more, where that is not for want of a reader: a
/// full disk (write(2)).
#[derive(Debug, Default)]
pub struct WriteFailure(Cell<i32>);

impl WriteFailure {
    /// The errno's text.
    pub fn reason(&self) -> Option<String> {
        Some(self.0.get()).filter(|errno| *errno != 0).map(crate::error::errno_text)
    }

    /// Records the failure of a write to a file, where nothing is for want of a reader.
    fn note(&self, result: nix::Result<usize>) -> WriteOutcome {
        let outcome = super::write_outcome(result);
        if let (WriteOutcome::Closed, Err(errno)) = (outcome, result) {
            self.0.set(errno as i32);
        }
        outcome
    }

    /// Records the failure of a write to a pipe, a socket or a terminal, which may have
    /// no reader.
    fn note_unless_gone(&self, result: nix::Result<usize>) -> WriteOutcome {
        match result {
            Err(Errno::EPIPE | Errno::EIO | Errno::ECONNRESET) => WriteOutcome::Closed,
            result => self.note(result),
        }
    }
}

/// Bytes that a pipe takes whole when a poll finds room in it (PIPE_BUF, pipe(7)).
const PIECE: usize = 4096;

impl Output {
    /// A copy of any descriptor for output; it is not passed to children.
    ///
    /// # Errors
    /// The descriptor is closed.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let file_type = file_type_of(fstat(fd)?.st_mode);
        if file_type == SFlag::S_IFIFO || nix::unistd::isatty(fd).unwrap_or(false) {
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            if let Ok(fd) = reopen(fd, flags) {
                return Ok(Self { fd, kind: OutputKind::Reopened });
            }
        }
        let kind = match file_type {
            SFlag::S_IFSOCK => OutputKind::Socket,
            SFlag::S_IFREG => OutputKind::File,
            _ => OutputKind::Inherited,
        };
        Ok(Self { fd: fd.try_clone_to_owned()?, kind })
    }

    /// Writes what there is room for. [`WriteOutcome::Closed`]: nobody reads it.
    pub fn write(&self, bytes: &[u8]) -> WriteOutcome {
        self.write_recording_failure(bytes, &WriteFailure::default())
    }

    /// Writes as [`Output::write`] does, and records why no more is taken.
    pub fn write_recording_failure(&self, bytes: &[u8], failure: &WriteFailure) -> WriteOutcome {
        let fd = &self.fd;
        match self.kind {
            OutputKind::Reopened => failure.note_unless_gone(nix::unistd::write(fd, bytes)),
            OutputKind::File => failure.note(nix::unistd::write(fd, bytes)),
            OutputKind::Socket => {
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                failure.note_unless_gone(nix::sys::socket::send(fd.as_raw_fd(), bytes, flags))
            }
            OutputKind::Inherited => {
                if fd_query::poll_now(fd, PollFlags::POLLOUT).is_empty() {
                    return WriteOutcome::WouldBlock;
                }
                let piece = &bytes[..bytes.len().min(PIECE)];
                failure.note_unless_gone(nix::unistd::write(fd, piece))
            }
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
