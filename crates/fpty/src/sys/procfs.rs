//! Whether /proc tells of this process's own PID namespace (pid_namespaces(7)):
//! a jail may have the outer one, whose numbers are other processes', or none.

use std::fs::ReadDir;

use super::child::Pid;
use super::clock::BootInstant;
use nix::unistd::{SysconfVar, sysconf};
use once_cell::sync::OnceCell;

/// Whether the numbers in /proc are ours. It is found out once in a process
/// and its children.
pub fn is_own_namespace() -> bool {
    static IS_OURS: OnceCell<bool> = OnceCell::new();
    *IS_OURS.get_or_init(|| {
        std::fs::read_to_string("/proc/self/status").is_ok_and(|status| shows_own_pid(&status))
    })
}

/// `NSpid` lists the number in /proc's own namespace, then in those within it,
/// down to ours.
fn shows_own_pid(status: &str) -> bool {
    let pid = std::process::id().to_string();
    match status.lines().find_map(|line| line.strip_prefix("NSpid:")) {
        Some(numbers) => numbers.split_ascii_whitespace().eq([pid.as_str()]),
        // Linux before 4.1.
        None => std::fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == pid.as_str()),
    }
}

/// Whether /proc lists all processes of our PID namespace: one that is mounted
/// with `hidepid` (proc(5)) has only those whose rights are within ours, and not
/// a set-user-ID program, which we may well signal.
pub fn shows_all() -> bool {
    static LISTS_ALL: OnceCell<bool> = OnceCell::new();
    *LISTS_ALL.get_or_init(|| {
        is_own_namespace()
            && std::fs::read_to_string("/proc/self/mountinfo")
                .is_ok_and(|mounts| !has_hidepid(&mounts))
    })
}

/// Whether /proc is mounted with hidepid; of several mounts the last one counts.
/// (proc(5), mountinfo: the mount point is the fifth field, the file system's options
/// are the last.)
fn has_hidepid(mounts: &str) -> bool {
    let of_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let options = mounts.lines().rfind(of_proc).and_then(|line| line.rsplit(' ').next());
    options.is_none_or(|options| {
        options
            .split(',')
            .filter_map(|option| option.strip_prefix("hidepid="))
            .any(|has_hidepid| !matches!(has_hidepid, "0" | "off" | "1" | "noaccess"))
    })
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5), of those after
/// the name.
pub fn stat(pid: impl std::fmt::Display, field: usize) -> Option<String> {
    if !is_own_namespace() {
        return None;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold anything.
    let fields = stat.rsplit_once(')')?.1;
    fields.split_ascii_whitespace().nth(field.checked_sub(3)?).map(str::to_owned)
}

/// A field of `/proc/PID/stat` that is a number.
pub(super) fn number<T: std::str::FromStr>(pid: impl std::fmt::Display, field: usize) -> Option<T> {
    stat(pid, field)?.parse().ok()
}

/// Clock ticks per second, the unit of times in stat (sysconf(3)).
pub(super) fn ticks_per_second() -> Option<u64> {
    u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|ticks| *ticks > 0)
}

/// Start of a process of this PID namespace (proc(5), `starttime`).
pub fn started(pid: i32) -> Option<BootInstant> {
    let ticks: u64 = number(pid, 22)?;
    let per_second = ticks_per_second()?;
    Some(BootInstant::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second)))
}

/// The processes of this PID namespace.
pub(super) enum ProcessList {
    /// The entries of /proc.
    Proc(ReadDir),
    /// Every number that a process could have, where /proc is not there, or another
    /// namespace's, or hides some.
    PidRange(std::ops::Range<libc::pid_t>),
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

impl ProcessList {
    /// All processes by /proc, or, where /proc hides some, by every number.
    pub(super) fn new() -> Self {
        match std::fs::read_dir("/proc") {
            Ok(processes) if shows_all() => Self::Proc(processes),
            _ => Self::by_number(),
        }
    }

    /// Every number that a process could have.
    pub(super) fn by_number() -> Self {
        Self::PidRange(2..pid_max())
    }

    /// The next processes of the list; `None`: that was the last.
    pub(super) fn next(&mut self) -> Option<Vec<Pid>> {
        /// A number costs much less than an entry of /proc.
        const PIDS_PER_STEP: usize = 64;
        match self {
            Self::Proc(processes) => {
                let entry = processes.next()?.ok();
                let pid = entry.and_then(|entry| entry.file_name().to_str()?.parse().ok());
                Some(pid.and_then(Pid::new).into_iter().collect())
            }
            Self::PidRange(numbers) if numbers.start >= numbers.end => None,
            Self::PidRange(numbers) => {
                Some(numbers.by_ref().take(PIDS_PER_STEP).filter_map(Pid::new).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_one_is_not_ours() {
        let pid = std::process::id();
        assert!(shows_own_pid(&format!("Name:\tx\nNSpid:\t{pid}\nNSsid:\t1\n")));
        assert!(!shows_own_pid(&format!("NSpid:\t4711\t{pid}\n")));
        assert!(!shows_own_pid("NSpid:\t4711\n"));
    }

    #[test]
    fn what_a_mount_hides() {
        let mount = |point: &str, options: &str| {
            format!("24 30 0:22 / {point} rw,nosuid shared:5 - proc proc {options}\n")
        };
        assert!(!has_hidepid(&mount("/proc", "rw")));
        assert!(!has_hidepid(&mount("/proc", "rw,hidepid=noaccess")));
        assert!(has_hidepid(&mount("/proc", "rw,gid=5,hidepid=invisible")));
        assert!(has_hidepid(&mount("/proc", "rw,hidepid=2")));
        assert!(has_hidepid(&(mount("/proc", "rw") + &mount("/proc", "rw,hidepid=ptraceable"))));
        assert!(!has_hidepid(&(mount("/proc", "rw,hidepid=2") + &mount("/proc", "rw"))));
        assert!(has_hidepid(&mount("/elsewhere", "rw")), "nobody knows");
    }

    #[test]
    fn fields_are_counted_as_in_the_manual() {
        let pid = std::process::id();
        assert!(stat(pid, 3).is_some_and(|state| state == "R" || state == "S"));
        let parent = nix::unistd::getppid().to_string();
        assert_eq!(stat(pid, 4), Some(parent));
        assert_eq!(stat(pid, 2), None);
        let began = started(pid as i32).expect("ours");
        let age = began.elapsed();
        assert!(age < std::time::Duration::from_secs(3600), "{age:?}");
        assert_eq!(started(i32::MAX), None);
    }
}
