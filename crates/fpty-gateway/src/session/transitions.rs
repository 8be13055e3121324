//! The lives of the sessions: how one begins, is left, found again, taken up from a
//! gateway before us, and ends. Whoever brings a session from one to the next of
//! these has all parts at hand that it concerns, and no other.

use std::time::Duration;

use super::open::SessionPlan;
use super::relay::{LiveSession, SessionAction, Sessions};
use super::teardown::TeardownQueue;
use super::timeouts::{ENDED_BY_OPERATOR, TimeLimited};
use crate::connection::handshake::Opened;
use crate::connection::listeners::Newcomer;
use crate::detach::no_detach;
use crate::detach::restore::{Restored, UNPOLLABLE};
use crate::detach::viewers::end_for_viewers;
use crate::detach::{self, AttachResult, DetachCause, DetachPlan, DetachRegistry};
use crate::event_loop::context::Context;
use crate::event_loop::fault_injection;
use crate::event_loop::outcome::Closed;
use crate::event_loop::outcome::Outcome;
use crate::event_loop::slab::Key;
use crate::event_loop::subject::{Subject, Whose};
use crate::event_loop::timers::{Due, TerminalDue};
use crate::log;
use crate::observe::audit::Gone;
use crate::observe::recording::{Recorder, Recording};
use crate::process::hang_up::Copies;
use crate::process::supervisor::protocol::{Record, SessionFds};
use crate::process::table::Programs;
use fpty::exit_status::of_exit;
use fpty::proto::{Ended, Ending, variables};
use fpty::sys::child::{Exit, Pid};

/// Of a session that the supervisor has no room for.
const NOT_SUPERVISED: &str = "forkptyrouter: a session ends with its gateway: it could not be kept";

/// How old a session is before its terminal is handed over: a short one ends
/// without the effort.
const OFFER_AFTER: Duration = Duration::from_millis(30);

/// The parts that a session's life concerns.
pub struct Transitions<'a> {
    /// What every part is given.
    pub cx: &'a mut Context,
    /// Sessions with a client.
    pub sessions: &'a mut Sessions,
    /// Their programs.
    pub programs: &'a mut Programs,
    /// Those that wait for their end.
    pub teardowns: &'a mut TeardownQueue,
    /// Those that can be left; `None`: none can outlive the gateway.
    pub registry: Option<&'a mut DetachRegistry>,
    /// What is recorded, where anything is.
    pub recorder: Option<&'a mut Recorder>,
}

impl Transitions<'_> {
    pub fn open(&mut self, opened: Opened) {
        let Opened { newcomer, mut opening, ended, name, .. } = opened;
        let plan = match self.cx.plan(newcomer.door, &mut opening) {
            Ok(plan) => plan,
            Err(why) => return self.cx.reject(newcomer, opening.extended, why),
        };
        let registry = self.registry.as_ref();
        let registration = registry.map_or(Ok(None), |registry| {
            registry.plan_registration(self.cx, &newcomer, &opening, name)
        });
        let registration = match registration {
            Ok(registration) => registration,
            Err(why) => return self.cx.reject(newcomer, opening.extended, why),
        };
        let size = plan.size;
        let Some(key) = self.open_terminal(newcomer, plan) else {
            return;
        };
        self.sessions.feed_early_input(self.cx, key, &opening, ended);
        let Some(LiveSession { session, io, .. }) = self.sessions.get_mut(key) else {
            return;
        };
        let is_named = opening.variables.get(variables::SESSION_NAME).is_some();
        if is_named && registration.is_none() {
            let line = "the session has no name: it cannot be left (forkptyrouter-detach)";
            session.notice(line, io);
        }
        fault_injection::point("opened");
        let hands_over = self.sessions.may_be_handed_over(self.cx, key);
        let Self { registry, cx, sessions, programs, .. } = &mut *self;
        let kept = registration.zip(registry.as_mut()).map(|(registration, registry)| {
            registry.register(cx, sessions, programs, key, registration, size, !hands_over)
        });
        let is_kept = kept.unwrap_or(false);
        fault_injection::point("kept");
        if is_kept || hands_over {
            self.cx.after(OFFER_AFTER, Due::Terminal(key, TerminalDue::Offer));
        }
        self.settle(key);
    }

    /// Gives a client its terminal and its program, or tells it why not.
    pub fn open_terminal(&mut self, newcomer: Newcomer, plan: SessionPlan) -> Option<Key> {
        let (recorder, size) = (self.recorder.as_deref_mut(), plan.size);
        if let Some(why) = recorder.and_then(|it| it.why_not(self.cx, newcomer.door)) {
            self.cx.reject(newcomer, plan.session.is_extended(), why);
            return None;
        }
        let key = self.sessions.open_terminal(self.cx, self.programs, newcomer, plan)?;
        self.with_recorder(|it, cx, sessions| it.expect(cx, sessions, key, size));
        if let Err(why) = self.sessions.register(self.cx, key) {
            self.sessions.reject(self.cx, self.programs, key, &why);
            return None;
        }
        Some(key)
    }

    /// After anything that happened to a session.
    pub fn settle(&mut self, key: Key) {
        let next = self.sessions.settle(self.cx, key);
        self.apply(key, next);
    }

    /// Does what a session has come to.
    pub fn apply(&mut self, key: Key, next: SessionAction) {
        match next {
            SessionAction::Wait => {}
            SessionAction::TerminalBlocked => {
                self.sessions.terminate_blocked(self.cx, key);
                self.close(key);
            }
            SessionAction::AwaitHello => self.sessions.linger(self.cx, key),
            SessionAction::Close => self.close(key),
            SessionAction::HangUp => self.hang_up(key),
            SessionAction::Teardown => {
                if !self.try_detach(key, DetachCause::Lost) {
                    self.dismiss_viewers(key);
                    self.teardowns.teardown(self.sessions, self.cx, self.programs, key);
                }
            }
            SessionAction::Detach => self.detach_or_hang_up(key, DetachCause::Requested),
            SessionAction::LateHello => {
                if let Some(late) = self.sessions.take_late(self.cx, self.programs, key) {
                    self.cx.then(Outcome::GreetLate(Box::new(late)));
                }
            }
            SessionAction::HandedOver => self.handed_over(key),
            SessionAction::SlaveClosed => {
                self.sessions.watch_slave_reopen(self.cx, self.programs, key)
            }
        }
    }

    /// From here on a session's terminal is its client's, and outlives this
    /// gateway: somebody else sees to it then.
    pub fn handed_over(&mut self, key: Key) {
        let Self { registry, cx, sessions, programs, .. } = &mut *self;
        let can_leave = registry
            .as_mut()
            .is_some_and(|registry| registry.hand_over_detachable(cx, sessions, programs, key));
        if !can_leave {
            self.sessions.send_go(key);
            self.supervise(key);
        }
    }

    /// A session's program was reaped; it may not have been executed (`failure`).
    pub fn program_ended(&mut self, key: Key, exit: Exit, failure: Option<Ended>) {
        match failure {
            Some(why) => {
                if let Some(live) = self.sessions.get_mut(key) {
                    live.io.program = None;
                }
                self.sessions.reject(self.cx, self.programs, key, &why.into());
            }
            None => {
                self.sessions.exited(self.cx, key, exit);
                self.announce_exit(key, of_exit(exit));
            }
        }
    }

    /// The program of a session has ended, and that is known: whoever looks on is
    /// told, and whoever is attached.
    pub fn announce_exit(&mut self, key: Key, ended: Ended) {
        self.with_registry(|registry, cx, _, _| registry.tell_viewers(cx, key, &ended));
        self.sessions.program_ended(self.cx, key, ended);
    }

    /// A session is over: whoever looks on is told why, unless its program has ended.
    fn dismiss_viewers(&mut self, key: Key) {
        let termination = self.sessions.get(key).and_then(|live| live.session.termination());
        let ended = end_for_viewers(termination.map_or(Gone::Hangup, Gone::of));
        self.with_registry(|registry, cx, _, _| registry.tell_viewers(cx, key, &ended));
    }

    /// A session is over: those hear of it who were not told at once.
    pub fn closed(&mut self, closed: Closed) {
        let Closed { subject, why, exit, last, recording, was_supervised } = closed;
        match self.recorder.as_deref_mut() {
            Some(recorder) => recorder.end(self.cx, recording, exit, last),
            None => self.cx.told.tell_last(last.as_deref(), None),
        }
        if let Subject::Session(key) = subject {
            self.with_registry(|registry, cx, _, _| {
                registry.write_end_line(cx, key, why, exit);
                if was_supervised {
                    registry.no_longer_supervised(cx, key);
                }
                registry.forget_session(cx, key);
            });
        }
    }

    /// There never was such a session, nor its recording.
    pub fn rejected(&mut self, subject: Subject, recording: Option<&Recording>) {
        if let Some(recording) = recording {
            self.with_recorder(|it, _, _| it.forget(recording));
        }
        if let Subject::Session(key) = subject {
            self.with_registry(|registry, cx, _, _| registry.forget_session(cx, key));
        }
    }

    /// A session with a client is to end at somebody's wish.
    pub fn end_by_operator(&mut self, key: Key) {
        if let Some(live) = self.sessions.get_mut(key) {
            live.terminate_with(self.cx, key, Ending::Operator, ENDED_BY_OPERATOR);
            self.settle(key);
        }
    }

    pub fn supervise(&mut self, key: Key) {
        let door = self.sessions.get(key).map(|live| live.door);
        let command = door.and_then(|door| self.cx.command_of(Subject::Session(key), door));
        if let Some(registry) = self.registry.as_deref_mut() {
            registry.supervise(self.cx, self.sessions, self.programs, key, command);
        }
    }

    /// The supervisor says something, or was killed: another one is told of all that
    /// it had.
    pub fn supervisor_ready(&mut self) {
        while let Some(program) =
            self.registry.as_ref().and_then(|registry| registry.could_not_be_kept())
        {
            let session = self.programs.not_entrusted(program).map(Subject::Session);
            let alone = self.registry.as_ref().and_then(|registry| registry.by_program(program));
            if let Some(subject) = alone.map(Subject::Detached).or(session) {
                self.cx.told.entrusted(subject, false);
            }
            self.cx.doors.log_refusal(NOT_SUPERVISED);
        }
        if !self.registry.as_ref().is_some_and(|registry| registry.supervisor_is_gone()) {
            return;
        }
        self.programs.nothing_is_entrusted();
        self.cx.told.nothing_is_entrusted();
        let Some(registry) = self.registry.as_deref_mut() else {
            return;
        };
        registry.reconnect();
        for key in registry.keys() {
            self.sync_supervisor(key);
        }
        for key in no_detach::handed_over_no_detach(self.sessions) {
            self.cx.then(Outcome::Supervise(key));
        }
    }

    /// Nobody can wait for a session.
    pub fn end_unpollable(&mut self, key: Key) {
        if let Some(live) = self.sessions.get_mut(key) {
            log::log(&format!("forkptyrouter: {UNPOLLABLE}"));
            live.session.terminate(Ending::Lost, UNPOLLABLE, &mut live.io);
            self.sessions.close(self.cx, self.programs, key);
        }
    }

    pub fn restore(&mut self, record: Record, held: SessionFds) {
        let Some(registry) = self.registry.as_deref_mut() else {
            return;
        };
        let program = Pid::new(record.pid);
        let recorder = self.recorder.as_deref_mut();
        let restored = registry.restore(self.cx, self.sessions, recorder, (record, held));
        if let (Restored::Detached { .. } | Restored::Attached { .. }, Some(program)) =
            (&restored, program)
        {
            self.programs.restored(program);
        }
        match restored {
            Restored::Nothing => {}
            // Its recording is no more for the next one to end.
            Restored::Exited(entry) => self.sync_supervisor(entry),
            Restored::Detached { entry, info, lost } => {
                self.cx.faults.made = Some(Whose::Detached(entry));
                self.cx.restored_detached(entry, *info, lost);
                if let Some(recording) = self.registry.as_ref().and_then(|it| it.recording(entry)) {
                    Recorder::tell(self.cx, recording);
                }
                self.sync_supervisor(entry);
            }
            Restored::Attached { entry, session, info } => {
                self.cx.faults.made = Some(Whose::Session(session));
                let started = info.started;
                if let Some(live) = self.sessions.get_mut(session) {
                    live.set_restored(self.cx, session, *info);
                    live.start_timers(self.cx, session, started.elapsed());
                }
                self.sync_supervisor(entry);
            }
            Restored::HangUp(master, program, last) => {
                last.into_iter().for_each(|line| self.tell_last_line(line));
                self.programs.hang_up_terminal(self.cx, &master, program, Copies::Ended);
            }
        }
    }

    /// Writes the line of the end of a session of a gateway before us, as soon as it is
    /// known what became of its recording.
    pub fn tell_last_line(&mut self, line: String) {
        let line = match self.recorder.as_deref_mut() {
            Some(recorder) => recorder.tells_last(line),
            None => Some(line),
        };
        line.into_iter().for_each(|line| self.cx.told.say(line));
    }

    /// Has the sessions that can be left do something, where there can be any.
    pub fn with_registry(
        &mut self,
        does: impl FnOnce(&mut DetachRegistry, &mut Context, &mut Sessions, &mut Programs),
    ) {
        if let Some(registry) = self.registry.as_deref_mut() {
            does(registry, self.cx, self.sessions, self.programs);
        }
    }

    /// Has what is recorded seen to, where anything is.
    pub fn with_recorder(
        &mut self,
        see_to: impl FnOnce(&mut Recorder, &mut Context, &mut Sessions),
    ) {
        if let Some(recorder) = self.recorder.as_deref_mut() {
            see_to(recorder, self.cx, self.sessions);
        }
    }

    /// A client asks for a session that was left. What it sent after that
    /// stands in the buffer. Who is to begin a new one is given back.
    pub fn attach(&mut self, opened: Opened) -> Option<Opened> {
        let Opened { newcomer, opening, arrived, ended, name } = opened;
        let (cx, sessions, programs) = (&mut *self.cx, &mut *self.sessions, &mut *self.programs);
        let registry = self.registry.as_deref_mut();
        match detach::attach(registry, cx, sessions, programs, newcomer, opening) {
            AttachResult::Handled => None,
            AttachResult::StartNew(newcomer, opening) => {
                Some(Opened { newcomer, opening, arrived, ended, name })
            }
            AttachResult::Rejected(newcomer, why) => {
                cx.reject(newcomer, true, why);
                None
            }
        }
    }

    /// A client leaves, or is let go: its session goes on, or ends with it.
    pub fn detach_or_hang_up(&mut self, key: Key, why: DetachCause) {
        if !self.try_detach(key, why) {
            self.hang_up(key);
        }
    }

    /// A session is over, and its client has all that it will get: unless somebody
    /// else waits for it, who is to see how it ended.
    pub fn close(&mut self, key: Key) {
        if !self.try_detach(key, DetachCause::Closing) {
            self.dismiss_viewers(key);
            self.sessions.close(self.cx, self.programs, key);
        }
    }

    /// A session ends with its client.
    pub fn hang_up(&mut self, key: Key) {
        self.dismiss_viewers(key);
        self.sessions.hang_up(self.cx, self.programs, key);
    }

    /// A session may go on without its client, or with it after all. Whether it goes
    /// on.
    pub fn try_detach(&mut self, key: Key, why: DetachCause) -> bool {
        let Some(registry) = self.registry.as_deref_mut() else {
            return why == DetachCause::Requested
                && self.refuse_detach(key, detach::DETACH_NOT_ALLOWED);
        };
        let (detach_as, how) = match registry.plan_detach(self.cx, self.sessions, key, why) {
            DetachPlan::End => return false,
            DetachPlan::Refuse(why_not) => return self.refuse_detach(key, &why_not),
            DetachPlan::Detach(detach_as, how) => (detach_as, how),
        };
        let id = registry.id_of(key).filter(|_| why == DetachCause::Requested);
        let (cx, sessions, programs) = (&mut *self.cx, &mut *self.sessions, &mut *self.programs);
        let client = registry.detach(cx, sessions, programs, key, detach_as, how);
        // It is so, whatever becomes of this gateway: now the client may know.
        if let (Some(id), Some(client)) = (id, client) {
            let _ = client.write(&Ended::because(Ending::Detached, id).packet());
        }
        true
    }

    fn refuse_detach(&mut self, key: Key, why_not: &str) -> bool {
        if let Some(live) = self.sessions.get_mut(key) {
            let behind = self.cx.behind.has(key);
            live.session.refuse_detach(why_not, behind, &mut live.io);
        }
        self.settle(key);
        true
    }

    /// Ends a session that nobody is attached to.
    pub fn end_detached(&mut self, entry: Key, why: Gone) {
        self.with_registry(|registry, cx, _, programs| {
            registry.end_detached(cx, programs, entry, why)
        });
    }

    /// What keeps sessions is told how it is with this one.
    pub fn sync_supervisor(&mut self, entry: Key) {
        self.with_registry(|registry, cx, sessions, programs| {
            registry.sync_supervisor(cx, sessions, programs, entry);
        });
    }

    /// The program of a session that nobody is attached to has ended.
    pub fn detached_exited(&mut self, entry: Key, exit: Exit) {
        self.with_registry(|registry, cx, sessions, programs| {
            registry.detached_exited(cx, sessions, programs, entry, Some(exit), of_exit(exit));
        });
    }
}
