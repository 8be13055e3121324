//! The operating system, behind functions that are safe to call. No raw
//! descriptor leaves this folder: there are types for the roles of one.
//!
//! | file | subject |
//! | --- | --- |
//! | `accounts.rs` | users and groups by name and number (passwd(5), group(5)) |
//! | `ancillary_data.rs` | ancillary data of messages, parsed (cmsg(3)) |
//! | `bind.rs` | UNIX listening sockets with a mode and an owner (bind(2), umask(2)) |
//! | `child.rs` | process ids, exit statuses, wait(2) for children |
//! | `clock.rs` | CLOCK_BOOTTIME, a timer by it, and wall-clock times in it |
//! | `background_close.rs` | close(2) on threads of its own, for descriptors that strangers sent |
//! | `cpu_affinity.rs` | the processors that this process and the kernel's workers may use |
//! | `credentialed_messages.rs` | messages that come with the sender's credentials (SO_PASSCRED) |
//! | `credentials.rs` | credentials of a socket's peer: SO_PEERCRED, groups, address, login uid |
//! | `daemonize.rs` | processes that leave their parent's session (fork(2), setsid(2)) |
//! | `dir.rs` | files made below a directory descriptor (openat(2)), links not followed |
//! | `environment.rs` | the environment of a session's program (environ(7)) |
//! | `fd_query.rs` | one number or flag asked of any descriptor (ioctl(2), getsockopt(2), poll(2)) |
//! | `foreground_group.rs` | a terminal's foreground process group, hung up (tcgetpgrp(3)) |
//! | `syscall_timeout.rs` | timers that end calls which would block (setitimer(2)) |
//! | `memfd.rs` | sealed files of memory, and mappings read and written by atomics (memfd_create(2), mmap(2)) |
//! | `memfd_message.rs` | bytes too many for a message, sent as a file of memory |
//! | `peer_process.rs` | the process at the other end of a UNIX socket; descriptors received from it |
//! | `pidfd.rs` | processes by descriptor (pidfd_open(2)) |
//! | `splice_pipe.rs` | a pipe for splice(2) |
//! | `poll.rs` | epoll(7), and poll(2) for a few descriptors |
//! | `private_fd.rs` | descriptors that forked children do not inherit (pthread_atfork(3)) |
//! | `proc_net_tcp.rs` | TCP connections within this machine (/proc/net/tcp) |
//! | `process_handle.rs` | a process that is signalled, never another that has its number later |
//! | `process_identity.rs` | a process id with a proof, stored for a later process |
//! | `process_lock.rs` | a file lock that ends with its process (fcntl_locking(2)) |
//! | `process_search.rs` | processes found among all: members of groups, holders of terminals |
//! | `process_session.rs` | POSIX sessions: their leaders, and killing all members (setsid(2)) |
//! | `procfs.rs` | /proc: whose PID namespace it shows, fields of stat, all processes (proc(5)) |
//! | `pty.rs` | pseudo-terminals: master and slave (pty(7), ioctl_tty(2)) |
//! | `pty/untrusted.rs` | a master that others have copies of: calls on it never block |
//! | `recvmsg.rs` | recvmsg(2) with descriptors, credentials and pidfd |
//! | `scrollback_ring.rs` | the ring of a terminal's last output, in a file of memory |
//! | `shm.rs` | words shared with forked processes (MAP_SHARED) |
//! | `shm_queue.rs` | a queue of bytes from one process to another, in shared memory |
//! | `signal.rs` | signals: read (signalfd(2)), blocked, ignored |
//! | `socket.rs` | stream sockets, UNIX and TCP: listen, connect, read, write |
//! | `socket/fd_passing.rs` | descriptors that strangers send with bytes (SCM_RIGHTS) |
//! | `spawn.rs` | the start of a program (vfork and execve(2), in spawn.c) |
//! | `spawn/program.rs` | a program to start: arguments, environment, user, folder |
//! | `stdio.rs` | the three standard descriptors of this process |
//! | `passable_stdio.rs` | which standard descriptors may be passed to a program elsewhere, and pipes for the others |
//! | `termios.rs` | raw mode of the person's terminal (termios(3)) |
//! | `tick.rs` | the processor's tick, kept running during a quick exchange |
//! | `tty_readers.rs` | whether a process waits for a terminal's input, found in /proc |

pub mod accounts;
pub(crate) mod ancillary_data;
pub mod background_close;
pub mod bind;
pub mod child;
pub mod clock;
pub mod cpu_affinity;
pub(crate) mod credentialed_messages;
pub mod credentials;
pub mod daemonize;
pub mod dir;
pub mod environment;
pub(crate) mod fd_query;
pub mod foreground_group;
pub(crate) mod memfd;
pub mod memfd_message;
pub mod passable_stdio;
pub mod peer_process;
pub mod pidfd;
pub mod poll;
pub mod private_fd;
pub mod proc_net_tcp;
pub mod process_handle;
pub mod process_identity;
pub mod process_lock;
pub mod process_search;
pub mod process_session;
pub mod procfs;
pub mod pty;
pub(crate) mod recvmsg;
pub mod scrollback_ring;
pub mod shm;
pub mod shm_queue;
pub mod signal;
pub mod socket;
#[cfg(feature = "server")]
pub mod spawn;
pub mod splice_pipe;
pub mod stdio;
pub mod syscall_timeout;
pub mod termios;
pub mod tick;
pub mod tty_readers;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Result of a non-blocking read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Success: the number of bytes, at least one.
    Bytes(usize),
    /// The call would block.
    WouldBlock,
    /// The other end has shut down its writing half, or closed.
    Eof,
    /// The other end is closed for good.
    Closed,
}

/// Result of a non-blocking write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Success: the number of bytes, at least one.
    Bytes(usize),
    /// The call would block.
    WouldBlock,
    /// The stream has no reader any more.
    Closed,
}

impl WriteOutcome {
    /// How many bytes were taken; `None`: nobody will ever take any.
    pub fn taken(self) -> Option<usize> {
        match self {
            WriteOutcome::Bytes(count) => Some(count),
            WriteOutcome::WouldBlock => Some(0),
            WriteOutcome::Closed => None,
        }
    }
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Height.
    pub rows: u16,
    /// Width.
    pub cols: u16,
}

fn read_outcome(result: nix::Result<usize>) -> ReadOutcome {
    use nix::errno::Errno;
    match result {
        Ok(0) => ReadOutcome::Eof,
        Ok(count) => ReadOutcome::Bytes(count),
        Err(Errno::EAGAIN | Errno::EINTR) => ReadOutcome::WouldBlock,
        Err(_) => ReadOutcome::Closed,
    }
}

fn write_outcome(result: nix::Result<usize>) -> WriteOutcome {
    use nix::errno::Errno;
    match result {
        Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => WriteOutcome::WouldBlock,
        Ok(count) => WriteOutcome::Bytes(count),
        Err(_) => WriteOutcome::Closed,
    }
}

/// The monotonic clock in whole seconds is not what a deadline wants; this is
/// the wall clock that the server's own deadlines are in (time(2)).
pub fn unix_time() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The monotonic clock in microseconds, as far as they fit: for differences
/// (clock_gettime(2)).
pub fn monotonic_microseconds() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| {
        let micros = now.tv_sec().wrapping_mul(1_000_000).wrapping_add(now.tv_nsec() / 1000);
        micros as u32
    })
}

/// Raises the soft limit of descriptors to the hard one and returns both as
/// they are now and as they were (getrlimit(2)).
///
/// # Errors
/// The limit cannot be read or set.
pub fn raise_descriptor_limit() -> io::Result<DescriptorLimit> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    LIMIT.store(i32::try_from(hard).unwrap_or(i32::MAX), Ordering::Relaxed);
    Ok(DescriptorLimit { before: soft, now: hard })
}

/// The limit of descriptors, where it was raised.
static LIMIT: AtomicI32 = AtomicI32::new(i32::MAX);

/// Whether a descriptor is among the last so many that this process may have: where
/// it is new, no more than those are free, as the kernel gives the lowest number.
pub fn is_near_descriptor_limit(fd: impl AsFd, count: i32) -> bool {
    fd.as_fd().as_raw_fd() >= LIMIT.load(Ordering::Relaxed).saturating_sub(count)
}

/// The highest number that was given of late.
static HIGHEST_FD: AtomicI32 = AtomicI32::new(0);

/// A descriptor was made: the kernel gives the lowest number that is free.
fn note_descriptor(fd: i32) {
    HIGHEST_FD.store(fd, Ordering::Relaxed);
}

/// Whether there may be no numbers for as many descriptors as one message can
/// bring.
fn may_lack_descriptors() -> bool {
    const MANY: i32 = 512;
    LIMIT.load(Ordering::Relaxed) - HIGHEST_FD.load(Ordering::Relaxed) < MANY
}

/// A limit of descriptors that was raised.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorLimit {
    /// The soft limit that programs of sessions get back.
    pub before: u64,
    /// The limit that holds for us.
    pub now: u64,
}

/// Features that a supervisor of sessions lacks on this machine, a line each.
pub fn missing_features() -> Vec<&'static str> {
    let mut missing = Vec::new();
    let has_pidfd = pidfd::PidFd::are_supported();
    if !has_pidfd {
        missing.push(
            "no pidfd here (Linux before 5.3, or forbidden): terminals that were handed over end with their gateway",
        );
    }
    if !procfs::is_own_namespace() && !pidfd::have_inodes() {
        missing.push(
            "no /proc of this PID namespace and no pidfs (Linux 6.9): what ignores SIGHUP may outlive its gateway",
        );
    }
    if std::fs::File::open("/proc/net/tcp").is_err() {
        missing.push("no /proc/net/tcp here: a TCP client that left is noticed late while its program is silent");
    }
    missing
}

/// The machine's name, which may be the jail's own; what is not UTF-8 as
/// U+FFFD.
pub fn host_name() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether there is a file here that we may execute (access(2)).
pub fn is_executable(path: &std::ffi::CStr) -> bool {
    use nix::unistd::{AccessFlags, access};
    let is_file = nix::sys::stat::stat(path).is_ok_and(|status| {
        fd_query::file_type_of(status.st_mode) == nix::sys::stat::SFlag::S_IFREG
    });
    is_file && access(path, AccessFlags::X_OK).is_ok()
}

/// Keeps processes of the same user from reading our memory and descriptors
/// (ptrace(2), proc(5)): those are other people's terminals.
pub fn forbid_ptrace() {
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Fills a few bytes, at most 256, with what nobody can guess (getrandom(2)).
///
/// # Errors
/// The kernel is too old, or forbids it.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: writes as many bytes as there are.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(count) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Whether this process would give its programs the group root without being
/// root itself: a server that was told a uid and no gid.
pub fn keeps_root_group() -> bool {
    let has_root_group = || accounts::own_gid() == 0 || accounts::own_groups().contains(&0);
    accounts::own_uid() != 0 && has_root_group()
}
