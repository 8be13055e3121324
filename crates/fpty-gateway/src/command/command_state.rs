//! Command state machine: three streams, each with a window and an end of its own, and the client.
//!
//! Like a session's it does no input or output itself, but asks it of its [`CommandEffects`].

use fpty::backlog::{Backlog, SendOutcome};
use fpty::proto::{
    ClientPacket, ClientPacketDecoder, END_OF_STREAM, ERROR_OUTPUT, EndKind, HEADER, INPUT, NOTICE,
    PING, PONG, SessionEnd, TAKEN, WINDOW_ADJUST, collect_payload, encode_bare, encode_packet,
    window,
};
use fpty::sys::WriteOutcome;
use fpty::sys::poll::Interest;

use nix::sys::signal::Signal;

use crate::session::state::NextAction;

/// Limit of pending input, in bytes: a client that does not keep to the window is not read beyond
/// it.
const INPUT_LIMIT: usize = 2 * window::INPUT_SIZE as usize;

/// Signals by which a client ends a command.
const TERMINATING_SIGNALS: [i32; 4] =
    [Signal::SIGHUP as i32, Signal::SIGINT as i32, Signal::SIGQUIT as i32, Signal::SIGTERM as i32];

/// Side effects that the state machine asks for.
pub trait CommandEffects {
    /// Writes to the client.
    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome;
    /// Writes to the program's standard input.
    fn write_input(&mut self, bytes: &[u8]) -> WriteOutcome;
    /// Closes the program's standard input.
    fn close_input(&mut self);
    /// Closes the gateway's end of an output: 1 or 2.
    fn close_output(&mut self, number: u8);
    /// Sends a signal of this number to the command's process group.
    fn signal(&mut self, number: u8);
}

/// State of the standard input.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    /// The input is relayed.
    Relayed {
        /// The client has sent the end of the input.
        ended: bool,
    },
    /// The input is closed, or was passed.
    Done,
}

/// State of one of the two outputs.
#[derive(Debug)]
struct Output {
    /// The output is relayed, and has not ended.
    open: bool,
    /// Window: bytes that the client still takes.
    window: u32,
}

/// Command: a program on three streams, and its client.
#[derive(Debug)]
pub struct Command {
    decoder: ClientPacketDecoder,
    /// Payload of a packet that is under way, up to the longest of use.
    payload: Vec<u8>,
    input: Input,
    to_program: Backlog,
    taken: window::Consumed,
    outputs: [Output; 2],
    to_client: Backlog,
    /// The program's end; `None`: it runs.
    ended: Option<SessionEnd>,
    end_sent: bool,
    termination: Option<EndKind>,
    client_gone: bool,
    /// Input is deferred to a later turn.
    deferred: bool,
    out_of_memory: bool,
}

/// The longest payload that is of use, in bytes.
const LONGEST: usize = 16;

impl Command {
    /// A command whose program has been started. The streams in `relayed` are relayed; the others
    /// were passed.
    pub fn started(decoder: ClientPacketDecoder, relayed: [bool; 3]) -> Self {
        let output = |open| Output { open, window: window::OUTPUT_SIZE };
        Self {
            decoder,
            payload: Vec::new(),
            input: if relayed[0] { Input::Relayed { ended: false } } else { Input::Done },
            to_program: Backlog::default(),
            taken: window::Consumed::default(),
            outputs: [output(relayed[1]), output(relayed[2])],
            to_client: Backlog::default(),
            ended: None,
            end_sent: false,
            termination: None,
            client_gone: false,
            deferred: false,
            out_of_memory: false,
        }
    }

    /// Announces which descriptors the program has, and the input's window. Early input follows.
    pub fn announce_streams(
        &mut self,
        passed: &[u8],
        early: &[u8],
        ended: bool,
        effects: &mut impl CommandEffects,
    ) {
        let mut packets = Vec::new();
        encode_packet(TAKEN, passed, &mut packets);
        if self.input != Input::Done {
            window::encode(0, window::INPUT_SIZE, &mut packets);
        }
        self.send_client(&packets, effects);
        self.send_input(early, effects);
        if ended {
            self.end_input(effects);
        }
    }

    /// Sends a notice beside the streams.
    pub fn notice(&mut self, line: &str, effects: &mut impl CommandEffects) {
        self.send_packet(NOTICE, line.as_bytes(), effects);
    }

    /// Takes input of the client, as far as this turn's `budget` goes, which is counted down.
    /// `gather` is room for input that comes in many packets: it goes to the program in one write.
    /// Returns how many of the last bytes are to come again in the next turn.
    pub fn client_sent(
        &mut self,
        mut bytes: &[u8],
        gather: &mut Vec<u8>,
        budget: &mut usize,
        effects: &mut impl CommandEffects,
    ) -> usize {
        let mut decoder = std::mem::take(&mut self.decoder);
        gather.clear();
        while *budget > 0 {
            let Some(packet) = decoder.next(&mut bytes) else {
                break;
            };
            match packet {
                // All input in one packet needs no copy.
                ClientPacket::Input(input) if gather.is_empty() && bytes.is_empty() => {
                    self.send_input(input, effects);
                }
                ClientPacket::Input(input) => gather.extend_from_slice(input),
                ClientPacket::Signal(number) => {
                    self.send_input(gather, effects);
                    gather.clear();
                    *budget -= 1;
                    self.signal(number, effects);
                }
                ClientPacket::Part(kind, part, last) => {
                    self.send_input(gather, effects);
                    gather.clear();
                    *budget -= 1;
                    if let Some(payload) = collect_payload(&mut self.payload, part, last, LONGEST) {
                        self.handle_packet(kind, &payload, effects);
                    }
                }
                ClientPacket::Rows(_)
                | ClientPacket::Cols(_)
                | ClientPacket::Hello(_)
                | ClientPacket::Unknown(..) => {}
            }
        }
        self.send_input(gather, effects);
        self.decoder = decoder;
        self.deferred = !bytes.is_empty();
        bytes.len()
    }

    fn signal(&mut self, number: u8, effects: &mut impl CommandEffects) {
        if self.ended.is_none() {
            effects.signal(number);
        } else if TERMINATING_SIGNALS.contains(&number.into()) {
            // The program has ended, and a process that it left behind has the outputs: the client
            // does not want to wait for that.
            self.send_exit(effects);
        }
    }

    /// Whether input is deferred to a later turn.
    pub fn has_deferred_input(&self) -> bool {
        self.deferred
    }

    /// Drops deferred input that there was no memory for, and ends the command.
    pub fn drop_deferred_input(&mut self) {
        (self.deferred, self.out_of_memory) = (false, true);
    }

    fn handle_packet(&mut self, kind: u8, payload: &[u8], effects: &mut impl CommandEffects) {
        match (kind, payload) {
            (END_OF_STREAM, []) => self.end_input(effects),
            // A writer gets SIGPIPE or EPIPE, as with a pipe.
            (END_OF_STREAM, [number @ 1..=2]) => self.end_output(*number, false, effects),
            (WINDOW_ADJUST, payload) => {
                if let Some((number @ 1..=2, taken)) = window::read(payload) {
                    let output = self.output(number);
                    output.window = output.window.saturating_add(taken).min(window::OUTPUT_SIZE);
                }
            }
            (PING, _) if self.to_client.is_empty() => {
                self.send_client(&encode_bare(PONG, 0), effects);
            }
            _ => {}
        }
    }

    /// An output is over: the client reads it no more, or is told that nobody writes there.
    fn end_output(&mut self, number: u8, is_told: bool, effects: &mut impl CommandEffects) {
        if std::mem::take(&mut self.output(number).open) {
            effects.close_output(number);
            if is_told {
                self.send_packet(END_OF_STREAM, &[number], effects);
            }
            self.send_end(effects);
        }
    }

    fn output(&mut self, number: u8) -> &mut Output {
        &mut self.outputs[usize::from(number - 1)]
    }

    fn end_input(&mut self, effects: &mut impl CommandEffects) {
        if let Input::Relayed { ended } = &mut self.input {
            *ended = true;
        }
        self.close_input_if_drained(effects);
    }

    fn close_input_if_drained(&mut self, effects: &mut impl CommandEffects) {
        if self.to_program.is_empty() && self.input == (Input::Relayed { ended: true }) {
            self.input = Input::Done;
            effects.close_input();
        }
    }

    fn send_input(&mut self, bytes: &[u8], effects: &mut impl CommandEffects) {
        if bytes.is_empty() || self.input == Input::Done {
            return;
        }
        match self.to_program.send(bytes, |bytes| effects.write_input(bytes).taken()) {
            SendOutcome::Sent(taken) => self.input_taken(taken, effects),
            SendOutcome::OutOfMemory => self.out_of_memory = true,
            SendOutcome::Closed => self.input_closed(effects),
        }
    }

    fn input_taken(&mut self, count: usize, effects: &mut impl CommandEffects) {
        if let Some(taken) = self.taken.add(count, window::INPUT_SIZE) {
            let mut packet = Vec::new();
            window::encode(0, taken, &mut packet);
            self.send_client(&packet, effects);
        }
    }

    /// The program takes input again.
    pub fn input_writable(&mut self, effects: &mut impl CommandEffects) {
        let before = self.to_program.len();
        if !self.to_program.flush(|bytes| effects.write_input(bytes).taken()) {
            return self.input_closed(effects);
        }
        self.input_taken(before - self.to_program.len(), effects);
        self.close_input_if_drained(effects);
    }

    /// The program reads its input no more: the client is told, so that whoever writes there learns
    /// of it, too.
    pub fn input_closed(&mut self, effects: &mut impl CommandEffects) {
        if self.input == Input::Done {
            return;
        }
        self.input = Input::Done;
        self.to_program.clear();
        effects.close_input();
        self.send_packet(END_OF_STREAM, &[0], effects);
    }

    /// Room for an output (1 or 2), in bytes.
    pub fn room(&self, number: u8) -> usize {
        let output = &self.outputs[usize::from(number - 1)];
        match output.open && self.to_client.is_empty() {
            true => output.window as usize,
            false => 0,
        }
    }

    /// Takes output of the program: at most as much as there is room for, behind HEADER bytes for
    /// its header.
    pub fn output_sent(
        &mut self,
        number: u8,
        packet: &mut [u8],
        effects: &mut impl CommandEffects,
    ) {
        let count = packet.len() - HEADER;
        let kind = if number == 1 { INPUT } else { ERROR_OUTPUT };
        // One read yields less than a packet holds.
        packet[..HEADER].copy_from_slice(&encode_bare(kind, count as u16));
        let output = self.output(number);
        output.window = output.window.saturating_sub(count as u32);
        self.send_client(packet, effects);
    }

    /// An output has ended: nobody has it open any more.
    pub fn output_eof(&mut self, number: u8, effects: &mut impl CommandEffects) {
        self.end_output(number, true, effects);
    }

    /// The program has ended and was reaped.
    pub fn program_ended(&mut self, ended: SessionEnd, effects: &mut impl CommandEffects) {
        self.ended = Some(ended);
        self.send_end(effects);
    }

    /// Terminates the command for a reason that is not the program's.
    pub fn terminate(&mut self, why: EndKind, line: &str, effects: &mut impl CommandEffects) {
        if !std::mem::replace(&mut self.end_sent, true) {
            self.termination = Some(why);
            self.send_client(&SessionEnd::new(why, line).packet(), effects);
        }
    }

    /// Sends END once: the program was reaped, and the relayed outputs have ended. (Another process
    /// may have passed descriptors open, and write on.)
    fn send_end(&mut self, effects: &mut impl CommandEffects) {
        if !self.outputs.iter().any(|output| output.open) {
            self.send_exit(effects);
        }
    }

    fn send_exit(&mut self, effects: &mut impl CommandEffects) {
        if let Some(ended) = self.ended.as_ref().filter(|_| !self.end_sent) {
            let packet = ended.packet();
            self.end_sent = true;
            self.send_client(&packet, effects);
        }
    }

    /// The client takes output again.
    pub fn client_writable(&mut self, effects: &mut impl CommandEffects) {
        if !self.to_client.flush(|bytes| effects.write_client(bytes).taken()) {
            self.client_disconnected();
        }
    }

    /// The client has disconnected.
    pub fn client_disconnected(&mut self) {
        self.client_gone = true;
        self.to_client.clear();
        self.to_program.clear();
    }

    /// Sends a packet that is not output.
    fn send_packet(&mut self, kind: u8, payload: &[u8], effects: &mut impl CommandEffects) {
        let mut packet = Vec::new();
        encode_packet(kind, payload, &mut packet);
        self.send_client(&packet, effects);
    }

    fn send_client(&mut self, bytes: &[u8], effects: &mut impl CommandEffects) {
        if self.client_gone {
            return;
        }
        match self.to_client.send(bytes, |bytes| effects.write_client(bytes).taken()) {
            SendOutcome::Sent(_) => {}
            SendOutcome::OutOfMemory => self.out_of_memory = true,
            SendOutcome::Closed => self.client_disconnected(),
        }
    }

    /// Reason of a termination by the gateway, if there is one.
    pub fn termination(&self) -> Option<EndKind> {
        self.termination.or(self.out_of_memory.then_some(EndKind::Lost))
    }

    /// Whether the client has disconnected.
    pub fn client_is_gone(&self) -> bool {
        self.client_gone
    }

    /// Whether the client owes a window update for output that it was sent.
    pub fn awaits_window_update(&self) -> bool {
        let unacknowledged = |output: &Output| window::OUTPUT_SIZE.saturating_sub(output.window);
        self.outputs
            .iter()
            .any(|output| window::is_adjust_due(unacknowledged(output), window::OUTPUT_SIZE))
    }

    /// Whether output waits for the client to read.
    pub fn has_output(&self) -> bool {
        !self.to_client.is_empty()
    }

    /// Interest in the client's connection.
    pub fn client_interest(&self) -> Interest {
        Interest {
            read: self.to_program.len() < INPUT_LIMIT && !self.deferred,
            write: !self.to_client.is_empty(),
        }
    }

    /// Interest in the input's end; a closed pipe is reported unasked.
    pub fn input_interest(&self) -> Interest {
        Interest { read: false, write: !self.to_program.is_empty() }
    }

    /// Interest in an output's end.
    pub fn output_interest(&self, number: u8) -> Interest {
        Interest { read: self.room(number) > 0, write: false }
    }

    /// The next action.
    pub fn next_action(&self) -> NextAction {
        if self.client_gone {
            NextAction::HangUp
        } else if self.out_of_memory {
            NextAction::OutOfMemory
        } else if self.end_sent && self.to_client.is_empty() {
            NextAction::Close
        } else {
            NextAction::Wait
        }
    }
}

#[cfg(test)]
mod tests;
