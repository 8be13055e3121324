//! Whoever has a terminal open, where it cannot be taken from them
//! (`Master::hang_up` in pty.rs): they are found in /proc, as far as that lets us
//! look, and signalled.

use std::os::unix::fs::MetadataExt;

use super::child::Pid;
use super::pidfd::{self, PidFd};
use super::process_session::ProcessSearch;
use super::procfs;
use super::pty::Master;

/// A terminal whose users get a signal.
struct Target {
    /// The master: as long as it is open no other terminal has its name and inode.
    _terminal: Master,
    /// The slave's device and inode.
    file: (u64, u64),
    signal: i32,
}

/// The search for processes that have terminals open.
#[derive(Default)]
pub struct TtyHolders(ProcessSearch<Target>);

impl TtyHolders {
    /// Adds a terminal whose holders get a signal.
    pub fn add(&mut self, terminal: Master, signal: i32) {
        if let Some(file) = terminal.slave_file().filter(|_| procfs::is_own_namespace()) {
            self.0.add(Target { _terminal: terminal, file, signal });
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes so many steps.
    pub fn step(&mut self, count: usize) {
        for _ in 0..count {
            let Some(some) = self.0.step() else {
                return;
            };
            for pid in some {
                // First taken hold of, then looked at.
                let pidfd = PidFd::open(pid);
                if let Some(signal) = self.signal_for(pid) {
                    pidfd::signal(pid, pidfd.as_ref(), signal);
                }
            }
        }
    }

    /// What a process gets: it has one of the terminals open.
    fn signal_for(&self, pid: Pid) -> Option<i32> {
        // Other users' are not for us to look into.
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let files = open.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok());
        let found = files.filter_map(|file| {
            let file = (file.dev(), file.ino());
            self.0.targets.iter().find(|targets| targets.file == file).map(|targets| targets.signal)
        });
        found.max()
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
        let mut users = TtyHolders::default();
        users.add(master, libc::SIGKILL);
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
