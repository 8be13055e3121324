//! One terminal and its client, as a state machine: what is relayed, what
//! each end is waited for, and when it is over.
//!
//! It does no input or output of its own: what it decides it asks of its
//! [`SessionEffects`], so that it can be tested without a server or a terminal.
//!
//! | file | subject |
//! | --- | --- |
//! | `detach_state.rs` | what there is more where a session can be left |
//! | `extended.rs` | what there is more in the extended mode: the end, the hand-over |
//! | `packets.rs` | what a client says in packets |

#![forbid(unsafe_code)]

pub(crate) mod extended;
pub(crate) mod packets;

use super::state::extended::Extended;
use crate::connection::client_hello::Opening;

use fpty::backlog::{Backlog, Given};
use fpty::proto::variables::CAN_TAKE;
use fpty::proto::{Decoder, Ended, Ending, Packet, encode_packet};
use fpty::sys::{Size, Written, poll::Interest};

/// Input that may wait for a program that does not read, in bytes; the next
/// read from the client adds at most this again.
pub const INPUT_LIMIT: usize = 64 * 1024;

/// What one client may ask for in one turn of the loop beside input: signals,
/// sizes and the like, each of which is a few system calls. A read has room
/// for 16,000 of them.
pub const CONTROL_BUDGET: usize = 16;

/// What a session has done to the world.
pub trait SessionEffects {
    /// Writes input to the terminal's master.
    fn write_terminal(&mut self, bytes: &[u8]) -> Written;
    /// Writes output to the client.
    fn write_client(&mut self, bytes: &[u8]) -> Written;
    /// Sets the terminal's size.
    fn resize(&mut self, size: Size);
    /// Sends a signal of this number to the session's process.
    fn signal(&mut self, number: u8);
    /// What the terminal's key for SIGINT, SIGQUIT or SIGTSTP does. Where it
    /// has none the signal is sent to the foreground process group; where it
    /// drops what was typed before, that is done with what the kernel holds.
    fn key(&mut self, number: u8) -> SignalKey;
}

/// What a key of the terminal that stands for a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalKey {
    /// This byte drops all input that was not read, and raises the signal.
    DropsInput(u8),
    /// This byte is input in its turn: the terminal raises the signal when it
    /// gets there, or the program reads it.
    AsInput(u8),
    /// There is no such key.
    None,
}

/// The client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    /// The same as the next, and what its first bytes are is not known.
    AwaitingFirstBytes,
    /// The same as the next; its program was started because it said nothing, and
    /// it has said nothing yet.
    AwaitingHello,
    /// It sends and reads.
    Open,
    /// The same, and not all that was read of it has been heard.
    Deferred,
    /// It sends no more, and still reads.
    HalfClosed,
    /// It wants to leave, and the session to go on.
    Detaching,
    /// Its first word is the hello, and comes late.
    LateHello,
    /// It has left.
    Gone,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    decoder: Option<Decoder>,
    extended: Option<Box<Extended>>,
    size: Size,
    input: Backlog,
    output: Backlog,
    client: Client,
    terminal_open: bool,
    program_runs: bool,
    shutdown: Shutdown,
}

/// What has been decided about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shutdown {
    /// Nothing: it goes on.
    Running,
    /// It is over when the client has been told why.
    Terminating(Ending),
    /// There was no memory for it.
    OutOfMemory,
}

/// What remains to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextAction {
    /// Go on.
    Wait,
    /// The client has all it will get: close everything.
    Close,
    /// The client left: hang the terminal up.
    HangUp,
    /// The client wants to leave, and the session to go on.
    Detach,
    /// The client says hello, which was waited for in vain: all that it sent
    /// is still to be heard.
    LateHello,
    /// There is no memory for what one end does not take.
    OutOfMemory,
}

impl Session {
    /// A session in raw mode.
    pub fn raw(size: Size) -> Self {
        Self {
            decoder: None,
            extended: None,
            size,
            input: Backlog::default(),
            output: Backlog::default(),
            client: Client::AwaitingFirstBytes,
            terminal_open: true,
            program_runs: true,
            shutdown: Shutdown::Running,
        }
    }

    /// A session in uwsgi mode, extended or not, whose client has said this.
    pub fn from_hello(opening: &mut Opening, size: Size) -> Self {
        let mut session = Self::raw(size);
        session.decoder = Some(std::mem::take(&mut opening.decoder));
        session.extended = opening.extended.then(Box::default);
        session.client = if opening.spoken { Client::Open } else { Client::AwaitingHello };
        if let Some(extended) = &mut session.extended {
            extended.accepts_handover = opening.variables.get(CAN_TAKE) == Some(b"1");
        }
        session
    }

    /// Whether the first thing that the client says is the hello; `sent` may
    /// be a part of that.
    #[cold]
    pub(crate) fn detect_late_hello(&mut self, sent: &[u8]) -> bool {
        let mut decoder = self.decoder.clone();
        let packet = decoder.as_mut().and_then(|decoder| decoder.next(&mut &*sent));
        self.client = match packet {
            None => return false,
            Some(Packet::Hello(1..)) => Client::LateHello,
            Some(_) => Client::Open,
        };
        self.client == Client::LateHello
    }

    /// Whether the first word of its client, which was waited for in vain, may
    /// still be on its way.
    pub fn awaits_hello(&self) -> bool {
        self.client == Client::AwaitingHello && self.shutdown == Shutdown::Running
    }

    /// What has come of the client's first packet, to go on with elsewhere.
    pub fn take_decoder(&mut self) -> Option<Decoder> {
        self.decoder.take()
    }

    /// The client will send no more, and still reads.
    pub fn client_half_closed(&mut self) {
        // By a proxy this is all that is told of a client that is gone, and a
        // shell that is told of an end of its input would not go on without it.
        // Who speaks the extended mode has a packet for that end.
        let is_gone = |extended: &Extended| extended.end_sent || extended.detach_state.is_some();
        if self.extended.as_deref().is_some_and(is_gone) {
            return self.client_disconnected();
        }
        if self.client <= Client::Open {
            self.client = Client::HalfClosed;
        }
    }

    /// The client has left.
    pub fn client_disconnected(&mut self) {
        self.client = Client::Gone;
        self.input.clear();
        self.output.clear();
    }

    /// Takes input that came before the program was started.
    pub fn early_input(&mut self, bytes: &[u8], effects: &mut impl SessionEffects) {
        self.send_input(bytes, effects);
    }

    /// Takes what the program wrote: with its header before it, where there is
    /// to be one.
    pub fn terminal_output(&mut self, bytes: &[u8], effects: &mut impl SessionEffects) {
        if self.retain_output(bytes) {
            self.send_output(bytes, effects);
        }
    }

    /// There will be no more output: nobody has the terminal open, or the
    /// program is long gone and what holds it open is silent.
    pub fn terminal_eof(&mut self, effects: &mut impl SessionEffects) {
        self.terminal_open = false;
        self.input.clear();
        self.send_end(effects);
    }

    /// The program, which had closed its terminal, has opened it again.
    pub fn slave_reopened(&mut self) {
        self.terminal_open = true;
    }

    /// The program has ended, and was reaped; or it could not be executed.
    pub fn program_ended(&mut self, ended: Ended, effects: &mut impl SessionEffects) {
        self.program_runs = false;
        self.input.clear();
        // What is left in it is the client's to read.
        self.terminal_open &= !self.is_handed_over();
        if let Some(extended) = &mut self.extended {
            extended.ended = Some(ended);
        }
        self.send_end(effects);
    }

    /// Tells the client something that the program did not write, on a line
    /// of its own, and ends the session when it is delivered.
    pub fn terminate(&mut self, why: Ending, line: &str, effects: &mut impl SessionEffects) {
        self.shutdown = Shutdown::Terminating(why);
        match &mut self.extended {
            Some(extended) => {
                extended.end_sent = true;
                let packet = Ended::because(why, line).packet();
                self.send_output(&packet, effects);
            }
            None => self.send_output(format!("\r\nforkptyrouter: {line}\r\n").as_bytes(), effects),
        }
    }

    /// The terminal takes input again.
    pub fn terminal_writable(&mut self, effects: &mut impl SessionEffects) {
        if !self.input.flush(|bytes| effects.write_terminal(bytes).taken()) {
            self.input.clear();
        }
        self.complete_handover(effects);
    }

    /// The client takes output again.
    pub fn client_writable(&mut self, effects: &mut impl SessionEffects) {
        if !self.output.flush(|bytes| effects.write_client(bytes).taken()) {
            self.client_disconnected();
        }
    }

    /// What to wait for at the client's end. A client that floods a program
    /// that does not read is no longer listened to.
    pub fn client_interest(&self) -> Interest {
        Interest {
            read: self.client <= Client::Open
                && ((self.terminal_open && self.program_runs)
                    || self.is_awaiting_go()
                    || self.client == Client::AwaitingHello)
                && self.input.len() < INPUT_LIMIT,
            write: !self.output.is_empty(),
        }
    }

    /// What to wait for at the terminal's end. The output of a program whose
    /// client does not read stays in the terminal, and the program waits.
    pub fn terminal_interest(&self) -> Interest {
        Interest {
            read: self.terminal_open
                && self.output.is_empty()
                && self.shutdown == Shutdown::Running
                && !self.is_handed_over()
                && !self.is_awaiting_go(),
            write: !self.input.is_empty(),
        }
    }

    /// Whether the program is to be told of the end of its input now.
    pub fn wants_end_of_input(&self) -> bool {
        let ended = self.extended.as_ref().is_some_and(|extended| extended.input_ended);
        (self.client == Client::HalfClosed || ended)
            && self.input.is_empty()
            && self.client != Client::Deferred
            && self.terminal_open
            && self.program_runs
            && !self.is_handed_over()
    }

    /// Whether input waits for the program, and the client is therefore not
    /// listened to, or has said all it has to say: it could leave unheard.
    pub fn is_input_blocked(&self) -> bool {
        !self.input.is_empty() && self.client != Client::Gone && !self.client_interest().read
    }

    /// Whether it is in raw mode, and what the first bytes of its client are is
    /// not known.
    pub fn awaits_first_bytes(&self) -> bool {
        self.client == Client::AwaitingFirstBytes
    }

    /// They are no browser's.
    pub fn accept_first_bytes(&mut self) {
        if self.client == Client::AwaitingFirstBytes {
            self.client = Client::Open;
        }
    }

    /// Whether not all that was read of the client has been heard: there is
    /// more for [`Session::resume_client`].
    pub fn has_deferred_input(&self) -> bool {
        self.client == Client::Deferred
    }

    /// There was no memory to keep what was not heard.
    pub fn drop_deferred_input(&mut self) {
        if self.has_deferred_input() {
            self.client = Client::Open;
        }
        self.shutdown = Shutdown::OutOfMemory;
    }

    /// Why it was ended, where that was not by one of its ends.
    pub fn termination(&self) -> Option<Ending> {
        match self.shutdown {
            Shutdown::Running => None,
            Shutdown::Terminating(why) => Some(why),
            Shutdown::OutOfMemory => Some(Ending::Lost),
        }
    }

    /// Whether the client has left.
    pub fn client_is_gone(&self) -> bool {
        self.client >= Client::Detaching
    }

    /// Whether the program still runs.
    pub fn program_runs(&self) -> bool {
        self.program_runs
    }

    /// Whether output may still come.
    pub fn terminal_open(&self) -> bool {
        self.terminal_open
    }

    /// Whether bytes for the client wait for it to read.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether it goes on. The program's status is waited for even where the
    /// terminal ended first: a program may close its terminal and work on.
    pub fn next_action(&self) -> NextAction {
        if self.client >= Client::Detaching {
            match self.client {
                Client::Gone => NextAction::HangUp,
                Client::LateHello => NextAction::LateHello,
                _ => NextAction::Detach,
            }
        } else if self.shutdown == Shutdown::OutOfMemory {
            NextAction::OutOfMemory
        } else if self.output.is_empty()
            && (matches!(self.shutdown, Shutdown::Terminating(_))
                || (!self.terminal_open && !self.program_runs && !self.is_awaiting_go()))
        {
            NextAction::Close
        } else {
            NextAction::Wait
        }
    }

    /// Whether it is of use to anybody.
    fn accepts_input(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && self.terminal_open && self.program_runs
    }

    fn send_input(&mut self, bytes: &[u8], effects: &mut impl SessionEffects) {
        if self.accepts_input(bytes)
            && self.input.give(bytes, |bytes| effects.write_terminal(bytes).taken())
                == Given::Starved
        {
            self.shutdown = Shutdown::OutOfMemory;
        }
    }

    /// The same, of a buffer that it may keep.
    fn send_owned_input(&mut self, bytes: &mut Vec<u8>, effects: &mut impl SessionEffects) {
        if !self.accepts_input(bytes) {
            return;
        }
        let waits = !self.input.is_empty();
        let taken = if waits { Some(0) } else { effects.write_terminal(bytes).taken() };
        if taken.is_some_and(|taken| !self.input.try_keep(bytes, taken)) {
            self.shutdown = Shutdown::OutOfMemory;
        }
    }

    /// Tells the client something beside the output.
    fn send_packet(&mut self, kind: u8, payload: &[u8], effects: &mut impl SessionEffects) {
        let mut packet = Vec::new();
        encode_packet(kind, payload, &mut packet);
        self.send_output(&packet, effects);
    }

    fn send_output(&mut self, bytes: &[u8], effects: &mut impl SessionEffects) {
        match self.output.give(bytes, |bytes| effects.write_client(bytes).taken()) {
            Given::Taken(_) => {}
            Given::Starved => self.shutdown = Shutdown::OutOfMemory,
            Given::Gone => self.client_disconnected(),
        }
    }
}

pub mod detach_state;
#[cfg(test)]
mod tests;
