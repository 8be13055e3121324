//! Handles of processes: a signal reaches the process that is meant, and none that has
//! its number later.

use std::os::fd::{AsFd, OwnedFd};

use super::child::{Pid, signal_group};
use super::pidfd::PidFd;

/// Either a child of ours, which keeps its number until we reap it, or one that
/// is held by a descriptor (pidfd_open(2)). As small as two numbers: there is
/// one for each session.
#[derive(Debug)]
pub struct ProcessHandle {
    pid: Pid,
    held: Option<OwnedFd>,
}

impl ProcessHandle {
    /// A child of this process. Whoever reaps it has to drop the handle.
    pub fn child(pid: Pid) -> Self {
        Self { pid, held: None }
    }

    /// A process that is no child of this one, by its pidfd.
    pub fn from_pidfd(pidfd: PidFd) -> Self {
        Self { pid: pidfd.pid(), held: Some(pidfd.into()) }
    }

    /// The process id, as long as the process was not reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the process is a child of ours.
    pub fn is_child(&self) -> bool {
        self.held.is_none()
    }

    /// A pidfd of the process.
    pub fn pidfd(&self) -> Option<PidFd> {
        match &self.held {
            None => PidFd::open(self.pid),
            Some(held) => {
                let copy = held.as_fd().try_clone_to_owned().ok()?;
                Some(PidFd::reopened(self.pid, copy))
            }
        }
    }

    /// Another handle of the same process; `None`: out of descriptors.
    pub fn try_clone(&self) -> Option<Self> {
        match self.held {
            None => Some(Self::child(self.pid)),
            Some(_) => self.pidfd().map(Self::from_pidfd),
        }
    }

    /// Sends the process a signal.
    pub fn signal(&self, number: i32) {
        match self.held {
            None => drop(self.pid.signal(number)),
            Some(_) => drop(self.pidfd().map(|pidfd| pidfd.signal(number))),
        }
    }

    /// Sends a signal to the process group that the process leads.
    pub fn signal_group(&self, number: i32) {
        match self.held {
            None => drop(signal_group(self.pid, number)),
            Some(_) => drop(self.pidfd().map(|pidfd| pidfd.signal_group(number))),
        }
    }

    /// Whether the process still has its number: a child of ours as long as nobody has
    /// reaped it.
    pub fn has_its_number(&self) -> bool {
        self.held.is_none() || self.pidfd().is_some_and(|pidfd| pidfd.has_its_number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small() {
        assert!(size_of::<Option<ProcessHandle>>() <= 8);
    }
}
