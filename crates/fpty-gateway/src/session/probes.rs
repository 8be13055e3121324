//! Ends that nothing tells of, and the end of the input.

use std::time::Duration;

use super::byte_counts::ByteCounts;
use super::relay::{LiveSession, SessionAction, Sessions};
use super::timeouts::TimeLimited;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Due, LifeDue, TerminalDue};
use crate::process::table::Programs;
use fpty::proto::Ending;
use fpty::sys::pid_guard::Process;
use fpty::sys::proc_net_tcp::LocalTcp;
use fpty::sys::socket::Transport;

/// The first and the longest wait before looking whether the program reads
/// at the end of its input again, in milliseconds.
const END_OF_INPUT_FIRST: u16 = 20;
const END_OF_INPUT_LAST: u16 = 1000;

/// How often a client that could leave unheard is looked after.
const PEER_CLOSED_INTERVAL: Duration = Duration::from_secs(1);

/// How long a client may leave output unanswered that the kernel sends again
/// and again: as long as an idle one may leave keepalive probes. (By itself the
/// kernel gives up after a quarter of an hour.)
pub const TCP_STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// How often that is looked after, while there is such output.
pub const TCP_STALL_INTERVAL: Duration = Duration::from_secs(20);

/// How often a program that closed its terminal is looked after.
const SLAVE_REOPENED_INTERVAL: Duration = Duration::from_millis(200);

/// What of a session is looked after, because nothing would tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probes {
    /// Those of [`flag`] that are so: there is one of these for each session.
    flags: u8,
    /// The wait before the end of the input is looked after again, in
    /// milliseconds; 0: it has not ended.
    eof_wait: u16,
}

/// What of a session is so, of [`Probes`].
mod flag {
    /// Its terminal may be opened again.
    pub const SLAVE_CLOSED: u8 = 1;
    /// Its client could leave unheard.
    pub const PEER_CLOSED: u8 = 2;
    /// Its client's machine could be gone.
    pub const TCP_STALLED: u8 = 4;
    /// Its client sends no more, and is asked often whether it is there.
    pub const KEEPALIVE: u8 = 8;
}

impl Probes {
    /// It is so; returns whether it was not.
    fn set(&mut self, flag: u8) -> bool {
        let before = self.flags;
        self.flags |= flag;
        before & flag == 0
    }

    /// It is so no more.
    fn clear(&mut self, flag: u8) {
        self.flags &= !flag;
    }
}

impl LiveSession {
    /// How long ago something went either way through here, as far as that is kept.
    pub fn silent_for(&self) -> Option<Duration> {
        Some(self.io.byte_counts.as_ref()?.last_activity()?.elapsed())
    }

    /// Finds out whether a TCP client that is not heard has left, as far as the kernel
    /// tells. One that sends no more is asked often from now on.
    fn probe_peer_closed(&mut self, local_tcp: &mut LocalTcp) -> bool {
        let client = &self.io.client;
        if self.transport != Transport::Tcp {
            return false;
        }
        let sends_no_more = client.peer_sends_no_more();
        if sends_no_more && self.probes.set(flag::KEEPALIVE) {
            client.probe_often();
        }
        // Behind what is not read its end may not have found room.
        (sends_no_more || client.has_unread()) && local_tcp.peer_has_closed(client)
    }

    /// There may be output that the client's machine does not answer.
    pub fn watch_tcp_stall(&mut self, cx: &mut Context, key: Key) {
        if self.transport == Transport::Tcp && self.probes.set(flag::TCP_STALLED) {
            cx.after(TCP_STALL_INTERVAL, Due::Session(key, LifeDue::Unanswered));
        }
    }

    /// The client may be one that cannot be heard, or has said all that it
    /// has to say.
    pub fn check_input(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        let (session, probes) = (&self.session, &mut self.probes);
        if self.transport == Transport::Tcp
            && session.is_input_blocked()
            && probes.set(flag::PEER_CLOSED)
        {
            cx.after(PEER_CLOSED_INTERVAL, Due::Terminal(key, TerminalDue::Unheard));
        } else if probes.eof_wait == 0 && session.wants_end_of_input() {
            probes.eof_wait = END_OF_INPUT_FIRST;
            return self.send_eof(cx, key);
        }
        SessionAction::Wait
    }

    /// The client sends no more: whenever the program reads and nothing is
    /// left, it gets an end of file, as often as it asks; a pipe's reader
    /// would. What a client sends at once may be for several programs in turn.
    fn send_eof(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        let wait = self.probes.eof_wait;
        crate::event_loop::fault_injection::point("end-of-input");
        if self.probe_peer_closed(&mut cx.local_tcp) {
            return SessionAction::Teardown;
        }
        // Less and less often: a program that does not take it for the end
        // (IGNOREEOF) would else be told in a rage.
        self.probes.eof_wait = (wait * 2).min(END_OF_INPUT_LAST);
        if self.session.wants_end_of_input() {
            self.io.master.end_input();
        }
        cx.after(Duration::from_millis(wait.into()), Due::Terminal(key, TerminalDue::EndOfInput));
        SessionAction::Wait
    }

    /// A client whose input the program does not read may have left: over TCP
    /// the end of what it sent comes after all that it sent.
    fn check_peer_closed(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        self.probes.clear(flag::PEER_CLOSED);
        if self.session.is_input_blocked() && self.probe_peer_closed(&mut cx.local_tcp) {
            return SessionAction::Teardown;
        }
        self.settle(cx, key)
    }

    /// A client may have vanished while there was output for it.
    fn check_tcp_stall(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        match self.io.client.unanswered_for() {
            None => self.probes.clear(flag::TCP_STALLED),
            Some(silence) if silence >= TCP_STALL_TIMEOUT => return SessionAction::Teardown,
            Some(_) => cx.after(TCP_STALL_INTERVAL, Due::Session(key, LifeDue::Unanswered)),
        }
        SessionAction::Wait
    }

    /// A program that closed its terminal may have opened it again.
    fn check_slave_reopened(&mut self, cx: &mut Context, key: Key) -> SessionAction {
        self.probes.clear(flag::SLAVE_CLOSED);
        if self.session.terminal_open() || !self.session.program_runs() {
            return SessionAction::Wait;
        }
        // Nobody reads what it sends meanwhile, so its end is not heard.
        if self.probe_peer_closed(&mut cx.local_tcp) {
            return SessionAction::Teardown;
        }
        // Not before the client has read what there was: it would pile up.
        if !self.session.has_output() {
            self.session.slave_reopened();
            self.read_terminal(cx, false, |_| false);
        }
        self.settle(cx, key)
    }
}

impl TimeLimited for LiveSession {
    const WHAT: &'static str = "session";

    fn due(key: Key, due: LifeDue) -> Due {
        Due::Session(key, due)
    }

    fn timeout(rules: &Rules) -> Option<Duration> {
        rules.timeout
    }

    fn door(&self) -> u16 {
        self.door
    }

    fn byte_counts(&mut self) -> &mut Option<Box<ByteCounts>> {
        &mut self.io.byte_counts
    }

    fn idle_for(&self) -> Option<Duration> {
        match self.session.is_handed_over() {
            true => self.io.master.idle_for(),
            false => self.silent_for(),
        }
    }

    fn notice(&mut self, line: &str) {
        self.session.notice(line, &mut self.io);
    }

    fn terminate(&mut self, why: Ending, line: &str) {
        self.session.terminate(why, line, &mut self.io);
    }
}

impl Sessions {
    /// Does what is due for a session.
    pub fn timer_fired(&mut self, cx: &mut Context, key: Key, due: LifeDue) -> SessionAction {
        let Some(live) = self.get_mut(key) else {
            return SessionAction::Wait;
        };
        match due {
            LifeDue::Unanswered => return live.check_tcp_stall(cx, key),
            LifeDue::Dismissed => return SessionAction::HangUp,
            LifeDue::Executed => return live.check_started(cx, key),
            due => live.on_time_limit(cx, key, due),
        }
        live.settle(cx, key)
    }

    /// The same for its terminal, or its client.
    pub fn terminal_timer_fired(
        &mut self,
        cx: &mut Context,
        key: Key,
        due: TerminalDue,
    ) -> SessionAction {
        let Some(live) = self.get_mut(key) else {
            return SessionAction::Wait;
        };
        match due {
            TerminalDue::Drained => live.drained(cx, key),
            TerminalDue::EndOfInput => live.send_eof(cx, key),
            TerminalDue::Unheard => live.check_peer_closed(cx, key),
            TerminalDue::Reopened => live.check_slave_reopened(cx, key),
            TerminalDue::Offer => {
                live.offer(cx, key);
                SessionAction::Wait
            }
        }
    }

    /// A terminal is closed: its program may open it again.
    pub fn watch_slave_reopen(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        let Some(live) = self.get_mut(key) else {
            return;
        };
        if !live.session.program_runs() || !live.probes.set(flag::SLAVE_CLOSED) {
            return;
        }
        cx.after(SLAVE_REOPENED_INTERVAL, Due::Terminal(key, TerminalDue::Reopened));
        // Most often it has ended.
        let program = live.io.program.as_ref().map(Process::pid);
        if let Some(program) = program.filter(|_| programs.are_many()) {
            programs.reap_this(cx, program);
        }
    }
}
