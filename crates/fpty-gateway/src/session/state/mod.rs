//! One terminal and its client, as a state machine: what is relayed, what
//! each end is waited for, and when it is over.
//!
//! It does no input or output of its own: what it decides it asks of its
//! [`Ends`], so that it can be tested without a server or a terminal.
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

use fpty::backlog::{Backlog, SendOutcome};
use fpty::proto::variables::CAN_TAKE_TERMINAL;
use fpty::proto::{ClientPacket, ClientPacketDecoder, EndKind, SessionEnd, encode_packet};
use fpty::sys::{Size, WriteOutcome, poll::Interest};

/// Input that may wait for a program that does not read, in bytes; the next
/// read from the client adds at most this again.
pub const INPUT_LIMIT: usize = 64 * 1024;

/// What one client may ask for in one turn of the loop beside input: signals,
/// sizes and the like, each of which is a few system calls. A read has room
/// for 16,000 of them.
pub const ACTS: usize = 16;

/// What a session has done to the world.
pub trait Ends {
    /// Writes input to the terminal's master.
    fn write_terminal(&mut self, bytes: &[u8]) -> WriteOutcome;
    /// Writes output to the client.
    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome;
    /// Sets the terminal's size.
    fn resize(&mut self, size: Size);
    /// Sends a signal of this number to the session's process.
    fn signal(&mut self, number: u8);
    /// What the terminal's key for SIGINT, SIGQUIT or SIGTSTP does. Where it
    /// has none the signal is sent to the foreground process group; where it
    /// drops what was typed before, that is done with what the kernel holds.
    fn key(&mut self, number: u8) -> Key;
}

/// What a key of the terminal that stands for a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// This byte drops all input that was not read, and raises the signal.
    Drops(u8),
    /// This byte is input in its turn: the terminal raises the signal when it
    /// gets there, or the program reads it.
    Is(u8),
    /// There is no such key.
    None,
}

/// The client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    /// The same as the next, and what its first bytes are is not known.
    New,
    /// The same as the next; its program was started because it said nothing, and
    /// it has said nothing yet.
    Unspoken,
    /// It sends and reads.
    Open,
    /// The same, and not all that was read of it has been heard.
    Behind,
    /// It sends no more, and still reads.
    Silent,
    /// It wants to leave, and the session to go on.
    Leaves,
    /// Its first word is the hello, and comes late.
    Greets,
    /// It has left.
    Gone,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    decoder: Option<ClientPacketDecoder>,
    extended: Option<Box<Extended>>,
    size: Size,
    input: Backlog,
    output: Backlog,
    client: Client,
    terminal_open: bool,
    program_runs: bool,
    fate: Fate,
}

/// What has been decided about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing: it goes on.
    Open,
    /// It is over when the client has been told why.
    Farewell(EndKind),
    /// There was no memory for it.
    Starved,
}

/// What remains to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Lives,
    /// The client has all it will get: close everything.
    Over,
    /// The client left: hang the terminal up.
    Abandoned,
    /// The client wants to leave, and the session to go on.
    Left,
    /// The client says hello, which was waited for in vain: all that it sent
    /// is still to be heard.
    Greets,
    /// There is no memory for what one end does not take.
    Starved,
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
            client: Client::New,
            terminal_open: true,
            program_runs: true,
            fate: Fate::Open,
        }
    }

    /// A session in uwsgi mode, extended or not, whose client has said this.
    pub fn opened(opening: &mut Opening, size: Size) -> Self {
        let mut session = Self::raw(size);
        session.decoder = Some(std::mem::take(&mut opening.decoder));
        session.extended = opening.extended.then(Box::default);
        session.client = if opening.spoken { Client::Open } else { Client::Unspoken };
        if let Some(extended) = &mut session.extended {
            extended.can_take = opening.variables.get(CAN_TAKE_TERMINAL) == Some(b"1");
        }
        session
    }

    /// Whether the first thing that the client says is the hello; `sent` may
    /// be a part of that.
    #[cold]
    pub(crate) fn greets_late(&mut self, sent: &[u8]) -> bool {
        let mut decoder = self.decoder.clone();
        let packet = decoder.as_mut().and_then(|decoder| decoder.next(&mut &*sent));
        self.client = match packet {
            None => return false,
            Some(ClientPacket::Hello(1..)) => Client::Greets,
            Some(_) => Client::Open,
        };
        self.client == Client::Greets
    }

    /// Whether the first word of its client, which was waited for in vain, may
    /// still be on its way.
    pub fn may_greet(&self) -> bool {
        self.client == Client::Unspoken && self.fate == Fate::Open
    }

    /// What has come of the client's first packet, to go on with elsewhere.
    pub fn take_decoder(&mut self) -> Option<ClientPacketDecoder> {
        self.decoder.take()
    }

    /// The client will send no more, and still reads.
    pub fn client_ended(&mut self) {
        // By a proxy this is all that is told of a client that is gone, and a
        // shell that is told of an end of its input would not go on without it.
        // Who speaks the extended mode has a packet for that end.
        let is_gone = |extended: &Extended| extended.told || extended.kept.is_some();
        if self.extended.as_deref().is_some_and(is_gone) {
            return self.client_left();
        }
        if self.client <= Client::Open {
            self.client = Client::Silent;
        }
    }

    /// The client has left.
    pub fn client_left(&mut self) {
        self.client = Client::Gone;
        self.input.clear();
        self.output.clear();
    }

    /// Takes input that came before the program was started.
    pub fn early_input(&mut self, bytes: &[u8], ends: &mut impl Ends) {
        self.give_input(bytes, ends);
    }

    /// Takes what the program wrote: with its header before it, where there is
    /// to be one.
    pub fn terminal_sent(&mut self, bytes: &[u8], ends: &mut impl Ends) {
        if self.keep_output(bytes) {
            self.give_output(bytes, ends);
        }
    }

    /// There will be no more output: nobody has the terminal open, or the
    /// program is long gone and what holds it open is silent.
    pub fn terminal_ended(&mut self, ends: &mut impl Ends) {
        self.terminal_open = false;
        self.input.clear();
        self.tell_the_end(ends);
    }

    /// The program, which had closed its terminal, has opened it again.
    pub fn terminal_reopened(&mut self) {
        self.terminal_open = true;
    }

    /// The program has ended, and was reaped; or it could not be executed.
    pub fn program_ended(&mut self, ended: SessionEnd, ends: &mut impl Ends) {
        self.program_runs = false;
        self.input.clear();
        // What is left in it is the client's to read.
        self.terminal_open &= !self.is_handed_over();
        if let Some(extended) = &mut self.extended {
            extended.ended = Some(ended);
        }
        self.tell_the_end(ends);
    }

    /// Tells the client something that the program did not write, on a line
    /// of its own, and ends the session when it is delivered.
    pub fn dismiss(&mut self, why: EndKind, line: &str, ends: &mut impl Ends) {
        self.fate = Fate::Farewell(why);
        match &mut self.extended {
            Some(extended) => {
                extended.told = true;
                let packet = SessionEnd::new(why, line).packet();
                self.give_output(&packet, ends);
            }
            None => self.give_output(format!("\r\nforkptyrouter: {line}\r\n").as_bytes(), ends),
        }
    }

    /// The terminal takes input again.
    pub fn terminal_writable(&mut self, ends: &mut impl Ends) {
        if !self.input.flush(|bytes| ends.write_terminal(bytes).taken()) {
            self.input.clear();
        }
        self.hand_over_where_due(ends);
    }

    /// The client takes output again.
    pub fn client_writable(&mut self, ends: &mut impl Ends) {
        if !self.output.flush(|bytes| ends.write_client(bytes).taken()) {
            self.client_left();
        }
    }

    /// What to wait for at the client's end. A client that floods a program
    /// that does not read is no longer listened to.
    pub fn client_interest(&self) -> Interest {
        Interest {
            read: self.client <= Client::Open
                && ((self.terminal_open && self.program_runs)
                    || self.is_hidden()
                    || self.client == Client::Unspoken)
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
                && self.fate == Fate::Open
                && !self.is_handed_over()
                && !self.is_hidden(),
            write: !self.input.is_empty(),
        }
    }

    /// Whether the program is to be told of the end of its input now.
    pub fn wants_end_of_input(&self) -> bool {
        let ended = self.extended.as_ref().is_some_and(|extended| extended.input_ended);
        (self.client == Client::Silent || ended)
            && self.input.is_empty()
            && self.client != Client::Behind
            && self.terminal_open
            && self.program_runs
            && !self.is_handed_over()
    }

    /// Whether input waits for the program, and the client is therefore not
    /// listened to, or has said all it has to say: it could leave unheard.
    pub fn is_deaf(&self) -> bool {
        !self.input.is_empty() && self.client != Client::Gone && !self.client_interest().read
    }

    /// Whether it is in raw mode, and what the first bytes of its client are is
    /// not known.
    pub fn is_new(&self) -> bool {
        self.client == Client::New
    }

    /// They are no browser's.
    pub fn accept_first(&mut self) {
        if self.client == Client::New {
            self.client = Client::Open;
        }
    }

    /// Whether not all that was read of the client has been heard: there is
    /// more for [`Session::client_goes_on`].
    pub fn is_behind(&self) -> bool {
        self.client == Client::Behind
    }

    /// There was no memory to keep what was not heard.
    pub fn forget_the_rest(&mut self) {
        if self.is_behind() {
            self.client = Client::Open;
        }
        self.fate = Fate::Starved;
    }

    /// Why it was ended, where that was not by one of its ends.
    pub fn dismissed(&self) -> Option<EndKind> {
        match self.fate {
            Fate::Open => None,
            Fate::Farewell(why) => Some(why),
            Fate::Starved => Some(EndKind::Lost),
        }
    }

    /// Whether the client has left.
    pub fn client_is_gone(&self) -> bool {
        self.client >= Client::Leaves
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
    pub fn verdict(&self) -> Verdict {
        if self.client >= Client::Leaves {
            match self.client {
                Client::Gone => Verdict::Abandoned,
                Client::Greets => Verdict::Greets,
                _ => Verdict::Left,
            }
        } else if self.fate == Fate::Starved {
            Verdict::Starved
        } else if self.output.is_empty()
            && (matches!(self.fate, Fate::Farewell(_))
                || (!self.terminal_open && !self.program_runs && !self.is_hidden()))
        {
            Verdict::Over
        } else {
            Verdict::Lives
        }
    }

    /// Whether it is of use to anybody.
    fn takes_input(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && self.terminal_open && self.program_runs
    }

    fn give_input(&mut self, bytes: &[u8], ends: &mut impl Ends) {
        if self.takes_input(bytes)
            && self.input.send(bytes, |bytes| ends.write_terminal(bytes).taken())
                == SendOutcome::OutOfMemory
        {
            self.fate = Fate::Starved;
        }
    }

    /// The same, of a buffer that it may keep.
    fn give_all_input(&mut self, bytes: &mut Vec<u8>, ends: &mut impl Ends) {
        if !self.takes_input(bytes) {
            return;
        }
        let waits = !self.input.is_empty();
        let taken = if waits { Some(0) } else { ends.write_terminal(bytes).taken() };
        if taken.is_some_and(|taken| !self.input.try_push_rest(bytes, taken)) {
            self.fate = Fate::Starved;
        }
    }

    /// Tells the client something beside the output.
    fn tell(&mut self, kind: u8, payload: &[u8], ends: &mut impl Ends) {
        let mut packet = Vec::new();
        encode_packet(kind, payload, &mut packet);
        self.give_output(&packet, ends);
    }

    fn give_output(&mut self, bytes: &[u8], ends: &mut impl Ends) {
        match self.output.send(bytes, |bytes| ends.write_client(bytes).taken()) {
            SendOutcome::Sent(_) => {}
            SendOutcome::OutOfMemory => self.fate = Fate::Starved,
            SendOutcome::Closed => self.client_left(),
        }
    }
}

pub mod detach_state;
#[cfg(test)]
mod tests;
