//! Hanging up the foreground process group of a terminal.
//!
//! The kernel remembers the group's number for as long as the terminal has a session,
//! also when the group has ended, and another process may have that number by now. So a
//! group is signalled only where a process of the terminal's own session is in it: a
//! number keeps its meaning as long as a process has it as its own, as its group's or as
//! its session's.

use nix::unistd::{Pid as Number, getpgid};

use super::child::{self, Pid};
use super::pidfd::PidFd;
use super::process_handle::ProcessHandle;
use super::process_session::session_of;
use super::pty::Master;

/// A terminal's foreground process group.
#[derive(Debug)]
pub struct ForegroundGroup {
    group: Pid,
    /// The leader of the terminal's session.
    leader: ProcessHandle,
}

impl ForegroundGroup {
    /// The foreground process group of a terminal whose session this process leads;
    /// `None`: there is none, or it is the leader's own group.
    pub fn of(terminal: &Master, leader: ProcessHandle) -> Option<Self> {
        let group = terminal.foreground_group().and_then(Pid::new)?;
        (group != leader.pid()).then_some(Self { group, leader })
    }

    /// Sends SIGHUP and SIGCONT to the group. Returns the group where its members have to be looked
    /// for ([`super::process_search::HangUpSearch`]): the process that it is named after has ended.
    pub fn hang_up(self) -> Option<Self> {
        let pidfd = PidFd::open(self.group);
        let has_one = session_of(self.group).is_some();
        if !has_one {
            // Nobody is in it, neither ours nor another's; or just somebody.
            return child::signal_group(self.group, 0).then_some(self);
        }
        if !self.is_session_of(self.group) || !self.leader.has_its_number() {
            return None;
        }
        // First opened, then looked at: it has ended meanwhile.
        if pidfd.as_ref().is_some_and(|pidfd| !pidfd.has_its_number()) {
            return Some(self);
        }
        for number in [libc::SIGHUP, libc::SIGCONT] {
            if !pidfd.as_ref().is_some_and(|pidfd| pidfd.signal_group(number)) {
                child::signal_group(self.group, number);
            }
        }
        None
    }

    fn is_session_of(&self, process: Pid) -> bool {
        session_of(process) == Some(self.leader.pid())
    }

    /// Whether the group is that of the session that a child of ours leads.
    pub(super) fn is_led_by_child(&self, leader: Pid) -> bool {
        self.leader.is_child() && self.leader.pid() == leader
    }

    /// Whether a process is in it.
    pub(super) fn has(&self, process: Pid) -> bool {
        let group = getpgid(Some(Number::from_raw(process.as_raw())));
        group.is_ok_and(|group| group.as_raw() == self.group.as_raw())
            && self.is_session_of(process)
            && self.leader.has_its_number()
    }
}
