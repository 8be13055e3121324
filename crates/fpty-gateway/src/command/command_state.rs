//! A command without a terminal and its client, as a state machine: three
//! streams, each with a window and an end of its own.
//!
//! As with a session, what it decides it asks of its [`CommandEffects`].

use fpty::backlog::{Backlog, Given};
use fpty::proto::{
    Decoder, END_OF_STREAM, ERROR_OUTPUT, Ended, Ending, HEADER, INPUT, NOTICE, PING, PONG, Packet,
    TAKEN, WINDOW, collect, encode_bare, encode_packet, window,
};
use fpty::sys::Written;
use fpty::sys::poll::Interest;

use nix::sys::signal::Signal;

use crate::session::state::NextAction;

/// Input that a client may send unasked: more comes from one that does not
/// keep to the window, and is not read.
const INPUT_LIMIT: usize = 2 * window::OF_INPUT as usize;

/// Signals by which a client ends a command.
const TERMINATING_SIGNALS: [i32; 4] =
    [Signal::SIGHUP as i32, Signal::SIGINT as i32, Signal::SIGQUIT as i32, Signal::SIGTERM as i32];

/// What a command's relay has done to the world.
pub trait CommandEffects {
    /// Writes to the client.
    fn write_client(&mut self, bytes: &[u8]) -> Written;
    /// Writes to the program's standard input.
    fn write_input(&mut self, bytes: &[u8]) -> Written;
    /// Closes that.
    fn close_input(&mut self);
    /// Closes our end of an output: 1 or 2.
    fn close_output(&mut self, number: u8);
    /// Sends a signal of this number to the command's process group.
    fn signal(&mut self, number: u8);
}

/// Standard input.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    /// It comes through here.
    Relayed {
        /// The client has said that there is no more.
        ended: bool,
    },
    /// The program has all that it will get, or it was passed.
    Done,
}

/// One of the two outputs.
#[derive(Debug)]
struct Output {
    /// It goes through here, and has not ended.
    open: bool,
    /// Bytes that the client still takes.
    window: u32,
}

/// A command.
#[derive(Debug)]
pub struct Command {
    decoder: Decoder,
    /// A payload that is under way; of none more than a few bytes are of use.
    payload: Vec<u8>,
    input: Input,
    to_program: Backlog,
    taken: window::Taken,
    outputs: [Output; 2],
    to_client: Backlog,
    /// How the program ended; `None`: it runs.
    ended: Option<Ended>,
    end_sent: bool,
    termination: Option<Ending>,
    client_gone: bool,
    /// Not all that was read of the client has been heard.
    deferred: bool,
    out_of_memory: bool,
}

/// The longest payload that is of use.
const LONGEST: usize = 16;

impl Command {
    /// One whose program has been started. Of its streams those that
    /// `relayed` says go through here; the others were passed.
    pub fn started(decoder: Decoder, relayed: [bool; 3]) -> Self {
        let output = |open| Output { open, window: window::OF_OUTPUT };
        Self {
            decoder,
            payload: Vec::new(),
            input: if relayed[0] { Input::Relayed { ended: false } } else { Input::Done },
            to_program: Backlog::default(),
            taken: window::Taken::default(),
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

    /// Tells the client which of its descriptors the program has, and what it
    /// may send. Then what it said early is heard.
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
            window::encode(0, window::OF_INPUT, &mut packets);
        }
        self.send_client(&packets, effects);
        self.send_input(early, effects);
        if ended {
            self.end_input(effects);
        }
    }

    /// Tells the client something beside the streams.
    pub fn notice(&mut self, line: &str, effects: &mut impl CommandEffects) {
        self.send_packet(NOTICE, line.as_bytes(), effects);
    }

    /// Takes what the client sent, as far as this turn has time for it: `budget`
    /// is what may be asked for beside input, and is counted down. `gather` is
    /// room for input that comes in many packets: it goes to the program in one
    /// write. Returns how many of the last bytes are to come again in the next
    /// turn.
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
                // All of it in one piece: no copy.
                Packet::Input(input) if gather.is_empty() && bytes.is_empty() => {
                    self.send_input(input, effects);
                }
                Packet::Input(input) => gather.extend_from_slice(input),
                Packet::Signal(number) => {
                    self.send_input(gather, effects);
                    gather.clear();
                    *budget -= 1;
                    self.signal(number, effects);
                }
                Packet::Part(kind, part, last) => {
                    self.send_input(gather, effects);
                    gather.clear();
                    *budget -= 1;
                    if let Some(payload) = collect(&mut self.payload, part, last, LONGEST) {
                        self.handle_packet(kind, &payload, effects);
                    }
                }
                Packet::Rows(_) | Packet::Cols(_) | Packet::Hello(_) | Packet::Unknown(..) => {}
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
            // It has ended, and something that it left behind has its outputs:
            // the client does not want to wait for that.
            self.send_exit(effects);
        }
    }

    /// Whether not all that was read of the client has been heard.
    pub fn has_deferred_input(&self) -> bool {
        self.deferred
    }

    /// There was no memory to keep what was not heard.
    pub fn drop_deferred_input(&mut self) {
        (self.deferred, self.out_of_memory) = (false, true);
    }

    fn handle_packet(&mut self, kind: u8, payload: &[u8], effects: &mut impl CommandEffects) {
        match (kind, payload) {
            (END_OF_STREAM, []) => self.end_input(effects),
            // Whoever writes there gets SIGPIPE, as with a pipe.
            (END_OF_STREAM, [number @ 1..=2]) => self.stop_output(*number, effects),
            (WINDOW, payload) => {
                if let Some((number @ 1..=2, taken)) = window::read(payload) {
                    let output = self.output(number);
                    output.window = output.window.saturating_add(taken).min(window::OF_OUTPUT);
                }
            }
            (PING, _) if self.to_client.is_empty() => {
                self.send_client(&encode_bare(PONG, 0), effects);
            }
            _ => {}
        }
    }

    /// The client reads an output no more.
    fn stop_output(&mut self, number: u8, effects: &mut impl CommandEffects) {
        if self.close_output(number, effects) {
            self.send_end(effects);
        }
    }

    /// Whether it was open.
    fn close_output(&mut self, number: u8, effects: &mut impl CommandEffects) -> bool {
        let was_open = std::mem::take(&mut self.output(number).open);
        if was_open {
            effects.close_output(number);
        }
        was_open
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
        match self.to_program.give(bytes, |bytes| effects.write_input(bytes).taken()) {
            Given::Taken(taken) => self.input_taken(taken, effects),
            Given::Starved => self.out_of_memory = true,
            Given::Gone => self.input_closed(effects),
        }
    }

    fn input_taken(&mut self, count: usize, effects: &mut impl CommandEffects) {
        if let Some(taken) = self.taken.add(count, window::OF_INPUT) {
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

    /// Nobody reads the input any more: the client is told, so that whoever
    /// writes it there learns of it, too.
    pub fn input_closed(&mut self, effects: &mut impl CommandEffects) {
        if self.input == Input::Done {
            return;
        }
        self.input = Input::Done;
        self.to_program.clear();
        effects.close_input();
        self.send_packet(END_OF_STREAM, &[0], effects);
    }

    /// How many bytes of an output (1 or 2) can be taken now.
    pub fn room(&self, number: u8) -> usize {
        let output = &self.outputs[usize::from(number - 1)];
        match output.open && self.to_client.is_empty() {
            true => output.window as usize,
            false => 0,
        }
    }

    /// Takes what the program wrote to an output: at most as much as there is
    /// room for, behind HEADER bytes for its header.
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
        if self.close_output(number, effects) {
            self.send_packet(END_OF_STREAM, &[number], effects);
            self.send_end(effects);
        }
    }

    /// The program has ended, and was reaped.
    pub fn program_ended(&mut self, ended: Ended, effects: &mut impl CommandEffects) {
        self.ended = Some(ended);
        self.send_end(effects);
    }

    /// Ends it for a reason that is not the program's.
    pub fn terminate(&mut self, why: Ending, line: &str, effects: &mut impl CommandEffects) {
        if !std::mem::replace(&mut self.end_sent, true) {
            self.termination = Some(why);
            self.send_client(&Ended::because(why, line).packet(), effects);
        }
    }

    /// Tells how it ended, once: the program was reaped, and the outputs that
    /// come through here have ended. (Somebody else may have them open, and
    /// write on.)
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

    /// The client has left.
    pub fn client_disconnected(&mut self) {
        self.client_gone = true;
        self.to_client.clear();
        self.to_program.clear();
    }

    /// Tells the client something beside the streams.
    fn send_packet(&mut self, kind: u8, payload: &[u8], effects: &mut impl CommandEffects) {
        let mut packet = Vec::new();
        encode_packet(kind, payload, &mut packet);
        self.send_client(&packet, effects);
    }

    fn send_client(&mut self, bytes: &[u8], effects: &mut impl CommandEffects) {
        if self.client_gone {
            return;
        }
        match self.to_client.give(bytes, |bytes| effects.write_client(bytes).taken()) {
            Given::Taken(_) => {}
            Given::Starved => self.out_of_memory = true,
            Given::Gone => self.client_disconnected(),
        }
    }

    /// Why it was ended, where that was not by one of its ends.
    pub fn termination(&self) -> Option<Ending> {
        self.termination.or(self.out_of_memory.then_some(Ending::Lost))
    }

    /// Whether the client has left.
    pub fn client_is_gone(&self) -> bool {
        self.client_gone
    }

    /// Whether the client is to say yet what it took of the outputs.
    pub fn awaits_window_update(&self) -> bool {
        let unacknowledged = |output: &Output| window::OF_OUTPUT.saturating_sub(output.window);
        self.outputs
            .iter()
            .any(|output| window::is_to_be_told(unacknowledged(output), window::OF_OUTPUT))
    }

    /// Whether bytes for the client wait for it to read.
    pub fn has_output(&self) -> bool {
        !self.to_client.is_empty()
    }

    /// What to wait for at the client's end.
    pub fn client_interest(&self) -> Interest {
        Interest {
            read: self.to_program.len() < INPUT_LIMIT && !self.deferred,
            write: !self.to_client.is_empty(),
        }
    }

    /// What to wait for at the input's end; its being closed is told
    /// uncalled for.
    pub fn input_interest(&self) -> Interest {
        Interest { read: false, write: !self.to_program.is_empty() }
    }

    /// What to wait for at an output's end.
    pub fn output_interest(&self, number: u8) -> Interest {
        Interest { read: self.room(number) > 0, write: false }
    }

    /// Whether it goes on.
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
