//! The loop: waits, hands each event to the part that it concerns, and does what
//! the part has come to. It alone knows all parts.

use std::collections::HashSet;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::attach::{Arrived, Plan, not_executable};
use super::command::Commands;
use super::context::Context;
use super::depart::Departures;
use super::fault;
use super::greet::{Callers, Greeted, Opened};
use super::hang_up::Copies;
use super::left::adopt::{NOT_HEARD, Restored};
use super::left::bound::{self, Past};
use super::left::{self, Left};
use super::lifecycle::Closed;
use super::listing::view::View;
use super::listing::{self, Inquirers};
use super::outcome::Outcome;
use super::programs::Programs;
use super::record::Recorder;
use super::recovery::{self, AGAIN, Faults, INTERNAL, Recover, Whose};
use super::siblings::{Asker, Siblings};
use super::supervisor::client::Found;
use super::supervisor::protocol::{Record, SessionFds};
use super::table::{Key, Source};
use super::timers::Due;
use super::told::{Refusal, Rejection, Subject};
use super::traffic::{Attached, Heard, Next, Sessions};
use super::web::Beginnings;
use crate::session::Session;
use crate::uwsgi::gateway::Gateway;
use crate::uwsgi::log;
use fpty::ended::of_exit;
use fpty::error::{Context as _, Result};
use fpty::proto::request::Verb;
use fpty::proto::{Ended, Ending, variables};
use fpty::sys::child::{Exit, Pid};
use fpty::sys::clock::Timestamp;
use fpty::sys::poll::Ready;
use fpty::sys::signal::Signals;
use fpty::sys::socket::{Stream, Transport};

/// What the client of a session is told that was ended at somebody's wish, and how
/// long it may take to hear that.
const BY_AN_OPERATOR: &str = "session ended by an operator (fpty --kill)";
const LAST_WORD: Duration = Duration::from_secs(5);

/// Of a session that the supervisor has no room for.
const NOT_KEPT: &str =
    "forkptyrouter: a session ends with its gateway: what keeps it has no descriptor left";

/// How old a session is before its terminal is handed over: a short one ends
/// without the effort.
const OFFER_AFTER: Duration = Duration::from_millis(30);

/// One gateway process, and its parts.
pub struct GatewayLoop {
    pub(super) cx: Context,
    pub(super) callers: Callers,
    pub(super) sessions: Sessions,
    pub(super) beginnings: Beginnings,
    pub(super) commands: Commands,
    pub(super) inquirers: Inquirers,
    /// `None`: no session can outlive the gateway.
    pub(super) left: Option<Box<Left>>,
    pub(super) departures: Departures,
    pub(super) programs: Programs,
    pub(super) children: Signals,
    pub(super) recorder: Option<Box<Recorder>>,
    pub(super) siblings: Siblings,
}

/// Serves; returns only when it cannot go on.
///
/// # Errors
/// It cannot wait, or too much has gone wrong.
pub fn run(gateway: &Gateway, router: GatewayLoop) -> Result<()> {
    // Where it cannot go on its clients' connections are others' to end.
    let mut router = ManuallyDrop::new(router);
    let router: &mut GatewayLoop = &mut router;
    router.follow();
    loop {
        let wait = router.wait();
        gateway.rests();
        let count = router.cx.poller.wait(wait).context("cannot wait for events")?;
        gateway.works();
        for index in 0..count {
            let ready = router.cx.poller.ready(index);
            if router.sessions.is_bulk(ready) {
                router.cx.bulk.push(ready);
            } else {
                router.dispatch(ready);
            }
        }
        let streams = !router.cx.bulk.is_empty();
        // A key that is typed does not wait for the megabytes of others.
        for index in 0..router.cx.bulk.len() {
            router.dispatch(router.cx.bulk[index]);
        }
        router.cx.bulk.clear();
        // What comes due meanwhile is for the next turn, and no wait comes
        // before that: what had to wait for its turn is looked for in each.
        let now = Instant::now();
        router.cx.catch_up();
        router.follow();
        router.cx.behind.renew();
        router.guarded(Whose::All, |router| {
            fault::point("turn");
            router.departures.part(&mut router.cx, count);
            router.recorded(|recorder, cx, _| recorder.pass_on(cx));
            router.cx.try_the_log_again(false);
        });
        router.follow();
        router.cx.ends(now, streams);
        while let Some(due) = router.cx.timers.next(now) {
            router.fire(due);
        }
        router.clear_timers();
        router.cx.faults.check()?;
    }
}

impl GatewayLoop {
    /// How long to wait for events: not at all where something waits for its
    /// turn. (A timer of no time would be over in the turn that set it.)
    fn wait(&self) -> Option<Duration> {
        match self.cx.behind.is_empty() && self.departures.is_empty() {
            true => self.cx.timers.wait(Instant::now()),
            false => Some(Duration::ZERO),
        }
    }

    /// Hands an event to whom it concerns.
    fn dispatch(&mut self, ready: Ready) {
        let source = Source::of(ready.token);
        self.guarded(source.whose(), |router| router.happens(source, ready));
        self.follow();
    }

    fn happens(&mut self, source: Source, ready: Ready) {
        let cx = &mut self.cx;
        match source {
            Source::Client(key) => {
                match self.sessions.client_ready(cx, key, ready) {
                    Heard::Settle => {}
                    Heard::First => {
                        let next = self.beginnings.hear(&mut self.sessions, cx, key);
                        return self.go_on(key, next);
                    }
                    Heard::FirstEnded => self.beginnings.ended(&mut self.sessions, key),
                    Heard::Nobody => return,
                }
                self.settle(key);
            }
            Source::Terminal(key) => {
                self.sessions.terminal_ready(cx, key, ready);
                self.settle(key);
            }
            Source::Listener(index) => self.accept(index),
            Source::StatsListener => self.inquirers.accept_statistics(cx),
            Source::Children => self.signalled(),
            Source::Siblings => self.siblings.ready(cx),
            Source::Recorder => self.recorded(|it, cx, _| it.ready(cx)),
            Source::Caller(key) => {
                let greeted = self.callers.hear(cx, key, ready.hang_up);
                self.greeted(greeted);
            }
            Source::Inquirer(key) => {
                let view = View::of(&self.sessions, &self.commands, self.left.as_deref());
                self.inquirers.ready(cx, &mut self.siblings, view, key, ready);
            }
            Source::CommandClient(key) => {
                self.commands.client_ready(cx, key, ready);
                self.commands.settle(cx, &mut self.programs, key);
            }
            Source::CommandStream(key, number) => {
                self.commands.stream_ready(cx, key, number, ready);
                self.commands.settle(cx, &mut self.programs, key);
            }
            Source::Closing(key) => cx.closing_ready(key, ready),
            Source::Left => self.left_ready(),
            Source::Alarm => cx.timers.rings(),
        }
    }

    /// Does what is due.
    fn fire(&mut self, due: Due) {
        self.guarded(due.whose(), |router| router.comes_due(due));
        self.follow();
    }

    fn comes_due(&mut self, due: Due) {
        if due.whose() == Whose::All {
            fault::point("timer");
        }
        let (cx, sessions, programs) = (&mut self.cx, &mut self.sessions, &mut self.programs);
        let next = match due {
            Due::Idle(key) => sessions.idle(cx, key, false),
            Due::IdleSoon(key) => sessions.idle(cx, key, true),
            Due::EndOfInput(key) => sessions.end_of_input(cx, key),
            Due::Unheard(key) => sessions.unheard(cx, key),
            Due::Unanswered(key) => sessions.unanswered(cx, key),
            Due::Reopened(key) => sessions.reopened(cx, key),
            Due::First(key) => self.beginnings.give(sessions, cx, key),
            Due::LimitSoon(key) => sessions.limit_comes(cx, key),
            Due::Limit(key) => sessions.limit(cx, key),
            Due::Drained(key) => sessions.drained(cx, key),
            Due::Executed(key) => sessions.look_for_execution(cx, key),
            Due::Dismissed(_) => Next::Abandon,
            Due::Offer(key) => return sessions.offer(cx, key),
            Due::Keeper(key) => return self.entrust(key),
            Due::Silent(key) => {
                let greeted = self.callers.silent(cx, key);
                return self.greeted(greeted);
            }
            Due::CommandExecuted(key) => return self.commands.look_for_execution(cx, key),
            Due::CommandUnanswered(key) => return self.commands.unanswered(cx, key),
            Due::CommandDismissed(key) => return self.commands.abandon(cx, programs, key),
            Due::CommandLimitSoon(key) => return self.commands.limit_comes(cx, key),
            Due::CommandLimit(key) => return self.commands.limit(cx, key),
            Due::CommandIdle(key) => return self.commands.idle(cx, key, false),
            Due::CommandIdleSoon(key) => return self.commands.idle(cx, key, true),
            Due::Closing => return cx.look_after_closing(),
            Due::Reap => return programs.reap_all(cx),
            Due::Tidy => {
                cx.tidy_is_due = false;
                return cx.tidy_up();
            }
            Due::Log => {
                cx.log_is_due = false;
                log::flush();
                let took_some = cx.told.flush();
                return cx.try_the_log_again(took_some);
            }
            Due::Inquirer(key) => {
                let view = View::of(sessions, &self.commands, self.left.as_deref());
                return self.inquirers.hurry(cx, &mut self.siblings, view, key);
            }
            Due::Answer(number) => return self.siblings.unanswered(cx, number),
            Due::Recording => return self.recorded(|it, _, _| it.wake()),
            Due::Recorder => return self.recorded(|it, cx, _| it.look(cx)),
            Due::Outlived(pid) => return programs.outlived(cx, pid),
            Due::Kill => return programs.kill_outlived(cx),
            Due::TerminalUsers => return programs.kill_terminal_users(cx),
            Due::LeftBehind => return programs.end_left_behind(cx),
            Due::Accept => return cx.doors.open(&cx.poller),
            Due::Left => return self.look_after_left(),
            Due::Door(door) => return cx.doors.wake(door, &cx.poller),
        };
        if let Some(key) = due.session() {
            self.go_on(key, next);
        }
    }

    /// Does what parts have come to.
    fn follow(&mut self) {
        while let Some(outcome) = self.cx.next_outcome() {
            let whose = match outcome {
                Outcome::Reaped(program, session, _) => self.whose_program(program, session),
                _ => outcome.whose(),
            };
            self.guarded(whose, |router| router.obey(outcome));
        }
    }

    fn obey(&mut self, outcome: Outcome) {
        let (cx, programs) = (&mut self.cx, &mut self.programs);
        match outcome {
            Outcome::Settle(key) => self.settle(key),
            Outcome::SettleCommand(key) => self.commands.settle(cx, programs, key),
            Outcome::GoOn(rest) => cx.hear_rest(rest, &mut self.sessions, &mut self.commands),
            Outcome::Reaped(program, session, exit) => self.program_ended(program, session, exit),
            Outcome::LetGo => self.departures.let_go(cx, programs),
            Outcome::Pending(key, size) => {
                self.recorded(|it, cx, sessions| it.expect(cx, sessions, key, size));
            }
            Outcome::Started(Subject::Session(key)) => {
                self.recorded(|it, cx, sessions| it.begin(cx, sessions, key));
            }
            Outcome::Started(Subject::Command(_) | Subject::Left(_)) => {}
            Outcome::NeverWas(subject, recording) => {
                if let Some(recording) = recording {
                    self.recorded(|it, _, _| it.forget(&recording));
                }
                self.forget_left_of(subject);
            }
            Outcome::Closed(closed) => self.closed(closed),
            Outcome::Entrust(key) => self.entrust(key),
            Outcome::NotHeard(key) => self.end_unheard(key),
            Outcome::Inquires(key) => self.inquirers.begin(cx, key),
            Outcome::End(subject) => self.end_at_wish(subject),
            Outcome::Asked(posed) => {
                fault::point("question");
                let view = View::of(&self.sessions, &self.commands, self.left.as_deref());
                let answer = view.answer(cx, posed.question);
                self.siblings.reply(&posed, &answer);
            }
            Outcome::Answered(Asker::Inquirer(key), answer) => {
                self.inquirers.answered(cx, key, answer.as_deref());
            }
            Outcome::ReadOn(entry) => self.alone_goes_on(entry),
            Outcome::Recording(_, news) => {
                self.recorded(|it, cx, sessions| it.turn_to(cx, sessions, *news));
            }
        }
    }

    /// After anything that happened to a session.
    pub(super) fn settle(&mut self, key: Key) {
        let next = self.sessions.settle(&mut self.cx, key);
        self.go_on(key, next);
    }

    /// Does what a session has come to.
    fn go_on(&mut self, key: Key, next: Next) {
        let (cx, sessions, programs) = (&mut self.cx, &mut self.sessions, &mut self.programs);
        match next {
            Next::Waits => {}
            Next::HeldUp => {
                sessions.dismiss_held_up(cx, key);
                sessions.close(cx, programs, key);
            }
            Next::Linger => sessions.linger(cx, key),
            Next::Close => sessions.close(cx, programs, key),
            Next::Abandon => sessions.abandon(cx, programs, key),
            Next::Depart => {
                if !self.leave_if_possible(key) {
                    let (cx, sessions) = (&mut self.cx, &mut self.sessions);
                    self.departures.depart(sessions, cx, &mut self.programs, key);
                }
            }
            Next::Leave => self.client_leaves(key),
            Next::Greet => {
                if let Some(late) = sessions.take_late(cx, programs, key) {
                    self.follow();
                    let greeted = self.callers.greet_late(&mut self.cx, late);
                    self.greeted(greeted);
                }
            }
            Next::HandedOver => self.handed_over(key),
            Next::MayReopen => sessions.look_for_reopened(cx, programs, key),
        }
    }

    /// Takes a connection that waits at a socket.
    fn accept(&mut self, door: u16) {
        match self.cx.accept(door) {
            Arrived::Nobody => {}
            Arrived::Uwsgi(client, transport) => self.greet(client, transport, door),
            Arrived::Raw(newcomer) => {
                let Some(place) = self.cx.doors.door(door) else { return };
                let size = place.rules.size();
                let plan = Plan {
                    session: Session::raw(size),
                    program: place.program.clone(),
                    size,
                    environment: Vec::new(),
                    shown: None,
                };
                self.attach(newcomer, plan);
            }
        }
    }

    fn greet(&mut self, client: Stream, transport: Transport, door: u16) {
        let greeted = self.callers.greet(&mut self.cx, client, transport, door);
        self.greeted(greeted);
    }

    fn greeted(&mut self, greeted: Greeted) {
        if let Greeted::Opens(opened) = greeted {
            self.open(*opened);
        }
    }

    /// Does what a client wants.
    fn open(&mut self, opened: Opened) {
        match opened.opening.request.verb() {
            Some(Verb::Attach) => self.come_back(opened),
            _ if listing::is_inquiry(&opened.opening) => {
                self.inquirers.inquire(&mut self.cx, opened.newcomer, opened.opening);
            }
            _ => self.open_new(opened),
        }
    }

    /// Makes a session of a client that has not come back to an old one.
    pub(super) fn open_new(&mut self, mut opened: Opened) {
        let Opened { newcomer, opening, .. } = opened;
        let newcomer = self.cx.seated(newcomer);
        let origin = self.cx.told.asking(newcomer.origin, || opening.request.shown());
        opened =
            Opened { newcomer: super::doors::Newcomer { origin, ..newcomer }, opening, ..opened };
        match opened.opening.wants_terminal() {
            true => self.open_session(opened),
            false => self.open_command(opened),
        }
    }

    fn open_command(&mut self, opened: Opened) {
        let recorder = self.recorder.as_ref();
        if let Some(why) = recorder.and_then(|it| it.why_no_command(opened.newcomer.door)) {
            return self.cx.turn_back(opened.newcomer, true, why);
        }
        self.commands.start(&mut self.cx, &mut self.programs, opened);
    }

    fn open_session(&mut self, opened: Opened) {
        let Opened { newcomer, mut opening, ended, .. } = opened;
        let plan = match self.cx.plan(newcomer.door, &mut opening) {
            Ok(plan) => plan,
            Err(why) => return self.cx.turn_back(newcomer, opening.extended, why),
        };
        let wish = match self.may_leave(&newcomer, &opening) {
            Ok(wish) => wish,
            Err(why) => return self.cx.turn_back(newcomer, opening.extended, why),
        };
        let size = plan.size;
        let Some(key) = self.attach(newcomer, plan) else {
            return;
        };
        self.sessions.hear_opening(&mut self.cx, key, &opening, ended);
        let Some(Attached { session, wires, .. }) = self.sessions.get_mut(key) else {
            return;
        };
        let is_named = opening.variables.get(variables::SESSION_NAME).is_some();
        if is_named && wish.is_none() {
            let line = "the session has no name: it cannot be left (forkptyrouter-detach)";
            session.notice(line, wires);
        }
        fault::point("opened");
        let hands_over = self.sessions.may_be_handed_over(&self.cx, key);
        let is_kept = wish.is_some_and(|wish| self.can_be_left(key, wish, size, !hands_over));
        fault::point("kept");
        if is_kept || hands_over {
            self.cx.after(OFFER_AFTER, Due::Offer(key));
        }
        self.settle(key);
    }

    /// Gives a client its terminal and its program, or tells it why not.
    fn attach(&mut self, newcomer: super::doors::Newcomer, plan: Plan) -> Option<Key> {
        let recorder = self.recorder.as_mut();
        if let Some(why) = recorder.and_then(|it| it.why_not(&mut self.cx, newcomer.door)) {
            self.cx.turn_back(newcomer, plan.session.is_extended(), why);
            return None;
        }
        let (cx, programs) = (&mut self.cx, &mut self.programs);
        let key = self.sessions.attach(cx, programs, newcomer, plan)?;
        // Whoever observes it does before anything comes of it.
        self.follow();
        if let Err(why) = self.sessions.watch(&mut self.cx, key) {
            self.sessions.refuse(&mut self.cx, &mut self.programs, key, &why);
            return None;
        }
        self.follow();
        Some(key)
    }

    /// From here on a session's terminal is its client's, and outlives this
    /// gateway: somebody else sees to it then.
    fn handed_over(&mut self, key: Key) {
        if !self.handed_over_for_a_while(key) {
            self.sessions.say_go(key);
            self.entrust(key);
        }
    }

    /// A program has ended, or the gateway is to.
    fn signalled(&mut self) {
        let arrived = self.children.next();
        if let Some(arrived) = arrived.filter(|arrived| arrived.signal != Signal::SIGCHLD) {
            let by_master =
                arrived.sender.map(Pid::as_raw) == Some(nix::unistd::getppid().as_raw());
            self.stop(by_master || arrived.by_terminal);
        }
        self.programs.some_ended(&mut self.cx, arrived.and_then(|arrived| arrived.sender));
    }

    /// The gateway is to end: whoever it relays for is told so; the audit's lines are
    /// the master's to write, as of a gateway that was killed.
    fn stop(&mut self, instance_stops: bool) -> ! {
        let (why, line) = match instance_stops {
            true => (Ending::Stopped, "session ended: the instance has stopped"),
            false => (Ending::Lost, "the gateway was ended by a signal"),
        };
        self.sessions.stop(why, line);
        self.commands.stop(why, line);
        log::flush();
        self.cx.told.flush();
        crate::uwsgi::stopping::has_told(self.cx.ordinal);
        crate::uwsgi::server::exit(0)
    }

    fn whose_program(&self, program: Pid, session: Key) -> Whose {
        match self.commands.of_program(program) {
            Some(command) => Whose::Command(command),
            None if self.sessions.has(session) => Whose::Session(session),
            None => self
                .left
                .as_ref()
                .and_then(|left| left.of_program(program))
                .map_or(Whose::Past, Whose::Left),
        }
    }

    /// A program was reaped.
    fn program_ended(&mut self, program: Pid, key: Key, exit: Exit) {
        fault::point("reaped");
        let failure = self.cx.spawner.failure(program);
        let failure = failure.map(|(program, errno)| not_executable(&program, errno));
        if !self.sessions.has(key) {
            if !self.left_program_ended(program, exit) {
                self.commands.program_ended(&mut self.cx, program, exit, failure);
            }
            return;
        }
        match failure {
            Some(why) => {
                if let Some(attached) = self.sessions.get_mut(key) {
                    attached.wires.program = None;
                }
                self.sessions.refuse(&mut self.cx, &mut self.programs, key, &why.into());
            }
            None => {
                self.sessions.exited(&mut self.cx, key, exit);
                self.session_ended(key, of_exit(exit));
            }
        }
    }

    /// The program of a session has ended, and that is known: whoever looks on is
    /// told, and whoever is attached.
    pub(super) fn session_ended(&mut self, key: Key, ended: Ended) {
        self.tell_watchers(key, &ended);
        self.sessions.program_ended(&mut self.cx, key, ended);
    }

    /// A session is over: those hear of it who were not told at once.
    fn closed(&mut self, closed: Closed) {
        let Closed { subject, why, exit, last, recording, was_entrusted } = closed;
        match (&mut self.recorder, last) {
            (Some(recorder), last) => recorder.end(&mut self.cx, recording, exit, last),
            (None, Some(last)) => self.cx.told.tell_last(&last, None),
            (None, None) => {}
        }
        let Subject::Session(key) = subject else { return };
        if let Some(left) = &mut self.left {
            left.tell_last_of(&mut self.cx, key, why, exit);
            if was_entrusted {
                left.no_longer_entrusted(&mut self.cx, key);
            }
        }
        self.forget_left(key);
    }

    /// Has what is recorded seen to, where anything is.
    fn recorded(&mut self, see_to: impl FnOnce(&mut Recorder, &mut Context, &mut Sessions)) {
        if let Some(recorder) = &mut self.recorder {
            see_to(recorder, &mut self.cx, &mut self.sessions);
        }
    }

    /// A session is to end at somebody's wish.
    fn end_at_wish(&mut self, subject: Subject) {
        match subject {
            Subject::Session(key) => {
                if let Some(attached) = self.sessions.get_mut(key) {
                    let wires = &mut attached.wires;
                    attached.session.dismiss(Ending::Operator, BY_AN_OPERATOR, wires);
                    self.cx.after(LAST_WORD, Due::Dismissed(key));
                    self.settle(key);
                }
            }
            Subject::Command(key) => {
                self.commands.dismiss(key, Ending::Operator, BY_AN_OPERATOR);
                self.cx.after(LAST_WORD, Due::CommandDismissed(key));
                self.commands.settle(&mut self.cx, &mut self.programs, key);
            }
            Subject::Left(key) => self.end_left(key),
        }
    }

    fn forget_left_of(&mut self, subject: Subject) {
        if let Subject::Session(key) = subject {
            self.forget_left(key);
        }
    }

    /// The supervisor says something, or was killed: another one is told of all that
    /// it had.
    pub(super) fn supervisor_ready(&mut self) {
        while let Some(program) = self.left.as_ref().and_then(|left| left.could_not_be_kept()) {
            let session = self.programs.not_entrusted(program);
            if let Some(session) = session {
                self.cx.told.not_entrusted(Subject::Session(session));
            }
            self.cx.doors.log_refusal(NOT_KEPT);
        }
        if !self.left.as_ref().is_some_and(|left| left.supervisor_is_gone()) {
            return;
        }
        self.programs.nothing_is_entrusted();
        self.cx.told.nothing_is_entrusted();
        let Some(left) = &mut self.left else {
            return;
        };
        left.reconnect();
        for key in left.keys() {
            self.tell_store(key);
        }
        for key in bound::handed_over_for_good(&self.sessions) {
            self.cx.then(Outcome::Entrust(key));
        }
    }

    fn entrust(&mut self, key: Key) {
        let door = self.sessions.get(key).map(|attached| attached.door);
        let command = door.and_then(|door| self.cx.command_of(Subject::Session(key), door));
        if let Some(left) = &mut self.left {
            left.entrust(&mut self.cx, &self.sessions, &mut self.programs, key, command);
        }
    }

    /// Nobody can wait for a session.
    fn end_unheard(&mut self, key: Key) {
        if let Some(attached) = self.sessions.get_mut(key) {
            log::log(&format!("forkptyrouter: {NOT_HEARD}"));
            attached.session.dismiss(Ending::Lost, NOT_HEARD, &mut attached.wires);
            self.sessions.close(&mut self.cx, &mut self.programs, key);
        }
    }

    /// Takes up the sessions of a gateway that was here before us.
    pub(super) fn restore(&mut self, found: Found) {
        for (record, held) in found {
            let (id, mut is_done) = (record.id.clone(), false);
            self.guarded(Whose::Past, |router| {
                fault::strike("adoption", || record.name.clone());
                router.restore_one(record, held);
                is_done = true;
            });
            // Or the next gateway would panic as well.
            if let Some(left) = self.left.as_mut().filter(|_| !is_done) {
                left.is_over(id);
            }
            self.follow();
        }
        if let Some(left) = &mut self.left {
            left.look_after(&mut self.cx, left::SOON);
        }
    }

    fn restore_one(&mut self, record: Record, held: SessionFds) {
        let Some(left) = &mut self.left else {
            return;
        };
        let program = Pid::new(record.pid);
        let recorder = self.recorder.as_deref_mut();
        let restored = left.restore(&mut self.cx, &mut self.sessions, recorder, (record, held));
        if let (Restored::Alone(_) | Restored::Attached { .. }, Some(program)) =
            (&restored, program)
        {
            self.programs.restored(program);
        }
        match restored {
            Restored::Over => {}
            Restored::Alone(key) => {
                self.cx.faults.made = Some(Whose::Left(key));
                self.tell_store(key);
            }
            Restored::Attached { entry, session, past } => {
                self.cx.faults.made = Some(Whose::Session(session));
                let Past { said, command, started, door, size } = *past;
                let subject = Subject::Session(session);
                self.cx.asked_for.note(subject, command.clone());
                bound::keep_seat(&mut self.cx, &self.sessions, session);
                let origin = self.cx.told.origin(door, "extended", || said);
                let origin = self.cx.told.asking(origin, || command);
                let id = self.left_id(session).unwrap_or_else(|| self.cx.ids.of(session));
                if let Some(attached) = self.sessions.get_mut(session) {
                    attached.note(&mut self.cx, session, id, origin, size);
                }
                self.cx.told.goes_on(subject, started);
                self.goes_on(session, started);
                self.tell_store(entry);
            }
            Restored::Ends(master, program) => {
                self.programs.hang_up_terminal(&mut self.cx, &master, program, Copies::Ended);
            }
        }
    }

    /// The idle time and the time of a session that began long ago are looked
    /// after again.
    pub(super) fn goes_on(&mut self, session: Key, started: Timestamp) {
        let Some(attached) = self.sessions.get_mut(session) else {
            return;
        };
        let rules = self.cx.doors.rules(attached.door);
        let (timeout, limit) = rules.map_or((None, None), |rules| (rules.timeout, rules.max_time));
        if let Some(timeout) = timeout {
            self.sessions.watch_idleness(&mut self.cx, session, timeout);
        }
        if let Some(limit) = limit {
            self.cx.limit_time(session, limit.saturating_sub(started.elapsed()));
        }
    }

    /// Deadlines of those who are not there any more are thrown out.
    fn clear_timers(&mut self) {
        if !self.cx.timers.pile_up() {
            return;
        }
        let (sessions, programs) = (&self.sessions, &self.programs);
        let (commands, inquirers, callers) = (&self.commands, &self.inquirers, &self.callers);
        self.cx.timers.retain(|due| match due {
            Due::Inquirer(key) => inquirers.has(key),
            Due::CommandDismissed(key) => commands.has(key),
            Due::Outlived(pid) => programs.has(pid),
            Due::Silent(key) => callers.has(key),
            Due::CommandUnanswered(key)
            | Due::CommandExecuted(key)
            | Due::CommandLimitSoon(key)
            | Due::CommandIdle(key)
            | Due::CommandIdleSoon(key)
            | Due::CommandLimit(key) => commands.has(key),
            _ => due.session().is_none_or(|key| sessions.has(key)),
        });
    }

    /// Does something for somebody; if it panics they end.
    pub(super) fn guarded(&mut self, whose: Whose, body: impl FnOnce(&mut Self)) {
        recovery::guarded(self, whose, body);
    }

    fn exists(&self, subject: Subject) -> bool {
        match subject {
            Subject::Session(key) => self.sessions.has(key),
            Subject::Left(key) => self.left.as_ref().is_some_and(|left| left.has_entry(key)),
            Subject::Command(key) => self.commands.has(key),
        }
    }

    /// Programs that run for nobody lose their client.
    fn hang_up_orphans(&mut self) {
        let left = self.left.iter().flat_map(|left| left.programs());
        let owned: HashSet<Pid> =
            self.commands.programs().chain(left).chain(self.departures.programs()).collect();
        let sessions = &self.sessions;
        for program in self.programs.orphans(|key| sessions.has(key), &owned) {
            self.programs.hang_up_group(&mut self.cx, program);
        }
    }
}

impl Recover for GatewayLoop {
    fn faults(&mut self) -> &mut Faults {
        &mut self.cx.faults
    }

    /// Ends whom a panic was about.
    fn end_whose(&mut self, whose: Whose) {
        fault::point("end");
        let (cx, programs) = (&mut self.cx, &mut self.programs);
        match whose {
            Whose::Session(key) => self.sessions.end_panicked(cx, programs, key),
            Whose::Unborn(key) => {
                self.sessions.has_no_more_program(programs, key);
                let why = Rejection::because(Refusal::Resources, INTERNAL);
                self.sessions.refuse(cx, programs, key, &why);
            }
            Whose::Command(key) => self.commands.end_panicked(cx, programs, key, INTERNAL),
            Whose::Caller(key) => drop(self.callers.refuse(cx, key, INTERNAL)),
            Whose::Inquirer(key) => self.inquirers.end(cx, key, INTERNAL),
            Whose::Left(key) => match self.left.as_ref().and_then(|left| left.session_of(key)) {
                Some(session) => self.sessions.end_panicked(cx, programs, session),
                None => self.end_left(key),
            },
            Whose::Watcher(key) => self.end_watcher(key),
            Whose::Closing(key) => cx.closing.drop_one(key),
            Whose::Past => {}
            Whose::Door => cx.pause(),
            Whose::All => {
                cx.faults.strike(Instant::now());
                // Whatever was cut short, and waits for nothing else.
                cx.pause();
                cx.after(AGAIN, Due::Reap);
                cx.after(AGAIN, Due::Kill);
                self.look_at_left(AGAIN);
            }
        }
    }

    /// It could not be ended: nobody hears of it any more.
    fn drop_whose(&mut self, whose: Whose) {
        match whose {
            Whose::Session(key) | Whose::Unborn(key) => drop(self.sessions.remove(key)),
            Whose::Command(key) => self.commands.drop_one(key),
            Whose::Caller(key) => self.callers.drop_one(key),
            Whose::Inquirer(key) => self.inquirers.drop_one(key),
            Whose::Left(key) | Whose::Watcher(key) => {
                if let Some(left) = &mut self.left {
                    left.drop_one(key, matches!(whose, Whose::Watcher(_)));
                }
            }
            Whose::Closing(key) => self.cx.closing.drop_one(key),
            Whose::Past => {}
            Whose::Door | Whose::All => self.cx.faults.give_up(),
        }
    }

    /// What belongs to nobody is given back, and what says that somebody is
    /// there who is not.
    fn put_in_order(&mut self) {
        self.cx.clear();
        self.end_lost_entries();
        let gone: Vec<Subject> =
            self.cx.told.subjects().filter(|subject| !self.exists(*subject)).collect();
        for subject in gone {
            self.cx.lost(subject);
        }
        let (sessions, commands, left) = (&self.sessions, &self.commands, &self.left);
        let exists = |subject: Subject| match subject {
            Subject::Session(key) => sessions.has(key),
            Subject::Left(key) => left.as_ref().is_some_and(|left| left.has_entry(key)),
            Subject::Command(key) => commands.has(key),
        };
        self.cx.asked_for.retain(exists);
        self.cx.seats.retain(exists);
        if let Some(recorder) = &mut self.recorder {
            recorder.retain();
        }
        self.hang_up_orphans();
    }
}
