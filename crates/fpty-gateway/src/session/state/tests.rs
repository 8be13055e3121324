use super::*;
use crate::connection::client_hello::{Handshake, HandshakeStep};
use fpty::exit_status::session_end;
use fpty::proto::{
    GO, HELLO, PING, TAKEN, VARIABLES, encode_bare, encode_input, encode_rows_and_cols,
    encode_signal,
};
use fpty::sys::child::Exit;

const SIZE: Size = Size { rows: 24, cols: 80 };

/// Two ends that take so many bytes, and note what is done to them.
#[derive(Default)]
struct Fake {
    terminal_room: usize,
    client_room: usize,
    client_gone: bool,
    key: Option<SignalKey>,
    did: Vec<Did>,
}

#[derive(Debug, PartialEq, Eq)]
enum Did {
    Terminal(Vec<u8>),
    Client(Vec<u8>),
    Resize(u16, u16),
    Signal(u8),
    SignalKey(u8),
}

fn take(room: &mut usize, bytes: &[u8]) -> WriteOutcome {
    let count = bytes.len().min(*room);
    *room -= count;
    if count == 0 { WriteOutcome::WouldBlock } else { WriteOutcome::Bytes(count) }
}

impl SessionEffects for Fake {
    fn write_terminal(&mut self, bytes: &[u8]) -> WriteOutcome {
        let written = take(&mut self.terminal_room, bytes);
        if let WriteOutcome::Bytes(count) = written {
            self.did.push(Did::Terminal(bytes[..count].to_vec()));
        }
        written
    }
    fn write_client(&mut self, bytes: &[u8]) -> WriteOutcome {
        if self.client_gone {
            return WriteOutcome::Closed;
        }
        let written = take(&mut self.client_room, bytes);
        if let WriteOutcome::Bytes(count) = written {
            self.did.push(Did::Client(bytes[..count].to_vec()));
        }
        written
    }
    fn resize(&mut self, size: Size) {
        self.did.push(Did::Resize(size.rows, size.cols));
    }
    fn signal(&mut self, number: u8) {
        self.did.push(Did::Signal(number));
    }
    fn key(&mut self, number: u8) -> SignalKey {
        self.did.push(Did::SignalKey(number));
        self.key.unwrap_or(SignalKey::None)
    }
}

fn uwsgi() -> Session {
    Session::from_hello(&mut Handshake::default().hello, SIZE)
}

fn roomy() -> Fake {
    Fake { terminal_room: usize::MAX, client_room: usize::MAX, ..Fake::default() }
}

/// Feeds packets until all are handled, be it in many turns.
fn sent(session: &mut Session, bytes: &mut Vec<u8>, effects: &mut Fake) {
    let mut left =
        session.client_sent(bytes, &mut Vec::new(), &mut CONTROL_BUDGET.clone(), effects);
    while left > 0 {
        assert!(session.has_deferred_input() && !session.client_interest().read);
        let rest = bytes[bytes.len() - left..].to_vec();
        left = session.resume_client(&rest, &mut Vec::new(), &mut CONTROL_BUDGET.clone(), effects);
    }
    assert!(!session.has_deferred_input());
}

#[test]
fn packets_take_effect_at_once_and_in_order() {
    let mut session = uwsgi();
    let mut effects = roomy();
    let mut bytes = encode_rows_and_cols(50, 132).to_vec();
    encode_input(b"a", &mut bytes);
    encode_input(b"b", &mut bytes);
    bytes.extend(encode_signal(2));
    bytes.extend([0, 1, 0, 200]);
    encode_input(b"c", &mut bytes);
    sent(&mut session, &mut bytes, &mut effects);
    assert_eq!(
        effects.did,
        [
            Did::Resize(50, 132),
            Did::Terminal(b"ab".to_vec()),
            Did::SignalKey(2),
            Did::Terminal(b"c".to_vec()),
        ]
    );
}

#[test]
fn a_signal_passes_input_that_waits() {
    let mut session = uwsgi();
    let mut effects = Fake::default();
    let mut bytes = Vec::new();
    encode_input(b"never read", &mut bytes);
    bytes.extend(encode_signal(2));
    sent(&mut session, &mut bytes, &mut effects);
    assert_eq!(effects.did, [Did::SignalKey(2)]);
    assert_eq!(session.terminal_interest(), Interest { read: true, write: true });
}

#[test]
fn a_flood_takes_the_clients_read_interest_away_and_nothing_is_lost() {
    let mut session = Session::raw(SIZE);
    let mut effects = Fake { terminal_room: 10, ..Fake::default() };
    let flood: Vec<u8> = (0..INPUT_LIMIT + 10).map(|at| at as u8).collect();
    sent(&mut session, &mut flood.clone(), &mut effects);
    assert!(!session.client_interest().read);
    effects.terminal_room = usize::MAX;
    session.terminal_writable(&mut effects);
    assert!(session.client_interest().read);
    let arrived: Vec<u8> = effects
        .did
        .iter()
        .flat_map(|did| match did {
            Did::Terminal(bytes) => bytes.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(arrived == flood);
}

#[test]
fn a_client_that_does_not_read_stops_the_program_not_the_gateway() {
    let mut session = Session::raw(SIZE);
    let mut effects = Fake { client_room: 3, ..Fake::default() };
    session.terminal_output(b"output", &mut effects);
    assert_eq!(session.terminal_interest(), Interest { read: false, write: false });
    assert!(session.client_interest().write);
    effects.client_room = 100;
    session.client_writable(&mut effects);
    assert_eq!(effects.did, [Did::Client(b"out".to_vec()), Did::Client(b"put".to_vec())]);
    assert!(session.terminal_interest().read);
}

#[test]
fn the_end_waits_for_status_output_and_delivery() {
    let mut session = Session::raw(SIZE);
    let mut effects = Fake::default();
    session.program_ended(session_end(Exit::Status(0)), &mut effects);
    assert_eq!(session.next_action(), NextAction::Wait);
    session.terminal_output(b"last words", &mut effects);
    session.terminal_eof(&mut effects);
    assert_eq!(session.next_action(), NextAction::Wait);
    effects.client_room = 100;
    session.client_writable(&mut effects);
    assert_eq!(session.next_action(), NextAction::Close);
}

#[test]
fn a_program_that_closes_its_terminal_and_runs_on_is_waited_for() {
    let mut session = Session::raw(SIZE);
    let mut effects = roomy();
    session.terminal_eof(&mut effects);
    assert_eq!(session.next_action(), NextAction::Wait);
    session.program_ended(session_end(Exit::Status(0)), &mut effects);
    assert_eq!(session.next_action(), NextAction::Close);
}

#[test]
fn half_close_ends_the_input_after_the_last_byte() {
    let mut session = Session::raw(SIZE);
    let mut effects = Fake::default();
    sent(&mut session, &mut b"last".to_vec(), &mut effects);
    session.client_half_closed();
    assert!(!session.owes_eof());
    effects.terminal_room = 100;
    session.terminal_writable(&mut effects);
    assert!(session.owes_eof());
    assert_eq!(session.next_action(), NextAction::Wait);
    assert!(!session.client_interest().read);
}

#[test]
fn a_client_that_left_abandons_the_session() {
    let mut session = Session::raw(SIZE);
    let mut effects = Fake { client_gone: true, ..Fake::default() };
    session.terminal_output(b"x", &mut effects);
    assert_eq!(session.next_action(), NextAction::HangUp);
}

#[test]
fn a_dismissal_is_delivered_first() {
    let mut session = Session::raw(SIZE);
    let mut effects = Fake::default();
    session.terminate(EndKind::Idle, "t", &mut effects);
    assert_eq!(session.next_action(), NextAction::Wait);
    effects.client_room = 100;
    session.client_writable(&mut effects);
    assert_eq!(effects.did, [Did::Client(b"\r\nforkptyrouter: t\r\n".to_vec())]);
    assert_eq!(session.next_action(), NextAction::Close);
}

#[test]
fn a_client_is_not_heard_while_its_input_waits() {
    let (mut effects, mut coalesced) = (Fake { client_room: 10, ..Fake::default() }, Vec::new());
    let mut session = Session::raw(SIZE);
    session.client_sent(
        &mut b"some".to_vec(),
        &mut coalesced,
        &mut usize::MAX.clone(),
        &mut effects,
    );
    assert!(!session.is_input_blocked(), "it is listened to");
    session.client_half_closed();
    assert!(session.is_input_blocked(), "it may have left after that");
    effects.terminal_room = 4;
    session.terminal_writable(&mut effects);
    assert!(!session.is_input_blocked(), "the program reads");

    let mut session = Session::raw(SIZE);
    session.client_sent(
        &mut vec![b'x'; INPUT_LIMIT],
        &mut coalesced,
        &mut usize::MAX.clone(),
        &mut effects,
    );
    assert!(session.is_input_blocked(), "it floods");
    session.client_disconnected();
    assert!(!session.is_input_blocked(), "there is nobody");
}

/// A session in extended mode.
fn extended() -> Session {
    let mut handshake = Handshake::default();
    let mut bytes = encode_bare(HELLO, 1).to_vec();
    bytes.extend(encode_bare(VARIABLES, 0));
    let mut bytes = bytes.as_slice();
    assert!(matches!(handshake.feed(&mut bytes), HandshakeStep::SendHello(_)));
    assert_eq!(handshake.feed(&mut bytes), HandshakeStep::Complete);
    Session::from_hello(&mut handshake.hello, SIZE)
}

fn say(session: &mut Session, mut packet: Vec<u8>, effects: &mut Fake) {
    sent(session, &mut packet, effects);
}

#[test]
fn the_end_is_told_once_after_output_and_status() {
    let mut effects = roomy();
    let mut session = extended();
    session.program_ended(session_end(Exit::Status(7)), &mut effects);
    assert_eq!(effects.did, []);
    session.terminal_eof(&mut effects);
    session.terminal_eof(&mut effects);
    let told = session_end(Exit::Status(7)).packet();
    assert_eq!(effects.did, [Did::Client(told)]);
    assert_eq!(session.next_action(), NextAction::Close);
    // In plain uwsgi mode nothing is told.
    let (mut session, mut effects) = (uwsgi(), roomy());
    session.program_ended(session_end(Exit::Status(7)), &mut effects);
    session.terminal_eof(&mut effects);
    assert_eq!(effects.did, []);
}

#[test]
fn the_word_to_go_on_comes_after_what_was_typed_before() {
    let mut effects = Fake { client_room: 100, ..Fake::default() };
    let mut session = extended();
    say(&mut session, encode_bare(TAKEN, 0).to_vec(), &mut effects);
    assert!(!session.is_handed_over(), "it was not offered");
    assert!(session.can_be_offered());
    session.set_offered();
    let mut typed = Vec::new();
    encode_input(b"typed", &mut typed);
    say(&mut session, typed, &mut effects);
    say(&mut session, encode_bare(TAKEN, 0).to_vec(), &mut effects);
    assert!(!session.is_handed_over(), "what was typed waits");
    // Output still goes through here.
    assert!(session.terminal_interest().read);
    effects.terminal_room = 100;
    session.terminal_writable(&mut effects);
    assert!(session.is_handed_over() && !session.terminal_interest().read);
    let go = encode_bare(GO, 0).to_vec();
    assert_eq!(effects.did, [Did::Terminal(b"typed".to_vec()), Did::Client(go)]);
    say(&mut session, encode_bare(TAKEN, 0).to_vec(), &mut effects);
    assert_eq!(effects.did.len(), 2);
}

#[test]
fn a_flood_of_pings_is_not_answered_for_ever() {
    let mut effects = Fake { client_room: 6, ..Fake::default() };
    let mut session = extended();
    for _ in 0..1000 {
        say(&mut session, encode_bare(PING, 0).to_vec(), &mut effects);
    }
    assert!(session.has_output());
    effects.client_room = 100;
    session.client_writable(&mut effects);
    assert_eq!(effects.did.len(), 3);
}

#[test]
fn a_key_drops_what_waits_where_the_terminal_would() {
    let mut session = uwsgi();
    let mut effects = Fake { key: Some(SignalKey::DropsInput(3)), ..Fake::default() };
    let mut bytes = Vec::new();
    encode_input(b"waits", &mut bytes);
    bytes.extend(encode_signal(2));
    say(&mut session, bytes.clone(), &mut effects);
    effects.terminal_room = 100;
    session.terminal_writable(&mut effects);
    assert_eq!(effects.did, [Did::SignalKey(2), Did::Terminal(vec![3])]);

    let mut session = uwsgi();
    let mut effects = Fake { key: Some(SignalKey::AsInput(3)), ..Fake::default() };
    say(&mut session, bytes, &mut effects);
    effects.terminal_room = 100;
    session.terminal_writable(&mut effects);
    assert_eq!(effects.did, [Did::SignalKey(2), Did::Terminal(b"waits\x03".to_vec())]);
}

/// Effects of `bytes` in one turn, and how many of them are left.
fn in_one_turn(bytes: &[u8], key: SignalKey) -> (Vec<Did>, usize) {
    let mut effects = Fake { key: Some(key), ..roomy() };
    let mut bytes = bytes.to_vec();
    let left =
        uwsgi().client_sent(&mut bytes, &mut Vec::new(), &mut CONTROL_BUDGET.clone(), &mut effects);
    (effects.did, left)
}

#[test]
fn a_turn_has_so_many_acts_and_the_rest_waits() {
    for (packets, budget) in [
        ([encode_signal(28).to_vec(), Vec::new()], CONTROL_BUDGET),
        ([encode_signal(2).to_vec(), encode_signal(3).to_vec()], CONTROL_BUDGET),
        ([encode_rows_and_cols(1, 2).to_vec(), b"\0\x01\0\0x".to_vec()], 2 * CONTROL_BUDGET),
    ] {
        let flood = packets.concat().repeat(1000);
        let (did, left) = in_one_turn(&flood, SignalKey::None);
        assert!(did.len() <= budget + 1 && did.len() >= CONTROL_BUDGET, "{} acts", did.len());
        assert!(left > flood.len() / 2, "{left} of {}", flood.len());
        // In order, and nothing is lost.
        let (mut session, mut effects) = (uwsgi(), roomy());
        sent(&mut session, &mut flood.clone(), &mut effects);
        assert_eq!(effects.did[..CONTROL_BUDGET], did[..CONTROL_BUDGET]);
    }
    let (mut session, mut effects) = (uwsgi(), roomy());
    let numbers: Vec<u8> = (0..200).map(|number| 40 + number % 20).collect();
    let mut flood: Vec<u8> = numbers.iter().flat_map(|number| encode_signal(*number)).collect();
    sent(&mut session, &mut flood, &mut effects);
    let all: Vec<Did> = numbers.into_iter().map(Did::Signal).collect();
    assert_eq!(effects.did, all);
}

#[test]
fn input_takes_no_turns() {
    let mut flood = Vec::new();
    (0..10_000).for_each(|_| encode_input(b"x", &mut flood));
    flood.extend([0, 1, 0, 200].repeat(1000));
    let (did, left) = in_one_turn(&flood, SignalKey::None);
    assert_eq!((did, left), (vec![Did::Terminal(vec![b'x'; 10_000])], 0));
}

#[test]
fn a_key_pressed_in_a_row_drops_once_and_is_typed_as_often() {
    let mut flood = b"\0\x01\0\0a".to_vec();
    flood.extend(encode_signal(2).repeat(5000));
    flood.extend(b"\0\x01\0\0b");
    let typed = |bytes: &[u8]| Did::Terminal(bytes.to_vec());
    let (did, left) = in_one_turn(&flood, SignalKey::DropsInput(3));
    assert_eq!((did, left), (vec![typed(b"a"), Did::SignalKey(2), typed(b"\x03"), typed(b"b")], 0));
    let (did, left) = in_one_turn(&flood, SignalKey::AsInput(3));
    assert_eq!(
        (did, left),
        (vec![typed(b"a"), Did::SignalKey(2), typed(&[3; 5000]), typed(b"b")], 0)
    );
}
