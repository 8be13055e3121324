//! Probes: polling for what epoll does not report. A TCP client may close behind unread input, its
//! machine may vanish, a program may close its terminal and open it again; and a terminal has no
//! half-close, so EOF is typed again and again.

use std::time::Duration;

use super::byte_counts::ByteCounts;
use super::relay::{LiveSession, SessionAction, Sessions};
use super::timeouts::TimeLimited;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{SessionTimer, TerminalTimer, Timer};
use crate::process::process_table::ProcessTable;
use fpty::proto::EndKind;
use fpty::sys::proc_net_tcp::ProcNetTcp;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::socket::Transport;

/// First and longest delay between EOF characters for a program that reads on, in milliseconds.
const END_OF_INPUT_FIRST: u16 = 20;
const END_OF_INPUT_LAST: u16 = 1000;

/// Interval of checks whether a client with unread input has closed.
const PEER_CLOSED_INTERVAL: Duration = Duration::from_secs(1);

/// How long output may stay unacknowledged while the kernel retransmits: as long as an idle client
/// may leave keepalive probes unanswered. (The kernel itself gives up after a quarter of an hour.)
pub const TCP_STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Interval of checks for unacknowledged output.
pub const TCP_STALL_INTERVAL: Duration = Duration::from_secs(20);

/// Interval of checks whether a closed slave has been opened again.
const SLAVE_REOPENED_INTERVAL: Duration = Duration::from_millis(200);

/// State of a session's probes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probes {
    /// The [`flag`]s that are set: there is one such byte for each session.
    flags: u8,
    /// Delay before the next EOF character, in milliseconds; 0: the input has not ended.
    eof_wait: u16,
}

/// Flags of [`Probes`].
mod flag {
    /// The slave is closed: it may be opened again.
    pub const SLAVE_CLOSED: u8 = 1;
    /// Input is blocked: the peer could close unnoticed.
    pub const PEER_CLOSED: u8 = 2;
    /// Output is under way over TCP: it could stall.
    pub const TCP_STALLED: u8 = 4;
    /// The peer has shut down its writing half: keepalive probes are frequent.
    pub const KEEPALIVE: u8 = 8;
}

impl Probes {
    /// Sets a flag; returns whether it was not set.
    fn set(&mut self, flag: u8) -> bool {
        let before = self.flags;
        self.flags |= flag;
        before & flag == 0
    }

    /// Clears a flag.
    fn clear(&mut self, flag: u8) {
        self.flags &= !flag;
    }
}

impl LiveSession {
    /// Time since the last relayed byte, where it is kept.
    pub fn silent_for(&self) -> Option<Duration> {
        Some(self.io.byte_counts.as_ref()?.last_activity()?.elapsed())
    }

    /// Asks the kernel whether the TCP peer has closed, although its input is not read. After a
    /// half-close keepalive probes become frequent.
    fn probe_peer_closed(&mut self, local_tcp: &mut ProcNetTcp) -> bool {
        let client = &self.io.client;
        if self.transport != Transport::Tcp {
            return false;
        }
        let sends_no_more = client.peer_sends_no_more();
        if sends_no_more && self.probes.set(flag::KEEPALIVE) {
            client.probe_often();
        }
        // Behind unread input the peer's end may not have found room.
        (sends_no_more || client.has_unread()) && local_tcp.peer_has_closed(client)
    }

    /// Schedules the first check for a TCP stall.
    pub fn watch_tcp_stall(&mut self, cx: &mut Context, key: Key) {
        if self.transport == Transport::Tcp && self.probes.set(flag::TCP_STALLED) {
            cx.schedule(TCP_STALL_INTERVAL, Timer::Session(key, SessionTimer::TcpStalled));
        }
    }

    /// Starts the probes of a client whose input is blocked or has ended.
    pub fn check_input(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        let (session, probes) = (&self.session, &mut self.probes);
        if self.transport == Transport::Tcp
            && session.is_input_blocked()
            && probes.set(flag::PEER_CLOSED)
        {
            cx.schedule(PEER_CLOSED_INTERVAL, Timer::Terminal(key, TerminalTimer::PeerClosed));
        } else if probes.eof_wait == 0 && session.owes_eof() {
            probes.eof_wait = END_OF_INPUT_FIRST;
            return self.send_eof(cx, key);
        }
        SessionAction::Wait
    }

    /// Types EOF into the terminal: whenever the program reads and nothing is left it gets an end
    /// of file, as often as it asks; a pipe's reader would. What a client sends at once may be for
    /// several programs in turn.
    fn send_eof(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        let wait = self.probes.eof_wait;
        crate::event_loop::fault_injection::point("end-of-input");
        if self.probe_peer_closed(&mut cx.local_tcp) {
            return SessionAction::Teardown;
        }
        // Less and less often: a program that ignores EOF (IGNOREEOF) would else get a flood.
        self.probes.eof_wait = (wait * 2).min(END_OF_INPUT_LAST);
        if self.session.owes_eof() {
            self.io.master.end_input();
        }
        cx.schedule(
            Duration::from_millis(wait.into()),
            Timer::Terminal(key, TerminalTimer::EndOfInput),
        );
        SessionAction::Wait
    }

    /// Checks whether the peer of a blocked input has closed: over TCP its FIN comes after all that
    /// it sent.
    fn check_peer_closed(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        self.probes.clear(flag::PEER_CLOSED);
        if self.session.is_input_blocked() && self.probe_peer_closed(&mut cx.local_tcp) {
            return SessionAction::Teardown;
        }
        self.settle(cx, key)
    }

    /// Checks whether output over TCP is acknowledged: the peer's machine may have vanished.
    fn check_tcp_stall(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        match self.io.client.unacknowledged_for() {
            None => self.probes.clear(flag::TCP_STALLED),
            Some(silence) if silence >= TCP_STALL_TIMEOUT => return SessionAction::Teardown,
            Some(_) => {
                cx.schedule(TCP_STALL_INTERVAL, Timer::Session(key, SessionTimer::TcpStalled))
            }
        }
        SessionAction::Wait
    }

    /// Checks whether a program has opened its terminal again.
    fn check_slave_reopened(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        self.probes.clear(flag::SLAVE_CLOSED);
        if self.session.terminal_open() || !self.session.program_runs() {
            return SessionAction::Wait;
        }
        // The client is not read meanwhile, so its end is not reported.
        if self.probe_peer_closed(&mut cx.local_tcp) {
            return SessionAction::Teardown;
        }
        // Not before the client has read the pending output: more would pile up.
        if !self.session.has_output() {
            self.session.slave_reopened();
            self.read_terminal(cx, false, |_| false);
        }
        self.settle(cx, key)
    }
}

impl TimeLimited for LiveSession {
    const WHAT: &'static str = "session";

    fn due(key: Key, due: SessionTimer) -> Timer {
        Timer::Session(key, due)
    }

    fn timeout(rules: &Rules) -> Option<Duration> {
        rules.timeout
    }

    fn listener(&self) -> u16 {
        self.listener
    }

    fn byte_counts(&mut self) -> &mut Option<Box<ByteCounts>> {
        &mut self.io.byte_counts
    }

    fn idle_for(&self) -> Option<Duration> {
        match self.session.is_handed_over() {
            true => self.io.master.idle_time(),
            false => self.silent_for(),
        }
    }

    fn notice(&mut self, line: &str) {
        self.session.notice(line, &mut self.io);
    }

    fn terminate(&mut self, why: EndKind, line: &str) {
        self.session.terminate(why, line, &mut self.io);
    }
}

impl Sessions {
    /// Handles a timer of the session.
    pub fn timer_fired(&mut self, cx: &mut Context, key: Key, due: SessionTimer) -> SessionAction {
        let Some(live) = self.get_mut(key) else {
            return SessionAction::Wait;
        };
        match due {
            SessionTimer::TcpStalled => return live.check_tcp_stall(cx, key),
            SessionTimer::NoticeTimeout => return SessionAction::HangUp,
            SessionTimer::ExecCheck => return live.check_started(cx, key),
            due => live.on_time_limit(cx, key, due),
        }
        live.settle(cx, key)
    }

    /// Handles a timer of the session's terminal.
    pub fn terminal_timer_fired(
        &mut self,
        cx: &mut Context,
        key: Key,
        due: TerminalTimer,
    ) -> SessionAction {
        let Some(live) = self.get_mut(key) else {
            return SessionAction::Wait;
        };
        match due {
            TerminalTimer::DrainTimeout => live.drain_again(cx, key),
            TerminalTimer::EndOfInput => live.send_eof(cx, key),
            TerminalTimer::PeerClosed => live.check_peer_closed(cx, key),
            TerminalTimer::SlaveReopened => live.check_slave_reopened(cx, key),
            TerminalTimer::Offer => {
                live.offer(cx, key);
                SessionAction::Wait
            }
        }
    }

    /// Starts the probe for a closed slave: the program may open it again.
    pub fn watch_slave_reopen(&mut self, cx: &mut Context, processes: &mut ProcessTable, key: Key) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        if !live.session.program_runs() || !live.probes.set(flag::SLAVE_CLOSED) {
            return;
        }
        cx.schedule(SLAVE_REOPENED_INTERVAL, Timer::Terminal(key, TerminalTimer::SlaveReopened));
        // Most often the program has ended.
        let program = live.io.program.as_ref().map(ProcessHandle::pid);
        if let Some(program) = program.filter(|_| processes.has_many()) {
            processes.reap_one(cx, program);
        }
    }
}
