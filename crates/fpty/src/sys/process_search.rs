//! Processes that are looked for among all: the members of foreground process groups, and
//! whoever has a terminal open that cannot be taken from them (`Master::hang_up` in
//! pty.rs). Of the latter /proc tells as far as it lets us look.

use std::os::unix::fs::MetadataExt;

use super::child::Pid;
use super::foreground_group::ForegroundGroup;
use super::pidfd::{self, PidFd};
use super::procfs::{self, ProcessList};
use super::pty::Master;

/// A terminal whose holders get a signal.
struct HeldTerminal {
    /// The master: as long as it is open no other terminal has its name and inode.
    _master: Master,
    /// The slave's device and inode.
    file: (u64, u64),
    signal: i32,
}

/// Targets of a search.
#[derive(Default)]
struct Targets {
    /// Groups whose members get SIGHUP and SIGCONT.
    groups: Vec<ForegroundGroup>,
    terminals: Vec<HeldTerminal>,
}

/// The search for processes that are hung up one by one: for all targets at once, and
/// step by step, as it takes a while on a large machine.
#[derive(Default)]
pub struct HangUpSearch {
    /// The targets of the search that is under way.
    targets: Targets,
    /// Targets that came during the search that is under way.
    next: Targets,
    processes: Option<ProcessList>,
}

impl Targets {
    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.terminals.is_empty()
    }

    /// The signals for a process.
    fn signals_for(&self, process: Pid) -> impl Iterator<Item = i32> {
        let is_member = self.groups.iter().any(|group| group.has(process));
        let as_member = is_member.then_some([libc::SIGHUP, libc::SIGCONT]);
        as_member.into_iter().flatten().chain(self.signal_for_holder(process))
    }

    /// The signal for a process that has one of the terminals open.
    fn signal_for_holder(&self, process: Pid) -> Option<i32> {
        if self.terminals.is_empty() {
            return None;
        }
        // Other users' are not for us to look into.
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        let files = open.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok());
        let found = files.filter_map(|file| {
            let file = (file.dev(), file.ino());
            self.terminals.iter().find(|held| held.file == file).map(|held| held.signal)
        });
        found.max()
    }

    /// Sends a process its signals, if any.
    fn hang_up(&self, process: Pid) {
        if self.signals_for(process).next().is_none() {
            return;
        }
        // First taken hold of, then looked at once more.
        let pidfd = PidFd::open(process);
        for signal in self.signals_for(process) {
            pidfd::signal(process, pidfd.as_ref(), signal);
        }
    }
}

impl HangUpSearch {
    /// Adds a group whose members are to be hung up.
    pub fn add_members(&mut self, group: ForegroundGroup) {
        self.next.groups.push(group);
    }

    /// Adds a terminal whose holders get a signal.
    pub fn add_holders(&mut self, terminal: Master, signal: i32) {
        if let Some(file) = terminal.slave_file().filter(|_| procfs::is_own_namespace()) {
            self.next.terminals.push(HeldTerminal { _master: terminal, file, signal });
        }
    }

    /// Whether nothing is looked for.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.next.is_empty()
    }

    /// A leader was reaped: its number is no longer its own. (The kernel has hung
    /// its foreground group up then.)
    pub fn forget(&mut self, leader: Pid) {
        for targets in [&mut self.targets, &mut self.next] {
            targets.groups.retain(|group| !group.is_led_by_child(leader));
        }
    }

    /// Takes so many steps.
    pub fn step(&mut self, count: usize) {
        for _ in 0..count {
            if self.targets.is_empty() {
                (self.targets, self.processes) = (std::mem::take(&mut self.next), None);
            }
            if self.targets.is_empty() {
                return;
            }
            match self.processes.get_or_insert_with(ProcessList::new).next() {
                Some(processes) => processes.into_iter().for_each(|it| self.targets.hang_up(it)),
                None => self.targets = Targets::default(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Size, pty};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    #[test]
    fn whoever_has_it_is_found_and_nobody_else() {
        let open = || {
            let (master, slave) = pty::open(Size { rows: 24, cols: 80 }).expect("a terminal");
            let slave = std::os::fd::AsFd::as_fd(&slave).try_clone_to_owned().expect("a copy");
            let sleep = Command::new("sleep").arg("1000").stdin(Stdio::from(slave)).spawn();
            (master, sleep.expect("a child"))
        };
        let ((master, mut user), (other_master, mut other)) = (open(), open());
        let mut users = HangUpSearch::default();
        users.add_holders(master, libc::SIGKILL);
        while !users.is_empty() {
            users.step(16);
        }
        assert_eq!(user.wait().expect("a child").signal(), Some(libc::SIGKILL));
        assert!(other.try_wait().expect("a child").is_none());
        other.kill().expect("a child");
        other.wait().expect("a child");
        drop(other_master);
    }
}
