//! Opening of a session: accept, limits, a pty with the program on it, or one line that says why
//! not.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::relay::{LiveSession, SessionAction, SessionIo, Sessions};
use super::state::Session;
use super::timeouts::TimeLimited;
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
use fpty::backlog::is_free;
use fpty::error::reason;
use fpty::proto::{Ended, Ending, LONGEST_TEXT, Protocol};
use fpty::sys::Size;
use fpty::sys::child::Pid;
use fpty::sys::pid_guard::Process;
use fpty::sys::poll::Interest;
use fpty::sys::pty::{self, Master};
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::spawn::{Program, Started, Streams};
use fpty::text::shown_within;

/// Delay before the memory of slow spawns is freed.
const TIDY: Duration = Duration::from_millis(100);

/// First and longest delay between checks whether a slow program has been executed, in
/// milliseconds.
const STARTING_FIRST: u8 = 1;
const STARTING_LAST: u8 = 100;

/// Result of accepting at a socket.
pub enum Accepted {
    /// No client: none came, or it was rejected.
    Nobody,
    /// A client of raw mode.
    Raw(Newcomer),
    /// A client of uwsgi mode, which may begin with a hello.
    Uwsgi(Stream, Transport),
}

/// Plan of a session that is about to be opened.
pub struct SessionPlan {
    /// The state machine.
    pub session: Session,
    /// The program to spawn.
    pub program: Arc<Program>,
    /// The terminal's size.
    pub size: Size,
    /// Environment beside the socket's own.
    pub environment: Vec<CString>,
    /// The requested command as lists show it.
    pub shown: Option<String>,
}

impl Context {
    /// Accepts one connection of a socket. One in a turn: a storm of connections does not keep the
    /// sessions waiting.
    pub fn accept(&mut self, door: u16) -> Accepted {
        if self.slow_down(door) {
            return Accepted::Nobody;
        }
        let Some(place) = self.doors.door(door) else { return Accepted::Nobody };
        let (protocol, rules) = (place.protocol, Rc::clone(&place.rules));
        match self.doors.accept(door) {
            Ok(None) => self.nobody_came(door),
            Ok(Some((client, transport))) if !self.admit(door, &client, transport, protocol) => {
                // A rejected connection does not use the rate up.
                self.nobody_came(door);
                self.close_when_read(client, LastWord::Eof);
            }
            Ok(Some((client, transport))) if protocol == Protocol::Uwsgi => {
                fault_injection::point("accepted");
                return Accepted::Uwsgi(client, transport);
            }
            Ok(Some((client, transport))) => {
                let origin = self.told.origin(door, protocol);
                let seat = self.seats.take(&rules, &client);
                let seat = seat.and_then(|seat| self.seats.sit(&rules, seat));
                return Accepted::Raw(Newcomer { client, transport, door, seat, origin });
            }
            Err(Hopeless { client, why }) => {
                let origin = self.told.origin(door, protocol);
                match client {
                    Some(client) => {
                        let why = Rejection::because(Refusal::Resources, why);
                        self.reject_client(client, origin, false, &why);
                        // The pending connections hold descriptors that others need.
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
        Accepted::Nobody
    }

    /// Acquires the permit of a session, which counts over all gateways.
    pub fn seated(&mut self, newcomer: Newcomer) -> Newcomer {
        let Some(rules) = self.doors.rules(newcomer.door) else {
            return newcomer;
        };
        let seat = newcomer.seat.and_then(|seat| self.seats.sit(rules, seat));
        Newcomer { seat, ..newcomer }
    }

    /// Rejects a connection that may hold a permit.
    pub fn reject(&mut self, newcomer: Newcomer, extended: bool, why: impl Into<Rejection>) {
        self.reject_client(newcomer.client, newcomer.origin, extended, &why.into());
    }

    /// Rejects a client with one line or END packet, logs it and tells the audit.
    pub fn reject_client(
        &mut self,
        client: Stream,
        origin: Origin,
        extended: bool,
        why: &Rejection,
    ) {
        let Rejection { ended, reason } = why;
        let text = shown_within(&ended.text, LONGEST_TEXT);
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

    /// The plan of the session that a client has requested.
    ///
    /// # Errors
    /// The request is rejected.
    pub fn plan(&self, door: u16, opening: &mut Opening) -> Result<SessionPlan, Rejection> {
        let shown = opening.request.shown();
        let program = self.granted(door, std::mem::take(&mut opening.request))?;
        let closed = || Rejection::because(Refusal::Resources, "the socket is closed");
        let rules = self.doors.rules(door).ok_or_else(closed)?;
        let size = opening.size(rules.size);
        let environment = rules.environment_of(&opening.variables);
        let session = Session::from_hello(opening, size);
        Ok(SessionPlan { session, program, size, environment, shown })
    }

    /// Schedules the release of memory that slow spawns needed.
    pub fn tidy_up(&mut self) {
        if self.spawner.tidy() && !self.tidy_is_due {
            self.tidy_is_due = true;
            self.after(TIDY, Due::Tidy);
        }
    }

    /// Spawns a program on these streams.
    ///
    /// # Errors
    /// The program cannot be executed (execve(2)), or there can be no more processes.
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
            Ok(Started::NotExecuted(errno)) => Err(exec_error(program, errno).into()),
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
        // Rust aborts the process where a small allocation fails.
        if !is_free(0) {
            return Err(refused(String::from("out of memory")));
        }
        let (master, slave) = pty::open(size).map_err(|error| refused(error.to_string()))?;
        if let Some(user) = program.user() {
            slave.belongs_to(user);
        }
        let streams = Streams::Terminal(&slave);
        let pid = self.spawn(programs, program, streams, environment, Kind::Terminal)?;
        fault_injection::point("spawned");
        // The gateway's copy of the slave closes here: the program's copies are the last ones, so
        // that their end is the end of the output.
        Ok((master, pid))
    }
}

impl LiveSession {
    /// Checks whether the program has been executed. Until then the terminal is not read: it echoes
    /// what the client typed, and a rejected client is to read one line alone.
    pub fn check_started(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        let program = self.io.program.as_ref().map(Process::pid);
        if program.is_some_and(|program| !cx.spawner.has_executed(program)) {
            let wait = Duration::from_millis(self.started_poll.into());
            self.started_poll = self.started_poll.saturating_mul(2).min(STARTING_LAST);
            cx.after(wait, Due::Session(key, LifeDue::Executed));
            return SessionAction::Wait;
        }
        self.mark_started(cx, key);
        self.settle(cx, key)
    }
}

impl Sessions {
    /// Opens a terminal with the program on it, or rejects the client.
    pub fn open_terminal(
        &mut self,
        cx: &mut Context,
        programs: &mut Programs,
        newcomer: Newcomer,
        plan: SessionPlan,
    ) -> Option<Key> {
        let SessionPlan { session, program, size, environment, shown } = plan;
        let started = cx
            .check_limits(&newcomer)
            .and_then(|()| cx.start(programs, &program, size, environment));
        let (master, pid) = match started {
            Ok(started) => started,
            Err(why) => {
                cx.reject(newcomer, session.is_extended(), why);
                return None;
            }
        };
        let Newcomer { client, transport, door, seat, origin } = newcomer;
        let key = self.insert(LiveSession::new(
            session,
            SessionIo::new(client, master, Some(Process::child(pid))),
            transport,
            door,
        ));
        cx.faults.made = Some(Whose::Unborn(key));
        fault_injection::point("inserted");
        programs.belongs_to(pid, key);
        let live = self.get_mut(key)?;
        live.set_pending(cx, key, seat.ok().flatten(), origin, size, shown);
        fault_injection::point("noted");
        if !cx.spawner.has_executed(pid) {
            live.started_poll = STARTING_FIRST;
        }
        Some(key)
    }

    /// Feeds a new session the input that came with the request, and what stands in the buffer.
    pub fn feed_early_input(&mut self, cx: &mut Context, key: Key, opening: &Opening, ended: bool) {
        let Some(LiveSession { session, io, .. }) = self.get_mut(key) else {
            return;
        };
        session.early_input(&opening.input, io);
        if !cx.input.is_empty() {
            fault_injection::strike("input", || &cx.input);
            cx.hear(key, session, io);
        }
        if ended {
            session.client_half_closed();
        }
        if let Some(line) = opening.variables.remark() {
            session.notice(&line, io);
        }
    }

    /// Registers both ends of a new session with the poller.
    ///
    /// # Errors
    /// The poller refuses: the session is to be rejected.
    pub fn register(&mut self, cx: &mut Context, key: Key) -> Result<(), Rejection> {
        let Some(live) = self.get_mut(key) else { return Ok(()) };
        let (poller, is_pending) = (&cx.poller, live.started_poll != 0);
        let mut registered =
            poller.add(live.io.client.as_fd(), Source::Client(key).token(), Interest::READ);
        if !is_pending {
            live.terminal_interest = Some(Interest::READ);
            let token = Source::Terminal(key).token();
            registered =
                registered.and_then(|()| poller.add(live.io.master.as_fd(), token, Interest::READ));
        }
        registered.map_err(|error| {
            let why = format!("cannot wait for the session: {}", reason(&error));
            Rejection::because(Refusal::Resources, why)
        })?;
        fault_injection::point("registered");
        match is_pending {
            true => cx.after(
                Duration::from_millis(STARTING_FIRST.into()),
                Due::Session(key, LifeDue::Executed),
            ),
            false => cx.started(Subject::Session(key)),
        }
        live.start_timers(cx, key, Duration::ZERO);
        Ok(())
    }

    /// Rejects a session that is pending: its program cannot be executed, or the poller refuses it.
    pub fn reject(&mut self, cx: &mut Context, programs: &mut Programs, key: Key, why: &Rejection) {
        if let Some(mut live) = self.remove(key) {
            let origin = live.rejected(cx, key);
            let extended = live.session.is_extended();
            let client = programs.release(cx, key, *live);
            cx.reject_client(client, origin, extended, why);
        }
    }
}

/// END of a program that cannot be executed, with a shell's status: 127 for one that does not
/// exist, else 126.
pub(crate) fn exec_error(program: &Program, errno: i32) -> Ended {
    // A step before execve(2) that failed has an errno above the real ones.
    let value = if errno == libc::ENOENT { 127 } else { 126 };
    let text = program.refusal(errno).to_string();
    Ended { ending: Ending::ExecFailed, value, text }
}
