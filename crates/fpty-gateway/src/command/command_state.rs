//! A command without a terminal and its client, as a state machine: three
//! streams, each with a window and an end of its own.
//!
//! As with a session, what it decides it asks of its [`Streams`].

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
const LIMIT: usize = 2 * window::OF_INPUT as usize;

/// Signals by which a client ends a command.
const ENDING: [i32; 4] =
    [Signal::SIGHUP as i32, Signal::SIGINT as i32, Signal::SIGQUIT as i32, Signal::SIGTERM as i32];

/// What a command's relay has done to the world.
pub trait Streams {
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
    behind: bool,
    starved: bool,
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
            behind: false,
            starved: false,
        }
    }

    /// Tells the client which of its descriptors the program has, and what it
    /// may send. Then what it said early is heard.
    pub fn begin(&mut self, passed: &[u8], early: &[u8], ended: bool, streams: &mut impl Streams) {
        let mut packets = Vec::new();
        encode_packet(TAKEN, passed, &mut packets);
        if self.input != Input::Done {
            window::encode(0, window::OF_INPUT, &mut packets);
        }
        self.give_client(&packets, streams);
        self.send_input(early, streams);
        if ended {
            self.input_ended(streams);
        }
    }

    /// Tells the client something beside the streams.
    pub fn notice(&mut self, line: &str, streams: &mut impl Streams) {
        self.send_packet(NOTICE, line.as_bytes(), streams);
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
        streams: &mut impl Streams,
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
                    self.send_input(input, streams);
                }
                Packet::Input(input) => gather.extend_from_slice(input),
                Packet::Signal(number) => {
                    self.send_input(gather, streams);
                    gather.clear();
                    *budget -= 1;
                    self.signal(number, streams);
                }
                Packet::Part(kind, part, last) => {
                    self.send_input(gather, streams);
                    gather.clear();
                    *budget -= 1;
                    if let Some(payload) = collect(&mut self.payload, part, last, LONGEST) {
                        self.said(kind, &payload, streams);
                    }
                }
                Packet::Rows(_) | Packet::Cols(_) | Packet::Hello(_) | Packet::Unknown(..) => {}
            }
        }
        self.send_input(gather, streams);
        self.decoder = decoder;
        self.behind = !bytes.is_empty();
        bytes.len()
    }

    fn signal(&mut self, number: u8, streams: &mut impl Streams) {
        if self.ended.is_none() {
            streams.signal(number);
        } else if ENDING.contains(&number.into()) {
            // It has ended, and something that it left behind has its outputs:
            // the client does not want to wait for that.
            self.tell_how_it_ended(streams);
        }
    }

    /// Whether not all that was read of the client has been heard.
    pub fn has_deferred_input(&self) -> bool {
        self.behind
    }

    /// There was no memory to keep what was not heard.
    pub fn drop_deferred_input(&mut self) {
        (self.behind, self.starved) = (false, true);
    }

    fn said(&mut self, kind: u8, payload: &[u8], streams: &mut impl Streams) {
        match (kind, payload) {
            (END_OF_STREAM, []) => self.input_ended(streams),
            // Whoever writes there gets SIGPIPE, as with a pipe.
            (END_OF_STREAM, [number @ 1..=2]) => self.output_unread(*number, streams),
            (WINDOW, payload) => {
                if let Some((number @ 1..=2, taken)) = window::read(payload) {
                    let output = self.output(number);
                    output.window = output.window.saturating_add(taken).min(window::OF_OUTPUT);
                }
            }
            (PING, _) if self.to_client.is_empty() => {
                self.give_client(&encode_bare(PONG, 0), streams);
            }
            _ => {}
        }
    }

    /// The client reads an output no more.
    fn output_unread(&mut self, number: u8, streams: &mut impl Streams) {
        if self.close_output(number, streams) {
            self.send_end(streams);
        }
    }

    /// Whether it was open.
    fn close_output(&mut self, number: u8, streams: &mut impl Streams) -> bool {
        let was_open = std::mem::take(&mut self.output(number).open);
        if was_open {
            streams.close_output(number);
        }
        was_open
    }

    fn output(&mut self, number: u8) -> &mut Output {
        &mut self.outputs[usize::from(number - 1)]
    }

    fn input_ended(&mut self, streams: &mut impl Streams) {
        if let Input::Relayed { ended } = &mut self.input {
            *ended = true;
        }
        self.close_input_where_due(streams);
    }

    fn close_input_where_due(&mut self, streams: &mut impl Streams) {
        if self.to_program.is_empty() && self.input == (Input::Relayed { ended: true }) {
            self.input = Input::Done;
            streams.close_input();
        }
    }

    fn send_input(&mut self, bytes: &[u8], streams: &mut impl Streams) {
        if bytes.is_empty() || self.input == Input::Done {
            return;
        }
        match self.to_program.give(bytes, |bytes| streams.write_input(bytes).taken()) {
            Given::Taken(taken) => self.input_taken(taken, streams),
            Given::Starved => self.starved = true,
            Given::Gone => self.input_closed(streams),
        }
    }

    fn input_taken(&mut self, count: usize, streams: &mut impl Streams) {
        if let Some(taken) = self.taken.add(count, window::OF_INPUT) {
            let mut packet = Vec::new();
            window::encode(0, taken, &mut packet);
            self.give_client(&packet, streams);
        }
    }

    /// The program takes input again.
    pub fn input_writable(&mut self, streams: &mut impl Streams) {
        let before = self.to_program.len();
        if !self.to_program.flush(|bytes| streams.write_input(bytes).taken()) {
            return self.input_closed(streams);
        }
        self.input_taken(before - self.to_program.len(), streams);
        self.close_input_where_due(streams);
    }

    /// Nobody reads the input any more: the client is told, so that whoever
    /// writes it there learns of it, too.
    pub fn input_closed(&mut self, streams: &mut impl Streams) {
        if self.input == Input::Done {
            return;
        }
        self.input = Input::Done;
        self.to_program.clear();
        streams.close_input();
        self.send_packet(END_OF_STREAM, &[0], streams);
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
    pub fn output_sent(&mut self, number: u8, packet: &mut [u8], streams: &mut impl Streams) {
        let count = packet.len() - HEADER;
        let kind = if number == 1 { INPUT } else { ERROR_OUTPUT };
        // One read yields less than a packet holds.
        packet[..HEADER].copy_from_slice(&encode_bare(kind, count as u16));
        let output = self.output(number);
        output.window = output.window.saturating_sub(count as u32);
        self.give_client(packet, streams);
    }

    /// An output has ended: nobody has it open any more.
    pub fn output_ended(&mut self, number: u8, streams: &mut impl Streams) {
        if self.close_output(number, streams) {
            self.send_packet(END_OF_STREAM, &[number], streams);
            self.send_end(streams);
        }
    }

    /// The program has ended, and was reaped.
    pub fn program_ended(&mut self, ended: Ended, streams: &mut impl Streams) {
        self.ended = Some(ended);
        self.send_end(streams);
    }

    /// Ends it for a reason that is not the program's.
    pub fn terminate(&mut self, why: Ending, line: &str, streams: &mut impl Streams) {
        if !std::mem::replace(&mut self.end_sent, true) {
            self.termination = Some(why);
            self.give_client(&Ended::because(why, line).packet(), streams);
        }
    }

    /// Tells how it ended, once: the program was reaped, and the outputs that
    /// come through here have ended. (Somebody else may have them open, and
    /// write on.)
    fn send_end(&mut self, streams: &mut impl Streams) {
        if !self.outputs.iter().any(|output| output.open) {
            self.tell_how_it_ended(streams);
        }
    }

    fn tell_how_it_ended(&mut self, streams: &mut impl Streams) {
        if let Some(ended) = self.ended.as_ref().filter(|_| !self.end_sent) {
            let packet = ended.packet();
            self.end_sent = true;
            self.give_client(&packet, streams);
        }
    }

    /// The client takes output again.
    pub fn client_writable(&mut self, streams: &mut impl Streams) {
        if !self.to_client.flush(|bytes| streams.write_client(bytes).taken()) {
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
    fn send_packet(&mut self, kind: u8, payload: &[u8], streams: &mut impl Streams) {
        let mut packet = Vec::new();
        encode_packet(kind, payload, &mut packet);
        self.give_client(&packet, streams);
    }

    fn give_client(&mut self, bytes: &[u8], streams: &mut impl Streams) {
        if self.client_gone {
            return;
        }
        match self.to_client.give(bytes, |bytes| streams.write_client(bytes).taken()) {
            Given::Taken(_) => {}
            Given::Starved => self.starved = true,
            Given::Gone => self.client_disconnected(),
        }
    }

    /// Why it was ended, where that was not by one of its ends.
    pub fn termination(&self) -> Option<Ending> {
        self.termination.or(self.starved.then_some(Ending::Lost))
    }

    /// Whether the client has left.
    pub fn client_is_gone(&self) -> bool {
        self.client_gone
    }

    /// Whether the client is to say yet what it took of the outputs.
    pub fn is_answered(&self) -> bool {
        let untold = |output: &Output| window::OF_OUTPUT.saturating_sub(output.window);
        self.outputs.iter().any(|output| window::is_to_be_told(untold(output), window::OF_OUTPUT))
    }

    /// Whether bytes for the client wait for it to read.
    pub fn has_output(&self) -> bool {
        !self.to_client.is_empty()
    }

    /// What to wait for at the client's end.
    pub fn client_interest(&self) -> Interest {
        Interest {
            read: self.to_program.len() < LIMIT && !self.behind,
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
        } else if self.starved {
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
