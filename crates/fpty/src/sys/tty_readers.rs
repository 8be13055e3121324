//! Whether anybody waits for a terminal's input: a terminal itself does not
//! tell. Linux does, of each thread, in /proc (proc(5), `syscall`); what a thread polls
//! for stands in its memory.
//!
//! What it brings: a pipe into the shared terminal (`pty-socket`) ends 20 to 250 ms after
//! its last input was read and answered. Where it cannot be known (no /proc, programs of
//! another user) the client is kept until 10 seconds of silence instead, and what a
//! program says after a longer pause is lost to it. What it costs: four files of /proc are
//! read for each thread below the worker, at most every 250 ms, and only while such a
//! client is there.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::fstat;

/// Whether a process waits for a terminal's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputWait {
    /// A process waits for input.
    Waiting,
    /// No process waits for input.
    Busy,
    /// Unknown: there is no /proc, or processes belong to other users.
    Unknown,
}

/// Longest read from another process's memory, in bytes: a set of 1024 descriptors for
/// select(2) has 128 bytes, 64 for poll(2) have 512.
const MAX_READ: usize = 512;

/// How many processes are looked at.
const MAX_PROCESSES: usize = 1024;

/// Whether a thread of this process, or of one that descends from it, waits
/// in a read of this terminal's slave, or until there is something to read.
pub fn of(slave: impl AsFd) -> InputWait {
    let Ok(terminal) = fstat(slave) else {
        return InputWait::Unknown;
    };
    let mut processes = vec![std::process::id()];
    // Not every kernel lists them (CONFIG_PROC_CHILDREN).
    let mut known = Path::new("/proc/thread-self/children").exists();
    let mut next = 0;
    while let Some(process) = processes.get(next).copied().filter(|_| next < MAX_PROCESSES) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let folder = thread.path().display().to_string();
            match waits(&folder, terminal.st_rdev) {
                Ok(true) => return InputWait::Waiting,
                Ok(false) => {}
                Err(error) => known &= is_gone(&error),
            }
            match fs::read_to_string(format!("{folder}/children")) {
                Ok(children) => processes.extend(
                    children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()),
                ),
                Err(error) => known &= is_gone(&error),
            }
        }
    }
    match known && next < MAX_PROCESSES {
        true => InputWait::Busy,
        false => InputWait::Unknown,
    }
}

/// A process or thread that has ended meanwhile.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn waits(folder: &str, terminal: libc::dev_t) -> io::Result<bool> {
    let line = fs::read_to_string(format!("{folder}/syscall"))?;
    let mut words = line.split_ascii_whitespace();
    // "running", or "-1" where it waits in none.
    let Some(call) = words.next().and_then(|word| word.parse::<libc::c_long>().ok()) else {
        return Ok(false);
    };
    let mut arguments = [0; 2];
    for argument in &mut arguments {
        let word = words.next().and_then(|word| word.strip_prefix("0x"));
        *argument = word.and_then(|word| u64::from_str_radix(word, 16).ok()).unwrap_or(0);
    }
    let [first, second] = arguments;
    let candidates = match call {
        libc::SYS_read | libc::SYS_readv => vec![first],
        libc::SYS_ppoll => of_poll(folder, first, second)?,
        libc::SYS_pselect6 => of_select(folder, first, second)?,
        libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => of_epoll(folder, first)?,
        // What newer architectures do without.
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => of_poll(folder, first, second)?,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select => of_select(folder, first, second)?,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait => of_epoll(folder, first)?,
        _ => Vec::new(),
    };
    Ok(candidates.iter().any(|fd| is_terminal(folder, *fd, terminal)))
}

/// /dev/tty, which is whatever terminal a process has.
const DEV_TTY: (u32, u32) = (5, 0);

fn is_terminal(folder: &str, fd: u64, terminal: libc::dev_t) -> bool {
    fs::metadata(format!("{folder}/fd/{fd}")).is_ok_and(|data| {
        let device = data.rdev();
        device == terminal || (libc::major(device), libc::minor(device)) == DEV_TTY
    })
}

/// The descriptors that a poll(2) waits to read from: pairs of an int and two
/// shorts.
fn of_poll(folder: &str, at: u64, count: u64) -> io::Result<Vec<u64>> {
    let size =
        usize::try_from(count).map_or(MAX_READ, |count| count.saturating_mul(8).min(MAX_READ));
    let entries = memory(folder, at, size)?;
    let wanted = entries.chunks_exact(8).filter_map(|entry| {
        let fd = i32::from_ne_bytes(entry[..4].try_into().ok()?);
        let events = i16::from_ne_bytes(entry[4..6].try_into().ok()?);
        u64::try_from(fd).ok().filter(|_| events & libc::POLLIN != 0)
    });
    Ok(wanted.collect())
}

/// The descriptors of a select(2): a bit each, in words.
fn of_select(folder: &str, count: u64, at: u64) -> io::Result<Vec<u64>> {
    if at == 0 || count == 0 {
        return Ok(Vec::new());
    }
    let words = usize::try_from(count.div_ceil(64)).unwrap_or(MAX_READ).min(MAX_READ / 8);
    let set = memory(folder, at, words * 8)?;
    let bits = set.chunks_exact(8).zip(0u64..).flat_map(|(word, index)| {
        let word = word.try_into().map_or(0, u64::from_ne_bytes);
        (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| index * 64 + bit)
    });
    Ok(bits.filter(|fd| *fd < count).collect())
}

/// The descriptors that an epoll(7) descriptor watches.
fn of_epoll(folder: &str, epoll: u64) -> io::Result<Vec<u64>> {
    let text = fs::read_to_string(format!("{folder}/fdinfo/{epoll}"))?;
    let watched = text.lines().filter_map(|line| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let fd = words.next()?.parse().ok()?;
        let events = u32::from_str_radix(words.nth(1)?, 16).ok()?;
        (events & libc::EPOLLIN.unsigned_abs() != 0).then_some(fd)
    });
    Ok(watched.collect())
}

fn memory(folder: &str, at: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    File::open(format!("{folder}/mem"))?.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Size, pty};
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    /// The state that is found while a thread does this with a terminal's slave, and
    /// after the terminal was written to.
    #[track_caller]
    fn found_while(waits: impl FnOnce(i32) + Send) {
        let (master, slave) = pty::open(Size { rows: 24, cols: 80 }).unwrap();
        let fd = slave.as_fd().as_raw_fd();
        becomes(&slave, InputWait::Busy);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || waits(fd));
            becomes(&slave, InputWait::Waiting);
            master.write(b"line\n");
            reader.join().unwrap();
        });
        becomes(&slave, InputWait::Busy);
    }

    /// Other tests' threads come and go.
    #[track_caller]
    fn becomes(slave: &pty::Slave, wanted: InputWait) {
        let end = Instant::now() + Duration::from_secs(10);
        while of(slave) != wanted {
            assert!(Instant::now() < end, "{:?} instead of {wanted:?}", of(slave));
        }
    }

    #[test]
    fn one_who_reads_is_seen() {
        found_while(|fd| {
            let mut byte = 0u8;
            // SAFETY: one byte into one byte.
            unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
        });
    }

    #[test]
    fn one_who_polls_is_seen() {
        found_while(|fd| {
            let mut two = [0, fd].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            two[0].fd = -1;
            // SAFETY: two entries.
            unsafe { libc::poll(two.as_mut_ptr(), 2, -1) };
        });
    }

    #[test]
    fn one_who_selects_is_seen() {
        found_while(|fd| {
            let mut set = std::mem::MaybeUninit::<libc::fd_set>::zeroed();
            // SAFETY: all zero is the empty set; the number is below 1024.
            unsafe {
                libc::FD_SET(fd, set.as_mut_ptr());
                let none = std::ptr::null_mut();
                libc::select(fd + 1, set.as_mut_ptr(), none, none, std::ptr::null_mut());
            }
        });
    }

    #[test]
    fn one_who_waits_for_events_is_seen() {
        found_while(|fd| {
            // SAFETY: calls that take numbers and one struct each.
            unsafe {
                let epoll = libc::epoll_create1(0);
                let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
                libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event);
                libc::epoll_wait(epoll, &mut event, 1, -1);
                libc::close(epoll);
            }
        });
    }
}
