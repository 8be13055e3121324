//! A session ends: its program is hung up, its terminal closed, its status
//! waited for.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::table::Key;
use super::timers::Due;
use super::{GatewayLoop, Running};
use crate::uwsgi::log::log;
use fpty::sys::Read;
use fpty::sys::child::{self, Pid, SessionKiller};
use fpty::sys::socket::Stream;

/// How long the terminal of an ended program may stay silent before the end
/// is the end, where something else holds it open.
const DRAIN: Duration = Duration::from_millis(50);

/// How often it may have had something to say.
const DRAINS: u8 = 20;

impl GatewayLoop {
    /// Programs have ended: their statuses.
    pub(super) fn reap(&mut self) {
        // However many have ended, it is told once.
        let _ = self.children.next();
        // Where none is left, asking for one more is a system call for nothing.
        while !self.programs.is_empty() {
            let Some((pid, _exit)) = child::reap_any() else {
                break;
            };
            let Some(Running { session: key, listed }) = self.programs.remove(&pid) else {
                continue;
            };
            if let (Some(aftercare), Some(listed)) = (&mut self.aftercare, listed) {
                aftercare.remove(listed);
            }
            if self.left.remove(&pid).is_some() {
                self.outlived.retain(|leader| *leader != pid);
                if let Some(killing) = &mut self.killing {
                    killing.forget(pid);
                }
            }
            if let Some(attached) = self.sessions.get_mut(key) {
                attached.wires.program = None;
                attached.session.program_ended();
                // What it wrote last is there by now.
                if attached.session.terminal_interest().read {
                    attached.read_terminal(&mut self.buffer, &mut self.pipe, true, || false);
                }
                if attached.session.terminal_open() {
                    self.after(DRAIN, Due::Drained(key));
                }
                self.settle(key);
            }
        }
    }

    /// The program ended a while ago and its terminal is still open: another
    /// process has it. What the program wrote was delivered; what the other
    /// one writes is waited for only so long.
    pub(super) fn drained(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        if !attached.session.terminal_open() {
            return;
        }
        // A client that is slow to read what there is gets its time.
        if attached.session.has_output() {
            return self.after(DRAIN, Due::Drained(key));
        }
        attached.drains += 1;
        let spoke = attached.read_terminal(&mut self.buffer, &mut self.pipe, false, || false);
        if spoke && attached.drains < DRAINS {
            self.after(DRAIN, Due::Drained(key));
        } else {
            attached.session.terminal_ended();
        }
        self.settle(key);
    }

    /// Ends a session whose client has all that it will get.
    pub(super) fn close(&mut self, key: Key) {
        if let Some(attached) = self.sessions.get_mut(key) {
            // Unread input would turn our close into a reset, which may
            // overtake what the client has not read yet.
            discard_input(&attached.wires.client, &mut self.buffer[..]);
        }
        self.abandon(key);
    }

    /// Ends a session: its client has left, or is let go. A program that
    /// still runs is hung up, with its foreground job.
    pub(super) fn abandon(&mut self, key: Key) {
        let Some(attached) = self.sessions.remove(key) else {
            return;
        };
        // The poller forgets descriptors when they close here; where a copy
        // lives a moment longer (sys/detached.rs), nobody has its token.
        if let Some(program) = attached.wires.program {
            self.left.insert(program, Instant::now());
            if let Some(grace) = self.config.hangup_grace {
                self.after(grace, Due::Outlived(program));
            }
            // Closing the master sends SIGHUP and SIGCONT to the session's
            // leader; its foreground job would hear of it only when the
            // leader ends, and that may ignore it.
            let foreground = attached.wires.master.foreground_group();
            if let Some(group) = foreground.filter(|group| Pid::new(*group) != Some(program)) {
                child::signal_group(group, Signal::SIGHUP);
                child::signal_group(group, Signal::SIGCONT);
            }
        }
    }

    /// A session's leader has ignored that its client left.
    pub(super) fn outlived(&mut self, leader: Pid) {
        // Where it was reaped its number may be another one's.
        let since = self.left.get(&leader);
        if since.is_some_and(|since| {
            self.config.hangup_grace.is_some_and(|grace| since.elapsed() >= grace)
        }) {
            log(&format!(
                "forkptyrouter: process {leader} has outlived its client: killing its session"
            ));
            self.kill(leader);
        }
    }

    /// Has the session of this leader killed.
    pub(super) fn kill(&mut self, leader: Pid) {
        if self.outlived.is_empty() && self.killing.is_none() {
            self.after(Duration::ZERO, Due::Kill);
        }
        self.outlived.push(leader);
    }

    /// Kills what has been found to outlive its client or its gateway, a
    /// little in each turn: the living are served meanwhile.
    pub(super) fn kill_outlived(&mut self) {
        const AT_ONCE: usize = 64;
        if self.killing.is_none() && !self.outlived.is_empty() {
            self.killing = Some(SessionKiller::new(self.outlived.drain(..)));
        }
        let Some(killing) = &mut self.killing else {
            return;
        };
        if killing.step(AT_ONCE) {
            self.killing = None;
        }
        if self.killing.is_some() || !self.outlived.is_empty() {
            self.after(Duration::ZERO, Due::Kill);
        }
    }
}

fn discard_input(client: &Stream, buffer: &mut [u8]) {
    for _ in 0..16 {
        if !matches!(client.read(buffer), Read::Bytes(_)) {
            return;
        }
    }
}
