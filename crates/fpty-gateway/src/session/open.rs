//! A client connects: it gets a terminal with the program on it, or one line
//! that says why not.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::relay::{Attached, Next, Sessions, Wires};
use super::state::Session;
use super::timeouts::Timed;
use crate::connection::client_hello::Opening;
use crate::connection::lingering_close::LastWord;
use crate::connection::listeners::{Hopeless, Newcomer};
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::{Key, Source};
use crate::event_loop::subject::{Subject, Whose};
use crate::event_loop::timers::{Due, LifeDue};
use crate::observe::audit::{Origin, Refusal, Rejection};
use crate::process::supervisor::leaders::Kind;
use crate::process::table::Programs;
use fpty::backlog::has_free_memory;
use fpty::error::reason;
use fpty::proto::{EndKind, MAX_TEXT, Protocol, SessionEnd};
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::poll::Interest;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::{self, Master};
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::spawn::{Program, Started, Streams};
use fpty::text::shown_within;

/// How soon what slow programs needed is looked after.
const TIDY: Duration = Duration::from_millis(100);

/// The first and the longest wait before looking whether a program has been
/// executed that takes long for it, in milliseconds.
const STARTING_FIRST: u8 = 1;
const STARTING_LAST: u8 = 100;

/// Who has come to a socket.
pub enum Arrived {
    /// Nobody who gets anything.
    Nobody,
    /// A client of raw mode.
    Raw(Newcomer),
    /// One that may have something to say first.
    Uwsgi(Stream, Transport),
}

/// A session to be made.
pub struct Plan {
    /// What it is to be.
    pub session: Session,
    /// What is to run.
    pub program: Arc<Program>,
    /// Its terminal's size.
    pub size: Size,
    /// Its environment, beside that of its socket.
    pub environment: Vec<CString>,
    /// The command that its client asks for, as a list shows it.
    pub shown: Option<String>,
}

impl Context {
    /// Takes a connection that waits at a socket. One in a turn: a storm of
    /// them does not keep the sessions waiting.
    pub fn accept(&mut self, door: u16) -> Arrived {
        if self.slow_down(door) {
            return Arrived::Nobody;
        }
        let Some(place) = self.doors.door(door) else { return Arrived::Nobody };
        let (protocol, rules) = (place.protocol, Rc::clone(&place.rules));
        match self.doors.accept(door) {
            Ok(None) => self.nobody_came(door),
            Ok(Some((client, transport))) if !self.admit(door, &client, transport, protocol) => {
                // Whoever is kept out does not use the rate up.
                self.nobody_came(door);
                self.close_when_read(client, LastWord::Eof);
            }
            Ok(Some((client, transport))) if protocol == Protocol::Uwsgi => {
                fault_injection::point("accepted");
                return Arrived::Uwsgi(client, transport);
            }
            Ok(Some((client, transport))) => {
                let origin = self.told.origin(door, protocol);
                let seat = self.seats.take(&rules, &client);
                let seat = seat.and_then(|seat| self.seats.sit(&rules, seat));
                return Arrived::Raw(Newcomer { client, transport, door, seat, origin });
            }
            Err(Hopeless { client, why }) => {
                let origin = self.told.origin(door, protocol);
                match client {
                    Some(client) => {
                        let why = Rejection::because(Refusal::Resources, why);
                        self.refuse(client, origin, false, &why);
                        // Others need its descriptor, and theirs, too.
                        self.closing.close_all();
                    }
                    None => {
                        self.doors.log_refusal(&format!("forkptyrouter: {why}"));
                        self.told.refused(origin, None, Refusal::Resources, &why);
                    }
                }
                self.pause();
            }
        }
        Arrived::Nobody
    }

    /// A client is about to begin a session: its seat counts for all.
    pub fn seated(&mut self, newcomer: Newcomer) -> Newcomer {
        let Some(rules) = self.doors.rules(newcomer.door) else {
            return newcomer;
        };
        let seat = newcomer.seat.and_then(|seat| self.seats.sit(rules, seat));
        Newcomer { seat, ..newcomer }
    }

    /// Tells somebody who has a seat, perhaps, that there is no session.
    pub fn turn_back(&mut self, newcomer: Newcomer, extended: bool, why: impl Into<Rejection>) {
        self.refuse(newcomer.client, newcomer.origin, extended, &why.into());
    }

    /// Tells a client that it gets no session, and logs it.
    pub fn refuse(&mut self, client: Stream, origin: Origin, extended: bool, why: &Rejection) {
        let Rejection { ended, reason } = why;
        let text = shown_within(&ended.text, MAX_TEXT);
        let line = format!("forkptyrouter: session refused: {text}");
        let last = match extended {
            true => {
                let _ = client.write(&ended.packet());
                LastWord::Packet { is_answered: false }
            }
            false => {
                let _ = client.write(format!("{line}\r\n").as_bytes());
                LastWord::Eof
            }
        };
        self.doors.log_refusal(&line);
        self.told.refused(origin, Some(&client), *reason, &ended.text);
        self.close_when_read(client, last);
    }

    /// The session that a client has asked for.
    ///
    /// # Errors
    /// It does not get it.
    pub fn plan(&self, door: u16, opening: &mut Opening) -> Result<Plan, Rejection> {
        let shown = opening.request.shown();
        let program = self.granted(door, std::mem::take(&mut opening.request))?;
        let closed = || Rejection::because(Refusal::Resources, "the socket is closed");
        let rules = self.doors.rules(door).ok_or_else(closed)?;
        let size = opening.size(rules.size);
        let environment = rules.environment_of(&opening.variables);
        let session = Session::opened(opening, size);
        Ok(Plan { session, program, size, environment, shown })
    }

    /// What programs needed that were slow to be executed is given back.
    pub fn tidy_up(&mut self) {
        if self.spawner.tidy() && !self.tidy_is_due {
            self.tidy_is_due = true;
            self.after(TIDY, Due::Tidy);
        }
    }

    /// Starts a program on these streams.
    ///
    /// # Errors
    /// It cannot be executed, or there can be no more processes.
    pub fn spawn(
        &mut self,
        programs: &mut Programs,
        program: &Arc<Program>,
        streams: Streams<'_>,
        environment: Vec<CString>,
        kind: Kind,
    ) -> Result<Pid, Rejection> {
        programs.starts();
        let started = self.spawner.spawn(program, streams, environment);
        let running = match started {
            Ok(Started::Running(pid)) => Some(pid),
            _ => None,
        };
        programs.started(running, kind);
        self.tidy_up();
        match started {
            Ok(Started::Running(pid)) => Ok(pid),
            Ok(Started::NotExecuted(errno)) => Err(not_executable(program, errno).into()),
            Err(error) => Err(Rejection::because(Refusal::Resources, error.to_string())),
        }
    }

    fn start(
        &mut self,
        programs: &mut Programs,
        program: &Arc<Program>,
        size: Size,
        environment: Vec<CString>,
    ) -> Result<(Master, Pid), Rejection> {
        let refused = |why: String| Rejection::because(Refusal::Resources, why);
        // Rust ends the process that finds no memory for some small thing.
        if !has_free_memory(0) {
            return Err(refused(String::from("out of memory")));
        }
        let (master, slave) = pty::open(size).map_err(|error| refused(error.to_string()))?;
        if let Some(user) = program.user() {
            slave.chown_to(user);
        }
        let streams = Streams::Terminal(&slave);
        let pid = self.spawn(programs, program, streams, environment, Kind::Terminal)?;
        fault_injection::point("spawned");
        // Our copy of the slave closes here: the program's are the last ones,
        // so that their end is the end of the output.
        Ok((master, pid))
    }
}

impl Attached {
    /// A program may have been executed meanwhile. Until then its terminal is not
    /// read: what a client typed comes back from there, and if there is to be no
    /// session it is told so in one line.
    pub fn look_for_execution(&mut self, cx: &mut Context, key: Key) -> Next {
        let program = self.wires.program.as_ref().map(ProcessHandle::pid);
        if program.is_some_and(|program| !cx.spawner.has_executed(program)) {
            let wait = Duration::from_millis(self.starting.into());
            self.starting = self.starting.saturating_mul(2).min(STARTING_LAST);
            cx.after(wait, Due::Session(key, LifeDue::Executed));
            return Next::Waits;
        }
        self.executed(cx, key);
        self.settle(cx, key)
    }
}

impl Sessions {
    /// Gives a client its terminal and its program, or tells it why not.
    pub fn attach(
        &mut self,
        cx: &mut Context,
        programs: &mut Programs,
        newcomer: Newcomer,
        plan: Plan,
    ) -> Option<Key> {
        let Plan { session, program, size, environment, shown } = plan;
        let started = cx
            .check_limits(&newcomer)
            .and_then(|()| cx.start(programs, &program, size, environment));
        let (master, pid) = match started {
            Ok(started) => started,
            Err(why) => {
                cx.turn_back(newcomer, session.is_extended(), why);
                return None;
            }
        };
        let Newcomer { client, transport, door, seat, origin } = newcomer;
        let key = self.insert(Attached::new(
            session,
            Wires::new(client, master, Some(ProcessHandle::child(pid))),
            transport,
            door,
        ));
        cx.faults.made = Some(Whose::Unborn(key));
        fault_injection::point("inserted");
        programs.belongs_to(pid, key);
        let attached = self.get_mut(key)?;
        attached.pends(cx, key, seat.ok().flatten(), origin, size, shown);
        fault_injection::point("noted");
        if !cx.spawner.has_executed(pid) {
            attached.starting = STARTING_FIRST;
        }
        Some(key)
    }

    /// A session that was just made hears what its client sent with its request, and
    /// after that, which stands in the buffer.
    pub fn hear_opening(&mut self, cx: &mut Context, key: Key, opening: &Opening, ended: bool) {
        let Some(Attached { session, wires, .. }) = self.get_mut(key) else {
            return;
        };
        session.early_input(&opening.input, wires);
        if !cx.input.is_empty() {
            fault_injection::strike("input", || &cx.input);
            cx.hear(key, session, wires);
        }
        if ended {
            session.client_ended();
        }
        if let Some(line) = opening.variables.truncation_notice() {
            session.notice(&line, wires);
        }
    }

    /// Waits for both ends of a session that was just made.
    ///
    /// # Errors
    /// The poller refuses: the session is to be refused.
    pub fn watch(&mut self, cx: &mut Context, key: Key) -> Result<(), Rejection> {
        let Some(attached) = self.get_mut(key) else { return Ok(()) };
        let (poller, is_starting) = (&cx.poller, attached.starting != 0);
        let mut registered =
            poller.add(attached.wires.client.as_fd(), Source::Client(key).token(), Interest::READ);
        if !is_starting {
            attached.terminal_interest = Some(Interest::READ);
            let token = Source::Terminal(key).token();
            registered = registered
                .and_then(|()| poller.add(attached.wires.master.as_fd(), token, Interest::READ));
        }
        registered.map_err(|error| {
            let why = format!("cannot wait for the session: {}", reason(&error));
            Rejection::because(Refusal::Resources, why)
        })?;
        fault_injection::point("registered");
        match is_starting {
            true => cx.after(
                Duration::from_millis(STARTING_FIRST.into()),
                Due::Session(key, LifeDue::Executed),
            ),
            false => cx.started(Subject::Session(key)),
        }
        attached.watch_time(cx, key, Duration::ZERO);
        Ok(())
    }

    /// Ends a session that never was one, because its program could not be
    /// executed, or nobody can wait for it.
    pub fn refuse(&mut self, cx: &mut Context, programs: &mut Programs, key: Key, why: &Rejection) {
        if let Some(mut attached) = self.remove(key) {
            let origin = attached.never_was(cx, key);
            let extended = attached.session.is_extended();
            let client = programs.let_go(cx, key, *attached);
            cx.refuse(client, origin, extended, why);
        }
    }
}

/// The end of a session whose program cannot be executed, as a shell has it:
/// 127 for one that is not there.
pub(crate) fn not_executable(program: &Program, errno: i32) -> SessionEnd {
    // Where it was not execve(2) that failed there is a step above the errno.
    let value = if errno == libc::ENOENT { 127 } else { 126 };
    let text = program.refusal(errno).to_string();
    SessionEnd { ending: EndKind::ExecFailed, value, text }
}
