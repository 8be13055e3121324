//! Processes that we started: signals for them, and their status.

use std::collections::HashSet;
use std::fs::ReadDir;
use std::io;

use super::proc;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;

/// A process that is not us, not init, and no group: above 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(libc::pid_t);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By exit(3) with this status.
    Status(i32),
    /// By a signal.
    Signal {
        /// Its number.
        number: i32,
        /// Whether the kernel wrote a core file.
        core: bool,
    },
}

impl Exit {
    /// What wait(2) says.
    pub(super) fn of_wait_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal { number: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
        } else {
            Self::Status(libc::WEXITSTATUS(status))
        }
    }
}

impl Pid {
    /// Of a process in another namespace; it is never signalled.
    pub(super) const UNKNOWN: Self = Self(libc::pid_t::MAX);

    /// `None` for anything that kill(2) would take for more than one process.
    pub fn new(pid: libc::pid_t) -> Option<Self> {
        (pid > 1).then_some(Self(pid))
    }

    /// Sends a signal by its number. It must not have been reaped, so that
    /// the number is still its own.
    ///
    /// # Errors
    /// No such signal, or no permission (a set-user-ID program).
    pub fn signal(self, number: i32) -> io::Result<()> {
        // SAFETY: no memory is involved; the pid is above 1.
        if unsafe { libc::kill(self.0, number) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The number.
    pub fn as_raw(self) -> libc::pid_t {
        self.0
    }

    /// Waits until it has ended, and reaps it.
    pub fn reap(self) {
        while waitpid(nix::unistd::Pid::from_raw(self.0), None) == Err(Errno::EINTR) {}
    }
}

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Sends a signal to a whole process group, as [`Master::foreground_group`]
/// names it.
///
/// [`Master::foreground_group`]: super::pty::Master::foreground_group
pub fn signal_group(group: i32, signal: Signal) {
    if group > 1 {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), signal);
    }
}

/// Reaps one child that has ended, whichever. The kernel looks through all of
/// them.
pub fn reap_any() -> Option<(Pid, Exit)> {
    reap_by(-1)
}

/// Reaps this child, if it has ended.
pub fn reap_one(child: Pid) -> Option<(Pid, Exit)> {
    reap_by(child.0)
}

fn reap_by(which: libc::pid_t) -> Option<(Pid, Exit)> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid(2) writes one int.
        let pid = unsafe { libc::waitpid(which, &mut status, libc::WNOHANG) };
        if pid < 0 && Errno::last() == Errno::EINTR {
            continue;
        }
        // Not nix's: to that a real-time signal is an error.
        let exit = match status {
            status if libc::WIFSIGNALED(status) => {
                Exit::Signal { number: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
            }
            status => Exit::Status(libc::WEXITSTATUS(status)),
        };
        return (pid > 0).then_some((Pid(pid), exit));
    }
}

/// The processes of this PID namespace.
enum Listing {
    /// As /proc has them.
    Proc(ReadDir),
    /// Where that is not there, or another namespace's: every number that one
    /// could have.
    Numbers(std::ops::Range<libc::pid_t>),
}

/// The largest number that the kernel can be told to use (PID_MAX_LIMIT in
/// its include/linux/threads.h).
const PID_MAX: libc::pid_t = 4 * 1024 * 1024;

/// The first number that no process has (proc(5), pid_max): the same in all
/// namespaces of most kernels.
fn pid_max() -> libc::pid_t {
    let told = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    told.and_then(|max| max.trim().parse().ok()).map_or(PID_MAX, |max: i32| max.min(PID_MAX))
}

impl Listing {
    fn new() -> Self {
        match std::fs::read_dir("/proc") {
            Ok(processes) if proc::is_ours() => Self::Proc(processes),
            _ => Self::Numbers(2..pid_max()),
        }
    }
}

impl Iterator for Listing {
    type Item = Pid;

    fn next(&mut self) -> Option<Pid> {
        match self {
            Self::Proc(processes) => processes.by_ref().find_map(|entry| {
                let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
                Pid::new(pid)
            }),
            Self::Numbers(numbers) => {
                // Not all in one step.
                for number in numbers.by_ref().take(64) {
                    if session_of(Pid(number)).is_some() {
                        return Some(Pid(number));
                    }
                }
                (numbers.start < numbers.end).then_some(Pid::UNKNOWN)
            }
        }
    }
}

/// Kills every process of some sessions, step by step.
///
/// All sessions at once, because members are found by reading all of /proc,
/// and a network that breaks leaves hundreds behind in the same moment; in
/// steps, because that takes a while on a large machine.
pub struct SessionKiller {
    leaders: HashSet<Pid>,
    /// The listing that is under way.
    processes: Option<Listing>,
    /// Who was looked at. Nobody joins a session but by being born into it:
    /// once is enough.
    seen: HashSet<Pid>,
    members: Vec<Pid>,
    /// How many of them the listings before had found, and how many those are.
    before: usize,
    listings: u8,
}

impl SessionKiller {
    /// Stops the leaders. They must not have been reaped: their numbers are
    /// the sessions'.
    pub fn new(leaders: impl IntoIterator<Item = Pid>) -> Self {
        let leaders: HashSet<Pid> = leaders.into_iter().collect();
        // All are stopped before any is killed: one that runs could start
        // another one in the place of the one just killed.
        for leader in &leaders {
            let _ = leader.signal(libc::SIGSTOP);
        }
        Self {
            leaders,
            processes: None,
            seen: HashSet::new(),
            members: Vec::new(),
            before: 0,
            listings: 0,
        }
    }

    /// A leader was reaped: the number is no longer its own.
    pub fn forget(&mut self, leader: Pid) {
        self.leaders.remove(&leader);
    }

    /// Looks at so many processes of the machine. Returns whether that was
    /// all, and everything is killed.
    pub fn step(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let listing = self.processes.get_or_insert_with(Listing::new);
            let Some(pid) = listing.next() else {
                // Until a listing has nobody new: who was stopped too late
                // has had a child in between. One that has them faster than
                // we look is not waited for.
                self.listings += 1;
                if self.members.len() == self.before || self.listings == 16 {
                    self.kill();
                    return true;
                }
                self.before = self.members.len();
                self.processes = None;
                continue;
            };
            self.look_at(pid);
        }
        false
    }

    fn look_at(&mut self, pid: Pid) {
        if !self.seen.insert(pid) || self.leaders.contains(&pid) {
            return;
        }
        if session_of(pid).is_some_and(|session| self.leaders.contains(&session)) {
            self.members.push(pid);
            let _ = pid.signal(libc::SIGSTOP);
        }
    }

    /// The leaders last: while one is there, its session keeps its number.
    fn kill(&self) {
        for one in self.members.iter().chain(&self.leaders) {
            let _ = one.signal(libc::SIGKILL);
        }
    }
}

/// Whether a process leads a session: as long as it does, the session's
/// number is its own.
pub fn leads_a_session(pid: Pid) -> bool {
    session_of(pid) == Some(pid)
}

/// The session of a process (getsid(2)); `None` where there is no such one.
fn session_of(pid: Pid) -> Option<Pid> {
    nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid.0)))
        .ok()
        .and_then(|session| Pid::new(session.as_raw()))
}
