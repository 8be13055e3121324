//! Opening of a session: accept, limits, a pty with the program on it, or one line that says why
//! not.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::relay::{LiveSession, SessionAction, SessionIo, Sessions};
use super::session_ref::SessionRef;
use super::state::Session;
use super::timeouts::TimeLimited;
use crate::connection::client_hello::ClientHello;
use crate::connection::handshake::ClientRequest;
use crate::connection::lingering_close::CloseNotice;
use crate::connection::listeners::{AcceptError, Connection};
use crate::event_loop::context::Context;
use crate::event_loop::core::Core;
use crate::event_loop::fault_domain::FaultDomain;
use crate::event_loop::fault_injection;
use crate::event_loop::slab::{Key, Token};
use crate::event_loop::timers::{SessionTimer, Timer};
use crate::observe::audit::{Origin, RejectReason, Rejection};
use crate::process::process_table::ProcessTable;
use crate::process::supervisor::leaders::LeaderKind;
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
    Raw(Connection),
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
    pub fn accept(&mut self, listener: u16) -> Accepted {
        if self.throttle(listener) {
            return Accepted::Nobody;
        }
        let Some(place) = self.listeners.get(listener) else { return Accepted::Nobody };
        let (protocol, rules) = (place.protocol, Rc::clone(&place.rules));
        match self.listeners.accept(listener) {
            Ok(None) => self.refund_rate(listener),
            Ok(Some((client, transport)))
                if !self.admit(listener, &client, transport, protocol) =>
            {
                // A rejected connection does not use the rate up.
                self.refund_rate(listener);
                self.close_lingering(client, CloseNotice::Eof);
            }
            Ok(Some((client, transport))) if protocol == Protocol::Uwsgi => {
                fault_injection::point("accepted");
                return Accepted::Uwsgi(client, transport);
            }
            Ok(Some((client, transport))) => {
                let origin = self.audit.origin(listener, protocol);
                let permit = self.limits.acquire_user(&rules, &client);
                let permit = permit.and_then(|permit| self.limits.acquire_session(&rules, permit));
                return Accepted::Raw(Connection { client, transport, listener, permit, origin });
            }
            Err(AcceptError { client, why }) => {
                let origin = self.audit.origin(listener, protocol);
                match client {
                    Some(client) => {
                        let why = Rejection::because(RejectReason::Resources, why);
                        self.reject_client(client, origin, false, &why);
                        // The pending connections hold descriptors that others need.
                        self.lingering.close_all();
                    }
                    None => {
                        self.listeners.log_rejection(&format!("forkptyrouter: {why}"));
                        self.rejected(&origin, None, RejectReason::Resources, &why);
                    }
                }
                self.pause_accepting();
            }
        }
        Accepted::Nobody
    }

    /// Acquires the permit of a new session, which counts over all gateways, and notes the command
    /// that the client has requested.
    pub fn admit_session(&mut self, client_request: ClientRequest) -> ClientRequest {
        let Connection { permit, origin, listener, .. } = client_request.connection;
        let permit = match self.listeners.rules(listener) {
            Some(rules) => permit.and_then(|permit| self.limits.acquire_session(rules, permit)),
            None => permit,
        };
        let shown = || client_request.hello.request.shown();
        let origin = self.audit.with_command(origin, shown);
        let connection = Connection { permit, origin, ..client_request.connection };
        ClientRequest { connection, ..client_request }
    }

    /// Rejects a connection. Its permit is free before the client is told: another gateway may
    /// have the client's next connection at once.
    pub fn reject(&mut self, connection: Connection, extended: bool, why: impl Into<Rejection>) {
        let Connection { client, origin, permit, .. } = connection;
        drop(permit);
        self.reject_client(client, origin, extended, &why.into());
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
        let text = shown_within(&ended.text, MAX_TEXT);
        let line = format!("forkptyrouter: session refused: {text}");
        let last = match extended {
            true => {
                let _ = client.write(&ended.packet());
                CloseNotice::Packet { is_answered: false }
            }
            false => {
                let _ = client.write(format!("{line}\r\n").as_bytes());
                CloseNotice::Eof
            }
        };
        self.listeners.log_rejection(&line);
        self.rejected(&origin, Some(&client), *reason, &ended.text);
        self.close_lingering(client, last);
    }

    /// The plan of the session that a client has requested.
    ///
    /// # Errors
    /// The request is rejected.
    pub fn plan(&self, listener: u16, hello: &mut ClientHello) -> Result<SessionPlan, Rejection> {
        let shown = hello.request.shown();
        let program = self.authorize(listener, std::mem::take(&mut hello.request))?;
        let closed = || Rejection::because(RejectReason::Resources, "the socket is closed");
        let rules = self.listeners.rules(listener).ok_or_else(closed)?;
        let size = hello.size(rules.size);
        let environment = rules.environment_of(&hello.variables);
        let session = Session::from_hello(hello, size);
        Ok(SessionPlan { session, program, size, environment, shown })
    }

    /// The plan of a session of raw mode; `None`: the listener is gone.
    pub fn plan_raw(&self, listener: u16) -> Option<SessionPlan> {
        let place = self.listeners.get(listener)?;
        let (size, program) = (place.rules.size, Arc::clone(&place.program));
        let (environment, shown) = (Vec::new(), None);
        Some(SessionPlan { session: Session::raw(size), program, size, environment, shown })
    }

    /// Schedules the release of memory that slow spawns needed.
    pub fn tidy_up(&mut self) {
        if self.spawner.tidy() && !self.tidy_is_scheduled {
            self.tidy_is_scheduled = true;
            self.schedule(TIDY, Timer::Tidy);
        }
    }

    /// Spawns a program on these streams.
    ///
    /// # Errors
    /// The program cannot be executed (execve(2)), or there can be no more processes.
    pub fn spawn(
        &mut self,
        processes: &mut ProcessTable,
        program: &Arc<Program>,
        streams: Streams<'_>,
        environment: Vec<CString>,
        kind: LeaderKind,
    ) -> Result<Pid, Rejection> {
        processes.before_start();
        let started = self.spawner.spawn(program, streams, environment);
        let running = match started {
            Ok(Started::Running(pid)) => Some(pid),
            _ => None,
        };
        processes.started(running, kind);
        self.tidy_up();
        match started {
            Ok(Started::Running(pid)) => Ok(pid),
            Ok(Started::NotExecuted(errno)) => Err(exec_error(program, errno).into()),
            Err(error) => Err(Rejection::because(RejectReason::Resources, error.to_string())),
        }
    }

    fn start(
        &mut self,
        processes: &mut ProcessTable,
        program: &Arc<Program>,
        size: Size,
        environment: Vec<CString>,
    ) -> Result<(Master, Pid), Rejection> {
        let refused = |why: String| Rejection::because(RejectReason::Resources, why);
        // Rust aborts the process where a small allocation fails.
        if !has_free_memory(0) {
            return Err(refused(String::from("out of memory")));
        }
        let (master, slave) = pty::open(size).map_err(|error| refused(error.to_string()))?;
        if let Some(user) = program.user() {
            slave.chown_to(user);
        }
        let streams = Streams::Terminal(&slave);
        let pid = self.spawn(processes, program, streams, environment, LeaderKind::Terminal)?;
        fault_injection::point("spawned");
        // The gateway's copy of the slave closes here: the program's copies are the last ones, so
        // that their end is the end of the output.
        Ok((master, pid))
    }
}

impl LiveSession {
    /// Feeds a new session the input that came with the request, and what stands in the buffer.
    pub fn feed_early_input(&mut self, cx: &mut Context, key: Key, hello: &ClientHello) {
        let Self { session, io, .. } = self;
        session.early_input(&hello.input, io);
        if !cx.input.is_empty() {
            fault_injection::panic_if_requested("input", || &cx.input);
            cx.deliver_input(key, session, io);
        }
    }

    /// Checks whether the program has been executed. Until then the terminal is not read: it echoes
    /// what the client typed, and a rejected client is to read one line alone.
    pub fn check_started(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        let program = self.io.program.as_ref().map(ProcessHandle::pid);
        if program.is_some_and(|program| !cx.spawner.has_executed(program)) {
            let wait = Duration::from_millis(self.started_poll.into());
            self.started_poll = self.started_poll.saturating_mul(2).min(STARTING_LAST);
            cx.schedule(wait, Timer::Session(key, SessionTimer::ExecCheck));
            return SessionAction::Wait;
        }
        self.mark_started(cx, key);
        self.settle(cx, key)
    }
}

impl Core {
    /// Opens a terminal with the program on it, or rejects the client.
    pub fn open_terminal(&mut self, connection: Connection, plan: SessionPlan) -> Option<Key> {
        let Self { cx, sessions, processes } = self;
        let SessionPlan { session, program, size, environment, shown } = plan;
        let started = cx
            .check_limits(&connection)
            .and_then(|()| cx.start(processes, &program, size, environment));
        let (master, pid) = match started {
            Ok(started) => started,
            Err(why) => {
                cx.reject(connection, session.is_extended(), why);
                return None;
            }
        };
        let Connection { client, transport, listener, permit, origin } = connection;
        let key = sessions.insert(LiveSession::new(
            session,
            SessionIo::new(client, master, Some(ProcessHandle::child(pid))),
            transport,
            listener,
        ));
        cx.panics.in_progress = Some(FaultDomain::PendingSession(key));
        fault_injection::point("inserted");
        processes.assign(pid, SessionRef::Session(key));
        let live = sessions.get_mut(key)?;
        live.set_pending(cx, key, permit.unwrap_or_default(), origin, size, shown);
        fault_injection::point("noted");
        if !cx.spawner.has_executed(pid) {
            live.started_poll = STARTING_FIRST;
        }
        Some(key)
    }

    /// Rejects a session that is pending: its program cannot be executed, or the poller refuses it.
    pub fn reject(&mut self, key: Key, why: &Rejection) {
        let Self { cx, sessions, processes } = self;
        if let Some(mut live) = sessions.remove(key) {
            let origin = live.abort(cx, key);
            let extended = live.session.is_extended();
            let client = processes.release(cx, key, *live);
            cx.reject_client(client, origin, extended, why);
        }
    }
}

impl Sessions {
    /// Registers both ends of a new session with the poller.
    ///
    /// # Errors
    /// The poller refuses: the session is to be rejected.
    pub fn register(&mut self, cx: &mut Context, key: Key) -> Result<(), Rejection> {
        let Some(live) = self.get_mut(key) else { return Ok(()) };
        let (poller, is_pending) = (&cx.poller, live.started_poll != 0);
        let mut registered =
            poller.add(live.io.client.as_fd(), Token::Client(key).token(), Interest::READ);
        if !is_pending {
            live.terminal_interest = Some(Interest::READ);
            let token = Token::Terminal(key).token();
            registered =
                registered.and_then(|()| poller.add(live.io.master.as_fd(), token, Interest::READ));
        }
        registered.map_err(|error| {
            let why = format!("cannot wait for the session: {}", reason(&error));
            Rejection::because(RejectReason::Resources, why)
        })?;
        fault_injection::point("registered");
        match is_pending {
            true => cx.schedule(
                Duration::from_millis(STARTING_FIRST.into()),
                Timer::Session(key, SessionTimer::ExecCheck),
            ),
            false => cx.started(SessionRef::Session(key)),
        }
        live.start_timers(cx, key, Duration::ZERO);
        Ok(())
    }
}

/// END of a program that cannot be executed, with a shell's status: 127 for one that does not
/// exist, else 126.
pub(crate) fn exec_error(program: &Program, errno: i32) -> SessionEnd {
    // A step before execve(2) that failed has an errno above the real ones.
    let value = if errno == libc::ENOENT { 127 } else { 126 };
    let text = program.refusal(errno).to_string();
    SessionEnd { ending: EndKind::ExecFailed, value, text }
}
