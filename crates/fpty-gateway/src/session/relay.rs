//! Bytes between a client and its terminal.

use std::os::fd::AsFd;
use std::rc::Rc;

use super::byte_counts::Traffic;
use super::probes::Quiet;
use super::state::{Ends, Key, Session, Verdict};
use crate::event_loop::context::{BUFFER, Context};
use crate::event_loop::slab::{self, Source, Table};
use crate::observe::audit::Gone;
use crate::observe::recording::tap::Recording;
use fpty::proto::EndKind;
use fpty::sys::cpu_affinity::Concurrency;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::{ReadOutcome, Size, WriteOutcome};

/// A terminal yields at most this much at once, whatever one asks for.
const ONE_READ: usize = 4096;

/// After a read of less than this there is most likely nothing more.
const MORE_LIKELY: usize = 1024;

/// Who sends as much at once (1,024 bytes) is no person that types.
const BULK: Magnitude = 11;
/// More than one read yields.
const MUCH: Magnitude = 13;

/// How much went at once, by the number of its bits: there are two of these for
/// each session.
type Magnitude = u8;

fn magnitude(count: usize) -> Magnitude {
    // At most 64.
    (usize::BITS - count.leading_zeros()) as u8
}

/// Instead of how often, in `drains`: it is over, and its client's first word
/// is still waited for.
pub const LINGERS: u8 = u8::MAX;

/// A session and what it is connected to.
pub struct Attached {
    pub session: Session,
    pub wires: Wires,
    pub transport: Transport,
    /// What the poller was told.
    pub client_interest: Interest,
    /// What the poller was told; `None`: it does not have the descriptor.
    pub terminal_interest: Option<Interest>,
    /// How much the client sent last.
    last_input: Magnitude,
    /// How much the program wrote last; 0: it never has.
    last_output: Magnitude,
    /// Where its client came in.
    pub door: u16,
    /// What of it is looked after.
    pub quiet: Quiet,
    /// How often a terminal that outlives its program still had output; see
    /// [`LINGERS`].
    pub drains: u8,
    /// The program was not executed yet: the wait before that is looked after
    /// again, in milliseconds. 0: it was.
    pub starting: u8,
    /// How its program ended.
    pub exit: Option<Gone>,
}

/// The sessions of a gateway.
pub type Sessions = Table<Attached>;

/// The two ends of a session.
pub struct Wires {
    pub client: Stream,
    pub master: Master,
    /// The session's process until it is reaped: then its number is no longer
    /// its own.
    pub program: Option<ProcessHandle>,
    /// How much goes and when, where somebody wants to know.
    pub traffic: Option<Box<Traffic>>,
}

impl Attached {
    /// A session just begun.
    pub fn new(session: Session, wires: Wires, transport: Transport, door: u16) -> Self {
        Self {
            session,
            wires,
            transport,
            client_interest: Interest::READ,
            terminal_interest: None,
            last_input: 0,
            last_output: 0,
            door,
            quiet: Quiet::default(),
            drains: 0,
            starting: 0,
            exit: None,
        }
    }
}

impl Wires {
    /// Of a session just begun.
    pub fn new(client: Stream, master: Master, program: Option<ProcessHandle>) -> Self {
        Self { client, master, program, traffic: None }
    }

    /// It goes on to be recorded, if it was.
    pub fn record_by(&mut self, recording: Option<Rc<Recording>>) {
        if recording.is_some() {
            self.traffic.get_or_insert_with(Box::default).recording = recording;
        }
    }

    /// Where it is recorded, if it is.
    pub fn recording(&self) -> Option<&Rc<Recording>> {
        self.traffic.as_ref()?.recording.as_ref()
    }

    /// Whether it is, or ever was: a recording that failed stays with its
    /// session.
    pub fn is_recorded(&self) -> bool {
        self.recording().is_some()
    }
}

impl Attached {
    /// Whether the terminal is not to be read now: there might be no room to
    /// record what comes from it.
    fn holds(&self) -> bool {
        self.wires.recording().is_some_and(|recording| recording.holds())
    }

    /// Whether it was not read for that.
    fn is_held(&self) -> bool {
        self.wires.recording().is_some_and(|recording| recording.is_held())
    }
}

impl Ends for Wires {
    fn write_terminal(&mut self, bytes: &[u8]) -> WriteOutcome {
        let written = self.master.write(bytes);
        if let (Some(traffic), WriteOutcome::Bytes(count)) = (&mut self.traffic, written) {
            traffic.took_in(&bytes[..count]);
        }
        written
    }

    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome {
        self.client.write(bytes)
    }

    fn resize(&mut self, size: Size) {
        let resized = self.master.resize(size);
        if let (Some(recording), Ok(())) = (self.recording(), resized) {
            recording.resized(size);
        }
    }

    fn signal(&mut self, number: u8) {
        if let Some(program) = &self.program {
            program.signal(number.into());
        }
    }

    fn key(&mut self, number: u8) -> Key {
        match self.master.signal_key(number.into()) {
            Some(key) if key.flushes_input => {
                self.master.flush_input();
                Key::Drops(key.byte)
            }
            Some(key) => Key::Is(key.byte),
            None => {
                let _ = self.master.signal_foreground(number.into());
                Key::None
            }
        }
    }
}

/// What a client's event has come to.
#[must_use]
pub enum Heard {
    /// See what its session needs now.
    Settle,
    /// Its first bytes stand in the buffer: is it a terminal's client at all?
    First,
    /// There are no more of them.
    FirstEnded,
    /// There is no such session.
    Nobody,
}

/// What a session comes to, that concerns others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Nothing: it waits.
    Waits,
    /// Whoever was given its terminal made it wait.
    HeldUp,
    /// It is over, and its client's first word is still waited for.
    Linger,
    /// It is over: its client has all that it will get.
    Close,
    /// Its client has left.
    Depart,
    /// Its client is gone for good, or is let go.
    Abandon,
    /// Its client asks to leave.
    Leave,
    /// Its client says hello after all.
    Greet,
    /// Its terminal is its client's from here on.
    HandedOver,
    /// Its terminal was closed, and may be opened again.
    MayReopen,
}

impl Sessions {
    /// Whether an event is about one end of a stream, which takes a while to
    /// pass on: there is more of it, or room for what there was.
    pub fn is_bulk(&self, ready: Ready) -> bool {
        let (key, of_client) = match Source::of(ready.token) {
            Source::Client(key) => (key, true),
            Source::Terminal(key) => (key, false),
            _ => return false,
        };
        self.get(key).is_some_and(|attached| {
            let (input, output) = (attached.last_input >= BULK, attached.last_output >= BULK);
            let (more, room) = if of_client { (input, output) } else { (output, input) };
            more || (ready.write && room)
        })
    }

    /// The client sent something, takes output again, or left.
    pub fn client_ready(&mut self, cx: &mut Context, key: slab::Key, ready: Ready) -> Heard {
        let Some(attached) = self.get_mut(key) else {
            return Heard::Nobody;
        };
        let Attached { session, wires, last_input, .. } = attached;
        let _armed = wires.master.arm();
        if ready.write {
            session.client_writable(wires);
        }
        if ready.read && session.client_interest().read {
            match wires.client.read_into(&mut cx.input) {
                ReadOutcome::Bytes(count) => {
                    *last_input = magnitude(count);
                    crate::event_loop::fault_injection::strike("input", || &cx.input);
                    crate::event_loop::fault_injection::arm(&cx.input);
                    if session.is_new() {
                        return Heard::First;
                    }
                    cx.hear(key, session, wires);
                }
                // A UNIX socket that was closed is hung up as well; one whose
                // writing half was shut down is not.
                ReadOutcome::Eof if ready.hang_up => session.client_left(),
                ReadOutcome::Eof if session.is_new() => return Heard::FirstEnded,
                ReadOutcome::Eof => session.client_ended(),
                ReadOutcome::Closed => session.client_left(),
                ReadOutcome::WouldBlock => {}
            }
        } else if ready.hang_up && !session.is_behind() {
            // Of one that is behind the rest is heard, then it is read to its
            // end.
            session.client_left();
        } else if ready.read {
            let wanted = session.client_interest();
            attached.watch_client(key, wanted, &cx.poller);
        }
        Heard::Settle
    }

    /// The program wrote something, takes input again, or closed its terminal.
    pub fn terminal_ready(&mut self, cx: &mut Context, key: slab::Key, ready: Ready) {
        // Whoever is alone keeps nobody waiting.
        let alone = self.len() == 1;
        let in_parallel = cx.parallel != Concurrency::None;
        let Some(attached) = self.get_mut(key) else {
            return;
        };
        let armed = attached.wires.master.arm();
        if ready.write {
            attached.session.terminal_writable(&mut attached.wires);
        }
        if ready.read || ready.hang_up {
            if attached.session.terminal_interest().read && !attached.holds() {
                // With several processors the stream's client can take the one
                // read meanwhile. The poll comes first all the same: without
                // it an echo beside a stream took a third longer.
                let wait = |poller: &Poller| {
                    !alone && (poller.has_others_ready(ready.token) || in_parallel)
                };
                attached.read_terminal(cx, ready.hang_up, wait);
            } else if ready.hang_up {
                // A hang-up is told again and again, asked for or not: until
                // its client reads again the poller does without it.
                attached.forget_terminal(&cx.poller);
            }
        }
        drop(armed);
        attached.look_for_answers(cx, key);
    }

    /// After anything that happened to a session, see [`Attached::settle`].
    pub fn settle(&mut self, cx: &mut Context, key: slab::Key) -> Next {
        self.get_mut(key).map_or(Next::Waits, |attached| attached.settle(cx, key))
    }
}

impl Attached {
    /// After anything that happened to it: waits for what it needs now, or says what
    /// it comes to.
    pub(crate) fn settle(&mut self, cx: &mut Context, key: slab::Key) -> Next {
        if self.wires.master.is_stalled() && self.session.dismissed().is_none() {
            return Next::HeldUp;
        }
        match self.session.verdict() {
            Verdict::Lives => {}
            Verdict::Over if self.session.may_greet() => return Next::Linger,
            Verdict::Over => return Next::Close,
            Verdict::Abandoned => return Next::Depart,
            Verdict::Left => return Next::Leave,
            Verdict::Greets => return Next::Greet,
            Verdict::Starved => {
                // In the midst of output that it does not read it would be
                // misread.
                if !self.session.has_output() {
                    let line = "session ended: out of memory";
                    self.session.dismiss(EndKind::Lost, line, &mut self.wires);
                }
                cx.doors.log_refusal("forkptyrouter: session ended: out of memory");
                return Next::Close;
            }
        }
        let wanted = self.session.client_interest();
        // What is not wanted any more is taken back when it comes
        // (client_ready): most often it never does.
        if wanted.write != self.client_interest.write || (wanted.read && !self.client_interest.read)
        {
            self.watch_client(key, wanted, &cx.poller);
        }
        if self.session.is_handed_over()
            && (self.terminal_interest.is_some() || self.session.owes_go())
        {
            self.forget_terminal(&cx.poller);
            return Next::HandedOver;
        }
        if !self.session.terminal_open() {
            self.forget_terminal(&cx.poller);
            return Next::MayReopen;
        }
        let mut wanted = self.session.terminal_interest();
        wanted.read &= !self.is_held();
        let is_ours = !self.session.is_handed_over() && self.starting == 0;
        if self.terminal_interest != Some(wanted) && is_ours {
            self.watch_terminal(key, wanted, &cx.poller);
        }
        self.look_after_input(cx, key)
    }

    /// Reads what the program wrote, as long as there is more and room for
    /// it and nobody else waits, and passes it on in one write: a terminal
    /// yields little at once, and each write wakes the client. Of one that was
    /// hung up what is left, and its end. What comes in a stream goes through
    /// the pipe, which is empty before and after. Returns whether there was
    /// anything.
    pub(crate) fn read_terminal(
        &mut self,
        cx: &mut Context,
        hung_up: bool,
        somebody_waits: impl Fn(&Poller) -> bool,
    ) -> bool {
        let Context { buffer, pipe, poller, .. } = cx;
        let mut have = 0;
        let mut ended = false;
        // That takes a system call more, so it pays where there are many reads.
        let mut none = None;
        // What is recorded, or kept, is looked at; and one that others have could
        // make it wait.
        let through_it = self.last_output >= MUCH
            && !self.wires.master.is_shared()
            && self.wires.recording().is_none()
            && self.session.kept().is_none();
        let pipe = if through_it { pipe } else { &mut none };
        // What is read goes behind its header, where there is to be one.
        let start = self.session.output_header_length();
        while start + have + ONE_READ <= BUFFER {
            let read = match pipe {
                None => self.wires.master.read(&mut buffer[start + have..]),
                Some(through) => match through.splice_from(&self.wires.master, ONE_READ) {
                    Some(read) => read,
                    None if have > 0 => break,
                    None => {
                        *pipe = None;
                        continue;
                    }
                },
            };
            match read {
                ReadOutcome::Bytes(count) => {
                    have += count;
                    let more_likely = hung_up || count >= MORE_LIKELY;
                    if !more_likely || (count >= MORE_LIKELY && somebody_waits(poller)) {
                        break;
                    }
                }
                ReadOutcome::WouldBlock => break,
                ReadOutcome::Eof | ReadOutcome::Closed => {
                    ended = true;
                    break;
                }
            }
        }
        self.last_output = magnitude(have).max(u8::from(self.has_shown()));
        let spoke = have > 0;
        if spoke {
            crate::event_loop::fault_injection::strike("output", || &buffer[start..start + have]);
            if let Some(traffic) = &mut self.wires.traffic {
                traffic.gave_out(have);
                if let Some(recording) = &traffic.recording {
                    recording.output(&buffer[start..start + have]);
                }
            }
            let (mut from, to) = (0, start + have);
            if let Some(header) = self.session.output_header(have) {
                buffer[..start].copy_from_slice(&header);
            }
            if let Some(pipe) = pipe {
                from += self.wires.client.write_with_more(&buffer[..start]);
                if from == start {
                    from += pipe.flush(&self.wires.client, have);
                }
                // What the client does not take waits elsewhere: the pipe is
                // for the next one.
                if from < to {
                    pipe.read(&mut buffer[from.max(start)..to]);
                }
            }
            if from < to {
                self.session.terminal_sent(&buffer[from..to], &mut self.wires);
            }
        }
        if ended {
            self.session.terminal_ended(&mut self.wires);
        }
        spoke
    }

    /// Whether its program has shown something.
    pub(crate) fn has_shown(&self) -> bool {
        self.last_output > 0
    }

    fn watch_client(&mut self, key: slab::Key, wanted: Interest, poller: &Poller) {
        let _ = poller.change(self.wires.client.as_fd(), Source::Client(key).token(), wanted);
        self.client_interest = wanted;
    }

    fn watch_terminal(&mut self, key: slab::Key, wanted: Interest, poller: &Poller) {
        let token = Source::Terminal(key).token();
        let master = self.wires.master.as_fd();
        let _ = match self.terminal_interest {
            Some(_) => poller.change(master, token, wanted),
            // Hung up, and nobody reads: see terminal_ready.
            None if !wanted.read => return,
            None => poller.add(master, token, wanted),
        };
        self.terminal_interest = Some(wanted);
    }

    pub(crate) fn forget_terminal(&mut self, poller: &Poller) {
        if self.terminal_interest.take().is_some() {
            let _ = poller.remove(self.wires.master.as_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is one for each session, most of them idle.
    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Attached>() <= 88, "{} bytes", size_of::<Attached>());
    }
}
