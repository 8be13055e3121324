//! A command without a terminal and its client, as a state machine: three
//! streams, each with a window and an end of its own.
//!
//! As with a session, what it decides it asks of its [`Streams`].

use fpty::backlog::{Backlog, SendOutcome};
use fpty::proto::{
    ClientPacket, ClientPacketDecoder, END_OF_STREAM, ERROR_OUTPUT, EndKind, HEADER, INPUT, NOTICE,
    PING, PONG, SessionEnd, TAKEN, WINDOW_ADJUST, collect_payload, encode_bare, encode_packet,
    window,
};
use fpty::sys::WriteOutcome;
use fpty::sys::poll::Interest;

use nix::sys::signal::Signal;

use crate::session::state::Verdict;

/// Input that a client may send unasked: more comes from one that does not
/// keep to the window, and is not read.
const LIMIT: usize = 2 * window::INPUT_SIZE as usize;

/// Signals by which a client ends a command.
const ENDING: [i32; 4] =
    [Signal::SIGHUP as i32, Signal::SIGINT as i32, Signal::SIGQUIT as i32, Signal::SIGTERM as i32];

/// What a command's relay has done to the world.
pub trait Streams {
    /// Writes to the client.
    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome;
    /// Writes to the program's standard input.
    fn write_input(&mut self, bytes: &[u8]) -> WriteOutcome;
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
    decoder: ClientPacketDecoder,
    /// A payload that is under way; of none more than a few bytes are of use.
    payload: Vec<u8>,
    input: Input,
    to_program: Backlog,
    taken: window::Consumed,
    outputs: [Output; 2],
    to_client: Backlog,
    /// How the program ended; `None`: it runs.
    ended: Option<SessionEnd>,
    told: bool,
    dismissed: Option<EndKind>,
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
            told: false,
            dismissed: None,
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
            window::encode(0, window::INPUT_SIZE, &mut packets);
        }
        self.give_client(&packets, streams);
        self.give_input(early, streams);
        if ended {
            self.input_ended(streams);
        }
    }

    /// Tells the client something beside the streams.
    pub fn notice(&mut self, line: &str, streams: &mut impl Streams) {
        self.tell(NOTICE, line.as_bytes(), streams);
    }

    /// Takes what the client sent, as far as this turn has time for it: `acts`
    /// is what may be asked for beside input, and is counted down. `gather` is
    /// room for input that comes in many packets: it goes to the program in one
    /// write. Returns how many of the last bytes are to come again in the next
    /// turn.
    pub fn client_sent(
        &mut self,
        mut bytes: &[u8],
        gather: &mut Vec<u8>,
        acts: &mut usize,
        streams: &mut impl Streams,
    ) -> usize {
        let mut decoder = std::mem::take(&mut self.decoder);
        gather.clear();
        while *acts > 0 {
            let Some(packet) = decoder.next(&mut bytes) else {
                break;
            };
            match packet {
                // All of it in one piece: no copy.
                ClientPacket::Input(input) if gather.is_empty() && bytes.is_empty() => {
                    self.give_input(input, streams);
                }
                ClientPacket::Input(input) => gather.extend_from_slice(input),
                ClientPacket::Signal(number) => {
                    self.give_input(gather, streams);
                    gather.clear();
                    *acts -= 1;
                    self.signal(number, streams);
                }
                ClientPacket::Part(kind, part, last) => {
                    self.give_input(gather, streams);
                    gather.clear();
                    *acts -= 1;
                    if let Some(payload) = collect_payload(&mut self.payload, part, last, LONGEST) {
                        self.said(kind, &payload, streams);
                    }
                }
                ClientPacket::Rows(_)
                | ClientPacket::Cols(_)
                | ClientPacket::Hello(_)
                | ClientPacket::Unknown(..) => {}
            }
        }
        self.give_input(gather, streams);
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
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// There was no memory to keep what was not heard.
    pub fn forget_the_rest(&mut self) {
        (self.behind, self.starved) = (false, true);
    }

    fn said(&mut self, kind: u8, payload: &[u8], streams: &mut impl Streams) {
        match (kind, payload) {
            (END_OF_STREAM, []) => self.input_ended(streams),
            // Whoever writes there gets SIGPIPE, as with a pipe.
            (END_OF_STREAM, [number @ 1..=2]) => self.output_unread(*number, streams),
            (WINDOW_ADJUST, payload) => {
                if let Some((number @ 1..=2, taken)) = window::read(payload) {
                    let output = self.output(number);
                    output.window = output.window.saturating_add(taken).min(window::OUTPUT_SIZE);
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
            self.tell_the_end(streams);
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

    fn give_input(&mut self, bytes: &[u8], streams: &mut impl Streams) {
        if bytes.is_empty() || self.input == Input::Done {
            return;
        }
        match self.to_program.send(bytes, |bytes| streams.write_input(bytes).taken()) {
            SendOutcome::Sent(taken) => self.input_taken(taken, streams),
            SendOutcome::OutOfMemory => self.starved = true,
            SendOutcome::Closed => self.input_closed(streams),
        }
    }

    fn input_taken(&mut self, count: usize, streams: &mut impl Streams) {
        if let Some(taken) = self.taken.add(count, window::INPUT_SIZE) {
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
        self.tell(END_OF_STREAM, &[0], streams);
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
            self.tell(END_OF_STREAM, &[number], streams);
            self.tell_the_end(streams);
        }
    }

    /// The program has ended, and was reaped.
    pub fn program_ended(&mut self, ended: SessionEnd, streams: &mut impl Streams) {
        self.ended = Some(ended);
        self.tell_the_end(streams);
    }

    /// Ends it for a reason that is not the program's.
    pub fn dismiss(&mut self, why: EndKind, line: &str, streams: &mut impl Streams) {
        if !std::mem::replace(&mut self.told, true) {
            self.dismissed = Some(why);
            self.give_client(&SessionEnd::new(why, line).packet(), streams);
        }
    }

    /// Tells how it ended, once: the program was reaped, and the outputs that
    /// come through here have ended. (Somebody else may have them open, and
    /// write on.)
    fn tell_the_end(&mut self, streams: &mut impl Streams) {
        if !self.outputs.iter().any(|output| output.open) {
            self.tell_how_it_ended(streams);
        }
    }

    fn tell_how_it_ended(&mut self, streams: &mut impl Streams) {
        if let Some(ended) = self.ended.as_ref().filter(|_| !self.told) {
            let packet = ended.packet();
            self.told = true;
            self.give_client(&packet, streams);
        }
    }

    /// The client takes output again.
    pub fn client_writable(&mut self, streams: &mut impl Streams) {
        if !self.to_client.flush(|bytes| streams.write_client(bytes).taken()) {
            self.client_left();
        }
    }

    /// The client has left.
    pub fn client_left(&mut self) {
        self.client_gone = true;
        self.to_client.clear();
        self.to_program.clear();
    }

    /// Tells the client something beside the streams.
    fn tell(&mut self, kind: u8, payload: &[u8], streams: &mut impl Streams) {
        let mut packet = Vec::new();
        encode_packet(kind, payload, &mut packet);
        self.give_client(&packet, streams);
    }

    fn give_client(&mut self, bytes: &[u8], streams: &mut impl Streams) {
        if self.client_gone {
            return;
        }
        match self.to_client.send(bytes, |bytes| streams.write_client(bytes).taken()) {
            SendOutcome::Sent(_) => {}
            SendOutcome::OutOfMemory => self.starved = true,
            SendOutcome::Closed => self.client_left(),
        }
    }

    /// Why it was ended, where that was not by one of its ends.
    pub fn dismissed(&self) -> Option<EndKind> {
        self.dismissed.or(self.starved.then_some(EndKind::Lost))
    }

    /// Whether the client has left.
    pub fn client_is_gone(&self) -> bool {
        self.client_gone
    }

    /// Whether the client is to say yet what it took of the outputs.
    pub fn is_answered(&self) -> bool {
        let untold = |output: &Output| window::OUTPUT_SIZE.saturating_sub(output.window);
        self.outputs.iter().any(|output| window::is_adjust_due(untold(output), window::OUTPUT_SIZE))
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
    pub fn verdict(&self) -> Verdict {
        if self.client_gone {
            Verdict::Abandoned
        } else if self.starved {
            Verdict::Starved
        } else if self.told && self.to_client.is_empty() {
            Verdict::Over
        } else {
            Verdict::Lives
        }
    }
}

#[cfg(test)]
mod tests;
