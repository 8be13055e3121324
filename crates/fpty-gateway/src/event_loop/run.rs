//! The loop: waits, hands each event to the part that it concerns, and does what
//! the part has come to. It alone knows all parts.

use std::collections::HashSet;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::context::Context;
use super::fault_injection;
use super::outcome::Outcome;
use super::panic_recovery::{self, INTERNAL_ERROR, PanicRecovery, PanicState, RETRY_DELAY};
use super::slab::{Key, Token};
use super::subject::{FaultDomain, SessionRef};
use super::timers::Timer;
use crate::command::commands::Commands;
use crate::connection::handshake::{ClientRequest, HandshakeResult, PendingConnections};
use crate::connection::http_probe::HttpProbes;
use crate::connection::listeners::Connection;
use crate::control::attach_elsewhere::{self, AttachRoute, AttachSearches};
use crate::control::peers::{IncomingRequest, PeerRequest, Peers, Requester};
use crate::control::sessions::AllSessions;
use crate::control::{self, ControlClients};
use crate::detach::{self, DetachRegistry};
use crate::host::host;
use crate::log;
use crate::observe::audit::{EndReason, RejectReason, Rejection};
use crate::observe::recording::Recordings;
use crate::process::supervisor::client::RestoredSessions;
use crate::process::table::ProcessTable;
use crate::process::{ipc, shared_memory};
use crate::session::open::{Accepted, SessionPlan, exec_error};
use crate::session::relay::{ClientEvent, SessionAction, Sessions};
use crate::session::state::Session;
use crate::session::teardown::TeardownQueue;
use crate::session::transitions::Transitions;
use fpty::error::{Context as _, Result};
use fpty::proto::EndKind;
use fpty::proto::request::RequestKind;
use fpty::sys::child::{Exit, Pid};
use fpty::sys::poll::Ready;
use fpty::sys::signal::Signals;
use fpty::sys::socket::{Stream, Transport};

/// One gateway process, and its parts.
pub struct GatewayLoop {
    pub(crate) cx: Context,
    pub(crate) pending: PendingConnections,
    pub(crate) sessions: Sessions,
    pub(crate) http_probes: HttpProbes,
    pub(crate) commands: Commands,
    pub(crate) control_clients: ControlClients,
    /// `None`: no session can outlive the gateway.
    pub(crate) registry: Option<Box<DetachRegistry>>,
    pub(crate) teardowns: TeardownQueue,
    pub(crate) processes: ProcessTable,
    pub(crate) children: Signals,
    pub(crate) recorder: Option<Box<Recordings>>,
    pub(crate) peers: Peers,
    pub(crate) attach_searches: AttachSearches,
}

/// Serves; returns only when it cannot go on.
///
/// # Errors
/// It cannot wait, or too much has gone wrong.
pub fn run(event_loop: GatewayLoop) -> Result<()> {
    // Where it cannot go on its clients' connections are others' to end.
    let mut event_loop = ManuallyDrop::new(event_loop);
    let event_loop: &mut GatewayLoop = &mut event_loop;
    event_loop.handle_outcomes();
    loop {
        let wait = event_loop.wait();
        host().disarm_watchdog();
        let count = event_loop.cx.poller.wait(wait).context("cannot wait for events")?;
        host().arm_watchdog();
        for index in 0..count {
            let ready = event_loop.cx.poller.ready(index);
            if event_loop.sessions.is_deferrable(ready) {
                event_loop.cx.deferred_events.push(ready);
            } else {
                event_loop.dispatch(ready);
            }
        }
        let streams = !event_loop.cx.deferred_events.is_empty();
        // A key that is typed does not wait for the megabytes of others.
        for index in 0..event_loop.cx.deferred_events.len() {
            event_loop.dispatch(event_loop.cx.deferred_events[index]);
        }
        event_loop.cx.deferred_events.clear();
        // What comes due meanwhile is for the next turn, and no wait comes
        // before that: what had to wait for its turn is looked for in each.
        let now = Instant::now();
        event_loop.cx.resume_deferred();
        event_loop.handle_outcomes();
        event_loop.cx.deferred_input.reset_budget();
        event_loop.guarded(FaultDomain::Gateway, |event_loop| {
            fault_injection::point("turn");
            event_loop.teardowns.run_teardowns(&mut event_loop.cx, count);
            event_loop.transitions().with_recorder(|recorder, cx, _| recorder.flush_soon(cx));
            event_loop.cx.schedule_log_flush(false);
        });
        event_loop.handle_outcomes();
        event_loop.cx.end_turn(now, streams);
        while let Some(timer) = event_loop.cx.timers.next(now) {
            event_loop.fire(timer);
        }
        event_loop.clear_timers();
        event_loop.cx.panics.check()?;
    }
}

impl GatewayLoop {
    /// How long to wait for events: not at all where something waits for its
    /// turn. (A timer of no time would be over in the turn that set it.)
    fn wait(&self) -> Option<Duration> {
        match self.cx.deferred_input.is_empty() && self.teardowns.is_empty() {
            true => self.cx.timers.wait(Instant::now()),
            false => Some(Duration::ZERO),
        }
    }

    /// Hands an event to whom it concerns.
    fn dispatch(&mut self, ready: Ready) {
        let source = Token::of(ready.token);
        self.guarded(source.fault_domain(), |event_loop| event_loop.handle_event(source, ready));
        self.handle_outcomes();
    }

    fn handle_event(&mut self, source: Token, ready: Ready) {
        let cx = &mut self.cx;
        match source {
            Token::Client(key) => {
                match self.sessions.client_ready(cx, key, ready) {
                    ClientEvent::Settle => {}
                    ClientEvent::FirstBytes => {
                        let next = self.http_probes.probe(&mut self.sessions, cx, key);
                        return self.transitions().apply(key, next);
                    }
                    ClientEvent::FirstEof => self.http_probes.input_ended(&mut self.sessions, key),
                    ClientEvent::NoSession => return,
                }
                self.settle(key);
            }
            Token::Terminal(key) => {
                self.sessions.terminal_ready(cx, key, ready);
                self.settle(key);
            }
            Token::Listener(index) => self.accept(index),
            Token::StatsListener => self.control_clients.accept_statistics(cx),
            Token::Children => self.signal_arrived(),
            Token::Peers => self.peers.ready(cx),
            Token::Recorder => self.transitions().with_recorder(|it, cx, _| it.ready(cx)),
            Token::PendingConnection(key) => {
                let handshake_result = self.pending.readable(cx, key, ready.hang_up);
                self.handshake_result(handshake_result);
            }
            Token::ControlClient(key) => {
                let view =
                    AllSessions::of(&self.sessions, &self.commands, self.registry.as_deref());
                self.control_clients.ready(cx, &mut self.peers, view, key, ready);
            }
            Token::CommandClient(key) => {
                self.commands.client_ready(cx, key, ready);
                self.commands.settle(cx, &mut self.processes, key);
            }
            Token::CommandStream(key, number) => {
                self.commands.stream_ready(cx, key, number, ready);
                self.commands.settle(cx, &mut self.processes, key);
            }
            Token::LingeringClose(key) => cx.lingering.ready(key, ready, &mut cx.buffer[..]),
            Token::Detached => {
                self.transitions().with_registry(|registry, cx, _, _| registry.on_ready(cx))
            }
            Token::Alarm => cx.timers.alarm_fired(),
        }
    }

    /// Does what is due.
    fn fire(&mut self, timer: Timer) {
        self.guarded(timer.fault_domain(), |event_loop| event_loop.timer_fired(timer));
        self.handle_outcomes();
    }

    fn timer_fired(&mut self, timer: Timer) {
        if timer.fault_domain() == FaultDomain::Gateway {
            fault_injection::point("timer");
        }
        let (cx, processes) = (&mut self.cx, &mut self.processes);
        match timer {
            Timer::Session(key, timer) => {
                let next = self.sessions.timer_fired(cx, key, timer);
                self.transitions().apply(key, next);
            }
            Timer::Terminal(key, timer) => {
                let next = self.sessions.terminal_timer_fired(cx, key, timer);
                self.transitions().apply(key, next);
            }
            Timer::HttpProbe(key) => {
                let next = self.http_probes.release(&mut self.sessions, cx, key);
                self.transitions().apply(key, next);
            }
            Timer::Entrust(key) => self.transitions().supervise(key),
            Timer::Command(key, timer) => self.commands.timer_fired(cx, processes, key, timer),
            Timer::Handshake(key) => {
                let handshake_result = self.pending.timed_out(cx, key);
                self.handshake_result(handshake_result);
            }
            Timer::ControlClient(key) => {
                let view =
                    AllSessions::of(&self.sessions, &self.commands, self.registry.as_deref());
                self.control_clients.timed_out(cx, &mut self.peers, view, key);
            }
            Timer::PeerReply(number) => self.peers.timed_out(cx, number),
            Timer::LingeringClose => cx.expire_lingering(),
            Timer::Reap => processes.reap_all(cx),
            Timer::Tidy => {
                cx.tidy_is_scheduled = false;
                cx.tidy_up();
            }
            Timer::LogFlush => {
                cx.log_flush_is_scheduled = false;
                log::flush();
                let took_some = cx.audit.flush();
                cx.schedule_log_flush(took_some);
            }
            Timer::RecordingFlush => self.transitions().with_recorder(|it, _, _| it.flush()),
            Timer::RecorderCheck => {
                self.transitions().with_recorder(|it, cx, _| it.check_progress(cx))
            }
            Timer::HangUpGrace(pid) => processes.hang_up_grace_over(cx, pid),
            Timer::Kill => processes.killer.step(cx),
            Timer::TtyHoldersGrace => processes.killer.kill_tty_holders(cx),
            Timer::OrphanGrace => processes.killer.kill_orphans(cx),
            Timer::Accept => cx.start_accepting(),
            Timer::Detached => {
                self.transitions().with_registry(|registry, cx, _, _| registry.run_due(cx))
            }
            Timer::Listener(listener) => cx.listeners.resume(listener, &cx.poller),
        }
    }

    /// Does what parts have come to.
    fn handle_outcomes(&mut self) {
        while let Some(outcome) = self.cx.next_outcome() {
            let fault_domain = match outcome {
                Outcome::Reaped(program, session, _) => self
                    .session_of_program(program, session)
                    .map_or(FaultDomain::Nobody, FaultDomain::from),
                _ => outcome.fault_domain(),
            };
            self.guarded(fault_domain, |event_loop| event_loop.handle_outcome(outcome));
        }
    }

    fn handle_outcome(&mut self, outcome: Outcome) {
        let (cx, processes) = (&mut self.cx, &mut self.processes);
        match outcome {
            Outcome::Settle(key) => self.settle(key),
            Outcome::SettleCommand(key) => self.commands.settle(cx, processes, key),
            Outcome::ResumeInput(rest) => {
                cx.deliver_deferred(*rest, &mut self.sessions, &mut self.commands)
            }
            Outcome::Reaped(program, session, exit) => self.program_ended(program, session, exit),
            Outcome::RunTeardown => self.teardowns.release_next(cx, processes),
            Outcome::Started(SessionRef::Session(key)) => {
                self.transitions().with_recorder(|it, cx, sessions| it.begin(cx, sessions, key));
            }
            Outcome::Started(SessionRef::Command(_) | SessionRef::Detached(_)) => {}
            Outcome::Aborted(session_ref, recording) => {
                self.transitions().rejected(session_ref, recording.as_deref());
            }
            Outcome::LateHello(late) => {
                let handshake_result = self.pending.restart(cx, *late);
                self.handshake_result(handshake_result);
            }
            Outcome::Closed(closed) => self.transitions().closed(closed),
            Outcome::Supervise(key) => self.transitions().supervise(key),
            Outcome::Unpollable(key) => self.transitions().end_unpollable(key),
            Outcome::ControlRequest(key) => self.control_clients.begin(cx, key),
            Outcome::Terminate(SessionRef::Session(key)) => self.transitions().end_by_operator(key),
            Outcome::Terminate(SessionRef::Detached(key)) => {
                self.transitions().end_detached(key, EndReason::Operator)
            }
            Outcome::Terminate(SessionRef::Command(key)) => {
                self.commands.end_by_operator(cx, processes, key)
            }
            Outcome::PeerRequest(incoming) => self.peer_request(*incoming),
            Outcome::AttachRouted(key) => {
                let goes = self.attach_searches.conclude(cx, &mut self.peers, key);
                self.route_attach(goes);
            }
            Outcome::PeerReply(Requester::AttachSearch(key, whom), answer) => {
                self.attach_searches.peer_replied(cx, key, whom, answer.as_deref());
            }
            Outcome::PeerReply(Requester::Forwarded(key), answer) => {
                self.attach_searches.forwarded(cx, key, answer.as_deref());
            }
            Outcome::PeerReply(Requester::ControlClient(key), answer) => {
                self.control_clients.answered(cx, key, answer.as_deref());
            }
            Outcome::ResumeReading(key) => {
                self.transitions().with_registry(|registry, cx, _, processes| {
                    registry.resume_reading(cx, processes, key);
                })
            }
            Outcome::TerminateDetached(key, why) => self.transitions().end_detached(key, why),
            Outcome::SupervisorReady => self.transitions().supervisor_ready(),
            Outcome::DropClient(key) => {
                self.transitions().detach_or_hang_up(key, detach::DetachCause::Dropped)
            }
            Outcome::DetachedReady(ready) => {
                self.transitions().with_registry(|registry, cx, sessions, processes| {
                    registry.on_event(cx, sessions, processes, ready);
                })
            }
            Outcome::DetachedDeadline(key) => {
                self.transitions().with_registry(|registry, cx, sessions, processes| {
                    registry.on_due(cx, sessions, processes, key);
                })
            }
            Outcome::FeedViewer(key) => {
                self.transitions()
                    .with_registry(|registry, cx, _, _| registry.feed_viewer(cx, key));
            }
            Outcome::Recorder(_, event) => {
                self.transitions()
                    .with_recorder(|it, cx, sessions| it.handle_event(cx, sessions, *event));
            }
        }
    }

    /// The parts that a session's life concerns.
    pub(crate) fn transitions(&mut self) -> Transitions<'_> {
        Transitions {
            cx: &mut self.cx,
            sessions: &mut self.sessions,
            processes: &mut self.processes,
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
    fn accept(&mut self, listener: u16) {
        match self.cx.accept(listener) {
            Accepted::Nobody => {}
            Accepted::Uwsgi(client, transport) => self.start_handshake(client, transport, listener),
            Accepted::Raw(connection) => {
                let Some(place) = self.cx.listeners.get(listener) else { return };
                let size = place.rules.size;
                let plan = SessionPlan {
                    session: Session::raw(size),
                    program: place.program.clone(),
                    size,
                    environment: Vec::new(),
                    shown: None,
                };
                self.transitions().open_terminal(connection, plan);
            }
        }
    }

    fn start_handshake(&mut self, client: Stream, transport: Transport, listener: u16) {
        let handshake_result = self.pending.start(&mut self.cx, client, transport, listener);
        self.handshake_result(handshake_result);
    }

    fn handshake_result(&mut self, handshake_result: HandshakeResult) {
        if let HandshakeResult::Complete(client_request) = handshake_result {
            self.open(*client_request);
        }
    }

    /// Does what a client wants.
    fn open(&mut self, client_request: ClientRequest) {
        match client_request.hello.request.kind() {
            Some(RequestKind::Attach) => {
                self.find_session(Box::new(client_request), 0);
            }
            _ if control::is_control_request(&client_request.hello) => {
                self.control_clients.add_request(
                    &mut self.cx,
                    client_request.connection,
                    client_request.hello,
                );
            }
            _ => self.open_new(client_request),
        }
    }

    /// A client wants a session that was left; so many gateways have had it before.
    fn find_session(&mut self, client_request: Box<ClientRequest>, hops: u8) {
        let (cx, peers, registry) = (&mut self.cx, &mut self.peers, self.registry.as_deref_mut());
        let here = registry.map(|registry| (registry, &self.sessions));
        let goes = self.attach_searches.start(cx, peers, here, client_request, hops);
        self.route_attach(goes);
    }

    /// It is known which gateway has the session that a client wants.
    fn route_attach(&mut self, goes: AttachRoute) {
        if let AttachRoute::Here(client_request) = goes {
            if let Some(client_request) = self.transitions().attach(*client_request) {
                self.open_new(client_request);
            }
        }
    }

    /// Another gateway asks something.
    fn peer_request(&mut self, mut incoming: IncomingRequest) {
        fault_injection::point("question");
        let cx = &mut self.cx;
        let view = AllSessions::of(&self.sessions, &self.commands, self.registry.as_deref());
        let answer = match &incoming.request {
            PeerRequest::Page(asking) => view.page(cx, *asking).encode(),
            PeerRequest::Kill { by, place, id } => match view.end(cx, *by, *place, *id) {
                true => control::page::KILLED.to_vec(),
                false => Vec::new(),
            },
            PeerRequest::FindSession(query) => {
                let registry = self.registry.as_mut();
                let found =
                    registry.and_then(|registry| registry.find_for_peer(&self.sessions, query));
                found.as_ref().map(ipc::encode).unwrap_or_default()
            }
            PeerRequest::TakeClient(forwarded) => {
                let (forwarded, hops) = (*forwarded, forwarded.hops);
                let Some(client_request) =
                    attach_elsewhere::receive_forwarded(cx, &mut incoming, forwarded)
                else {
                    return;
                };
                self.peers.reply(&incoming, attach_elsewhere::TAKEN);
                return self.find_session(client_request, hops);
            }
        };
        self.peers.reply(&incoming, &answer);
    }

    /// Makes a session, or a command, of a client that has not come back to an old one.
    fn open_new(&mut self, client_request: ClientRequest) {
        let connection = self.cx.with_session_permit(client_request.connection);
        let asked = || client_request.hello.request.shown();
        let origin = self.cx.audit.with_command(connection.origin, asked);
        let client_request =
            ClientRequest { connection: Connection { origin, ..connection }, ..client_request };
        match client_request.hello.wants_terminal() {
            true => self.transitions().open(client_request),
            false => self.open_command(client_request),
        }
    }

    fn open_command(&mut self, client_request: ClientRequest) {
        let recorder = self.recorder.as_ref();
        if let Some(why) =
            recorder.and_then(|it| it.command_rejection_reason(client_request.connection.listener))
        {
            return self.cx.reject(client_request.connection, true, why);
        }
        self.commands.start(&mut self.cx, &mut self.processes, client_request);
    }

    /// A program has ended, or the gateway is to.
    fn signal_arrived(&mut self) {
        let arrived = self.children.next();
        if let Some(arrived) = arrived.filter(|arrived| arrived.signal != Signal::SIGCHLD) {
            let by_master =
                arrived.sender.map(Pid::as_raw) == Some(nix::unistd::getppid().as_raw());
            self.stop(by_master || arrived.by_terminal);
        }
        self.processes.children_ended(&mut self.cx, arrived.and_then(|arrived| arrived.sender));
    }

    /// The gateway is to end: whoever it relays for is told so; the audit's lines are
    /// the master's to write, as of a gateway that was killed.
    fn stop(&mut self, instance_stops: bool) -> ! {
        let (why, line) = match instance_stops {
            true => (EndKind::Stopped, "session ended: the instance has stopped"),
            false => (EndKind::Lost, "the gateway was ended by a signal"),
        };
        self.sessions.stop(why, line);
        self.commands.stop(why, line);
        self.registry.iter_mut().for_each(|registry| registry.stop(why, line));
        log::flush();
        self.cx.audit.flush();
        shared_memory::note_told(self.cx.ordinal);
        host().exit(0)
    }

    /// A program was reaped.
    fn program_ended(&mut self, program: Pid, session: Option<Key>, exit: Exit) {
        fault_injection::point("reaped");
        let failure = self.cx.spawner.failure(program);
        let failure = failure.map(|(program, errno)| exec_error(&program, errno));
        match self.session_of_program(program, session) {
            Some(SessionRef::Session(key)) => self.transitions().program_ended(key, exit, failure),
            Some(SessionRef::Detached(entry)) => self.transitions().detached_exited(entry, exit),
            Some(SessionRef::Command(key)) => {
                self.commands.program_ended(&mut self.cx, key, exit, failure);
            }
            // Its client has left.
            None => {}
        }
    }

    /// What a program was the program of.
    fn session_of_program(&self, program: Pid, session: Option<Key>) -> Option<SessionRef> {
        let session = session.filter(|key| self.sessions.has(*key)).map(SessionRef::Session);
        let command = || self.commands.by_program(program).map(SessionRef::Command);
        let registry = || self.registry.as_ref()?.by_program(program).map(SessionRef::Detached);
        session.or_else(command).or_else(registry)
    }

    /// Takes up the sessions of a gateway that was here before us.
    pub(crate) fn restore(&mut self, found: RestoredSessions) {
        for (record, held) in found {
            let (id, mut is_done) = (record.id.clone(), false);
            self.guarded(FaultDomain::Nobody, |event_loop| {
                fault_injection::strike("adoption", || record.name.clone());
                event_loop.transitions().restore(record, held);
                is_done = true;
            });
            // Or the next gateway would panic as well.
            if let Some(registry) = self.registry.as_mut().filter(|_| !is_done) {
                registry.unregister(&mut self.cx, id);
            }
            self.handle_outcomes();
        }
        if let Some(registry) = &mut self.registry {
            registry.wake_in(&mut self.cx, detach::RETRY_DELAY);
        }
    }

    /// Deadlines of those who are not there any more are thrown out.
    fn clear_timers(&mut self) {
        if !self.cx.timers.needs_pruning() {
            return;
        }
        let (sessions, processes) = (&self.sessions, &self.processes);
        let (commands, control_clients, pending) =
            (&self.commands, &self.control_clients, &self.pending);
        self.cx.timers.retain(|timer| match timer {
            Timer::Session(key, _)
            | Timer::Terminal(key, _)
            | Timer::HttpProbe(key)
            | Timer::Entrust(key) => sessions.has(key),
            Timer::Command(key, _) => commands.has(key),
            Timer::ControlClient(key) => control_clients.has(key),
            Timer::Handshake(key) => pending.has(key),
            Timer::HangUpGrace(pid) => processes.has(pid),
            _ => true,
        });
    }

    /// Does something for somebody; if it panics they end.
    pub(crate) fn guarded(&mut self, fault_domain: FaultDomain, body: impl FnOnce(&mut Self)) {
        panic_recovery::guarded(self, fault_domain, body);
    }

    /// Programs that run for nobody lose their client.
    fn hang_up_orphans(&mut self) {
        let registry = self.registry.iter().flat_map(|registry| registry.processes());
        let owned: HashSet<Pid> =
            self.commands.processes().chain(registry).chain(self.teardowns.processes()).collect();
        let sessions = &self.sessions;
        for program in self.processes.orphans(|key| sessions.has(key), &owned) {
            self.processes.hang_up_group(&mut self.cx, program);
        }
    }
}

impl PanicRecovery for GatewayLoop {
    fn panics(&mut self) -> &mut PanicState {
        &mut self.cx.panics
    }

    /// Ends whom a panic was about.
    fn end_fault_domain(&mut self, fault_domain: FaultDomain) {
        fault_injection::point("end");
        let (cx, processes) = (&mut self.cx, &mut self.processes);
        match fault_domain {
            FaultDomain::Session(key) => self.sessions.end_panicked(cx, processes, key),
            FaultDomain::PendingSession(key) => {
                self.sessions.forget_reaped(processes, key);
                let why = Rejection::because(RejectReason::Resources, INTERNAL_ERROR);
                self.sessions.reject(cx, processes, key, &why);
            }
            FaultDomain::Command(key) => {
                self.commands.end_panicked(cx, processes, key, INTERNAL_ERROR)
            }
            FaultDomain::PendingConnection(key) => {
                drop(self.pending.reject(cx, key, INTERNAL_ERROR))
            }
            FaultDomain::ControlClient(key) => self.control_clients.end(cx, key, INTERNAL_ERROR),
            FaultDomain::AttachSearch(key) => self.attach_searches.end(cx, key, INTERNAL_ERROR),
            FaultDomain::Detached(key) => {
                match self.registry.as_ref().and_then(|registry| registry.session_of(key)) {
                    Some(session) => self.sessions.end_panicked(cx, processes, session),
                    None => self.transitions().end_detached(key, EndReason::Lost),
                }
            }
            FaultDomain::Viewer(key) => {
                self.transitions().with_registry(|registry, cx, _, _| registry.end_viewer(cx, key))
            }
            FaultDomain::LingeringClose(key) => cx.lingering.discard(key),
            FaultDomain::Nobody => {}
            FaultDomain::Listener => cx.pause_accepting(),
            FaultDomain::Gateway => {
                cx.panics.count_unattributed(Instant::now());
                // Whatever was cut short, and waits for nothing else.
                cx.pause_accepting();
                cx.schedule(RETRY_DELAY, Timer::Reap);
                cx.schedule(RETRY_DELAY, Timer::Kill);
                self.transitions()
                    .with_registry(|registry, cx, _, _| registry.wake_in(cx, RETRY_DELAY));
            }
        }
    }

    /// It could not be ended: nobody hears of it any more.
    fn discard_fault_domain(&mut self, fault_domain: FaultDomain) {
        match fault_domain {
            FaultDomain::Session(key) | FaultDomain::PendingSession(key) => {
                drop(self.sessions.remove(key))
            }
            FaultDomain::Command(key) => self.commands.discard(key),
            FaultDomain::PendingConnection(key) => self.pending.discard(key),
            FaultDomain::ControlClient(key) => self.control_clients.discard(key),
            FaultDomain::AttachSearch(key) => self.attach_searches.discard(key),
            FaultDomain::Detached(key) | FaultDomain::Viewer(key) => {
                if let Some(registry) = &mut self.registry {
                    registry.discard(key, matches!(fault_domain, FaultDomain::Viewer(_)));
                }
            }
            FaultDomain::LingeringClose(key) => self.cx.lingering.discard(key),
            FaultDomain::Nobody => {}
            FaultDomain::Listener | FaultDomain::Gateway => self.cx.panics.set_fatal(),
        }
    }

    /// What belongs to nobody is given back, and what says that somebody is
    /// there who is not.
    fn clean_up(&mut self) {
        self.cx.clear();
        self.transitions().with_registry(|registry, cx, sessions, processes| {
            registry.drop_orphaned_entries(cx, sessions, processes);
        });
        let (sessions, commands, registry) = (&self.sessions, &self.commands, &self.registry);
        let exists = |session_ref: SessionRef| match session_ref {
            SessionRef::Session(key) => sessions.has(key),
            SessionRef::Detached(key) => {
                registry.as_ref().is_some_and(|registry| registry.has_entry(key))
            }
            SessionRef::Command(key) => commands.has(key),
        };
        let gone: Vec<_> =
            self.cx.audit.subjects().filter(|session_ref| !exists(*session_ref)).collect();
        for session_ref in gone {
            self.cx.lost(session_ref);
        }
        self.cx.requested_commands.retain(exists);
        self.cx.limits.retain(exists);
        if let Some(recorder) = &mut self.recorder {
            recorder.retain();
        }
        self.hang_up_orphans();
    }
}
