//! The lives of the sessions: how one begins, is left, found again, taken up from a
//! gateway before us, and ends. Whoever brings a session from one to the next of
//! these has all parts at hand that it concerns, and no other.

use std::time::Duration;

use super::open::Plan;
use super::relay::{Attached, Next, Sessions};
use super::teardown::Departures;
use super::timeouts::{BY_AN_OPERATOR, Timed};
use crate::connection::handshake::Opened;
use crate::connection::listeners::Newcomer;
use crate::detach::no_detach;
use crate::detach::restore::{NOT_HEARD, Restored};
use crate::detach::viewers::because;
use crate::detach::{self, Came, Left, Parting, Why};
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
use fpty::exit_status::session_end;
use fpty::proto::{EndKind, SessionEnd, variables};
use fpty::sys::child::{Exit, Pid};

/// Of a session that the supervisor has no room for.
const NOT_KEPT: &str = "forkptyrouter: a session ends with its gateway: it could not be kept";

/// How old a session is before its terminal is handed over: a short one ends
/// without the effort.
const OFFER_AFTER: Duration = Duration::from_millis(30);

/// The parts that a session's life concerns.
pub struct Lives<'a> {
    /// What every part is given.
    pub cx: &'a mut Context,
    /// Sessions with a client.
    pub sessions: &'a mut Sessions,
    /// Their programs.
    pub programs: &'a mut Programs,
    /// Those that wait for their end.
    pub departures: &'a mut Departures,
    /// Those that can be left; `None`: none can outlive the gateway.
    pub left: Option<&'a mut Left>,
    /// What is recorded, where anything is.
    pub recorder: Option<&'a mut Recorder>,
}

impl Lives<'_> {
    pub fn open(&mut self, opened: Opened) {
        let Opened { newcomer, mut opening, ended, name, .. } = opened;
        let plan = match self.cx.plan(newcomer.door, &mut opening) {
            Ok(plan) => plan,
            Err(why) => return self.cx.turn_back(newcomer, opening.extended, why),
        };
        let left = self.left.as_ref();
        let wish = left.map_or(Ok(None), |left| left.may_leave(self.cx, &newcomer, &opening, name));
        let wish = match wish {
            Ok(wish) => wish,
            Err(why) => return self.cx.turn_back(newcomer, opening.extended, why),
        };
        let size = plan.size;
        let Some(key) = self.attach(newcomer, plan) else {
            return;
        };
        self.sessions.hear_opening(self.cx, key, &opening, ended);
        let Some(Attached { session, wires, .. }) = self.sessions.get_mut(key) else {
            return;
        };
        let is_named = opening.variables.get(variables::SESSION_NAME).is_some();
        if is_named && wish.is_none() {
            let line = "the session has no name: it cannot be left (forkptyrouter-detach)";
            session.notice(line, wires);
        }
        fault_injection::point("opened");
        let hands_over = self.sessions.may_be_handed_over(self.cx, key);
        let Self { left, cx, sessions, programs, .. } = &mut *self;
        let kept = wish.zip(left.as_mut()).map(|(wish, left)| {
            left.can_be_left(cx, sessions, programs, key, wish, size, !hands_over)
        });
        let is_kept = kept.unwrap_or(false);
        fault_injection::point("kept");
        if is_kept || hands_over {
            self.cx.after(OFFER_AFTER, Due::Terminal(key, TerminalDue::Offer));
        }
        self.settle(key);
    }

    /// Gives a client its terminal and its program, or tells it why not.
    pub fn attach(&mut self, newcomer: Newcomer, plan: Plan) -> Option<Key> {
        let (recorder, size) = (self.recorder.as_deref_mut(), plan.size);
        if let Some(why) = recorder.and_then(|it| it.why_not(self.cx, newcomer.door)) {
            self.cx.turn_back(newcomer, plan.session.is_extended(), why);
            return None;
        }
        let key = self.sessions.attach(self.cx, self.programs, newcomer, plan)?;
        self.recorded(|it, cx, sessions| it.expect(cx, sessions, key, size));
        if let Err(why) = self.sessions.watch(self.cx, key) {
            self.sessions.refuse(self.cx, self.programs, key, &why);
            return None;
        }
        Some(key)
    }

    /// After anything that happened to a session.
    pub fn settle(&mut self, key: Key) {
        let next = self.sessions.settle(self.cx, key);
        self.go_on(key, next);
    }

    /// Does what a session has come to.
    pub fn go_on(&mut self, key: Key, next: Next) {
        match next {
            Next::Waits => {}
            Next::HeldUp => {
                self.sessions.dismiss_held_up(self.cx, key);
                self.close(key);
            }
            Next::Linger => self.sessions.linger(self.cx, key),
            Next::Close => self.close(key),
            Next::Abandon => self.abandon(key),
            Next::Depart => {
                if !self.goes_on_alone(key, Why::Lost) {
                    self.unwatch(key);
                    self.departures.depart(self.sessions, self.cx, self.programs, key);
                }
            }
            Next::Leave => self.part(key, Why::Asked),
            Next::Greet => {
                if let Some(late) = self.sessions.take_late(self.cx, self.programs, key) {
                    self.cx.then(Outcome::GreetLate(Box::new(late)));
                }
            }
            Next::HandedOver => self.handed_over(key),
            Next::MayReopen => self.sessions.look_for_reopened(self.cx, self.programs, key),
        }
    }

    /// From here on a session's terminal is its client's, and outlives this
    /// gateway: somebody else sees to it then.
    pub fn handed_over(&mut self, key: Key) {
        let Self { left, cx, sessions, programs, .. } = &mut *self;
        let can_leave = left
            .as_mut()
            .is_some_and(|left| left.handed_over_for_a_while(cx, sessions, programs, key));
        if !can_leave {
            self.sessions.say_go(key);
            self.entrust(key);
        }
    }

    /// A session's program was reaped; it may not have been executed (`failure`).
    pub fn program_ended(&mut self, key: Key, exit: Exit, failure: Option<SessionEnd>) {
        match failure {
            Some(why) => {
                if let Some(attached) = self.sessions.get_mut(key) {
                    attached.wires.program = None;
                }
                self.sessions.refuse(self.cx, self.programs, key, &why.into());
            }
            None => {
                self.sessions.exited(self.cx, key, exit);
                self.session_ended(key, session_end(exit));
            }
        }
    }

    /// The program of a session has ended, and that is known: whoever looks on is
    /// told, and whoever is attached.
    pub fn session_ended(&mut self, key: Key, ended: SessionEnd) {
        self.with_left(|left, cx, _, _| left.tell_watchers(cx, key, &ended));
        self.sessions.program_ended(self.cx, key, ended);
    }

    /// A session is over: whoever looks on is told why, unless its program has ended.
    fn unwatch(&mut self, key: Key) {
        let dismissed = self.sessions.get(key).and_then(|attached| attached.session.dismissed());
        let ended = because(dismissed.map_or(Gone::Hangup, Gone::of));
        self.with_left(|left, cx, _, _| left.tell_watchers(cx, key, &ended));
    }

    /// A session is over: those hear of it who were not told at once.
    pub fn closed(&mut self, closed: Closed) {
        let Closed { subject, why, exit, last, recording, was_entrusted } = closed;
        match self.recorder.as_deref_mut() {
            Some(recorder) => recorder.end(self.cx, recording, exit, last),
            None => self.cx.told.tell_last(last.as_deref(), None),
        }
        if let Subject::Session(key) = subject {
            self.with_left(|left, cx, _, _| {
                left.tell_last_of(cx, key, why, exit);
                if was_entrusted {
                    left.no_longer_entrusted(cx, key);
                }
                left.forget_left(cx, key);
            });
        }
    }

    /// There never was such a session, nor its recording.
    pub fn never_was(&mut self, subject: Subject, recording: Option<&Recording>) {
        if let Some(recording) = recording {
            self.recorded(|it, _, _| it.forget(recording));
        }
        if let Subject::Session(key) = subject {
            self.with_left(|left, cx, _, _| left.forget_left(cx, key));
        }
    }

    /// A session with a client is to end at somebody's wish.
    pub fn end_at_wish(&mut self, key: Key) {
        if let Some(attached) = self.sessions.get_mut(key) {
            attached.end_with(self.cx, key, EndKind::Operator, BY_AN_OPERATOR);
            self.settle(key);
        }
    }

    pub fn entrust(&mut self, key: Key) {
        let door = self.sessions.get(key).map(|attached| attached.door);
        let command = door.and_then(|door| self.cx.command_of(Subject::Session(key), door));
        if let Some(left) = self.left.as_deref_mut() {
            left.entrust(self.cx, self.sessions, self.programs, key, command);
        }
    }

    /// The supervisor says something, or was killed: another one is told of all that
    /// it had.
    pub fn supervisor_ready(&mut self) {
        while let Some(program) = self.left.as_ref().and_then(|left| left.could_not_be_kept()) {
            let session = self.programs.not_entrusted(program).map(Subject::Session);
            let alone = self.left.as_ref().and_then(|left| left.of_program(program));
            if let Some(subject) = alone.map(Subject::Left).or(session) {
                self.cx.told.entrusted(subject, false);
            }
            self.cx.doors.log_refusal(NOT_KEPT);
        }
        if !self.left.as_ref().is_some_and(|left| left.supervisor_is_gone()) {
            return;
        }
        self.programs.nothing_is_entrusted();
        self.cx.told.nothing_is_entrusted();
        let Some(left) = self.left.as_deref_mut() else {
            return;
        };
        left.reconnect();
        for key in left.keys() {
            self.tell_store(key);
        }
        for key in no_detach::handed_over_for_good(self.sessions) {
            self.cx.then(Outcome::Entrust(key));
        }
    }

    /// Nobody can wait for a session.
    pub fn end_unheard(&mut self, key: Key) {
        if let Some(attached) = self.sessions.get_mut(key) {
            log::log(&format!("forkptyrouter: {NOT_HEARD}"));
            attached.session.dismiss(EndKind::Lost, NOT_HEARD, &mut attached.wires);
            self.sessions.close(self.cx, self.programs, key);
        }
    }

    pub fn restore(&mut self, record: Record, held: SessionFds) {
        let Some(left) = self.left.as_deref_mut() else {
            return;
        };
        let program = Pid::new(record.pid);
        let recorder = self.recorder.as_deref_mut();
        let restored = left.restore(self.cx, self.sessions, recorder, (record, held));
        if let (Restored::Alone { .. } | Restored::Attached { .. }, Some(program)) =
            (&restored, program)
        {
            self.programs.restored(program);
        }
        match restored {
            Restored::Over => {}
            // Its recording is no more for the next one to end.
            Restored::Ended(entry) => self.tell_store(entry),
            Restored::Alone { entry, past, lost } => {
                self.cx.faults.made = Some(Whose::Left(entry));
                self.cx.goes_on_alone(entry, *past, lost);
                if let Some(recording) = self.left.as_ref().and_then(|it| it.recording(entry)) {
                    Recorder::tell(self.cx, recording);
                }
                self.tell_store(entry);
            }
            Restored::Attached { entry, session, past } => {
                self.cx.faults.made = Some(Whose::Session(session));
                let started = past.started;
                if let Some(attached) = self.sessions.get_mut(session) {
                    attached.goes_on(self.cx, session, *past);
                    attached.watch_time(self.cx, session, started.elapsed());
                }
                self.tell_store(entry);
            }
            Restored::Ends(master, program, last) => {
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
    pub fn with_left(
        &mut self,
        does: impl FnOnce(&mut Left, &mut Context, &mut Sessions, &mut Programs),
    ) {
        if let Some(left) = self.left.as_deref_mut() {
            does(left, self.cx, self.sessions, self.programs);
        }
    }

    /// Has what is recorded seen to, where anything is.
    pub fn recorded(&mut self, see_to: impl FnOnce(&mut Recorder, &mut Context, &mut Sessions)) {
        if let Some(recorder) = self.recorder.as_deref_mut() {
            see_to(recorder, self.cx, self.sessions);
        }
    }

    /// A client asks for a session that was left. What it sent after that
    /// stands in the buffer. Who is to begin a new one is given back.
    pub fn come_back(&mut self, opened: Opened) -> Option<Opened> {
        let Opened { newcomer, opening, arrived, ended, name } = opened;
        let (cx, sessions, programs) = (&mut *self.cx, &mut *self.sessions, &mut *self.programs);
        let left = self.left.as_deref_mut();
        match detach::comes_back(left, cx, sessions, programs, newcomer, opening) {
            Came::In => None,
            Came::New(newcomer, opening) => {
                Some(Opened { newcomer, opening, arrived, ended, name })
            }
            Came::Not(newcomer, why) => {
                cx.turn_back(newcomer, true, why);
                None
            }
        }
    }

    /// A client leaves, or is let go: its session goes on, or ends with it.
    pub fn part(&mut self, key: Key, why: Why) {
        if !self.goes_on_alone(key, why) {
            self.abandon(key);
        }
    }

    /// A session is over, and its client has all that it will get: unless somebody
    /// else waits for it, who is to see how it ended.
    pub fn close(&mut self, key: Key) {
        if !self.goes_on_alone(key, Why::Closes) {
            self.unwatch(key);
            self.sessions.close(self.cx, self.programs, key);
        }
    }

    /// A session ends with its client.
    pub fn abandon(&mut self, key: Key) {
        self.unwatch(key);
        self.sessions.abandon(self.cx, self.programs, key);
    }

    /// A session may go on without its client, or with it after all. Whether it goes
    /// on.
    pub fn goes_on_alone(&mut self, key: Key, why: Why) -> bool {
        let Some(left) = self.left.as_deref_mut() else {
            return why == Why::Asked && self.client_stays(key, detach::NOT_ALLOWED);
        };
        let (leaves, how) = match left.parting(self.cx, self.sessions, key, why) {
            Parting::Ends => return false,
            Parting::Stays(why_not) => return self.client_stays(key, &why_not),
            Parting::GoesOn(leaves, how) => (leaves, how),
        };
        let id = left.left_id(key).filter(|_| why == Why::Asked);
        let (cx, sessions, programs) = (&mut *self.cx, &mut *self.sessions, &mut *self.programs);
        let client = left.goes_on_without(cx, sessions, programs, key, leaves, how);
        // It is so, whatever becomes of this gateway: now the client may know.
        if let (Some(id), Some(client)) = (id, client) {
            let _ = client.write(&SessionEnd::new(EndKind::Detached, id).packet());
        }
        true
    }

    fn client_stays(&mut self, key: Key, why_not: &str) -> bool {
        if let Some(attached) = self.sessions.get_mut(key) {
            let behind = self.cx.behind.has(key);
            attached.session.stays(why_not, behind, &mut attached.wires);
        }
        self.settle(key);
        true
    }

    /// Ends a session that nobody is attached to.
    pub fn end_left(&mut self, entry: Key, why: Gone) {
        self.with_left(|left, cx, _, programs| left.end_left(cx, programs, entry, why));
    }

    /// What keeps sessions is told how it is with this one.
    pub fn tell_store(&mut self, entry: Key) {
        self.with_left(|left, cx, sessions, programs| {
            left.tell_store(cx, sessions, programs, entry);
        });
    }

    /// The program of a session that nobody is attached to has ended.
    pub fn left_ended(&mut self, entry: Key, exit: Exit) {
        self.with_left(|left, cx, sessions, programs| {
            left.alone_over(cx, sessions, programs, entry, Some(exit), session_end(exit));
        });
    }
}
