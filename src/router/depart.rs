//! A session ends: its program is hung up, its terminal closed, its status
//! waited for.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::GatewayLoop;
use super::attach::not_executable;
use super::closing::LastWord;
use super::left::Why;
use super::recovery::Whose;
use super::table::Key;
use super::timers::Due;
use super::traffic::{Attached, Wires};
use crate::uwsgi::log::log;
use fpty::ended::of_exit;
use fpty::proto::{Ended, Ending};
use fpty::sys::child::{Exit, Pid};
use fpty::sys::foreground::Foreground;
use fpty::sys::process::Process;
use fpty::sys::pty::Master;
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

/// Whether somebody else may have a copy of a terminal's master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// Our close is its end.
    None,
    /// It was handed over at some time; whoever had it has left.
    MayBe,
    /// The same, and it is to end whoever has it.
    Ended,
}

/// Sessions whose clients have left, and that are still to be ended: closing
/// a terminal takes a while, and where a network breaks thousands leave in
/// one moment. Whoever types does not wait for that.
#[derive(Default)]
pub struct Departures {
    waiting: VecDeque<(Key, Box<Attached>)>,
    this_turn: usize,
    /// Ended programs are looked for before long.
    reap_is_due: bool,
}

impl Departures {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The programs of those who wait.
    pub fn programs(&self) -> impl Iterator<Item = Pid> {
        let program = |attached: &Attached| attached.wires.program.as_ref().map(Process::pid);
        self.waiting.iter().filter_map(move |(_, attached)| program(attached))
    }
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
            self.cx.after(SCAN, Due::Reap);
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
        self.cx.told.flush();
        crate::uwsgi::stopping::has_told(self.cx.ordinal);
        crate::uwsgi::server::exit(0)
    }

    /// Takes the statuses of those that have ended.
    pub(super) fn reap(&mut self) {
        self.departures.reap_is_due = false;
        for _ in 0..REAPED_PER_TURN {
            let Some(ended) = self.programs.reap() else {
                return;
            };
            self.see_to_ended(ended);
        }
        self.cx.after(Duration::ZERO, Due::Reap);
    }

    /// This one may have ended.
    pub(super) fn reap_one(&mut self, program: Pid) {
        if let Some(ended) = self.programs.reap_one(program) {
            self.see_to_ended(ended);
        }
    }

    /// One of several: the others do not suffer from what happens here.
    fn see_to_ended(&mut self, ended: (Pid, Key, Exit)) {
        let (program, session, _) = ended;
        let whose = match self.commands.of_program(program) {
            Some(command) => Whose::Command(command),
            None if self.sessions.has(session) => Whose::Session(session),
            None => self
                .left
                .as_ref()
                .and_then(|left| left.of_program(program))
                .map_or(Whose::Past, Whose::Left),
        };
        self.guarded(whose, |router| {
            super::fault::point("reaped");
            router.program_ended(ended);
        });
    }

    fn program_ended(&mut self, (program, key, exit): (Pid, Key, Exit)) {
        let failure = self.cx.spawner.failure(program);
        let failure = failure.map(|(program, errno)| not_executable(&program, errno));
        let Some(attached) = self.sessions.get_mut(key) else {
            if !self.is_end_of_left(program, exit) {
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
        if let Some(left) = &mut self.left {
            left.tell_watchers(key, &ended);
        }
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        // What it wrote last is there by now.
        if attached.session.terminal_interest().read {
            attached.read_terminal(&mut self.cx, true, |_| false);
        }
        attached.session.program_ended(ended, &mut attached.wires);
        if attached.session.terminal_open() {
            self.cx.after(DRAIN, Due::Drained(key));
        }
        self.settle(key);
    }

    /// A client has left: its session ends, now or when it is its turn.
    pub(super) fn depart(&mut self, key: Key) {
        if self.goes_on_alone(key, Why::Lost) {
            return;
        }
        if self.departures.this_turn < ENDED_PER_TURN && self.departures.waiting.is_empty() {
            self.departures.this_turn += 1;
            return self.abandon(key);
        }
        self.tell_end(key);
        self.forget_left(key);
        if let Some(mut attached) = self.sessions.remove(key) {
            // Nobody has its tokens any more.
            let _ = self.cx.poller.remove(attached.wires.client.as_fd());
            attached.forget_terminal(&self.cx.poller);
            self.departures.waiting.push_back((key, attached));
        }
    }

    /// Ends some of the sessions that wait for it, where the turn had no more
    /// events than it could take.
    pub(super) fn part(&mut self, events: usize) {
        self.departures.this_turn = 0;
        if self.departures.waiting.is_empty() {
            return;
        }
        if events < self.cx.config.events as usize {
            for _ in 0..ENDED_PER_TURN {
                if let Some((key, attached)) = self.departures.waiting.pop_front() {
                    self.guarded(Whose::Past, |router| drop(router.let_go(key, *attached)));
                }
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
            return self.cx.after(DRAIN, Due::Drained(key));
        }
        attached.drains += 1;
        let spoke = attached.read_terminal(&mut self.cx, false, |_| false);
        if spoke && attached.drains < DRAINS {
            self.cx.after(DRAIN, Due::Drained(key));
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
            let client = self.let_go(key, *attached);
            self.cx.close_when_read(client, last);
        }
    }

    /// Ends a session: its client has left, or is let go. A program that
    /// still runs is hung up, with its foreground job.
    pub(super) fn abandon(&mut self, key: Key) {
        self.tell_end(key);
        self.forget_left(key);
        if let Some(attached) = self.sessions.remove(key) {
            self.let_go(key, *attached);
        }
    }

    /// Lets the program and its terminal go, of a session that nobody finds by its
    /// key any more; the client may have more to read.
    pub(super) fn let_go(&mut self, key: Key, mut attached: Attached) -> Stream {
        // The poller forgets descriptors when they close here; where a copy
        // lives a moment longer (sys/detached.rs), nobody has its token. Others'
        // copies, of the terminal and of the client, live as long as those like:
        // it would tell of them without end.
        let is_elsewhere = attached.wires.master.is_shared() || attached.session.kept().is_some();
        if is_elsewhere {
            attached.forget_terminal(&self.cx.poller);
            let _ = self.cx.poller.remove(attached.wires.client.as_fd());
        }
        let Attached { session, wires: Wires { client, master, program, .. }, .. } = attached;
        // It may have been reaped while this had to wait its turn.
        let is_its =
            |program: &Process| !program.is_child() || self.programs.is_of(program.pid(), key);
        if let Some(program) = program.filter(is_its) {
            // A terminal that was offered may be open elsewhere, and is then not
            // hung up by our close.
            let copies = match is_elsewhere {
                true if session.dismissed().is_some() => Copies::Ended,
                true => Copies::MayBe,
                false => Copies::None,
            };
            self.hang_up(&master, program, copies);
        }
        client
    }

    /// Hangs up the program of a terminal, its foreground job, and the terminal
    /// where our close does not.
    pub(super) fn hang_up(&mut self, terminal: &Master, program: Process, copies: Copies) {
        // Closing the master sends SIGHUP and SIGCONT to the session's
        // leader; its foreground job would hear of it only when the
        // leader ends, and that may ignore it.
        let leader = program.try_clone();
        let foreground = leader.and_then(|leader| Foreground::of(terminal, leader));
        if copies != Copies::None {
            program.signal(libc::SIGHUP);
            program.signal(libc::SIGCONT);
        }
        if foreground.is_some_and(|foreground| self.programs.hang_up(foreground)) {
            self.cx.after(Duration::ZERO, Due::Kill);
        }
        let is_over = copies == Copies::None || terminal.hang_up();
        if !is_over && copies == Copies::Ended {
            self.hang_up_users(terminal);
        }
        if program.is_child() {
            self.programs.client_left(program.pid());
            if let Some(grace) = self.cx.config.hangup_grace {
                self.cx.after(grace, Due::Outlived(program.pid()));
            }
        } else if let Some(program) = program.pidfd() {
            self.with_left(|left, cx, _, _| left.end_program(cx, program));
        }
    }

    /// The same of a terminal that we may not take from those who have it.
    fn hang_up_users(&mut self, terminal: &Master) {
        let grace = self.cx.config.hangup_grace;
        let name = terminal.slave_name().unwrap_or_default();
        log(&format!(
            "forkptyrouter: cannot hang {name} up (that takes CAP_SYS_ADMIN): \
             telling those who have it open to end"
        ));
        self.programs.hang_up_users(terminal, grace);
        self.cx.after(Duration::ZERO, Due::Kill);
        if let Some(grace) = grace {
            self.cx.after(grace, Due::TerminalUsers);
        }
    }

    /// Those have not ended.
    pub(super) fn kill_terminal_users(&mut self) {
        self.programs.kill_users();
        self.cx.after(Duration::ZERO, Due::Kill);
    }

    /// A session's leader has ignored that its client left.
    pub(super) fn outlived(&mut self, leader: Pid) {
        let grace = self.cx.config.hangup_grace;
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
            self.cx.after(Duration::ZERO, Due::Kill);
        }
    }

    /// Goes on killing what has outlived its client or its gateway.
    pub(super) fn kill_outlived(&mut self) {
        if self.programs.go_on_killing() {
            self.cx.after(Duration::ZERO, Due::Kill);
        }
    }
}
