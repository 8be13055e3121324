//! A session ends: its program is hung up, its terminal closed, its status
//! waited for.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::GatewayLoop;
use super::table::Key;
use super::timers::Due;
use crate::uwsgi::log::log;
use fpty::sys::Read;
use fpty::sys::child::{self, Pid};
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
        while let Some((key, _exit)) = self.programs.reap() {
            if let Some(attached) = self.sessions.get_mut(key) {
                attached.wires.program = None;
                attached.session.program_ended();
                // What it wrote last is there by now.
                if attached.session.terminal_interest().read {
                    attached.read_terminal(&mut self.turn, true, |_| false);
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
        let spoke = attached.read_terminal(&mut self.turn, false, |_| false);
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
            discard_input(&attached.wires.client, &mut self.turn.buffer[..]);
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
            self.programs.client_left(program);
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
        let grace = self.config.hangup_grace;
        if grace.is_some_and(|grace| self.programs.has_outlived(leader, grace)) {
            log(&format!(
                "forkptyrouter: process {leader} has outlived its client: killing its session"
            ));
            self.kill(leader);
        }
    }

    /// The grace of what a gateway before us left is over.
    pub(super) fn end_left_behind(&mut self) {
        for leader in self.programs.take_left_behind() {
            log(&format!(
                "forkptyrouter: process {} has outlived its gateway: killing its session",
                leader.pid()
            ));
            self.kill(leader.pid());
        }
    }

    fn kill(&mut self, leader: Pid) {
        if self.programs.kill(leader) {
            self.after(Duration::ZERO, Due::Kill);
        }
    }

    /// Goes on killing what has outlived its client or its gateway.
    pub(super) fn kill_outlived(&mut self) {
        if self.programs.go_on_killing() {
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
