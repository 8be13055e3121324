//! Events and timers: each is handed to the part that its token or its key names.

use nix::sys::signal::Signal;

use super::fault_domain::FaultDomain;
use super::fault_injection;
use super::gateway_loop::GatewayLoop;
use super::slab::Token;
use super::timers::Timer;
use crate::control::all_sessions::AllSessions;
use crate::log;
use crate::session::relay::ClientEvent;
use fpty::sys::child::Pid;
use fpty::sys::poll::Ready;

impl GatewayLoop {
    /// Hands an event to whom it concerns.
    pub(super) fn dispatch(&mut self, ready: Ready) {
        let source = Token::of(ready.token);
        self.guarded(source.fault_domain(), |event_loop| event_loop.handle_event(source, ready));
        self.handle_outcomes();
    }

    pub(super) fn handle_event(&mut self, source: Token, ready: Ready) {
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
                self.transitions().with_registry(|registry, cx, _, _| registry.poll_ready(cx))
            }
            Token::Alarm => cx.timers.alarm_fired(),
        }
    }

    /// Does what is due.
    pub(super) fn fire(&mut self, timer: Timer) {
        self.guarded(timer.fault_domain(), |event_loop| event_loop.timer_fired(timer));
        self.handle_outcomes();
    }

    pub(super) fn timer_fired(&mut self, timer: Timer) {
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
                self.transitions().with_registry(|registry, cx, _, _| registry.run_deadlines(cx))
            }
            Timer::Listener(listener) => cx.listeners.resume(listener, &cx.poller),
        }
    }

    /// A program has ended, or the gateway is to.
    pub(super) fn signal_arrived(&mut self) {
        let arrived = self.children.next();
        if let Some(arrived) = arrived.filter(|arrived| arrived.signal != Signal::SIGCHLD) {
            let by_master =
                arrived.sender.map(Pid::as_raw) == Some(nix::unistd::getppid().as_raw());
            self.stop(by_master || arrived.by_terminal);
        }
        self.processes.children_ended(&mut self.cx, arrived.and_then(|arrived| arrived.sender));
    }
}
