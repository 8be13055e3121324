//! Processes that we started: signals for them, and their status.

use std::collections::HashSet;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// A process that is not us, not init, and no group: above 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(libc::pid_t);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By exit(3) with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Pid {
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

/// Reaps one child that has ended, whichever.
pub fn reap_any() -> Option<(Pid, Exit)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => {
                return Some((Pid(pid.as_raw()), Exit::Status(status)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                return Some((Pid(pid.as_raw()), Exit::Signal(signal as i32)));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            // Stops and continues are not asked for; a signal interrupted.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Kills every process of the sessions that `leaders` lead. They must not
/// have been reaped: their numbers are the sessions'.
///
/// All sessions at once, because members are found by reading all of /proc,
/// and a network that breaks leaves hundreds behind in the same moment.
pub fn kill_sessions(leaders: &[Pid]) {
    if leaders.is_empty() {
        return;
    }
    let leaders: HashSet<Pid> = leaders.iter().copied().collect();
    // All are stopped first: one that runs could start another one in the
    // place of the one just killed.
    for leader in &leaders {
        let _ = leader.signal(libc::SIGSTOP);
    }
    let mut stopped: HashSet<Pid> = HashSet::new();
    for _ in 0..16 {
        let before = stopped.len();
        for member in members_of_sessions(&leaders) {
            if stopped.insert(member) {
                let _ = member.signal(libc::SIGSTOP);
            }
        }
        if stopped.len() == before {
            break;
        }
    }
    // The leaders last: while one is there, its session keeps its number.
    for one in stopped.iter().chain(&leaders) {
        let _ = one.signal(libc::SIGKILL);
    }
}

/// Whether a process leads a session: as long as it does, the session's
/// number is its own.
pub fn leads_a_session(pid: Pid) -> bool {
    session_of(pid).is_some_and(|(session, _)| session == pid.0)
}

/// The members of sessions except their leaders, by /proc (proc(5): field 6
/// of stat).
fn members_of_sessions(leaders: &HashSet<Pid>) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Pid::new)
        .filter(|pid| {
            !leaders.contains(pid)
                && session_of(*pid)
                    .is_some_and(|(session, runs)| runs && leaders.contains(&Pid(session)))
        })
        .collect()
}

/// The session of a process, and whether it is still running.
fn session_of(pid: Pid) -> Option<(libc::pid_t, bool)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let session = fields.nth(2)?.parse().ok()?;
    Some((session, !matches!(state, "Z" | "X")))
}
