//! Transitions of sessions: open, attach, detach, restore, close. A transition has all parts at
//! hand that take part in it, and no other.

use std::collections::HashSet;
use std::time::Duration;

use super::open::{SessionPlan, exec_error};
use super::relay::SessionAction;
use super::session_ref::SessionRef;
use super::teardown::TeardownQueue;
use super::timeouts::{ENDED_BY_OPERATOR, TimeLimited};
use crate::command::commands::Commands;
use crate::connection::handshake::ClientRequest;
use crate::connection::listeners::Connection;
use crate::detach::restore_sessions::UNPOLLABLE;
use crate::detach::viewers::end_for_viewers;
use crate::detach::{self, DetachCause, DetachRegistry};
use crate::event_loop::core::Core;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::{Closed, Outcome};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{TerminalTimer, Timer};
use crate::host::host;
use crate::log;
use crate::observe::audit::EndReason;
use crate::observe::recording::{RecordingTap, Recordings};
use crate::process::shared_memory;
use crate::process::supervisor::supervisor_protocol::{SessionFds, SessionRecord};
use fpty::exit_status::session_end;
use fpty::proto::{EndKind, variables};
use fpty::sys::child::{Exit, Pid};

/// Age at which a terminal is offered to its client: a short session ends without that effort.
const OFFER_AFTER: Duration = Duration::from_millis(30);

/// The parts of the gateway that take part in a session's transitions.
pub struct Transitions<'a> {
    /// The context of the event loop, the live sessions, and the processes.
    pub core: &'a mut Core,
    /// Commands without a terminal.
    pub commands: &'a mut Commands,
    /// Sessions that wait for their teardown.
    pub teardowns: &'a mut TeardownQueue,
    /// Detachable sessions; `None`: no session can outlive the gateway.
    pub registry: Option<&'a mut DetachRegistry>,
    /// The recorder, where sessions are recorded.
    pub recorder: Option<&'a mut Recordings>,
}

impl Transitions<'_> {
    /// Opens a session, or a command, for a client that does not attach to an earlier one.
    pub fn open(&mut self, client_request: ClientRequest) {
        let client_request = self.core.cx.admit_session(client_request);
        if !client_request.hello.wants_terminal() {
            let recorder = self.recorder.as_deref();
            let listener = client_request.connection.listener;
            return match recorder.and_then(|it| it.command_rejection_reason(listener)) {
                Some(why) => self.core.cx.reject(client_request.connection, true, why),
                None => {
                    self.commands.start(&mut self.core.cx, &mut self.core.processes, client_request)
                }
            };
        }
        let ClientRequest { connection, mut hello, ended, name, .. } = client_request;
        let plan = match self.core.cx.plan(connection.listener, &mut hello) {
            Ok(plan) => plan,
            Err(why) => return self.core.cx.reject(connection, hello.extended, why),
        };
        let registry = self.registry.as_ref();
        let registration = registry.map_or(Ok(None), |registry| {
            registry.plan_registration(&self.core.cx, &connection, &hello, name)
        });
        let registration = match registration {
            Ok(registration) => registration,
            Err(why) => return self.core.cx.reject(connection, hello.extended, why),
        };
        let size = plan.size;
        let Some(key) = self.open_terminal(connection, plan) else {
            return;
        };
        let Some(live) = self.core.sessions.get_mut(key) else {
            return;
        };
        live.feed_early_input(&mut self.core.cx, key, &hello);
        if ended {
            live.session.client_half_closed();
        }
        if let Some(line) = hello.variables.truncation_notice() {
            live.session.notice(&line, &mut live.io);
        }
        let is_named = hello.variables.get(variables::SESSION_NAME).is_some();
        if is_named && registration.is_none() {
            let line = "the session has no name: it cannot be detached (forkptyrouter-detach)";
            live.session.notice(line, &mut live.io);
        }
        fault_injection::point("opened");
        let hands_over = live.may_be_handed_over(&self.core.cx);
        let Self { registry, core, .. } = &mut *self;
        let kept = registration.zip(registry.as_mut()).map(|(registration, registry)| {
            registry.register(core, key, registration, size, !hands_over)
        });
        let is_kept = kept.unwrap_or(false);
        fault_injection::point("kept");
        if is_kept || hands_over {
            self.core.cx.schedule(OFFER_AFTER, Timer::Terminal(key, TerminalTimer::Offer));
        }
        self.settle(key);
    }

    /// Opens a session of raw mode.
    pub fn open_raw(&mut self, connection: Connection) {
        if let Some(plan) = self.core.cx.plan_raw(connection.listener) {
            self.open_terminal(connection, plan);
        }
    }

    /// Opens a terminal with the program on it, or rejects the client.
    fn open_terminal(&mut self, connection: Connection, plan: SessionPlan) -> Option<Key> {
        let (recorder, size) = (self.recorder.as_deref_mut(), plan.size);
        if let Some(why) =
            recorder.and_then(|it| it.rejection_reason(&mut self.core.cx, connection.listener))
        {
            self.core.cx.reject(connection, plan.session.is_extended(), why);
            return None;
        }
        let key = self.core.open_terminal(connection, plan)?;
        self.with_recorder(|it, core| it.prepare(&mut core.cx, &mut core.sessions, key, size));
        if let Err(why) = self.core.sessions.register(&mut self.core.cx, key) {
            self.core.reject(key, &why);
            return None;
        }
        Some(key)
    }

    /// Settles a session after an event.
    pub fn settle(&mut self, key: Key) {
        let next = self.core.sessions.settle(&mut self.core.cx, key);
        self.apply(key, next);
    }

    /// Applies what a session needs from the parts above it.
    pub fn apply(&mut self, key: Key, next: SessionAction) {
        match next {
            SessionAction::Wait => {}
            SessionAction::TerminalBlocked => {
                self.core.sessions.terminate_blocked(&mut self.core.cx, key);
                self.close(key);
            }
            SessionAction::AwaitHello => self.core.sessions.linger(&mut self.core.cx, key),
            SessionAction::Close => self.close(key),
            SessionAction::HangUp => self.hang_up(key),
            SessionAction::Teardown => {
                if !self.try_detach(key, DetachCause::Lost) {
                    self.dismiss_viewers(key);
                    self.teardowns.teardown(self.core, key);
                }
            }
            SessionAction::Detach => self.detach_or_hang_up(key, DetachCause::Requested),
            SessionAction::LateHello => {
                if let Some(late) = self.core.sessions.take_for_late_hello(
                    &mut self.core.cx,
                    &mut self.core.processes,
                    key,
                ) {
                    self.core.cx.push_outcome(Outcome::LateHello(Box::new(late)));
                }
            }
            SessionAction::HandedOver => self.handed_over(key),
            SessionAction::SlaveClosed => self.core.sessions.watch_slave_reopen(
                &mut self.core.cx,
                &mut self.core.processes,
                key,
            ),
        }
    }

    /// Hands the terminal over for good: from here on the supervisor sees to the session where the
    /// gateway is killed.
    pub fn handed_over(&mut self, key: Key) {
        let registry = self.registry.as_mut();
        let can_leave =
            registry.is_some_and(|registry| registry.hand_over_detachable(self.core, key));
        if !can_leave {
            // In this order: from GO on the client has the terminal, and of a gateway that is
            // killed then somebody has to know that the session is to end. The first one
            // waits here until the supervisor has started.
            self.supervise(key);
            self.core.sessions.send_go(key);
        }
    }

    /// The session of a program.
    pub fn session_of_program(
        &self,
        program: Pid,
        session: Option<SessionRef>,
    ) -> Option<SessionRef> {
        let lives = |session: &SessionRef| match *session {
            SessionRef::Session(key) => self.core.sessions.has(key),
            SessionRef::Command(key) => self.commands.has(key),
            // It may have been attached since.
            SessionRef::Detached(_) => false,
        };
        let registry = || self.registry.as_ref()?.by_program(program).map(SessionRef::Detached);
        session.filter(lives).or_else(registry)
    }

    /// A program was reaped, which was the `session`'s where it is that of a session with a client.
    pub fn program_ended(&mut self, program: Pid, session: Option<SessionRef>, exit: Exit) {
        fault_injection::point("reaped");
        let failure = self.core.cx.spawner.failure(program);
        let failure = failure.map(|(program, errno)| exec_error(&program, errno));
        match self.session_of_program(program, session) {
            Some(SessionRef::Session(key)) => match failure {
                Some(why) => {
                    if let Some(live) = self.core.sessions.get_mut(key) {
                        live.io.program = None;
                    }
                    self.core.reject(key, &why.into());
                }
                None => {
                    self.core.sessions.exited(&mut self.core.cx, key, exit);
                    let ended = session_end(exit);
                    self.with_registry(|registry, core| {
                        registry.tell_viewers(&mut core.cx, key, &ended)
                    });
                    self.core.sessions.program_ended(&mut self.core.cx, key, ended);
                }
            },
            Some(SessionRef::Detached(entry)) => {
                let (exit, ended) = (Some(exit), session_end(exit));
                self.with_registry(|registry, core| {
                    registry.detached_exited(core, entry, exit, ended);
                });
            }
            Some(SessionRef::Command(key)) => {
                self.commands.program_ended(&mut self.core.cx, key, exit, failure);
            }
            // Its client has left.
            None => {}
        }
    }

    /// Announces the end of a session to viewers, who may have read the program's end already.
    fn dismiss_viewers(&mut self, key: Key) {
        let termination = self.core.sessions.get(key).and_then(|live| live.session.termination());
        let ended = end_for_viewers(termination.map_or(EndReason::Hangup, EndReason::of));
        self.with_registry(|registry, core| registry.tell_viewers(&mut core.cx, key, &ended));
    }

    /// Tells the observers that were not told at once that a session is closed.
    pub fn closed(&mut self, closed: Closed) {
        let Closed { session_ref, why, exit, last, recording, was_supervised } = closed;
        match self.recorder.as_deref_mut() {
            Some(recorder) => recorder.end(&mut self.core.cx, recording, exit, last),
            None => self.core.cx.audit.write_end(last.as_deref(), None),
        }
        if let SessionRef::Session(key) = session_ref {
            self.with_registry(|registry, core| {
                registry.session_closed(&mut core.cx, key, (why, exit), was_supervised);
            });
        }
    }

    /// Tells the observers that a pending session and its recording are dropped.
    pub fn aborted(&mut self, session_ref: SessionRef, recording: Option<&RecordingTap>) {
        if let Some(recording) = recording {
            self.with_recorder(|it, _| it.forget(recording));
        }
        if let SessionRef::Session(key) = session_ref {
            self.with_registry(|registry, core| registry.forget_session(&mut core.cx, key));
        }
    }

    /// Ends a session at the operator's wish.
    pub fn end_by_operator(&mut self, session_ref: SessionRef) {
        match session_ref {
            SessionRef::Session(key) => {
                if let Some(live) = self.core.sessions.get_mut(key) {
                    live.terminate_with(
                        &mut self.core.cx,
                        key,
                        EndKind::Operator,
                        ENDED_BY_OPERATOR,
                    );
                    self.settle(key);
                }
            }
            SessionRef::Detached(key) => self.end_detached(key, EndReason::Operator),
            SessionRef::Command(key) => {
                self.commands.end_by_operator(&mut self.core.cx, &mut self.core.processes, key)
            }
        }
    }

    /// Hands a session to the supervisor whose terminal is its client's for good.
    pub fn supervise(&mut self, key: Key) {
        self.with_registry(|registry, core| registry.supervise(core, key));
    }

    /// Ends a session that the poller refuses.
    pub fn end_unpollable(&mut self, key: Key) {
        if let Some(live) = self.core.sessions.get_mut(key) {
            log::log(&format!("forkptyrouter: {UNPOLLABLE}"));
            live.session.terminate(EndKind::Lost, UNPOLLABLE, &mut live.io);
            self.core.close(key);
        }
    }

    /// Restores a session of an earlier gateway.
    pub fn restore(&mut self, record: SessionRecord, held: SessionFds) {
        if let Some(registry) = self.registry.as_deref_mut() {
            registry.restore(self.core, self.recorder.as_deref_mut(), (record, held));
        }
    }

    /// Calls `does` with the registry of detachable sessions, where there is one.
    pub fn with_registry(&mut self, does: impl FnOnce(&mut DetachRegistry, &mut Core)) {
        if let Some(registry) = self.registry.as_deref_mut() {
            does(registry, self.core);
        }
    }

    /// Calls `does` with the recorder, where there is one.
    pub fn with_recorder(&mut self, does: impl FnOnce(&mut Recordings, &mut Core)) {
        if let Some(recorder) = self.recorder.as_deref_mut() {
            does(recorder, self.core);
        }
    }

    /// Attaches a client to an existing session, or opens the new one that its request asks for.
    /// Input after the request stands in the buffer.
    pub fn attach(&mut self, client_request: ClientRequest) {
        let registry = self.registry.as_deref_mut();
        if let Some(client_request) = detach::attach(registry, self.core, client_request) {
            self.open(client_request);
        }
    }

    /// Detaches a client that asks for it or is dropped, or hangs its session up.
    pub fn detach_or_hang_up(&mut self, key: Key, why: DetachCause) {
        if !self.try_detach(key, why) {
            self.hang_up(key);
        }
    }

    /// Closes a session whose client has all output, unless another client waits to read the end.
    pub fn close(&mut self, key: Key) {
        if !self.try_detach(key, DetachCause::Closing) {
            self.dismiss_viewers(key);
            self.core.close(key);
        }
    }

    /// Hangs a session up: it ends with its client.
    pub fn hang_up(&mut self, key: Key) {
        self.dismiss_viewers(key);
        self.core.hang_up(key);
    }

    /// Detaches the client if the session may go on without it. Whether the session goes on.
    pub fn try_detach(&mut self, key: Key, why: DetachCause) -> bool {
        let goes_on = match self.registry.as_deref_mut() {
            Some(registry) => registry.try_detach(self.core, key, why),
            None if why == DetachCause::Requested => Err(detach::DETACH_NOT_ALLOWED.to_owned()),
            None => Ok(false),
        };
        goes_on.unwrap_or_else(|why_not| {
            if let Some(live) = self.core.sessions.get_mut(key) {
                let behind = self.core.cx.deferred_input.has(key);
                live.session.refuse_detach(&why_not, behind, &mut live.io);
            }
            self.settle(key);
            true
        })
    }

    /// Ends a detached session.
    pub fn end_detached(&mut self, entry: Key, why: EndReason) {
        self.with_registry(|registry, core| registry.end_detached(core, entry, why));
    }

    /// The gateway is to end: whoever it relays for is told so; the audit's lines are the master's
    /// to write, as of a gateway that was killed.
    pub fn stop(&mut self, instance_stops: bool) -> ! {
        let (why, line) = match instance_stops {
            true => (EndKind::Stopped, "session ended: the instance has stopped"),
            false => (EndKind::Lost, "the gateway was ended by a signal"),
        };
        self.core.sessions.stop(why, line);
        self.commands.stop(why, line);
        self.with_registry(|registry, _| registry.stop(why, line));
        log::flush();
        self.core.cx.audit.flush();
        shared_memory::note_told(self.core.cx.ordinal);
        host().exit(0)
    }

    /// Ends a session that can be detached and that a panic was about.
    pub fn end_panicked(&mut self, entry: Key) {
        match self.registry.as_ref().and_then(|registry| registry.session_of(entry)) {
            Some(session) => self.core.end_panicked(session),
            None => self.end_detached(entry, EndReason::Lost),
        }
    }

    /// After a panic: what belongs to nobody is given back, and what says that somebody is there
    /// who is not. Programs that run for nobody lose their client.
    pub fn clean_up(&mut self) {
        self.core.cx.clear();
        self.with_registry(|registry, core| registry.drop_orphaned_entries(core));
        let Core { cx, sessions, processes } = &mut *self.core;
        let commands = &*self.commands;
        let registry = self.registry.as_deref();
        let exists = |session_ref: SessionRef| match session_ref {
            SessionRef::Session(key) => sessions.has(key),
            SessionRef::Detached(key) => registry.is_some_and(|registry| registry.has_entry(key)),
            SessionRef::Command(key) => commands.has(key),
        };
        let gone: Vec<_> =
            cx.audit.subjects().filter(|session_ref| !exists(*session_ref)).collect();
        gone.into_iter().for_each(|session_ref| cx.lost(session_ref));
        cx.requested_commands.retain(exists);
        cx.limits.retain(exists);
        if let Some(recorder) = &mut self.recorder {
            recorder.retain();
        }
        let detached = registry.iter().flat_map(|registry| registry.processes());
        let owned: HashSet<Pid> = detached.chain(self.teardowns.processes()).collect();
        for program in processes.orphans(exists, &owned) {
            processes.hang_up_group(cx, program);
        }
    }
}
