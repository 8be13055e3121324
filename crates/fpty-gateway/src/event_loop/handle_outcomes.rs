//! Outcomes: what parts have emitted is done here, after the part has finished.

use super::fault_domain::{FaultDomain, SessionRef};
use super::fault_injection;
use super::gateway_loop::GatewayLoop;
use super::outcome::Outcome;
use super::slab::Key;
use crate::control::peers::Requester;
use crate::detach::{self};
use crate::observe::audit::EndReason;
use crate::session::open::exec_error;
use fpty::sys::child::{Exit, Pid};

impl GatewayLoop {
    /// Does what parts have come to.
    pub(super) fn handle_outcomes(&mut self) {
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

    pub(super) fn handle_outcome(&mut self, outcome: Outcome) {
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
                    registry.handle_event(cx, sessions, processes, ready);
                })
            }
            Outcome::DetachedDeadline(key) => {
                self.transitions().with_registry(|registry, cx, sessions, processes| {
                    registry.handle_deadline(cx, sessions, processes, key);
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

    /// A program was reaped.
    pub(super) fn program_ended(&mut self, program: Pid, session: Option<Key>, exit: Exit) {
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
    pub(super) fn session_of_program(
        &self,
        program: Pid,
        session: Option<Key>,
    ) -> Option<SessionRef> {
        let session = session.filter(|key| self.sessions.has(*key)).map(SessionRef::Session);
        let command = || self.commands.by_program(program).map(SessionRef::Command);
        let registry = || self.registry.as_ref()?.by_program(program).map(SessionRef::Detached);
        session.or_else(command).or_else(registry)
    }
}
