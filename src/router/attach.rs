//! A client connects: it gets a terminal with the program on it, or one line
//! that says why not.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::GatewayLoop;
use super::aftercare::Kind;
use super::closing::LastWord;
use super::doors::{Arrival, Newcomer};
use super::fault;
use super::listing;
use super::recovery::Whose;
use super::table::{Key, Source};
use super::timers::Due;
use super::told::{Refusal, Said, Subject};
use super::traffic::{Attached, Wires};
use crate::session::Session;
use crate::session::greeting::Opening;
use fpty::error::{Error, Result, reason};
use fpty::proto::request::Verb;
use fpty::proto::{Ended, Ending, LONGEST_TEXT, Protocol, variables};
use fpty::relay::is_free;
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::peer::Passed;
use fpty::sys::poll::Interest;
use fpty::sys::process::Process;
use fpty::sys::pty::{self, Master};
use fpty::sys::socket::Stream;
use fpty::sys::spawn::{Program, Started, Streams};
use fpty::text::shown_within;

/// How soon what slow programs needed is looked after.
const TIDY: Duration = Duration::from_millis(100);

/// How old a session is before its terminal is handed over: a short one ends
/// without the effort.
const OFFER_AFTER: Duration = Duration::from_millis(30);

/// The first and the longest wait before looking whether a program has been
/// executed that takes long for it, in milliseconds.
const STARTING_FIRST: u8 = 1;
const STARTING_LAST: u8 = 100;

impl GatewayLoop {
    /// Takes a connection that waits at a socket. One in a turn: a storm of
    /// them does not keep the sessions waiting.
    pub(super) fn accept(&mut self, door: u16) {
        if self.is_too_fast(door) {
            return;
        }
        match self.cx.doors.accept(door) {
            Arrival::Nobody => self.nobody_came(door),
            Arrival::Client(client, transport, protocol)
                if !self.may_enter(door, &client, transport, protocol) =>
            {
                // Whoever is kept out does not use the rate up.
                self.nobody_came(door);
                self.cx.close_when_read(client, LastWord::Eof);
            }
            Arrival::Client(client, transport, Protocol::Uwsgi) => {
                fault::point("accepted");
                self.greet(client, transport, door);
            }
            Arrival::Client(client, transport, Protocol::Raw) => {
                self.cx.told.hears(door, Protocol::Raw.name(), Said::default);
                self.is_about_to_record(door);
                let Some(place) = self.cx.doors.door(door) else { return };
                let (size, program) = (place.rules.size(), Arc::clone(&place.program));
                let session = Session::raw(size);
                let seat = self.cx.seats.take(&place.rules, &client);
                let seat = seat.and_then(|seat| self.cx.seats.sit(&place.rules, seat));
                let newcomer = Newcomer { client, transport, door, seat };
                self.attach(newcomer, session, &program, size, Vec::new());
            }
            Arrival::Hopeless(client, why) => {
                let mode = self.cx.doors.protocol(door).map_or("", Protocol::name);
                self.cx.told.hears(door, mode, Said::default);
                match client {
                    Some(client) => {
                        self.refuse(client, false, Ended::because(Ending::Refused, why));
                        // Others need its descriptor, and theirs, too.
                        self.cx.closing.close_all();
                    }
                    None => {
                        self.cx.doors.log_refusal(&format!("forkptyrouter: {why}"));
                        self.cx.told.refused(None, Refusal::Resources, &why);
                    }
                }
                self.cx.pause();
            }
        }
    }

    /// Makes a session of a client that has said this, and perhaps that it
    /// sends no more. What it sent after that stands in the turn's buffer.
    pub(super) fn open(
        &mut self,
        newcomer: Newcomer,
        opening: Opening,
        arrived: Passed,
        ended: bool,
    ) {
        match opening.request.verb() {
            Some(Verb::Attach) => self.come_back(newcomer, opening, arrived, ended),
            _ => self.open_new(newcomer, opening, arrived, ended),
        }
    }

    /// The same, of a client that has not come back to an old one.
    pub(super) fn open_new(
        &mut self,
        newcomer: Newcomer,
        mut opening: Opening,
        arrived: Passed,
        ended: bool,
    ) {
        if listing::is_inquiry(&opening) {
            return self.inquire(newcomer, opening);
        }
        let newcomer = self.seated(newcomer);
        let door = newcomer.door;
        let mode = if opening.extended { "extended" } else { Protocol::Uwsgi.name() };
        self.cx.told.hears(door, mode, || Said::of(&opening.variables));
        self.is_about_to_record(door);
        self.cx.told.asks(|| opening.request.shown());
        if !opening.wants_terminal() {
            return self.command(newcomer, opening, arrived);
        }
        let Some(place) = self.cx.doors.door(door) else { return };
        let rules = Rc::clone(&place.rules);
        let shown = opening.request.shown();
        let program = match self.granted(door, std::mem::take(&mut opening.request)) {
            Ok(program) => program,
            Err(why) => return self.turn_back(newcomer, opening.extended, why),
        };
        let left = self.left.as_ref();
        let wish = left.map_or(Ok(None), |left| left.may_leave(&self.cx, &newcomer, &opening));
        let wish = match wish {
            Ok(wish) => wish,
            Err(why) => return self.turn_back(newcomer, opening.extended, why),
        };
        let size = opening.size(rules.size());
        let environment = rules.environment_of(&opening.variables);
        let session = Session::opened(&mut opening, size);
        let Some(key) = self.attach(newcomer, session, &program, size, environment) else {
            return;
        };
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        self.inquirers.note_command(Subject::Session(key), shown);
        let Attached { session, wires, .. } = attached;
        session.early_input(&opening.input, wires);
        if !self.cx.input.is_empty() {
            fault::strike("input", || &self.cx.input);
            self.cx.hear(key, session, wires);
        }
        if ended {
            session.client_ended();
        }
        if let Some(line) = opening.variables.remark() {
            session.notice(&line, wires);
        }
        let is_named = opening.variables.get(variables::SESSION_NAME).is_some();
        let is_recorded = wires.is_recorded();
        if is_named && (wish.is_none() || is_recorded) {
            let line = match is_recorded {
                true => "the session has no name: it is recorded, and cannot be left",
                false => "the session has no name: it cannot be left (forkptyrouter-detach)",
            };
            session.notice(line, wires);
        }
        fault::point("opened");
        let hands_over = self.may_be_handed_over(key);
        let is_kept = wish.is_some_and(|wish| self.can_be_left(key, wish, size, !hands_over));
        fault::point("kept");
        if is_kept || hands_over {
            self.cx.after(OFFER_AFTER, Due::Offer(key));
        }
        self.settle(key);
    }

    /// A client is about to begin a session: its seat counts for all.
    pub(super) fn seated(&mut self, newcomer: Newcomer) -> Newcomer {
        let Some(rules) = self.cx.doors.rules(newcomer.door) else {
            return newcomer;
        };
        let seat = newcomer.seat.and_then(|seat| self.cx.seats.sit(rules, seat));
        Newcomer { seat, ..newcomer }
    }

    /// Gives a client its terminal and its program, or tells it why not.
    fn attach(
        &mut self,
        newcomer: Newcomer,
        session: Session,
        program: &Arc<Program>,
        size: Size,
        environment: Vec<CString>,
    ) -> Option<Key> {
        let cannot = self.is_full(&newcomer).or_else(|| self.cannot_record());
        let started = match cannot {
            Some(why) => Err(why),
            None => self.start(program, size, environment),
        };
        let (master, pid) = match started {
            Ok(started) => started,
            Err(why) => {
                self.turn_back(newcomer, session.is_extended(), why);
                return None;
            }
        };
        let Newcomer { client, transport, door, seat } = newcomer;
        let key = self.sessions.insert(Attached::new(
            session,
            Wires::new(client, master, Some(Process::child(pid))),
            transport,
            door,
        ));
        self.faults.made = Some(Whose::Unborn(key));
        fault::point("inserted");
        self.programs.belongs_to(pid, key);
        self.cx.seats.is_of(seat.ok().flatten(), Subject::Session(key));
        if let Some(limit) = self.cx.doors.rules(door).and_then(|rules| rules.max_time) {
            self.limit_time(key, limit);
        }
        self.note_session(key, size);
        self.note_recording(key, size);
        fault::point("noted");
        let attached = self.sessions.get_mut(key)?;
        if !self.cx.spawner.has_executed(pid) {
            attached.starting = STARTING_FIRST;
        }
        let (poller, is_starting) = (&self.cx.poller, attached.starting != 0);
        let mut registered =
            poller.add(attached.wires.client.as_fd(), Source::Client(key).token(), Interest::READ);
        if !is_starting {
            attached.terminal_interest = Some(Interest::READ);
            let token = Source::Terminal(key).token();
            registered = registered
                .and_then(|()| poller.add(attached.wires.master.as_fd(), token, Interest::READ));
        }
        if let Err(error) = registered {
            let why = format!("cannot wait for the session: {}", reason(&error));
            self.refuse_session(key, Ended::because(Ending::Refused, why));
            return None;
        }
        fault::point("registered");
        match is_starting {
            true => self.executed(key),
            false => self.tell_start(key),
        }
        if let Some(timeout) = self.cx.doors.rules(door).and_then(|rules| rules.timeout) {
            self.watch_idleness(key, timeout);
        }
        Some(key)
    }

    /// A program may have been executed meanwhile. Until then its terminal is not
    /// read: what a client typed comes back from there, and if there is to be no
    /// session it is told so in one line.
    pub(super) fn executed(&mut self, key: Key) {
        let Some(attached) = self.sessions.get_mut(key) else {
            return;
        };
        let program = attached.wires.program.as_ref().map(Process::pid);
        if program.is_some_and(|program| !self.cx.spawner.has_executed(program)) {
            let wait = Duration::from_millis(attached.starting.into());
            attached.starting = attached.starting.saturating_mul(2).min(STARTING_LAST);
            return self.cx.after(wait, Due::Executed(key));
        }
        self.has_begun(key);
        self.settle(key);
    }

    fn start(
        &mut self,
        program: &Arc<Program>,
        size: Size,
        environment: Vec<CString>,
    ) -> std::result::Result<(Master, Pid), Ended> {
        match self.try_to_start(program, size, environment) {
            Ok((master, Started::Running(pid))) => Ok((master, pid)),
            Ok((_, Started::NotExecuted(errno))) => Err(not_executable(program, errno)),
            Err(error) => Err(Ended::because(Ending::Refused, error.to_string())),
        }
    }

    fn try_to_start(
        &mut self,
        program: &Arc<Program>,
        size: Size,
        environment: Vec<CString>,
    ) -> Result<(Master, Started)> {
        // Rust ends the process that finds no memory for some small thing.
        if !is_free(0) {
            return Err(Error::new("out of memory"));
        }
        let (master, slave) = pty::open(size)?;
        if let Some(user) = program.user() {
            slave.belongs_to(user);
        }
        let started = self.cx.spawner.spawn(program, Streams::Terminal(&slave), environment)?;
        if let Started::Running(pid) = &started {
            self.programs.started(*pid, Key::NONE, Kind::Terminal);
        }
        fault::point("spawned");
        self.tidy_up();
        // Our copy of the slave closes here: the program's are the last ones,
        // so that their end is the end of the output.
        Ok((master, started))
    }

    /// What programs needed that were slow to be executed is given back.
    pub(super) fn tidy_up(&mut self) {
        if self.cx.spawner.tidy() && !self.cx.tidy_is_due {
            self.cx.tidy_is_due = true;
            self.cx.after(TIDY, Due::Tidy);
        }
    }

    /// The same for somebody who has a seat, perhaps.
    pub(super) fn turn_back(&mut self, newcomer: Newcomer, extended: bool, why: Ended) {
        if let Ok(Some(seat)) = newcomer.seat {
            self.cx.seats.leave(seat);
        }
        self.refuse(newcomer.client, extended, why);
    }

    /// Tells a client that it gets no session, and logs it.
    pub(super) fn refuse(&mut self, client: Stream, extended: bool, why: Ended) {
        let text = shown_within(&why.text, LONGEST_TEXT);
        let line = format!("forkptyrouter: session refused: {text}");
        let last = match extended {
            true => {
                let _ = client.write(&why.packet());
                LastWord::Packet { is_answered: false }
            }
            false => {
                let _ = client.write(format!("{line}\r\n").as_bytes());
                LastWord::Eof
            }
        };
        self.cx.doors.log_refusal(&line);
        self.cx.told.refused(Some(&client), Refusal::of(&why), &why.text);
        self.cx.close_when_read(client, last);
    }

    /// Ends a session that never was one, because its program could not be
    /// executed, or nobody can wait for it.
    pub(super) fn refuse_session(&mut self, key: Key, why: Ended) {
        // Its name is free again.
        self.forget_left(key);
        if let Some(mut attached) = self.sessions.remove(key) {
            self.cx.told.was_none(Subject::Session(key));
            self.cx.seats.ended(Subject::Session(key));
            self.inquirers.forget(Subject::Session(key));
            self.forget_recording(attached.wires.recording().map(|it| it.session()));
            let extended = attached.session.is_extended();
            let client = self.let_go(key, *attached);
            self.refuse(client, extended, why);
        }
    }
}

/// The end of a session whose program cannot be executed, as a shell has it:
/// 127 for one that is not there.
pub(super) fn not_executable(program: &Program, errno: i32) -> Ended {
    // Where it was not execve(2) that failed there is a step above the errno.
    let value = if errno == libc::ENOENT { 127 } else { 126 };
    let text = program.refusal(errno).to_string();
    Ended { ending: Ending::ExecFailed, value, text }
}
