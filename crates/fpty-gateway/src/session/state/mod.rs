//! Session state machine: one terminal and its client. It decides what is relayed, which events
//! each end waits for, and when the session is over.
//!
//! It does no input or output itself: everything it decides it asks of its [`SessionEffects`], so
//! that it can be tested without a server or a terminal.
//!
//! | file | subject |
//! | --- | --- |
//! | `extended.rs` | extended mode: END packet, handover, scrollback, GO, END that was not sent |
//! | `packets.rs` | the client's packets: input, signals, sizes |
//! | `signal_keys.rs` | Ctrl-C, Ctrl-\ and Ctrl-Z of a client, pressed at the terminal |

pub(crate) mod extended;
mod packets;
mod signal_keys;

use super::state::extended::Extended;

use crate::connection::client_hello::ClientHello;

use fpty::backlog::{Backlog, SendOutcome};
use fpty::proto::variables::CAN_TAKE_TERMINAL;
use fpty::proto::{ClientPacket, ClientPacketDecoder, EndKind, SessionEnd, encode_packet};
use fpty::sys::{Size, WriteOutcome, poll::Interest};

/// Limit of pending input for a program that does not read, in bytes; the next read from the client
/// adds at most this again.
pub const INPUT_LIMIT: usize = 64 * 1024;

/// Budget of one client in one turn of the loop for everything but input: signals, sizes and the
/// like, each of which is a few system calls. One read has room for 16,000 of them.
pub const CONTROL_BUDGET: usize = 16;

/// Side effects that the state machine asks for.
pub trait SessionEffects {
    /// Writes input to the terminal's master.
    fn write_terminal(&mut self, bytes: &[u8]) -> WriteOutcome;
    /// Writes output to the client.
    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome;
    /// Sets the terminal's size.
    fn resize(&mut self, size: Size);
    /// Sends a signal of this number to the session's process.
    fn signal(&mut self, number: u8);
    /// Presses the terminal's key for SIGINT, SIGQUIT or SIGTSTP. Where there is no such key the
    /// signal is sent to the foreground process group; where the key drops pending input
    /// (termios(3), NOFLSH), that is done with what the kernel holds.
    fn key(&mut self, number: u8) -> SignalKey;
}

/// Effect of a terminal's key for a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalKey {
    /// The byte drops all pending input, and raises the signal.
    DropsInput(u8),
    /// The byte is input in its turn: the terminal raises the signal when it gets there, or the
    /// program reads it.
    AsInput(u8),
    /// The terminal has no such key.
    None,
}

/// State of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    /// Open in raw mode, and the first bytes may still be an HTTP request.
    AwaitingFirstBytes,
    /// Open; the program was started because the client was silent, and its hello may still come.
    AwaitingHello,
    /// Open both ways.
    Open,
    /// Open, and input that was read is deferred to a later turn.
    Deferred,
    /// The client has shut down its writing half, and still reads.
    HalfClosed,
    /// The client has asked to detach.
    Detaching,
    /// The first packet is a hello that has come late.
    LateHello,
    /// The client has disconnected.
    Gone,
}

/// Session: one terminal and its client.
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
    shutdown: Shutdown,
}

/// Whether the session is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shutdown {
    /// The session goes on.
    Running,
    /// The session ends when the client has been told why.
    Terminating(EndKind),
    /// Memory has run out for this session.
    OutOfMemory,
}

/// Action that the session needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextAction {
    /// Wait for events.
    Wait,
    /// Close: the client has all output.
    Close,
    /// Hang the terminal up: the client has disconnected.
    HangUp,
    /// Detach: the client has asked for it.
    Detach,
    /// Restart the handshake: the hello has come late, and all that the client sent is still to be
    /// decoded.
    LateHello,
    /// End the session: there is no memory for what one end does not take.
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

    /// A session in uwsgi mode, extended or not, as the client's hello says.
    pub fn from_hello(hello: &mut ClientHello, size: Size) -> Self {
        let mut session = Self::raw(size);
        session.decoder = Some(std::mem::take(&mut hello.decoder));
        session.extended = hello.extended.then(Box::default);
        session.client = if hello.has_packets { Client::Open } else { Client::AwaitingHello };
        if let Some(extended) = &mut session.extended {
            extended.accepts_handover = hello.variables.get(CAN_TAKE_TERMINAL) == Some(b"1");
        }
        session
    }

    /// Detects a late hello: the first packet that the client sends, of which `sent` may be a part.
    #[cold]
    pub(crate) fn detect_late_hello(&mut self, sent: &[u8]) -> bool {
        let mut decoder = self.decoder.clone();
        let packet = decoder.as_mut().and_then(|decoder| decoder.next(&mut &*sent));
        self.client = match packet {
            None => return false,
            Some(ClientPacket::Hello(1..)) => Client::LateHello,
            Some(_) => Client::Open,
        };
        self.client == Client::LateHello
    }

    /// Whether the hello of a client that was silent may still be on its way.
    pub fn awaits_hello(&self) -> bool {
        self.client == Client::AwaitingHello && self.shutdown == Shutdown::Running
    }

    /// Takes the decoder with the client's unfinished packet, to go on elsewhere.
    pub fn take_decoder(&mut self) -> Option<ClientPacketDecoder> {
        self.decoder.take()
    }

    /// The client has shut down its writing half.
    pub fn client_half_closed(&mut self) {
        // Behind a proxy a half-close is all that is seen of a client that is gone, and a shell
        // that reads EOF would end the session that is to go on. Extended mode has a packet for the
        // end of the input.
        let is_gone = |extended: &Extended| extended.end_sent || extended.detach_state.is_some();
        if self.extended.as_deref().is_some_and(is_gone) {
            return self.client_disconnected();
        }
        if self.client <= Client::Open {
            self.client = Client::HalfClosed;
        }
    }

    /// The client has disconnected.
    pub fn client_disconnected(&mut self) {
        self.client = Client::Gone;
        self.input.clear();
        self.output.clear();
    }

    /// Takes input that came before the program was started.
    pub fn early_input(&mut self, bytes: &[u8], effects: &mut impl SessionEffects) {
        self.send_input(bytes, effects);
    }

    /// Takes output of the program, behind its packet header where there is one.
    pub fn terminal_output(&mut self, bytes: &[u8], effects: &mut impl SessionEffects) {
        if self.retain_output(bytes) {
            self.send_output(bytes, effects);
        }
    }

    /// The terminal's output has ended: nobody has the slave open, or the program is long gone and
    /// what holds the slave open is silent.
    pub fn terminal_eof(&mut self, effects: &mut impl SessionEffects) {
        self.terminal_open = false;
        self.input.clear();
        self.send_end(effects);
    }

    /// The program, which had closed its terminal, has opened it again.
    pub fn slave_reopened(&mut self) {
        self.terminal_open = true;
    }

    /// The program has ended and was reaped, or could not be executed.
    pub fn program_ended(&mut self, ended: SessionEnd, effects: &mut impl SessionEffects) {
        self.program_runs = false;
        self.input.clear();
        // The rest of a handed-over terminal's output is the client's to read.
        self.terminal_open &= !self.is_handed_over();
        if let Some(extended) = &mut self.extended {
            extended.ended = Some(ended);
        }
        self.send_end(effects);
    }

    /// Terminates the session: the client gets this text on a line of its own, or as END, and the
    /// session ends when that is delivered.
    pub fn terminate(&mut self, why: EndKind, line: &str, effects: &mut impl SessionEffects) {
        self.shutdown = Shutdown::Terminating(why);
        match &mut self.extended {
            Some(extended) => {
                extended.end_sent = true;
                let packet = SessionEnd::new(why, line).packet();
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

    /// Interest in the client's connection. A client that floods a program that does not read is
    /// not read either.
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

    /// Interest in the terminal. The output of a program whose client does not read stays in the
    /// terminal, and the program waits.
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

    /// Whether EOF is to be typed into the terminal now.
    pub fn owes_eof(&self) -> bool {
        let ended = self.extended.as_ref().is_some_and(|extended| extended.input_ended);
        (self.client == Client::HalfClosed || ended)
            && self.input.is_empty()
            && self.client != Client::Deferred
            && self.terminal_open
            && self.program_runs
            && !self.is_handed_over()
    }

    /// Whether input is blocked: it waits for the program, so the client is not read and could
    /// disconnect unnoticed.
    pub fn is_input_blocked(&self) -> bool {
        !self.input.is_empty() && self.client != Client::Gone && !self.client_interest().read
    }

    /// Whether the session is in raw mode and its first bytes are not known yet.
    pub fn awaits_first_bytes(&self) -> bool {
        self.client == Client::AwaitingFirstBytes
    }

    /// The first bytes are no HTTP request.
    pub fn accept_first_bytes(&mut self) {
        if self.client == Client::AwaitingFirstBytes {
            self.client = Client::Open;
        }
    }

    /// Whether input is deferred: the next turn has it for [`Session::resume_client`].
    pub fn has_deferred_input(&self) -> bool {
        self.client == Client::Deferred
    }

    /// Drops deferred input that there was no memory for, and ends the session.
    pub fn drop_deferred_input(&mut self) {
        if self.has_deferred_input() {
            self.client = Client::Open;
        }
        self.shutdown = Shutdown::OutOfMemory;
    }

    /// Reason of a termination by the gateway, if there is one.
    pub fn termination(&self) -> Option<EndKind> {
        match self.shutdown {
            Shutdown::Running => None,
            Shutdown::Terminating(why) => Some(why),
            Shutdown::OutOfMemory => Some(EndKind::Lost),
        }
    }

    /// Whether the client has disconnected or detaches.
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

    /// Whether output waits for the client to read.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// The next action. The program's status is waited for even where the terminal ended first: a
    /// program may close its terminal and work on.
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

    /// Whether input still has a reader.
    fn accepts_input(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && self.terminal_open && self.program_runs
    }

    fn send_input(&mut self, bytes: &[u8], effects: &mut impl SessionEffects) {
        if self.accepts_input(bytes)
            && self.input.send(bytes, |bytes| effects.write_terminal(bytes).taken())
                == SendOutcome::OutOfMemory
        {
            self.shutdown = Shutdown::OutOfMemory;
        }
    }

    /// Sends input out of a buffer that the backlog may keep.
    fn send_owned_input(&mut self, bytes: &mut Vec<u8>, effects: &mut impl SessionEffects) {
        if !self.accepts_input(bytes) {
            return;
        }
        let waits = !self.input.is_empty();
        let taken = if waits { Some(0) } else { effects.write_terminal(bytes).taken() };
        if taken.is_some_and(|taken| !self.input.try_push_rest(bytes, taken)) {
            self.shutdown = Shutdown::OutOfMemory;
        }
    }

    /// Sends a packet that is not output.
    fn send_packet(&mut self, kind: u8, payload: &[u8], effects: &mut impl SessionEffects) {
        let mut packet = Vec::new();
        encode_packet(kind, payload, &mut packet);
        self.send_output(&packet, effects);
    }

    fn send_output(&mut self, bytes: &[u8], effects: &mut impl SessionEffects) {
        match self.output.send(bytes, |bytes| effects.write_client(bytes).taken()) {
            SendOutcome::Sent(_) => {}
            SendOutcome::OutOfMemory => self.shutdown = Shutdown::OutOfMemory,
            SendOutcome::Closed => self.client_disconnected(),
        }
    }
}

#[cfg(test)]
mod tests;
