//! A process that is signalled, and none that has its number later.

use std::os::fd::{AsFd, OwnedFd};

use super::child::{Pid, signal_group};
use super::pidfd::PidFd;

/// Either a child of ours, which keeps its number until we reap it, or one that
/// is held by a descriptor (pidfd_open(2)). As small as two numbers: there is
/// one for each session.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    held: Option<OwnedFd>,
}

impl Process {
    /// A child of ours. Whoever reaps it has to forget this.
    pub fn child(pid: Pid) -> Self {
        Self { pid, held: None }
    }

    /// One of somebody else's.
    pub fn held(pidfd: PidFd) -> Self {
        Self { pid: pidfd.pid(), held: Some(pidfd.into()) }
    }

    /// Its number, as long as it was not reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it is a child of ours.
    pub fn is_child(&self) -> bool {
        self.held.is_none()
    }

    /// A descriptor of it.
    pub fn pidfd(&self) -> Option<PidFd> {
        match &self.held {
            None => PidFd::open(self.pid),
            Some(held) => {
                let copy = held.as_fd().try_clone_to_owned().ok()?;
                Some(PidFd::reopened(self.pid, copy))
            }
        }
    }

    /// The same once more.
    pub fn try_clone(&self) -> Option<Self> {
        match self.held {
            None => Some(Self::child(self.pid)),
            Some(_) => self.pidfd().map(Self::held),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, number: i32) {
        match self.held {
            None => drop(self.pid.signal(number)),
            Some(_) => drop(self.pidfd().map(|pidfd| pidfd.signal(number))),
        }
    }

    /// Sends a signal to the process group that it leads.
    pub fn signal_group(&self, number: i32) {
        match self.held {
            None => drop(signal_group(self.pid, number)),
            Some(_) => drop(self.pidfd().map(|pidfd| pidfd.signal_group(number))),
        }
    }

    /// Whether its number is still its own: of a child of ours as long as nobody
    /// has reaped it.
    pub fn has_its_number(&self) -> bool {
        self.held.is_none() || self.pidfd().is_some_and(|pidfd| pidfd.has_its_number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small() {
        assert!(size_of::<Option<Process>>() <= 8);
    }
}
