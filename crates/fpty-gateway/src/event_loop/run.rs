//! The loop: waits, hands each event to the part that it concerns, and does what
//! the part has come to. It alone knows all parts.

use std::collections::HashSet;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::context::Context;
use super::fault_injection;
use super::outcome::Outcome;
use super::panic_recovery::{self, AGAIN, Faults, INTERNAL, Recover};
use super::slab::{Key, Source};
use super::subject::{Subject, Whose};
use super::timers::Due;
use crate::command::commands::Commands;
use crate::connection::handshake::{Callers, Greeted, Opened};
use crate::connection::http_probe::Beginnings;
use crate::connection::listeners::Newcomer;
use crate::control::attach_elsewhere::{self, Goes, Seekers};
use crate::control::peers::{Asker, Posed, Question, Siblings};
use crate::control::sessions::View;
use crate::control::{self, Inquirers};
use crate::detach::{self, DetachRegistry};
use crate::host::host;
use crate::log;
use crate::observe::audit::{Gone, Refusal, Rejection};
use crate::observe::recording::Recorder;
use crate::process::supervisor::client::Found;
use crate::process::table::Programs;
use crate::process::{ipc, shared_memory};
use crate::session::open::{Accepted, SessionPlan, exec_error};
use crate::session::relay::{ClientEvent, SessionAction, Sessions};
use crate::session::state::Session;
use crate::session::teardown::TeardownQueue;
use crate::session::transitions::Transitions;
use fpty::error::{Context as _, Result};
use fpty::proto::Ending;
use fpty::proto::request::Verb;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::poll::Ready;
use fpty::sys::signal::Signals;
use fpty::sys::socket::{Stream, Transport};

/// One gateway process, and its parts.
pub struct GatewayLoop {
    pub(crate) cx: Context,
    pub(crate) callers: Callers,
    pub(crate) sessions: Sessions,
    pub(crate) beginnings: Beginnings,
    pub(crate) commands: Commands,
    pub(crate) inquirers: Inquirers,
    /// `None`: no session can outlive the gateway.
    pub(crate) registry: Option<Box<DetachRegistry>>,
    pub(crate) teardowns: TeardownQueue,
    pub(crate) programs: Programs,
    pub(crate) children: Signals,
    pub(crate) recorder: Option<Box<Recorder>>,
    pub(crate) siblings: Siblings,
    pub(crate) seekers: Seekers,
}

/// Serves; returns only when it cannot go on.
///
/// # Errors
/// It cannot wait, or too much has gone wrong.
pub fn run(router: GatewayLoop) -> Result<()> {
    // Where it cannot go on its clients' connections are others' to end.
    let mut router = ManuallyDrop::new(router);
    let router: &mut GatewayLoop = &mut router;
    router.follow();
    loop {
        let wait = router.wait();
        host().disarm_watchdog();
        let count = router.cx.poller.wait(wait).context("cannot wait for events")?;
        host().arm_watchdog();
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
            fault_injection::point("turn");
            router.teardowns.run_teardowns(&mut router.cx, count);
            router.transitions().with_recorder(|recorder, cx, _| recorder.pass_on(cx));
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
        match self.cx.behind.is_empty() && self.teardowns.is_empty() {
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
                    ClientEvent::Settle => {}
                    ClientEvent::FirstBytes => {
                        let next = self.beginnings.hear(&mut self.sessions, cx, key);
                        return self.transitions().apply(key, next);
                    }
                    ClientEvent::FirstEof => self.beginnings.ended(&mut self.sessions, key),
                    ClientEvent::NoSession => return,
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
            Source::Recorder => self.transitions().with_recorder(|it, cx, _| it.ready(cx)),
            Source::Caller(key) => {
                let greeted = self.callers.hear(cx, key, ready.hang_up);
                self.greeted(greeted);
            }
            Source::Inquirer(key) => {
                let view = View::of(&self.sessions, &self.commands, self.registry.as_deref());
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
            Source::Closing(key) => cx.closing.ready(key, ready, &mut cx.buffer[..]),
            Source::Detached => {
                self.transitions().with_registry(|registry, cx, _, _| registry.on_ready(cx))
            }
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
            fault_injection::point("timer");
        }
        let (cx, programs) = (&mut self.cx, &mut self.programs);
        match due {
            Due::Session(key, due) => {
                let next = self.sessions.timer_fired(cx, key, due);
                self.transitions().apply(key, next);
            }
            Due::Terminal(key, due) => {
                let next = self.sessions.terminal_timer_fired(cx, key, due);
                self.transitions().apply(key, next);
            }
            Due::First(key) => {
                let next = self.beginnings.give(&mut self.sessions, cx, key);
                self.transitions().apply(key, next);
            }
            Due::Keeper(key) => self.transitions().supervise(key),
            Due::Command(key, due) => self.commands.timer_fired(cx, programs, key, due),
            Due::Silent(key) => {
                let greeted = self.callers.silent(cx, key);
                self.greeted(greeted);
            }
            Due::Inquirer(key) => {
                let view = View::of(&self.sessions, &self.commands, self.registry.as_deref());
                self.inquirers.hurry(cx, &mut self.siblings, view, key);
            }
            Due::Answer(number) => self.siblings.unanswered(cx, number),
            Due::Closing => cx.look_after_closing(),
            Due::Reap => programs.reap_all(cx),
            Due::Tidy => {
                cx.tidy_is_due = false;
                cx.tidy_up();
            }
            Due::Log => {
                cx.log_is_due = false;
                log::flush();
                let took_some = cx.told.flush();
                cx.try_the_log_again(took_some);
            }
            Due::Recording => self.transitions().with_recorder(|it, _, _| it.wake()),
            Due::Recorder => self.transitions().with_recorder(|it, cx, _| it.look(cx)),
            Due::Outlived(pid) => programs.outlived(cx, pid),
            Due::Kill => programs.killing.go_on(cx),
            Due::TerminalUsers => programs.killing.kill_users(cx),
            Due::LeftBehind => programs.killing.end_left_behind(cx),
            Due::Accept => cx.open_doors(),
            Due::Detached => {
                self.transitions().with_registry(|registry, cx, _, _| registry.run_due(cx))
            }
            Due::Door(door) => cx.doors.wake(door, &cx.poller),
        }
    }

    /// Does what parts have come to.
    fn follow(&mut self) {
        while let Some(outcome) = self.cx.next_outcome() {
            let whose = match outcome {
                Outcome::Reaped(program, session, _) => {
                    self.subject_of(program, session).map_or(Whose::Past, Whose::from)
                }
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
            Outcome::GoOn(rest) => cx.hear_rest(*rest, &mut self.sessions, &mut self.commands),
            Outcome::Reaped(program, session, exit) => self.program_ended(program, session, exit),
            Outcome::RunTeardown => self.teardowns.release_next(cx, programs),
            Outcome::Started(Subject::Session(key)) => {
                self.transitions().with_recorder(|it, cx, sessions| it.begin(cx, sessions, key));
            }
            Outcome::Started(Subject::Command(_) | Subject::Detached(_)) => {}
            Outcome::NeverWas(subject, recording) => {
                self.transitions().rejected(subject, recording.as_deref());
            }
            Outcome::GreetLate(late) => {
                let greeted = self.callers.greet_late(cx, *late);
                self.greeted(greeted);
            }
            Outcome::Closed(closed) => self.transitions().closed(closed),
            Outcome::Supervise(key) => self.transitions().supervise(key),
            Outcome::NotHeard(key) => self.transitions().end_unpollable(key),
            Outcome::Inquires(key) => self.inquirers.begin(cx, key),
            Outcome::End(Subject::Session(key)) => self.transitions().end_by_operator(key),
            Outcome::End(Subject::Detached(key)) => {
                self.transitions().end_detached(key, Gone::Operator)
            }
            Outcome::End(Subject::Command(key)) => self.commands.end_by_operator(cx, programs, key),
            Outcome::Asked(posed) => self.asked(*posed),
            Outcome::Sought(key) => {
                let goes = self.seekers.conclude(cx, &mut self.siblings, key);
                self.goes(goes);
            }
            Outcome::Answered(Asker::Seeker(key, whom), answer) => {
                self.seekers.hear(cx, key, whom, answer.as_deref());
            }
            Outcome::Answered(Asker::Handed(key), answer) => {
                self.seekers.handed(cx, key, answer.as_deref());
            }
            Outcome::Answered(Asker::Inquirer(key), answer) => {
                self.inquirers.answered(cx, key, answer.as_deref());
            }
            Outcome::ReadOn(key) => {
                self.transitions().with_registry(|registry, cx, _, programs| {
                    registry.resume_reading(cx, programs, key);
                })
            }
            Outcome::TerminateDetached(key, why) => self.transitions().end_detached(key, why),
            Outcome::SupervisorReady => self.transitions().supervisor_ready(),
            Outcome::DropClient(key) => {
                self.transitions().detach_or_hang_up(key, detach::DetachCause::Dropped)
            }
            Outcome::DetachedReady(ready) => {
                self.transitions().with_registry(|registry, cx, sessions, programs| {
                    registry.on_event(cx, sessions, programs, ready);
                })
            }
            Outcome::DetachedDeadline(key) => {
                self.transitions().with_registry(|registry, cx, sessions, programs| {
                    registry.on_due(cx, sessions, programs, key);
                })
            }
            Outcome::FeedViewer(key) => {
                self.transitions()
                    .with_registry(|registry, cx, _, _| registry.feed_viewer(cx, key));
            }
            Outcome::Recording(_, news) => {
                self.transitions()
                    .with_recorder(|it, cx, sessions| it.turn_to(cx, sessions, *news));
            }
        }
    }

    /// The parts that a session's life concerns.
    pub(crate) fn transitions(&mut self) -> Transitions<'_> {
        Transitions {
            cx: &mut self.cx,
            sessions: &mut self.sessions,
            programs: &mut self.programs,
            teardowns: &mut self.teardowns,
            registry: self.registry.as_deref_mut(),
            recorder: self.recorder.as_deref_mut(),
        }
    }

    /// After anything that happened to a session: most often it waits.
    fn settle(&mut self, key: Key) {
        match self.sessions.settle(&mut self.cx, key) {
            SessionAction::Wait => {}
            next => self.transitions().apply(key, next),
        }
    }

    /// Takes a connection that waits at a socket.
    fn accept(&mut self, door: u16) {
        match self.cx.accept(door) {
            Accepted::Nobody => {}
            Accepted::Uwsgi(client, transport) => self.greet(client, transport, door),
            Accepted::Raw(newcomer) => {
                let Some(place) = self.cx.doors.door(door) else { return };
                let size = place.rules.size;
                let plan = SessionPlan {
                    session: Session::raw(size),
                    program: place.program.clone(),
                    size,
                    environment: Vec::new(),
                    shown: None,
                };
                self.transitions().open_terminal(newcomer, plan);
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
            Some(Verb::Attach) => {
                self.seek(Box::new(opened), 0);
            }
            _ if control::is_inquiry(&opened.opening) => {
                self.inquirers.inquire(&mut self.cx, opened.newcomer, opened.opening);
            }
            _ => self.open_new(opened),
        }
    }

    /// A client wants a session that was left; so many gateways have had it before.
    fn seek(&mut self, opened: Box<Opened>, hops: u8) {
        let (cx, siblings, registry) =
            (&mut self.cx, &mut self.siblings, self.registry.as_deref_mut());
        let here = registry.map(|registry| (registry, &self.sessions));
        let goes = self.seekers.seek(cx, siblings, here, opened, hops);
        self.goes(goes);
    }

    /// It is known which gateway has the session that a client wants.
    fn goes(&mut self, goes: Goes) {
        if let Goes::Here(opened) = goes {
            if let Some(opened) = self.transitions().attach(*opened) {
                self.open_new(opened);
            }
        }
    }

    /// Another gateway asks something.
    fn asked(&mut self, mut posed: Posed) {
        fault_injection::point("question");
        let cx = &mut self.cx;
        let view = View::of(&self.sessions, &self.commands, self.registry.as_deref());
        let answer = match &posed.question {
            Question::Piece(asking) => view.piece(cx, *asking).encode(),
            Question::End { by, place, id } => match view.end(cx, *by, *place, *id) {
                true => control::page::ENDED.to_vec(),
                false => Vec::new(),
            },
            Question::Seek(sought) => {
                let registry = self.registry.as_mut();
                let found =
                    registry.and_then(|registry| registry.find_for_peer(&self.sessions, sought));
                found.as_ref().map(ipc::encode).unwrap_or_default()
            }
            Question::Take(handed) => {
                let (handed, hops) = (*handed, handed.hops);
                let Some(opened) = attach_elsewhere::arrives(cx, &mut posed, handed) else {
                    return;
                };
                self.siblings.reply(&posed, attach_elsewhere::TAKEN);
                return self.seek(opened, hops);
            }
        };
        self.siblings.reply(&posed, &answer);
    }

    /// Makes a session, or a command, of a client that has not come back to an old one.
    fn open_new(&mut self, opened: Opened) {
        let newcomer = self.cx.seated(opened.newcomer);
        let asked = || opened.opening.request.shown();
        let origin = self.cx.told.asking(newcomer.origin, asked);
        let opened = Opened { newcomer: Newcomer { origin, ..newcomer }, ..opened };
        match opened.opening.wants_terminal() {
            true => self.transitions().open(opened),
            false => self.open_command(opened),
        }
    }

    fn open_command(&mut self, opened: Opened) {
        let recorder = self.recorder.as_ref();
        if let Some(why) = recorder.and_then(|it| it.why_no_command(opened.newcomer.door)) {
            return self.cx.reject(opened.newcomer, true, why);
        }
        self.commands.start(&mut self.cx, &mut self.programs, opened);
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
        self.registry.iter_mut().for_each(|registry| registry.stop(why, line));
        log::flush();
        self.cx.told.flush();
        shared_memory::note_told(self.cx.ordinal);
        host().exit(0)
    }

    /// A program was reaped.
    fn program_ended(&mut self, program: Pid, session: Option<Key>, exit: Exit) {
        fault_injection::point("reaped");
        let failure = self.cx.spawner.failure(program);
        let failure = failure.map(|(program, errno)| exec_error(&program, errno));
        match self.subject_of(program, session) {
            Some(Subject::Session(key)) => self.transitions().program_ended(key, exit, failure),
            Some(Subject::Detached(entry)) => self.transitions().detached_exited(entry, exit),
            Some(Subject::Command(key)) => {
                self.commands.program_ended(&mut self.cx, key, exit, failure);
            }
            // Its client has left.
            None => {}
        }
    }

    /// What a program was the program of.
    fn subject_of(&self, program: Pid, session: Option<Key>) -> Option<Subject> {
        let session = session.filter(|key| self.sessions.has(*key)).map(Subject::Session);
        let command = || self.commands.by_program(program).map(Subject::Command);
        let registry = || self.registry.as_ref()?.by_program(program).map(Subject::Detached);
        session.or_else(command).or_else(registry)
    }

    /// Takes up the sessions of a gateway that was here before us.
    pub(crate) fn restore(&mut self, found: Found) {
        for (record, held) in found {
            let (id, mut is_done) = (record.id.clone(), false);
            self.guarded(Whose::Past, |router| {
                fault_injection::strike("adoption", || record.name.clone());
                router.transitions().restore(record, held);
                is_done = true;
            });
            // Or the next gateway would panic as well.
            if let Some(registry) = self.registry.as_mut().filter(|_| !is_done) {
                registry.unregister(&mut self.cx, id);
            }
            self.follow();
        }
        if let Some(registry) = &mut self.registry {
            registry.wake_in(&mut self.cx, detach::RETRY_DELAY);
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
            Due::Session(key, _) | Due::Terminal(key, _) | Due::First(key) | Due::Keeper(key) => {
                sessions.has(key)
            }
            Due::Command(key, _) => commands.has(key),
            Due::Inquirer(key) => inquirers.has(key),
            Due::Silent(key) => callers.has(key),
            Due::Outlived(pid) => programs.has(pid),
            _ => true,
        });
    }

    /// Does something for somebody; if it panics they end.
    pub(crate) fn guarded(&mut self, whose: Whose, body: impl FnOnce(&mut Self)) {
        panic_recovery::guarded(self, whose, body);
    }

    /// Programs that run for nobody lose their client.
    fn hang_up_orphans(&mut self) {
        let registry = self.registry.iter().flat_map(|registry| registry.programs());
        let owned: HashSet<Pid> =
            self.commands.programs().chain(registry).chain(self.teardowns.programs()).collect();
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
        fault_injection::point("end");
        let (cx, programs) = (&mut self.cx, &mut self.programs);
        match whose {
            Whose::Session(key) => self.sessions.end_panicked(cx, programs, key),
            Whose::Unborn(key) => {
                self.sessions.forget_reaped(programs, key);
                let why = Rejection::because(Refusal::Resources, INTERNAL);
                self.sessions.reject(cx, programs, key, &why);
            }
            Whose::Command(key) => self.commands.end_panicked(cx, programs, key, INTERNAL),
            Whose::Caller(key) => drop(self.callers.refuse(cx, key, INTERNAL)),
            Whose::Inquirer(key) => self.inquirers.end(cx, key, INTERNAL),
            Whose::Seeker(key) => self.seekers.end(cx, key, INTERNAL),
            Whose::Detached(key) => {
                match self.registry.as_ref().and_then(|registry| registry.session_of(key)) {
                    Some(session) => self.sessions.end_panicked(cx, programs, session),
                    None => self.transitions().end_detached(key, Gone::Lost),
                }
            }
            Whose::Viewer(key) => {
                self.transitions().with_registry(|registry, cx, _, _| registry.end_viewer(cx, key))
            }
            Whose::Closing(key) => cx.closing.drop_one(key),
            Whose::Past => {}
            Whose::Door => cx.pause(),
            Whose::All => {
                cx.faults.strike(Instant::now());
                // Whatever was cut short, and waits for nothing else.
                cx.pause();
                cx.after(AGAIN, Due::Reap);
                cx.after(AGAIN, Due::Kill);
                self.transitions().with_registry(|registry, cx, _, _| registry.wake_in(cx, AGAIN));
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
            Whose::Seeker(key) => self.seekers.drop_one(key),
            Whose::Detached(key) | Whose::Viewer(key) => {
                if let Some(registry) = &mut self.registry {
                    registry.drop_one(key, matches!(whose, Whose::Viewer(_)));
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
        self.transitions().with_registry(|registry, cx, sessions, programs| {
            registry.drop_orphaned_entries(cx, sessions, programs);
        });
        let (sessions, commands, registry) = (&self.sessions, &self.commands, &self.registry);
        let exists = |subject: Subject| match subject {
            Subject::Session(key) => sessions.has(key),
            Subject::Detached(key) => {
                registry.as_ref().is_some_and(|registry| registry.has_entry(key))
            }
            Subject::Command(key) => commands.has(key),
        };
        let gone: Vec<_> = self.cx.told.subjects().filter(|subject| !exists(*subject)).collect();
        for subject in gone {
            self.cx.lost(subject);
        }
        self.cx.requested_commands.retain(exists);
        self.cx.seats.retain(exists);
        if let Some(recorder) = &mut self.recorder {
            recorder.retain();
        }
        self.hang_up_orphans();
    }
}
