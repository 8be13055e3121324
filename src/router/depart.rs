//! A session ends: its program is hung up, its terminal closed, its status
//! waited for.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::GatewayLoop;
use super::attach::not_executable;
use super::closing::LastWord;
use super::table::Key;
use super::timers::Due;
use super::traffic::Attached;
use crate::uwsgi::log::log;
use fpty::ended::of_exit;
use fpty::proto::{Ended, Ending};
use fpty::sys::child::{self, Exit, Pid};
use fpty::sys::sessions::Leader;
use fpty::sys::socket::Stream;

/// How long the terminal of an ended program may stay silent before the end
/// is the end, where something else holds it open.
const DRAIN: Duration = Duration::from_millis(50);

/// How often it may have had something to say.
const DRAINS: u8 = 20;

/// How soon ended programs are looked for that the kernel did not name, among
/// many.
const SCAN: Duration = Duration::from_millis(20);

/// Ended programs that one turn sees to.
const REAPED_PER_TURN: usize = 32;

/// Sessions that one turn ends at once; more of them wait until there is
/// nothing else to do.
const ENDED_PER_TURN: usize = 2;

/// Sessions whose clients have left, and that are still to be ended: closing
/// a terminal takes a while, and where a network breaks thousands leave in
/// one moment. Whoever types does not wait for that.
#[derive(Default)]
pub struct Departures {
    waiting: VecDeque<Box<Attached>>,
    this_turn: usize,
    /// Ended programs are looked for before long.
    reap_is_due: bool,
}

impl GatewayLoop {
    /// A program has ended, and others may have: the kernel tells it once.
    pub(super) fn child_ended(&mut self) {
        let arrived = self.children.next();
        if let Some(arrived) = arrived.filter(|arrived| arrived.signal != Signal::SIGCHLD) {
            let by_master =
                arrived.sender.map(Pid::as_raw) == Some(nix::unistd::getppid().as_raw());
            self.ends_with(by_master || arrived.by_terminal);
        }
        let told = arrived.and_then(|arrived| arrived.sender);
        if !self.programs.are_many() {
            return self.reap();
        }
        if let Some(child) = told {
            self.reap_one(child);
        }
        if !std::mem::replace(&mut self.departures.reap_is_due, true) {
            self.after(SCAN, Due::Reap);
        }
    }

    /// The gateway is to end: whoever it relays for is told so, as far as that is
    /// taken at once; the audit's lines are the master's to write, as of a gateway that
    /// was killed. Terminals that were handed over have somebody else who does.
    fn ends_with(&mut self, instance_stops: bool) -> ! {
        let (why, line) = match instance_stops {
            true => (Ending::Stopped, "session ended: the instance has stopped"),
            false => (Ending::Lost, "the gateway was ended by a signal"),
        };
        let keys: Vec<Key> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            let is_ours = |attached: &&mut Attached| !attached.session.is_handed_over();
            if let Some(attached) = self.sessions.get_mut(key).filter(is_ours) {
                if attached.session.dismissed().is_none() {
                    attached.session.dismiss(why, line, &mut attached.wires);
                }
            }
        }
        let commands: Vec<Key> = self.commands_from(0).map(|(_, key)| key).collect();
        for key in commands {
            self.stop_command(key, why, line);
        }
        crate::uwsgi::log::flush();
        self.told.flush();
        crate::uwsgi::stopping::has_told(self.ordinal);
        crate::uwsgi::server::exit(0)
    }

    /// Takes the statuses of those that have ended.
    pub(super) fn reap(&mut self) {
        self.departures.reap_is_due = false;
        for _ in 0..REAPED_PER_TURN {
            let Some(ended) = self.programs.reap() else {
                return;
            };
            self.program_ended(ended);
        }
        self.after(Duration::ZERO, Due::Reap);
    }

    /// This one may have ended.
    pub(super) fn reap_one(&mut self, program: Pid) {
        if let Some(ended) = self.programs.reap_one(program) {
            self.program_ended(ended);
        }
    }

    fn program_ended(&mut self, (program, key, exit): (Pid, Key, Exit)) {
        let failure = self.spawner.failure(program);
        let failure = failure.map(|(program, errno)| not_executable(&program, errno));
        let Some(attached) = self.sessions.get_mut(key) else {
            if !self.left_program_ended(program, exit) {
                self.command_ended(program, exit, failure);
            }
            return;
        };
        attached.wires.program = None;
        if let Some(why) = failure {
            return self.refuse_session(key, why);
        }
        self.has_begun(key);
        self.note_exit(key, exit);
        self.session_ended(key, of_exit(exit));
    }

    /// The program of a session has ended, and was reaped.
    pub(super) fn session_ended(&mut self, key: Key, ended: Ended) {
        self.tell_watchers(key, &ended);
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        // What it wrote last is there by now.
        if attached.session.terminal_interest().read {
            attached.read_terminal(&mut self.turn, true, |_| false);
        }
        attached.session.program_ended(ended, &mut attached.wires);
        if attached.session.terminal_open() {
            self.after(DRAIN, Due::Drained(key));
        }
        self.settle(key);
    }

    /// A client has left: its session ends, now or when it is its turn.
    pub(super) fn depart(&mut self, key: Key) {
        if self.leave_if_possible(key) {
            return;
        }
        self.forget_left(key);
        if self.departures.this_turn < ENDED_PER_TURN && self.departures.waiting.is_empty() {
            self.departures.this_turn += 1;
            return self.abandon(key);
        }
        self.tell_end(key);
        if let Some(mut attached) = self.sessions.remove(key) {
            // Nobody has its tokens any more.
            let _ = self.turn.poller.remove(attached.wires.client.as_fd());
            attached.forget_terminal(&self.turn.poller);
            if self.departures.waiting.is_empty() {
                self.after(Duration::ZERO, Due::Departures);
            }
            self.departures.waiting.push_back(attached);
        }
    }

    /// Ends some of the sessions that wait for it, where the turn had no more
    /// events than it could take.
    pub(super) fn part(&mut self, events: usize) {
        self.departures.this_turn = 0;
        if self.departures.waiting.is_empty() {
            return;
        }
        if events < self.config.events as usize {
            for _ in 0..ENDED_PER_TURN {
                if let Some(attached) = self.departures.waiting.pop_front() {
                    self.let_go(*attached);
                }
            }
        }
        if !self.departures.waiting.is_empty() {
            self.after(Duration::ZERO, Due::Departures);
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
            attached.session.terminal_ended(&mut attached.wires);
        }
        self.settle(key);
    }

    /// Ends a session whose client has all that it will get.
    pub(super) fn close(&mut self, key: Key) {
        self.tell_end(key);
        self.forget_left(key);
        if let Some(attached) = self.sessions.remove(key) {
            let last = match attached.session.is_extended() {
                true => LastWord::Packet { is_answered: false },
                false => LastWord::Eof,
            };
            let client = self.let_go(*attached);
            self.close_when_read(client, last);
        }
    }

    /// Ends a session: its client has left, or is let go. A program that
    /// still runs is hung up, with its foreground job.
    pub(super) fn abandon(&mut self, key: Key) {
        self.tell_end(key);
        self.forget_left(key);
        if let Some(attached) = self.sessions.remove(key) {
            self.let_go(*attached);
        }
    }

    /// Lets the program and its terminal go; the client may have more to read.
    pub(super) fn let_go(&mut self, attached: Attached) -> Stream {
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
            // A terminal that was handed over may be open elsewhere, and is then
            // not hung up by our close.
            let is_elsewhere =
                attached.session.is_handed_over() || attached.session.kept().is_some();
            if is_elsewhere {
                let _ = program.signal(libc::SIGHUP);
                let _ = program.signal(libc::SIGCONT);
            }
            if let Some(group) = foreground.filter(|group| Pid::new(*group) != Some(program)) {
                child::signal_group(group, libc::SIGHUP);
                child::signal_group(group, libc::SIGCONT);
            }
        }
        attached.wires.client
    }

    /// A session's leader has ignored that its client left.
    pub(super) fn outlived(&mut self, leader: Pid) {
        let grace = self.config.hangup_grace;
        if grace.is_some_and(|grace| self.programs.has_outlived(leader, grace)) {
            log(&format!(
                "forkptyrouter: process {leader} has outlived its client: killing its session"
            ));
            self.kill(Leader::child(leader));
        }
    }

    /// The grace of what a gateway before us left is over.
    pub(super) fn end_left_behind(&mut self) {
        for leader in self.programs.take_left_behind() {
            log(&format!(
                "forkptyrouter: process {} has outlived its gateway: killing its session",
                leader.pid()
            ));
            self.kill(leader);
        }
    }

    pub(super) fn kill(&mut self, leader: Leader) {
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
