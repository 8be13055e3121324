//! The gateway process: all its parts, and the loop, which alone knows them. A turn waits for
//! events, hands each to the part that its token names, handles the outcomes that parts have
//! emitted, and fires what is due.

use std::any::Any;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::core::Core;
use super::fault_domain::FaultDomain;
use super::fault_injection;
use super::outcome::Outcome;
use super::panic_recovery::{INTERNAL_ERROR, RETRY_DELAY};
use super::slab::Token;
use super::timers::Timer;
use crate::command::commands::Commands;
use crate::connection::handshake::{ClientRequest, HandshakeResult, PendingConnections};
use crate::connection::http_probe::HttpProbes;
use crate::control::attach_elsewhere::{self, AttachRoute, AttachSearches};
use crate::control::gateway_sessions::GatewaySessions;
use crate::control::peers::{IncomingRequest, PeerRequest, Peers, Requester};
use crate::control::session_page::KILLED;
use crate::control::{ControlClients, is_control_request};
use crate::detach::{DetachCause, DetachRegistry};
use crate::host::host;
use crate::log::log;
use crate::observe::recording::Recordings;
use crate::process::ipc;
use crate::session::open::Accepted;
use crate::session::relay::ClientEvent;
use crate::session::teardown::TeardownQueue;
use crate::session::transitions::Transitions;
use fpty::error::{Context as _, Result};
use fpty::proto::request::RequestKind;
use fpty::sys::child::Pid;
use fpty::sys::clock;
use fpty::sys::poll::Ready;
use fpty::sys::signal::Signals;
use fpty::text::panic_message;

/// One gateway process, and its parts.
pub struct GatewayLoop {
    pub(super) core: Core,
    pub(super) pending: PendingConnections,
    pub(super) http_probes: HttpProbes,
    pub(super) commands: Commands,
    pub(super) control_clients: ControlClients,
    /// `None`: no session can outlive the gateway.
    pub(super) registry: Option<Box<DetachRegistry>>,
    pub(super) teardowns: TeardownQueue,
    pub(super) children: Signals,
    pub(super) recorder: Option<Box<Recordings>>,
    pub(super) peers: Peers,
    pub(super) attach_searches: AttachSearches,
}

impl GatewayLoop {
    /// Serves; returns only when it cannot go on.
    ///
    /// # Errors
    /// The poller cannot wait, or the gateway cannot recover from internal errors.
    pub fn run(self) -> Result<()> {
        // Where it cannot go on its clients' connections are others' to end.
        let mut event_loop = ManuallyDrop::new(self);
        event_loop.handle_outcomes();
        loop {
            event_loop.turn()?;
        }
    }

    fn turn(&mut self) -> Result<()> {
        // A timer of no time would be over in the turn that set it.
        let wait = match self.core.cx.deferred_input.is_empty() && self.teardowns.is_empty() {
            true => self.core.cx.timers.wait(clock::now()),
            false => Some(Duration::ZERO),
        };
        host().disarm_watchdog();
        let count = self.core.cx.poller.wait(wait).context("cannot wait for events")?;
        host().arm_watchdog();
        for index in 0..count {
            let ready = self.core.cx.poller.ready(index);
            if self.core.sessions.is_deferrable(ready) {
                self.core.cx.deferred_events.push(ready);
            } else {
                self.dispatch(ready);
            }
        }
        let streams = !self.core.cx.deferred_events.is_empty();
        // A key that is typed does not wait for the megabytes of others.
        for index in 0..self.core.cx.deferred_events.len() {
            self.dispatch(self.core.cx.deferred_events[index]);
        }
        self.core.cx.deferred_events.clear();
        // What comes due meanwhile is for the next turn, and no wait comes
        // before that: what had to wait for its turn is looked for in each.
        let now = clock::now();
        self.core.cx.resume_deferred();
        self.handle_outcomes();
        self.core.cx.deferred_input.reset_budget();
        self.guarded(FaultDomain::Gateway, |event_loop| {
            fault_injection::point("turn");
            event_loop.teardowns.run_teardowns(&mut event_loop.core.cx, count);
            event_loop
                .transitions()
                .with_recorder(|recorder, core| recorder.flush_soon(&mut core.cx));
            event_loop.core.cx.schedule_log_flush(false);
        });
        self.handle_outcomes();
        self.core.cx.end_turn(now, streams);
        while let Some(timer) = self.core.cx.timers.next(now) {
            self.guarded(timer.fault_domain(), |event_loop| event_loop.timer_fired(timer));
            self.handle_outcomes();
        }
        self.prune_timers();
        self.core.cx.panics.check()
    }

    /// The parts that a session's life concerns.
    pub(super) fn transitions(&mut self) -> Transitions<'_> {
        Transitions {
            core: &mut self.core,
            commands: &mut self.commands,
            teardowns: &mut self.teardowns,
            registry: self.registry.as_deref_mut(),
            recorder: self.recorder.as_deref_mut(),
        }
    }

    /// Hands an event to the part that it concerns.
    fn dispatch(&mut self, ready: Ready) {
        let source = Token::of(ready.token);
        self.guarded(source.fault_domain(), |event_loop| event_loop.handle_event(source, ready));
        self.handle_outcomes();
    }

    fn handle_event(&mut self, source: Token, ready: Ready) {
        let Core { cx, sessions, processes } = &mut self.core;
        match source {
            Token::Client(key) => {
                match sessions.client_ready(cx, key, ready) {
                    ClientEvent::Settle => {}
                    ClientEvent::FirstBytes => {
                        let next = self.http_probes.probe(sessions, cx, key);
                        return self.transitions().apply(key, next);
                    }
                    ClientEvent::FirstEof => self.http_probes.input_ended(sessions, key),
                }
                self.transitions().settle(key);
            }
            Token::Terminal(key) => {
                sessions.terminal_ready(cx, key, ready);
                self.transitions().settle(key);
            }
            Token::Listener(index) => match cx.accept(index) {
                Accepted::Nobody => {}
                Accepted::Uwsgi(client, transport) => {
                    let handshake_result = self.pending.start(cx, client, transport, index);
                    self.handshake_result(handshake_result);
                }
                Accepted::Raw(connection) => self.transitions().open_raw(connection),
            },
            Token::StatsListener => self.control_clients.accept_statistics(cx),
            Token::Children => self.signal_arrived(),
            Token::Peers => self.peers.ready(cx),
            Token::Recorder => self.transitions().with_recorder(|it, core| it.ready(&mut core.cx)),
            Token::PendingConnection(key) => {
                let handshake_result = self.pending.readable(cx, key, ready.hang_up);
                self.handshake_result(handshake_result);
            }
            Token::ControlClient(key) => {
                let view = GatewaySessions::of(sessions, &self.commands, self.registry.as_deref());
                self.control_clients.ready(cx, &mut self.peers, view, key, ready);
            }
            Token::CommandClient(key) => {
                self.commands.client_ready(cx, key, ready);
                self.commands.settle(cx, processes, key);
            }
            Token::CommandStream(key, number) => {
                self.commands.stream_ready(cx, key, number, ready);
                self.commands.settle(cx, processes, key);
            }
            Token::LingeringClose(key) => {
                cx.lingering.ready(key, ready, &cx.poller, &mut cx.buffer[..])
            }
            Token::Detached => {
                self.transitions().with_registry(|registry, core| registry.poll_ready(&mut core.cx))
            }
            Token::Alarm => cx.timers.alarm_fired(),
        }
    }

    fn timer_fired(&mut self, timer: Timer) {
        if timer.fault_domain() == FaultDomain::Gateway {
            fault_injection::point("timer");
        }
        let Core { cx, sessions, processes } = &mut self.core;
        match timer {
            Timer::Session(key, timer) => {
                let next = sessions.timer_fired(cx, key, timer);
                self.transitions().apply(key, next);
            }
            Timer::Terminal(key, timer) => {
                let next = sessions.terminal_timer_fired(cx, key, timer);
                self.transitions().apply(key, next);
            }
            Timer::HttpProbe(key) => {
                let next = self.http_probes.release(sessions, cx, key);
                self.transitions().apply(key, next);
            }
            Timer::Entrust(key) => self.transitions().supervise(key),
            Timer::Command(key, timer) => self.commands.timer_fired(cx, processes, key, timer),
            Timer::Handshake(key) => {
                let handshake_result = self.pending.timed_out(cx, key);
                self.handshake_result(handshake_result);
            }
            Timer::ControlClient(key) => {
                let view = GatewaySessions::of(sessions, &self.commands, self.registry.as_deref());
                self.control_clients.timed_out(cx, &mut self.peers, view, key);
            }
            Timer::PeerReply(number) => self.peers.timed_out(cx, number),
            Timer::LingeringClose => cx.expire_lingering(),
            Timer::Reap => processes.reap_all(cx),
            Timer::Tidy => {
                cx.tidy_is_scheduled = false;
                cx.tidy_up();
            }
            Timer::LogFlush => cx.flush_log(),
            Timer::RecordingFlush => self.transitions().with_recorder(|it, _| it.flush()),
            Timer::RecorderCheck => {
                self.transitions().with_recorder(|it, core| it.check_progress(&mut core.cx))
            }
            Timer::HangUpGrace(pid) => processes.hang_up_grace_over(cx, pid),
            Timer::Kill => processes.killer.step(cx),
            Timer::TtyHoldersGrace => processes.killer.kill_tty_holders(cx),
            Timer::OrphanGrace => processes.killer.kill_orphans(cx),
            Timer::Accept => cx.start_accepting(),
            Timer::Detached => self
                .transitions()
                .with_registry(|registry, core| registry.run_deadlines(&mut core.cx)),
            Timer::Listener(listener) => cx.listeners.resume(listener, &cx.poller),
        }
    }

    /// Prunes timers of those who are not there any more.
    fn prune_timers(&mut self) {
        let Self { core, commands, control_clients, pending, .. } = self;
        let Core { cx, sessions, processes } = core;
        if cx.timers.needs_pruning() {
            cx.timers.retain(|timer| match (timer, timer.fault_domain()) {
                (Timer::HangUpGrace(pid), _) => processes.has(pid),
                (_, FaultDomain::Session(key)) => sessions.has(key),
                (_, FaultDomain::Command(key)) => commands.has(key),
                (_, FaultDomain::ControlClient(key)) => control_clients.has(key),
                (_, FaultDomain::PendingConnection(key)) => pending.has(key),
                _ => true,
            });
        }
    }

    /// Does what parts have come to, after the part has finished.
    pub(super) fn handle_outcomes(&mut self) {
        while let Some(outcome) = self.core.cx.next_outcome() {
            let fault_domain = match outcome {
                Outcome::Reaped(program, session, _) => self
                    .transitions()
                    .session_of_program(program, session)
                    .map_or(FaultDomain::Nobody, FaultDomain::from),
                _ => outcome.fault_domain(),
            };
            self.guarded(fault_domain, |event_loop| event_loop.handle_outcome(outcome));
        }
    }

    fn handle_outcome(&mut self, outcome: Outcome) {
        let Core { cx, sessions, processes } = &mut self.core;
        match outcome {
            Outcome::Settle(key) => self.transitions().settle(key),
            Outcome::SettleCommand(key) => self.commands.settle(cx, processes, key),
            Outcome::ResumeInput(rest) => cx.deliver_deferred(*rest, sessions, &mut self.commands),
            Outcome::Reaped(program, session, exit) => {
                self.transitions().program_ended(program, session, exit)
            }
            Outcome::RunTeardown => self.teardowns.release_next(cx, processes),
            Outcome::Started(key) => {
                self.transitions()
                    .with_recorder(|it, core| it.begin(&mut core.cx, &mut core.sessions, key));
            }
            Outcome::Aborted(session_ref, recording) => {
                self.transitions().aborted(session_ref, recording.as_deref());
            }
            Outcome::LateHello(late) => {
                let handshake_result = self.pending.restart(cx, *late);
                self.handshake_result(handshake_result);
            }
            Outcome::Closed(closed) => self.transitions().closed(closed),
            Outcome::Supervise(key) => self.transitions().supervise(key),
            Outcome::Unpollable(key) => self.transitions().end_unpollable(key),
            Outcome::ControlRequest(key) => self.control_clients.begin(cx, key),
            Outcome::Terminate(session_ref) => self.transitions().end_by_operator(session_ref),
            Outcome::PeerRequest(incoming) => self.peer_request(*incoming),
            Outcome::AttachRouted(key) => {
                let goes = self.attach_searches.conclude(cx, &mut self.peers, key);
                if let AttachRoute::Here(client_request) = goes {
                    self.transitions().attach(*client_request);
                }
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
                self.transitions().with_registry(|it, core| it.resume_reading(core, key))
            }
            Outcome::TerminateDetached(key, why) => self.transitions().end_detached(key, why),
            Outcome::SupervisorReady => {
                self.transitions().with_registry(|it, core| it.supervisor_ready(core))
            }
            Outcome::DropClient(key) => {
                self.transitions().detach_or_hang_up(key, DetachCause::Dropped)
            }
            Outcome::DetachedReady(ready) => {
                self.transitions().with_registry(|it, core| it.handle_event(core, ready))
            }
            Outcome::DetachedDeadline(key) => {
                self.transitions().with_registry(|it, core| it.handle_deadline(core, key))
            }
            Outcome::FeedViewer(key) => {
                self.transitions().with_registry(|it, core| it.feed_viewer(&mut core.cx, key))
            }
            Outcome::Recorder(_, event) => self.transitions().with_recorder(|it, core| {
                it.handle_event(&mut core.cx, &mut core.sessions, *event)
            }),
        }
    }

    /// A program has ended, or the gateway is to.
    fn signal_arrived(&mut self) {
        let arrived = self.children.next();
        if let Some(arrived) = arrived.filter(|arrived| arrived.signal != Signal::SIGCHLD) {
            let by_master =
                arrived.sender.map(Pid::as_raw) == Some(nix::unistd::getppid().as_raw());
            self.transitions().stop(by_master || arrived.by_terminal);
        }
        self.core
            .processes
            .children_ended(&mut self.core.cx, arrived.and_then(|arrived| arrived.sender));
    }

    /// Hands a client to whom its request concerns, where that is complete.
    fn handshake_result(&mut self, handshake_result: HandshakeResult) {
        let Some(client_request) = handshake_result else {
            return;
        };
        match client_request.hello.request.kind() {
            Some(RequestKind::Attach) => self.find_session(client_request, 0),
            _ if is_control_request(&client_request.hello) => {
                let ClientRequest { connection, hello, .. } = *client_request;
                self.control_clients.add_request(&mut self.core.cx, connection, hello);
            }
            _ => self.transitions().open(*client_request),
        }
    }

    /// A client wants a session that was left; so many gateways have had it before.
    fn find_session(&mut self, client_request: Box<ClientRequest>, hops: u8) {
        let Core { cx, sessions, .. } = &mut self.core;
        let here = self.registry.as_deref_mut().map(|registry| (registry, &*sessions));
        let goes = self.attach_searches.start(cx, &mut self.peers, here, client_request, hops);
        if let AttachRoute::Here(client_request) = goes {
            self.transitions().attach(*client_request);
        }
    }

    /// Another gateway asks something.
    fn peer_request(&mut self, mut incoming: IncomingRequest) {
        fault_injection::point("question");
        let Core { cx, sessions, .. } = &mut self.core;
        let view = GatewaySessions::of(sessions, &self.commands, self.registry.as_deref());
        let answer = match &incoming.request {
            PeerRequest::TakeClient(forwarded) => {
                let (forwarded, hops) = (*forwarded, forwarded.hops);
                let client_request =
                    attach_elsewhere::receive_forwarded(cx, &mut incoming, forwarded);
                if let Some(client_request) = client_request {
                    self.peers.reply(&incoming, attach_elsewhere::TAKEN);
                    self.find_session(client_request, hops);
                }
                return;
            }
            PeerRequest::FindSession(query) => {
                let found = self
                    .registry
                    .as_mut()
                    .and_then(|registry| registry.find_for_peer(sessions, query));
                found.as_ref().map(ipc::encode).unwrap_or_default()
            }
            PeerRequest::Page(asking) => view.page(cx, *asking).encode(),
            PeerRequest::Kill { by, place, id } => match view.end(cx, *by, *place, *id) {
                true => KILLED.to_vec(),
                false => Vec::new(),
            },
        };
        self.peers.reply(&incoming, &answer);
    }

    /// Does something in a fault domain, which ends if that panics.
    pub(super) fn guarded(&mut self, fault_domain: FaultDomain, body: impl FnOnce(&mut Self)) {
        let before = self.core.cx.panics.in_progress.take();
        let outcome = catch_unwind(AssertUnwindSafe(|| body(self)));
        let in_progress = std::mem::replace(&mut self.core.cx.panics.in_progress, before);
        if let Err(payload) = outcome {
            self.recover([Some(fault_domain), in_progress], &*payload);
        }
    }

    #[cold]
    fn recover(&mut self, about: [Option<FaultDomain>; 2], payload: &(dyn Any + Send)) {
        log(&format!("forkptyrouter: internal error: {}", panic_message(payload)));
        for fault_domain in about.into_iter().flatten() {
            if catch_unwind(AssertUnwindSafe(|| self.end_fault_domain(fault_domain))).is_err() {
                log("forkptyrouter: internal error: what it was about is dropped as it is");
                if catch_unwind(AssertUnwindSafe(|| self.discard(fault_domain))).is_err() {
                    self.core.cx.panics.set_fatal();
                }
            }
        }
        if catch_unwind(AssertUnwindSafe(|| self.transitions().clean_up())).is_err() {
            self.core.cx.panics.set_fatal();
        }
    }

    /// Ends whom a panic was about.
    fn end_fault_domain(&mut self, fault_domain: FaultDomain) {
        fault_injection::point("end");
        let cx = &mut self.core.cx;
        match fault_domain {
            FaultDomain::Session(key) => self.core.end_panicked(key),
            FaultDomain::PendingSession(key) => self.core.reject_panicked(key),
            FaultDomain::Command(key) => {
                self.commands.end_panicked(cx, &mut self.core.processes, key, INTERNAL_ERROR)
            }
            FaultDomain::PendingConnection(key) => {
                drop(self.pending.reject(cx, key, INTERNAL_ERROR))
            }
            FaultDomain::ControlClient(key) => self.control_clients.end(cx, key, INTERNAL_ERROR),
            FaultDomain::AttachSearch(key) => self.attach_searches.end(cx, key, INTERNAL_ERROR),
            FaultDomain::Detached(key) => self.transitions().end_panicked(key),
            FaultDomain::Viewer(key) => self
                .transitions()
                .with_registry(|registry, core| registry.end_viewer(&mut core.cx, key)),
            FaultDomain::LingeringClose(key) => cx.lingering.discard(key),
            FaultDomain::Nobody => {}
            FaultDomain::Listener => cx.pause_accepting(),
            FaultDomain::Gateway => {
                cx.recover_unattributed();
                self.transitions()
                    .with_registry(|registry, core| registry.wake_in(&mut core.cx, RETRY_DELAY));
            }
        }
    }

    /// Drops whom a panic was about, where the end panics as well: nobody hears of it any more.
    fn discard(&mut self, fault_domain: FaultDomain) {
        match fault_domain {
            FaultDomain::Session(key) | FaultDomain::PendingSession(key) => {
                drop(self.core.sessions.remove(key))
            }
            FaultDomain::Command(key) => drop(self.commands.remove(key)),
            FaultDomain::PendingConnection(key) => self.pending.discard(key),
            FaultDomain::ControlClient(key) => self.control_clients.discard(key),
            FaultDomain::AttachSearch(key) => self.attach_searches.discard(key),
            FaultDomain::Detached(key) => {
                self.registry.iter_mut().for_each(|it| drop(it.take(key)))
            }
            FaultDomain::Viewer(key) => {
                self.registry.iter_mut().for_each(|it| it.discard_viewer(key))
            }
            FaultDomain::LingeringClose(key) => self.core.cx.lingering.discard(key),
            FaultDomain::Nobody => {}
            FaultDomain::Listener | FaultDomain::Gateway => self.core.cx.panics.set_fatal(),
        }
    }
}
