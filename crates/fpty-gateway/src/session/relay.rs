//! Relay between a client and its terminal, and the live session that is relayed.

use std::os::fd::AsFd;
use std::rc::Rc;

use super::byte_counts::ByteCounts;
use super::probes::Probes;
use super::state::{NextAction, Session, SessionEffects, SignalKey};
use crate::event_loop::context::{BUFFER, Context};
use crate::event_loop::slab::{self, Slab, Token};
use crate::observe::audit::EndReason;
use crate::observe::recording::tap::RecordingTap;
use fpty::proto::EndKind;
use fpty::sys::cpu_affinity::Concurrency;
use fpty::sys::poll::{Interest, Poller, Ready};
use fpty::sys::process_handle::ProcessHandle;
use fpty::sys::pty::Master;
use fpty::sys::socket::{Stream, Transport};
use fpty::sys::{ReadOutcome, Size, WriteOutcome};

/// Most bytes that one read of a terminal yields, whatever the buffer.
const ONE_READ: usize = 4096;

/// Length of a read in bytes; after a shorter one there is most likely nothing
/// more.
const SHORT_READ: usize = 1024;

/// From this magnitude (1,024 bytes at once) a sender is a program, not a person who types.
const BULK: Magnitude = 11;
/// From this magnitude one transfer is more than one read yields.
const SPLICE_FROM: Magnitude = 13;

/// Size of a transfer, as its number of bits: each session has two of these.
type Magnitude = u8;

fn magnitude(count: usize) -> Magnitude {
    // At most 64.
    (usize::BITS - count.leading_zeros()) as u8
}

/// Value of `drains` for a session that is over while the client's hello is still awaited.
pub const AWAITS_HELLO: u8 = u8::MAX;

/// A session with its descriptors and what the event loop keeps of it.
pub struct LiveSession {
    pub session: Session,
    pub io: SessionIo,
    pub transport: Transport,
    /// Interest in the client's connection that the poller has.
    pub client_interest: Interest,
    /// Interest in the terminal that the poller has; `None`: the terminal is not registered.
    pub terminal_interest: Option<Interest>,
    /// Magnitude of the client's last transfer.
    last_input: Magnitude,
    /// Magnitude of the program's last transfer; 0: there was none yet.
    last_output: Magnitude,
    /// The socket where the client came in, by its index.
    pub listener: u16,
    /// Conditions that are polled.
    pub probes: Probes,
    /// How often the terminal of an ended program still had output, or [`AWAITS_HELLO`].
    pub drains: u8,
    /// Delay of the next check whether the program has been executed, in milliseconds; 0: it has.
    pub started_poll: u8,
    /// The end of the program.
    pub exit: Option<EndReason>,
}

/// The live sessions of a gateway.
pub type Sessions = Slab<LiveSession>;

/// Descriptors of a session, and its process.
pub struct SessionIo {
    pub client: Stream,
    pub master: Master,
    /// The process until it is reaped: after that the number may be another process's.
    pub program: Option<ProcessHandle>,
    /// Byte counts, where audit, limits or statistics need them.
    pub byte_counts: Option<Box<ByteCounts>>,
}

impl LiveSession {
    /// A live session that nothing is registered for yet.
    pub fn new(session: Session, io: SessionIo, transport: Transport, listener: u16) -> Self {
        Self {
            session,
            io,
            transport,
            client_interest: Interest::READ,
            terminal_interest: None,
            last_input: 0,
            last_output: 0,
            listener,
            probes: Probes::default(),
            drains: 0,
            started_poll: 0,
            exit: None,
        }
    }
}

impl SessionIo {
    /// The descriptors of a session without byte counts.
    pub fn new(client: Stream, master: Master, program: Option<ProcessHandle>) -> Self {
        Self { client, master, program, byte_counts: None }
    }

    /// Sets the recording of a session that goes on being recorded.
    pub fn set_recording(&mut self, recording: Option<Rc<RecordingTap>>) {
        if recording.is_some() {
            self.byte_counts.get_or_insert_with(Box::default).recording = recording;
        }
    }

    /// The session's recording.
    pub fn recording(&self) -> Option<&Rc<RecordingTap>> {
        self.byte_counts.as_ref()?.recording.as_ref()
    }
}

impl SessionEffects for SessionIo {
    fn write_terminal(&mut self, bytes: &[u8]) -> WriteOutcome {
        let written = self.master.write(bytes);
        if let (Some(byte_counts), WriteOutcome::Bytes(count)) = (&mut self.byte_counts, written) {
            byte_counts.count_input(&bytes[..count]);
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

    fn key(&mut self, number: u8) -> SignalKey {
        match self.master.signal_key(number.into()) {
            Some(key) if key.flushes_input => {
                self.master.flush_input();
                SignalKey::DropsInput(key.byte)
            }
            Some(key) => SignalKey::AsInput(key.byte),
            None => {
                let _ = self.master.signal_foreground(number.into());
                SignalKey::None
            }
        }
    }
}

/// Result of a client's event.
#[must_use]
pub enum ClientEvent {
    /// The session is to be settled.
    Settle,
    /// The first bytes of raw mode are in the buffer: they may be an HTTP request.
    FirstBytes,
    /// The input ended before the first bytes were known.
    FirstEof,
}

/// Action that a session needs from the parts above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SessionAction {
    /// Nothing: it waits for events.
    Wait,
    /// Another process that shares the terminal made it block.
    TerminalBlocked,
    /// The session is over while the client's hello is still awaited.
    AwaitHello,
    /// The session is over, and its client has all output.
    Close,
    /// The client's connection is lost.
    Teardown,
    /// The client is gone for good, or is dropped.
    HangUp,
    /// The client asks to detach.
    Detach,
    /// The client's hello has come late.
    LateHello,
    /// The terminal has been handed over to the client.
    HandedOver,
    /// The slave is closed, and may be opened again.
    SlaveClosed,
}

impl Sessions {
    /// Whether an event is about a bulk transfer, which may wait for the other events of its turn:
    /// there is more to read, or room for what waited.
    pub fn is_deferrable(&self, ready: Ready) -> bool {
        let (key, of_client) = match Token::of(ready.token) {
            Token::Client(key) => (key, true),
            Token::Terminal(key) => (key, false),
            _ => return false,
        };
        self.get(key).is_some_and(|live| {
            let (input, output) = (live.last_input >= BULK, live.last_output >= BULK);
            let (more, room) = if of_client { (input, output) } else { (output, input) };
            more || (ready.write && room)
        })
    }

    /// Handles an event of the client's connection: input, room for output, hang-up.
    pub fn client_ready(&mut self, cx: &mut Context, key: slab::Key, ready: Ready) -> ClientEvent {
        let Some(live) = self.get_mut(key) else {
            return ClientEvent::Settle;
        };
        let LiveSession { session, io, last_input, .. } = live;
        let _armed = io.master.arm();
        if ready.write {
            session.client_writable(io);
        }
        if ready.read && session.client_interest().read {
            match io.client.read_into(&mut cx.input) {
                ReadOutcome::Bytes(count) => {
                    *last_input = magnitude(count);
                    crate::event_loop::fault_injection::panic_if_requested("input", || &cx.input);
                    crate::event_loop::fault_injection::arm(&cx.input);
                    if session.awaits_first_bytes() {
                        return ClientEvent::FirstBytes;
                    }
                    cx.deliver_input(key, session, io);
                }
                // A closed UNIX socket is hung up as well; one whose writing half was shut down is
                // not.
                ReadOutcome::Eof if ready.hang_up => session.client_disconnected(),
                ReadOutcome::Eof if session.awaits_first_bytes() => return ClientEvent::FirstEof,
                ReadOutcome::Eof => session.client_half_closed(),
                ReadOutcome::Closed => session.client_disconnected(),
                ReadOutcome::WouldBlock => {}
            }
        } else if ready.hang_up && !session.has_deferred_input() {
            // Deferred input is handled first, then the connection is read to its end.
            session.client_disconnected();
        } else if ready.read {
            let wanted = session.client_interest();
            live.register_client(key, wanted, &cx.poller);
        }
        ClientEvent::Settle
    }

    /// Handles an event of the terminal: output, room for input, hang-up.
    pub fn terminal_ready(&mut self, cx: &mut Context, key: slab::Key, ready: Ready) {
        // A session alone keeps no other waiting.
        let alone = self.len() == 1;
        let in_parallel = cx.parallel != Concurrency::None;
        let Some(live) = self.get_mut(key) else {
            return;
        };
        let armed = live.io.master.arm();
        if ready.write {
            live.session.terminal_writable(&mut live.io);
        }
        if ready.read || ready.hang_up {
            // The recorder may have no room for what comes.
            let must_wait = live.io.recording().is_some_and(|recording| recording.throttles());
            if live.session.terminal_interest().read && !must_wait {
                // On several processors the stream's client can take one read meanwhile. The poll
                // comes first all the same: without it an echo beside a stream took a third longer.
                let wait = |poller: &Poller| {
                    !alone && (poller.has_others_ready(ready.token) || in_parallel)
                };
                live.read_terminal(cx, ready.hang_up, wait);
            } else if ready.hang_up {
                // A level-triggered hang-up is reported without end, asked for or not: until the
                // client reads again the terminal is not registered.
                live.unregister_terminal(&cx.poller);
            }
        }
        drop(armed);
        live.watch_tcp_stall(cx, key);
    }

    /// Settles a session after an event, see [`LiveSession::settle`].
    pub fn settle(&mut self, cx: &mut Context, key: slab::Key) -> SessionAction {
        self.get_mut(key).map_or(SessionAction::Wait, |live| live.settle(cx, key))
    }
}

impl LiveSession {
    /// Settles the session after an event: updates the poller's interests, or says what the session
    /// needs from others.
    pub(crate) fn settle(&mut self, cx: &mut Context, key: slab::Key) -> SessionAction {
        if self.io.master.is_stalled() && self.session.termination().is_none() {
            return SessionAction::TerminalBlocked;
        }
        match self.session.next_action() {
            NextAction::Wait => {}
            NextAction::Close if self.session.awaits_hello() => return SessionAction::AwaitHello,
            NextAction::Close => return SessionAction::Close,
            NextAction::HangUp => return SessionAction::Teardown,
            NextAction::Detach => return SessionAction::Detach,
            NextAction::LateHello => return SessionAction::LateHello,
            NextAction::OutOfMemory => {
                // In the midst of pending output the text would be misread.
                if !self.session.has_output() {
                    let line = "session ended: out of memory";
                    self.session.terminate(EndKind::Lost, line, &mut self.io);
                }
                cx.listeners.log_rejection("forkptyrouter: session ended: out of memory");
                return SessionAction::Close;
            }
        }
        let wanted = self.session.client_interest();
        // Interest that is not needed any more is taken back when an event comes (client_ready):
        // most often none does.
        if wanted.write != self.client_interest.write || (wanted.read && !self.client_interest.read)
        {
            self.register_client(key, wanted, &cx.poller);
        }
        if self.session.is_handed_over()
            && (self.terminal_interest.is_some() || self.session.go_pending())
        {
            self.unregister_terminal(&cx.poller);
            return SessionAction::HandedOver;
        }
        if !self.session.terminal_open() {
            self.unregister_terminal(&cx.poller);
            return SessionAction::SlaveClosed;
        }
        let mut wanted = self.session.terminal_interest();
        wanted.read &= !self.io.recording().is_some_and(|recording| recording.is_throttled.get());
        let is_ours = !self.session.is_handed_over() && self.started_poll == 0;
        if self.terminal_interest != Some(wanted) && is_ours {
            self.register_terminal(key, wanted, &cx.poller);
        }
        self.check_input(cx, key)
    }

    /// Reads output while there is more of it, room for it and no other event, and passes it on in
    /// one write: a terminal yields little at once, and each write wakes the client. After a
    /// hang-up the rest is read, to its end. Bulk output goes through the pipe (splice), which is
    /// empty before and after. Returns whether there was output.
    pub(crate) fn read_terminal(
        &mut self,
        cx: &mut Context,
        hung_up: bool,
        somebody_waits: impl Fn(&Poller) -> bool,
    ) -> bool {
        let Context { buffer, pipe, poller, .. } = cx;
        let mut have = 0;
        let mut ended = false;
        // A pipe takes one system call more, so it pays where there are many reads.
        let mut none = None;
        // Output for a recording or the scrollback is copied; a shared terminal could block.
        let through_pipe = self.last_output >= SPLICE_FROM
            && !self.io.master.is_shared()
            && self.io.recording().is_none()
            && self.session.detach_state().is_none();
        let pipe = if through_pipe { pipe } else { &mut none };
        // Output goes behind its packet header, where there is one.
        let start = self.session.output_header_length();
        while start + have + ONE_READ <= BUFFER {
            let read = match pipe {
                None => self.io.master.read(&mut buffer[start + have..]),
                Some(through) => match through.splice_from(&self.io.master, ONE_READ) {
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
                    let full_read = hung_up || count >= SHORT_READ;
                    if !full_read || (count >= SHORT_READ && somebody_waits(poller)) {
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
        self.last_output = magnitude(have).max(u8::from(self.has_written()));
        let spoke = have > 0;
        if spoke {
            crate::event_loop::fault_injection::panic_if_requested("output", || {
                &buffer[start..start + have]
            });
            if let Some(byte_counts) = &mut self.io.byte_counts {
                byte_counts.count_output(have);
                if let Some(recording) = &byte_counts.recording {
                    recording.output(&buffer[start..start + have]);
                }
            }
            let (mut from, to) = (0, start + have);
            if let Some(header) = self.session.output_header(have) {
                buffer[..start].copy_from_slice(&header);
            }
            if let Some(pipe) = pipe {
                from += self.io.client.write_with_more(&buffer[..start]);
                if from == start {
                    from += pipe.flush(&self.io.client, have);
                }
                // The rest waits in the session's backlog: the pipe is for the next session.
                if from < to {
                    pipe.read(&mut buffer[from.max(start)..to]);
                }
            }
            if from < to {
                self.session.terminal_output(&buffer[from..to], &mut self.io);
            }
        }
        if ended {
            self.session.terminal_eof(&mut self.io);
        }
        spoke
    }

    /// Whether the program has written anything yet.
    pub(crate) fn has_written(&self) -> bool {
        self.last_output > 0
    }

    fn register_client(&mut self, key: slab::Key, wanted: Interest, poller: &Poller) {
        let _ = poller.change(self.io.client.as_fd(), Token::Client(key).token(), wanted);
        self.client_interest = wanted;
    }

    fn register_terminal(&mut self, key: slab::Key, wanted: Interest, poller: &Poller) {
        let token = Token::Terminal(key).token();
        let master = self.io.master.as_fd();
        let _ = match self.terminal_interest {
            Some(_) => poller.change(master, token, wanted),
            // Hung up, and its client does not read: see terminal_ready.
            None if !wanted.read => return,
            None => poller.add(master, token, wanted),
        };
        self.terminal_interest = Some(wanted);
    }

    /// Removes the terminal from the poller.
    pub(crate) fn unregister_terminal(&mut self, poller: &Poller) {
        if self.terminal_interest.take().is_some() {
            let _ = poller.remove(self.io.master.as_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is one for each session, most of them idle.
    #[test]
    fn a_session_is_small() {
        assert!(size_of::<LiveSession>() <= 88, "{} bytes", size_of::<LiveSession>());
    }
}
