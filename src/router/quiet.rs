//! Ends that nothing tells of, and the end of the input.

use std::time::Duration;

use super::context::Context;
use super::idle::{ENDS_SOON, Idleness, LAST_WORD};
use super::programs::Programs;
use super::table::Key;
use super::timers::{Due, SessionDue};
use super::traffic::{Attached, Next, Sessions};
use fpty::proto::Ending;
use fpty::sys::local_tcp::LocalTcp;
use fpty::sys::process::Process;
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
    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

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
    /// How long nothing has gone either way, as far as that is kept.
    pub fn idle_for(&self) -> Option<Duration> {
        let last = self.wires.traffic.as_ref()?.last()?;
        Some(last.elapsed())
    }

    /// Whether a TCP client that is not heard has left, as far as the kernel
    /// tells. One that sends no more is asked often from now on.
    fn has_left(&mut self, local_tcp: &mut LocalTcp) -> bool {
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
}

impl Attached {
    /// There may be output that the client's machine does not answer.
    pub fn look_for_answers(&mut self, cx: &mut Context, key: Key) {
        if self.transport == Transport::Tcp && self.quiet.begin(flag::UNANSWERED) {
            cx.after(UNANSWERED_LOOK, Due::Session(key, SessionDue::Unanswered));
        }
    }

    /// The client may be one that cannot be heard, or has said all that it
    /// has to say.
    pub fn look_after_input(&mut self, cx: &mut Context, key: Key) -> Next {
        let (session, quiet) = (&self.session, &mut self.quiet);
        if self.transport == Transport::Tcp && session.is_deaf() && quiet.begin(flag::UNHEARD) {
            cx.after(UNHEARD, Due::Session(key, SessionDue::Unheard));
        } else if quiet.end_of_input == 0 && session.wants_end_of_input() {
            quiet.end_of_input = END_OF_INPUT_FIRST;
            return self.end_of_input(cx, key);
        }
        Next::Waits
    }

    fn end_of_input(&mut self, cx: &mut Context, key: Key) -> Next {
        let wait = self.quiet.end_of_input;
        super::fault::point("end-of-input");
        if self.has_left(&mut cx.local_tcp) {
            return Next::Depart;
        }
        // Less and less often: a program that does not take it for the end
        // (IGNOREEOF) would else be told in a rage.
        self.quiet.end_of_input = (wait * 2).min(END_OF_INPUT_LAST);
        if self.session.wants_end_of_input() {
            self.wires.master.end_input();
        }
        cx.after(Duration::from_millis(wait.into()), Due::Session(key, SessionDue::EndOfInput));
        Next::Waits
    }
}

impl Sessions {
    /// Does what is due for a session.
    pub fn comes_due(&mut self, cx: &mut Context, key: Key, due: SessionDue) -> Next {
        match due {
            SessionDue::Idle => self.idle(cx, key, false),
            SessionDue::IdleSoon => self.idle(cx, key, true),
            SessionDue::Drained => self.drained(cx, key),
            SessionDue::EndOfInput => self.end_of_input(cx, key),
            SessionDue::Unheard => self.unheard(cx, key),
            SessionDue::Unanswered => self.unanswered(cx, key),
            SessionDue::Reopened => self.reopened(cx, key),
            SessionDue::Dismissed => Next::Abandon,
            SessionDue::Executed => self.look_for_execution(cx, key),
            SessionDue::LimitSoon => self.limit_comes(cx, key),
            SessionDue::Limit => self.limit(cx, key),
            SessionDue::Offer => {
                self.offer(cx, key);
                Next::Waits
            }
        }
    }

    /// A terminal is closed: its program may open it again.
    pub fn look_for_reopened(&mut self, cx: &mut Context, programs: &mut Programs, key: Key) {
        let Some(attached) = self.get_mut(key) else {
            return;
        };
        if !attached.session.program_runs() || attached.quiet.is(flag::REOPENS) {
            return;
        }
        attached.quiet.begin(flag::REOPENS);
        let program = attached.wires.program.as_ref().map(Process::pid);
        cx.after(REOPENED, Due::Session(key, SessionDue::Reopened));
        // Most often it has ended.
        if let Some(program) = program.filter(|_| programs.are_many()) {
            programs.reap_this(cx, program);
        }
    }

    /// The client sends no more: whenever the program reads and nothing is
    /// left, it gets an end of file, as often as it asks; a pipe's reader
    /// would. What a client sends at once may be for several programs in turn.
    fn end_of_input(&mut self, cx: &mut Context, key: Key) -> Next {
        self.get_mut(key).map_or(Next::Waits, |attached| attached.end_of_input(cx, key))
    }

    /// A client whose input the program does not read may have left: over TCP
    /// the end of what it sent comes after all that it sent.
    fn unheard(&mut self, cx: &mut Context, key: Key) -> Next {
        let Some(attached) = self.get_mut(key) else {
            return Next::Waits;
        };
        attached.quiet.end(flag::UNHEARD);
        if attached.session.is_deaf() && attached.has_left(&mut cx.local_tcp) {
            return Next::Depart;
        }
        self.settle(cx, key)
    }

    /// A client may have vanished while there was output for it.
    fn unanswered(&mut self, cx: &mut Context, key: Key) -> Next {
        let Some(attached) = self.get_mut(key) else {
            return Next::Waits;
        };
        match attached.wires.client.unanswered_for() {
            None => attached.quiet.end(flag::UNANSWERED),
            Some(silence) if silence >= UNANSWERED => return Next::Depart,
            Some(_) => cx.after(UNANSWERED_LOOK, Due::Session(key, SessionDue::Unanswered)),
        }
        Next::Waits
    }

    /// A program that closed its terminal may have opened it again.
    fn reopened(&mut self, cx: &mut Context, key: Key) -> Next {
        let Some(attached) = self.get_mut(key) else {
            return Next::Waits;
        };
        attached.quiet.end(flag::REOPENS);
        if attached.session.terminal_open() || !attached.session.program_runs() {
            return Next::Waits;
        }
        // Nobody reads what it sends meanwhile, so its end is not heard.
        if attached.has_left(&mut cx.local_tcp) {
            return Next::Depart;
        }
        // Not before the client has read what there was: it would pile up.
        if !attached.session.has_output() {
            attached.session.terminal_reopened();
            attached.read_terminal(cx, false, |_| false);
        }
        self.settle(cx, key)
    }

    /// Looks whether a session has been idle for too long, or will have been before
    /// long, which its client is told once.
    fn idle(&mut self, cx: &mut Context, key: Key, was_told: bool) -> Next {
        let Some(attached) = self.get_mut(key) else {
            return Next::Waits;
        };
        let Some(timeout) = cx.doors.rules(attached.door).and_then(|rules| rules.timeout) else {
            return Next::Waits;
        };
        let idle = match attached.session.is_handed_over() {
            true => attached.wires.master.idle_for(),
            false => attached.idle_for(),
        };
        match Idleness::of(idle.unwrap_or(timeout), timeout, was_told) {
            Idleness::Wait(wait) => cx.after(wait, Due::Session(key, SessionDue::Idle)),
            Idleness::WaitOfTold(wait) => cx.after(wait, Due::Session(key, SessionDue::IdleSoon)),
            Idleness::Tell(wait) => {
                attached.session.notice(ENDS_SOON, &mut attached.wires);
                cx.after(wait, Due::Session(key, SessionDue::IdleSoon));
                return self.settle(cx, key);
            }
            Idleness::Over => {
                let line = Idleness::line("session", timeout);
                attached.session.dismiss(Ending::Idle, &line, &mut attached.wires);
                cx.after(LAST_WORD, Due::Session(key, SessionDue::Dismissed));
                return self.settle(cx, key);
            }
        }
        Next::Waits
    }

    /// A session begins that may be idle only for so long.
    pub fn watch_idleness(&mut self, cx: &mut Context, key: Key, timeout: Duration) {
        // A terminal that is handed over keeps its times by that one.
        fpty::sys::clock::look_at_wall_clock();
        if let Some(attached) = self.get_mut(key) {
            attached.wires.traffic.get_or_insert_with(Box::default).note();
        }
        if let Idleness::Wait(wait) = Idleness::of(Duration::ZERO, timeout, false) {
            cx.after(wait, Due::Session(key, SessionDue::Idle));
        }
    }
}
