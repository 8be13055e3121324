//! Ends that nothing tells of, and the end of the input.

use std::time::Duration;

use super::byte_counts::Traffic;
use super::relay::{Attached, Next, Sessions};
use super::timeouts::Timed;
use crate::config::rules::Rules;
use crate::event_loop::context::Context;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Due, LifeDue, TerminalDue};
use crate::process::table::Programs;
use fpty::proto::EndKind;
use fpty::sys::proc_net_tcp::ProcNetTcp;
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::socket::Transport;

/// The first and the longest wait before looking whether the program reads
/// at the end of its input again, in milliseconds.
const END_OF_INPUT_FIRST: u16 = 20;
const END_OF_INPUT_LAST: u16 = 1000;

/// How often a client that could leave unheard is looked after.
const UNHEARD: Duration = Duration::from_secs(1);

/// How long a client may leave output unanswered that the kernel sends again
/// and again: as long as an idle one may leave keepalive probes. (By itself the
/// kernel gives up after a quarter of an hour.)
pub const UNANSWERED: Duration = Duration::from_secs(120);

/// How often that is looked after, while there is such output.
pub const UNANSWERED_LOOK: Duration = Duration::from_secs(20);

/// How often a program that closed its terminal is looked after.
const REOPENED: Duration = Duration::from_millis(200);

/// What of a session is looked after, because nothing would tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet {
    /// Those of [`flag`] that are so: there is one of these for each session.
    flags: u8,
    /// The wait before the end of the input is looked after again, in
    /// milliseconds; 0: it has not ended.
    end_of_input: u16,
}

/// What of a session is so, of [`Quiet`].
mod flag {
    /// Its terminal may be opened again.
    pub const REOPENS: u8 = 1;
    /// Its client could leave unheard.
    pub const UNHEARD: u8 = 2;
    /// Its client's machine could be gone.
    pub const UNANSWERED: u8 = 4;
    /// Its client sends no more, and is asked often whether it is there.
    pub const PROBED: u8 = 8;
}

impl Quiet {
    /// It is so; returns whether it was not.
    fn begin(&mut self, flag: u8) -> bool {
        let before = self.flags;
        self.flags |= flag;
        before & flag == 0
    }

    /// It is so no more.
    fn end(&mut self, flag: u8) {
        self.flags &= !flag;
    }
}

impl Attached {
    /// How long ago something went either way through here, as far as that is kept.
    pub fn silent_for(&self) -> Option<Duration> {
        Some(self.wires.traffic.as_ref()?.last()?.elapsed())
    }

    /// Finds out whether a TCP client that is not heard has left, as far as the kernel
    /// tells. One that sends no more is asked often from now on.
    fn find_left(&mut self, local_tcp: &mut ProcNetTcp) -> bool {
        let client = &self.wires.client;
        if self.transport != Transport::Tcp {
            return false;
        }
        let sends_no_more = client.peer_sends_no_more();
        if sends_no_more && self.quiet.begin(flag::PROBED) {
            client.probe_often();
        }
        // Behind what is not read its end may not have found room.
        (sends_no_more || client.has_unread()) && local_tcp.peer_has_closed(client)
    }

    /// There may be output that the client's machine does not answer.
    pub fn look_for_answers(&mut self, cx: &mut Context, key: Key) {
        if self.transport == Transport::Tcp && self.quiet.begin(flag::UNANSWERED) {
            cx.after(UNANSWERED_LOOK, Due::Session(key, LifeDue::Unanswered));
        }
    }

    /// The client may be one that cannot be heard, or has said all that it
    /// has to say.
    pub fn look_after_input(&mut self, cx: &mut Context, key: Key) -> Next {
        let (session, quiet) = (&self.session, &mut self.quiet);
        if self.transport == Transport::Tcp && session.is_deaf() && quiet.begin(flag::UNHEARD) {
            cx.after(UNHEARD, Due::Terminal(key, TerminalDue::Unheard));
        } else if quiet.end_of_input == 0 && session.wants_end_of_input() {
            quiet.end_of_input = END_OF_INPUT_FIRST;
            return self.end_of_input(cx, key);
        }
        Next::Waits
    }

    /// The client sends no more: whenever the program reads and nothing is
    /// left, it gets an end of file, as often as it asks; a pipe's reader
    /// would. What a client sends at once may be for several programs in turn.
    fn end_of_input(&mut self, cx: &mut Context, key: Key) -> Next {
        let wait = self.quiet.end_of_input;
        crate::event_loop::fault_injection::point("end-of-input");
        if self.find_left(&mut cx.local_tcp) {
            return Next::Depart;
        }
        // Less and less often: a program that does not take it for the end
        // (IGNOREEOF) would else be told in a rage.
        self.quiet.end_of_input = (wait * 2).min(END_OF_INPUT_LAST);
        if self.session.wants_end_of_input() {
            self.wires.master.end_input();
        }
        cx.after(Duration::from_millis(wait.into()), Due::Terminal(key, TerminalDue::EndOfInput));
        Next::Waits
    }

    /// A client whose input the program does not read may have left: over TCP
    /// the end of what it sent comes after all that it sent.
    fn unheard(&mut self, cx: &mut Context, key: Key) -> Next {
        self.quiet.end(flag::UNHEARD);
        if self.session.is_deaf() && self.find_left(&mut cx.local_tcp) {
            return Next::Depart;
        }
        self.settle(cx, key)
    }

    /// A client may have vanished while there was output for it.
    fn unanswered(&mut self, cx: &mut Context, key: Key) -> Next {
        match self.wires.client.unacknowledged_for() {
            None => self.quiet.end(flag::UNANSWERED),
            Some(silence) if silence >= UNANSWERED => return Next::Depart,
            Some(_) => cx.after(UNANSWERED_LOOK, Due::Session(key, LifeDue::Unanswered)),
        }
        Next::Waits
    }

    /// A program that closed its terminal may have opened it again.
    fn reopened(&mut self, cx: &mut Context, key: Key) -> Next {
        self.quiet.end(flag::REOPENS);
        if self.session.terminal_open() || !self.session.program_runs() {
            return Next::Waits;
        }
        // Nobody reads what it sends meanwhile, so its end is not heard.
        if self.find_left(&mut cx.local_tcp) {
            return Next::Depart;
        }
        // Not before the client has read what there was: it would pile up.
        if !self.session.has_output() {
            self.session.terminal_reopened();
            self.read_terminal(cx, false, |_| false);
        }
        self.settle(cx, key)
    }
}

impl Timed for Attached {
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

    fn traffic(&mut self) -> &mut Option<Box<Traffic>> {
        &mut self.wires.traffic
    }

    fn idle_for(&self) -> Option<Duration> {
        match self.session.is_handed_over() {
            true => self.wires.master.idle_time(),
            false => self.silent_for(),
        }
    }

    fn notice(&mut self, line: &str) {
        self.session.notice(line, &mut self.wires);
    }

    fn dismiss(&mut self, why: EndKind, line: &str) {
        self.session.dismiss(why, line, &mut self.wires);
    }
}

impl Sessions {
    /// Does what is due for a session.
    pub fn comes_due(&mut self, cx: &mut Context, key: Key, due: LifeDue) -> Next {
        let Some(attached) = self.get_mut(key) else {
            return Next::Waits;
        };
        match due {
            LifeDue::Unanswered => return attached.unanswered(cx, key),
            LifeDue::Dismissed => return Next::Abandon,
            LifeDue::Executed => return attached.look_for_execution(cx, key),
            due => attached.time_passes(cx, key, due),
        }
        attached.settle(cx, key)
    }

    /// The same for its terminal, or its client.
    pub fn terminal_due(&mut self, cx: &mut Context, key: Key, due: TerminalDue) -> Next {
        let Some(attached) = self.get_mut(key) else {
            return Next::Waits;
        };
        match due {
            TerminalDue::Drained => attached.drained(cx, key),
            TerminalDue::EndOfInput => attached.end_of_input(cx, key),
            TerminalDue::Unheard => attached.unheard(cx, key),
            TerminalDue::Reopened => attached.reopened(cx, key),
            TerminalDue::Offer => {
                attached.offer(cx, key);
                Next::Waits
            }
        }
    }

    /// A terminal is closed: its program may open it again.
    pub fn look_for_reopened(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        let Some(attached) = self.get_mut(key) else {
            return;
        };
        if !attached.session.program_runs() || !attached.quiet.begin(flag::REOPENS) {
            return;
        }
        cx.after(REOPENED, Due::Terminal(key, TerminalDue::Reopened));
        // Most often it has ended.
        let program = attached.wires.program.as_ref().map(ProcessHandle::pid);
        if let Some(program) = program.filter(|_| programs.are_many()) {
            programs.reap_this(cx, program);
        }
    }
}
