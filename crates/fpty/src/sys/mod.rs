//! The operating system, behind functions that are safe to call. No raw
//! descriptor leaves this folder: there are types for the roles of one.
//!
//! | file | subject |
//! | --- | --- |
//! | **descriptors** | |
//! | `asked.rs` | what any descriptor is asked or told in one number |
//! | `poll.rs`, `signal.rs`, `clock.rs` | to wait: epoll(7) and poll(2), signals, times and alarms |
//! | `stdio.rs`, `streams.rs`, `termios.rs` | standard descriptors, those of a command, the terminal of a person |
//! | `closer.rs`, `interrupt.rs`, `fork.rs` | closing, calling and forking where others have copies |
//! | **terminals** | |
//! | `pty.rs`, `pty/shared.rs` | a pseudo-terminal; one that others have, too |
//! | `pipe.rs`, `tick.rs`, `processors.rs` | its output without a copy, and soon |
//! | `reader.rs`, `terminal_users.rs`, `foreground.rs` | who reads it, who has it open, its foreground group |
//! | **sockets** | |
//! | `socket.rs`, `socket/passing.rs`, `bind.rs` | streams and listeners; descriptors that strangers send |
//! | `peer.rs`, `credentials.rs`, `sender.rs`, `control.rs` | who is at the other end, and what comes beside the bytes |
//! | `local_tcp.rs` | whether a TCP peer on this machine has closed |
//! | **processes** | |
//! | `spawn.rs`, `spawn/program.rs`, `spawn.c`, `environment.rs` | the program of a session, and its start |
//! | `child.rs`, `pidfd.rs`, `process.rs`, `noted.rs` | a child, any process, either, one that is known again later |
//! | `sessions.rs` | sessions of processes, and what is looked for among all |
//! | `detached.rs`, `proc.rs`, `accounts.rs` | a process of nobody's, /proc, users and groups |
//! | **memory and files** | |
//! | `memory.rs` | files of memory, and mappings |
//! | `shared.rs`, `queue.rs`, `ring.rs`, `memory_file.rs` | words, a queue, the last output, bytes to be sent |
//! | `folder.rs`, `lock.rs` | files below a folder, a lock |

pub mod accounts;
mod asked;
pub mod bind;
pub mod child;
pub mod clock;
pub mod closer;
pub mod control;
pub mod credentials;
pub mod detached;
pub mod environment;
#[cfg(feature = "server")]
pub mod folder;
pub mod foreground;
#[cfg(feature = "server")]
pub mod fork;
pub mod interrupt;
pub mod local_tcp;
#[cfg(feature = "server")]
pub mod lock;
mod memory;
pub mod memory_file;
pub mod noted;
pub mod peer;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod proc;
pub mod process;
pub mod processors;
pub mod pty;
#[cfg(feature = "server")]
pub mod queue;
#[cfg(feature = "server")]
pub mod reader;
pub mod ring;
#[cfg(feature = "server")]
pub mod sender;
pub mod sessions;
#[cfg(feature = "server")]
pub mod shared;
pub mod signal;
pub mod socket;
#[cfg(feature = "server")]
pub mod spawn;
pub mod stdio;
pub mod streams;
pub mod terminal_users;
pub mod termios;
pub mod tick;

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
    if !proc::is_ours() && !pidfd::have_inodes() {
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
        .is_ok_and(|status| asked::kind_of(status.st_mode) == nix::sys::stat::SFlag::S_IFREG);
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
