//! The operating system, behind functions that are safe to call. No raw
//! descriptor leaves this folder: there are types for the roles of one.
//!
//! | file | subject |
//! | --- | --- |
//! | `accounts.rs` | a process of nobody's, /proc, users and groups |
//! | `ancillary_data.rs` | who is at the other end, and what comes beside the bytes |
//! | `bind.rs` | streams and listeners; descriptors that strangers send |
//! | `child.rs` | a child, any process, either, one that is known again later |
//! | `clock.rs` | to wait: epoll(7) and poll(2), signals, times and alarms |
//! | `closer.rs` | closing, calling and forking where others have copies |
//! | `credentialed_messages.rs` | who is at the other end, and what comes beside the bytes |
//! | `credentials.rs` | who is at the other end, and what comes beside the bytes |
//! | `daemonize.rs` | a process of nobody's, /proc, users and groups |
//! | `dir.rs` | files below a folder, a lock |
//! | `environment.rs` | the program of a session, and its start |
//! | `fd_query.rs` | what any descriptor is asked or told in one number |
//! | `foreground_group.rs` | who reads it, who has it open, its foreground group |
//! | `itimer_guard.rs` | closing, calling and forking where others have copies |
//! | `memfd.rs` | files of memory, and mappings |
//! | `memfd_message.rs` | words, a queue, the last output, bytes to be sent |
//! | `peer_process.rs` | who is at the other end, and what comes beside the bytes |
//! | `pid_guard.rs` | a child, any process, either, one that is known again later |
//! | `pidfd.rs` | a child, any process, either, one that is known again later |
//! | `pipe.rs` | its output without a copy, and soon |
//! | `poll.rs` | to wait: epoll(7) and poll(2), signals, times and alarms |
//! | `private_fd.rs` | closing, calling and forking where others have copies |
//! | `proc_net_tcp.rs` | whether a TCP peer on this machine has closed |
//! | `process_identity.rs` | a child, any process, either, one that is known again later |
//! | `process_lock.rs` | files below a folder, a lock |
//! | `process_session.rs` | sessions of processes, and what is looked for among all |
//! | `processors.rs` | its output without a copy, and soon |
//! | `procfs.rs` | a process of nobody's, /proc, users and groups |
//! | `pty.rs`, `pty/` | a pseudo-terminal; one that others have, too |
//! | `ring.rs` | words, a queue, the last output, bytes to be sent |
//! | `shm.rs` | words, a queue, the last output, bytes to be sent |
//! | `shm_queue.rs` | words, a queue, the last output, bytes to be sent |
//! | `signal.rs` | to wait: epoll(7) and poll(2), signals, times and alarms |
//! | `socket.rs`, `socket/` | streams and listeners; descriptors that strangers send |
//! | `spawn.rs`, `spawn/` | the program of a session, and its start |
//! | `stdio.rs` | standard descriptors, those of a command, the terminal of a person |
//! | `stdio_pass.rs` | standard descriptors, those of a command, the terminal of a person |
//! | `termios.rs` | standard descriptors, those of a command, the terminal of a person |
//! | `tick.rs` | its output without a copy, and soon |
//! | `tty_holders.rs` | who reads it, who has it open, its foreground group |
//! | `tty_waiters.rs` | who reads it, who has it open, its foreground group |

pub mod accounts;
pub mod ancillary_data;
pub mod bind;
pub mod child;
pub mod clock;
pub mod closer;
#[cfg(feature = "server")]
pub mod credentialed_messages;
pub mod credentials;
pub mod daemonize;
#[cfg(feature = "server")]
pub mod dir;
pub mod environment;
pub(crate) mod fd_query;
pub mod foreground_group;
pub mod itimer_guard;
pub(crate) mod memfd;
pub mod memfd_message;
pub mod peer_process;
pub mod pid_guard;
pub mod pidfd;
pub mod pipe;
pub mod poll;
#[cfg(feature = "server")]
pub mod private_fd;
pub mod proc_net_tcp;
pub mod process_identity;
#[cfg(feature = "server")]
pub mod process_lock;
pub mod process_session;
pub mod processors;
pub mod procfs;
pub mod pty;
pub mod ring;
#[cfg(feature = "server")]
pub mod shm;
#[cfg(feature = "server")]
pub mod shm_queue;
pub mod signal;
pub mod socket;
#[cfg(feature = "server")]
pub mod spawn;
pub mod stdio;
pub mod stdio_pass;
pub mod termios;
pub mod tick;
pub mod tty_holders;
#[cfg(feature = "server")]
pub mod tty_waiters;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// What came of a read that does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Blocked,
    /// The other end has shut down its writing half, or closed.
    End,
    /// The other end is gone: nothing can be read or written any more.
    Gone,
}

/// What came of a write that does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Blocked,
    /// Nobody will ever read it.
    Gone,
}

impl Written {
    /// How many bytes were taken; `None`: nobody will ever take any.
    pub fn taken(self) -> Option<usize> {
        match self {
            Written::Bytes(count) => Some(count),
            Written::Blocked => Some(0),
            Written::Gone => None,
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

fn read_outcome(result: nix::Result<usize>) -> Read {
    use nix::errno::Errno;
    match result {
        Ok(0) => Read::End,
        Ok(count) => Read::Bytes(count),
        Err(Errno::EAGAIN | Errno::EINTR) => Read::Blocked,
        Err(_) => Read::Gone,
    }
}

fn write_outcome(result: nix::Result<usize>) -> Written {
    use nix::errno::Errno;
    match result {
        Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => Written::Blocked,
        Ok(count) => Written::Bytes(count),
        Err(_) => Written::Gone,
    }
}

/// The monotonic clock in whole seconds is not what a deadline wants; this is
/// the wall clock that the server's own deadlines are in (time(2)).
pub fn wall_clock_seconds() -> i64 {
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
pub fn is_one_of_the_last(fd: impl AsFd, count: i32) -> bool {
    fd.as_fd().as_raw_fd() >= LIMIT.load(Ordering::Relaxed).saturating_sub(count)
}

/// The highest number that was given of late.
static LATEST: AtomicI32 = AtomicI32::new(0);

/// A descriptor was made: the kernel gives the lowest number that is free.
fn note_latest(fd: i32) {
    LATEST.store(fd, Ordering::Relaxed);
}

/// Whether there may be no numbers for as many descriptors as one message can
/// bring.
fn is_short_of_descriptors() -> bool {
    const MANY: i32 = 512;
    LIMIT.load(Ordering::Relaxed) - LATEST.load(Ordering::Relaxed) < MANY
}

/// A limit of descriptors that was raised.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorLimit {
    /// The soft limit that programs of sessions get back.
    pub before: u64,
    /// The limit that holds for us.
    pub now: u64,
}

/// What a supervisor of sessions cannot do on this machine, a line each.
pub fn what_is_missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    let has_pidfd = pidfd::PidFd::there_are();
    if !has_pidfd {
        missing.push(
            "no pidfd here (Linux before 5.3, or forbidden): terminals that were handed over end with their gateway",
        );
    }
    if !procfs::is_ours() && !pidfd::have_inodes() {
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
    let is_file = nix::sys::stat::stat(path)
        .is_ok_and(|status| fd_query::kind_of(status.st_mode) == nix::sys::stat::SFlag::S_IFREG);
    is_file && access(path, AccessFlags::X_OK).is_ok()
}

/// Keeps processes of the same user from reading our memory and descriptors
/// (ptrace(2), proc(5)): those are other people's terminals.
pub fn forbid_inspection() {
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
pub fn has_root_group_only() -> bool {
    !nix::unistd::geteuid().is_root()
        && (nix::unistd::getegid().as_raw() == 0
            || nix::unistd::getgroups()
                .is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == 0)))
}
