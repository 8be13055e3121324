use super::*;
use crate::session::state::CONTROL_BUDGET;
use fpty::proto::{GatewayPacket, GatewayPacketDecoder, encode_input};
use proptest::prelude::*;

/// A client and a program that take so many bytes at a time.
#[derive(Default)]
struct World {
    client: Vec<u8>,
    client_takes: usize,
    input: Vec<u8>,
    input_takes: usize,
    input_open: bool,
    closed: Vec<u8>,
    signals: Vec<u8>,
}

fn take(into: &mut Vec<u8>, bytes: &[u8], most: usize) -> WriteOutcome {
    let count = bytes.len().min(most);
    into.extend_from_slice(&bytes[..count]);
    if count > 0 { WriteOutcome::Bytes(count) } else { WriteOutcome::WouldBlock }
}

impl CommandEffects for World {
    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome {
        take(&mut self.client, bytes, self.client_takes)
    }
    fn write_input(&mut self, bytes: &[u8]) -> WriteOutcome {
        match self.input_open {
            true => take(&mut self.input, bytes, self.input_takes),
            false => WriteOutcome::Closed,
        }
    }
    fn close_input(&mut self) {
        self.input_open = false;
        self.closed.push(0);
    }
    fn close_output(&mut self, number: u8) {
        self.closed.push(number);
    }
    fn signal(&mut self, number: u8) {
        self.signals.push(number);
    }
}

/// Feeds packets until all are handled, be it in many turns.
fn sent(command: &mut Command, bytes: &[u8], world: &mut World) {
    let mut left = bytes.len();
    while left > 0 {
        let rest = &bytes[bytes.len() - left..];
        left = command.client_sent(rest, &mut Vec::new(), &mut CONTROL_BUDGET.clone(), world);
        assert_eq!(command.has_deferred_input(), left > 0);
    }
}

#[test]
fn a_turn_has_so_many_signals_and_the_rest_waits() {
    let (mut command, mut world) = (Command::started(decoder(), [true; 3]), World::default());
    let numbers: Vec<u8> = (0..200).map(|number| 40 + number % 20).collect();
    let flood: Vec<u8> =
        numbers.iter().flat_map(|number| fpty::proto::encode_signal(*number)).collect();
    let left =
        command.client_sent(&flood, &mut Vec::new(), &mut CONTROL_BUDGET.clone(), &mut world);
    assert_eq!((world.signals.len(), left), (CONTROL_BUDGET, flood.len() - 4 * CONTROL_BUDGET));
    assert!(command.has_deferred_input() && !command.client_interest().read);
    sent(&mut command, &flood[flood.len() - left..], &mut world);
    assert_eq!(world.signals, numbers);
}

#[test]
fn input_in_many_packets_is_one_write() {
    let (mut command, mut world) = (Command::started(decoder(), [true; 3]), World::default());
    (world.input_open, world.input_takes) = (true, 5000);
    let mut flood = Vec::new();
    (0..6000).for_each(|_| encode_input(b"x", &mut flood));
    sent(&mut command, &flood, &mut world);
    assert_eq!(world.input.len(), 5000);
}

fn decoder() -> ClientPacketDecoder {
    let mut decoder = ClientPacketDecoder::default();
    decoder.set_extended();
    decoder
}

/// The kinds of the packets that came, and each output.
fn handle_packet(mut bytes: &[u8]) -> (Vec<u8>, [Vec<u8>; 2]) {
    let (mut kinds, mut outputs) = (Vec::new(), [Vec::new(), Vec::new()]);
    let mut decoder = GatewayPacketDecoder::default();
    while let Some(answer) = decoder.next(&mut bytes) {
        match answer {
            GatewayPacket::Output(part) => outputs[0].extend_from_slice(part),
            GatewayPacket::ErrorOutput(part) => outputs[1].extend_from_slice(part),
            GatewayPacket::Part(kind, _, last) if last => kinds.push(kind),
            GatewayPacket::Part(..) | GatewayPacket::Hello(_) => {}
        }
    }
    (kinds, outputs)
}

fn exit() -> SessionEnd {
    SessionEnd { ending: EndKind::Exit, value: 0, text: String::new() }
}

#[test]
fn the_end_waits_for_the_outputs_that_come_through_here() {
    let mut world = World { client_takes: usize::MAX, input_open: true, ..World::default() };
    let mut command = Command::started(decoder(), [false, true, false]);
    command.announce_streams(b"02", b"", false, &mut world);
    command.program_ended(exit(), &mut world);
    assert_eq!(
        (handle_packet(&world.client).0, command.next_action()),
        (vec![TAKEN], NextAction::Wait)
    );
    command.output_eof(1, &mut world);
    assert_eq!(handle_packet(&world.client).0, [TAKEN, END_OF_STREAM, END]);
    assert_eq!(command.next_action(), NextAction::Close);
}

#[test]
fn whoever_does_not_want_to_wait_says_so_by_a_signal() {
    let mut world = World { client_takes: usize::MAX, input_open: true, ..World::default() };
    let mut command = Command::started(decoder(), [true; 3]);
    sent(&mut command, &fpty::proto::encode_signal(15), &mut world);
    assert_eq!(world.signals, [15]);
    command.program_ended(exit(), &mut world);
    sent(&mut command, &fpty::proto::encode_signal(10), &mut world);
    assert_eq!(command.next_action(), NextAction::Wait);
    sent(&mut command, &fpty::proto::encode_signal(15), &mut world);
    assert_eq!((command.next_action(), world.signals.len()), (NextAction::Close, 1));
}

use fpty::proto::END;

proptest! {
    #[test]
    fn nothing_is_lost_and_all_input_is_acknowledged(
        input in proptest::collection::vec(any::<u8>(), 0..2000),
        output in proptest::collection::vec((1u8..=2, proptest::collection::vec(any::<u8>(), 1..200)), 0..20),
        cut in 1usize..50, client_takes in 1usize..40, input_takes in 1usize..40,
    ) {
        let mut world = World { client_takes, input_takes, input_open: true, ..World::default() };
        let mut command = Command::started(decoder(), [true; 3]);
        command.announce_streams(b"", b"", false, &mut world);
        let mut packets = Vec::new();
        encode_input(&input, &mut packets);
        packets.extend(encode_bare(END_OF_STREAM, 0));
        for piece in packets.chunks(cut) {
            sent(&mut command, piece, &mut world);
        }
        let mut wanted = [Vec::new(), Vec::new()];
        for (number, bytes) in output {
            while command.has_output() {
                command.client_writable(&mut world);
            }
            prop_assert!(command.room(number) >= bytes.len());
            let mut packet = [&[0; HEADER][..], &bytes].concat();
            command.output_sent(number, &mut packet, &mut world);
            wanted[usize::from(number - 1)].extend(bytes);
        }
        while command.input_interest().write {
            command.input_writable(&mut world);
        }
        for number in [1, 2] {
            command.output_eof(number, &mut world);
        }
        command.program_ended(exit(), &mut world);
        while command.has_output() {
            command.client_writable(&mut world);
        }
        prop_assert_eq!(&world.input, &input);
        prop_assert!(!world.input_open);
        let (kinds, outputs) = handle_packet(&world.client);
        prop_assert_eq!(outputs, wanted);
        prop_assert_eq!(kinds.last(), Some(&END));
        prop_assert_eq!(command.next_action(), NextAction::Close);
    }
}
