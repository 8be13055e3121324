//! The extended mode as the protocol's reference has it: a client of our own
//! that shares no code with the product.

use std::time::{Duration, Instant};

use crate::harness::client::both;
use crate::harness::wire::{header, input, packet, variable};
use crate::harness::{Setup, Wire, assert_same, in_process, sequence};

const HELLO: u8 = 102;
const VARIABLES: u8 = 103;
const END_OF_INPUT: u8 = 104;
const PING: u8 = 107;
const TAKEN: u8 = 108;
const ENDED: u8 = 110;
const NOTICE: u8 = 111;

/// Packets of a gateway, with adjacent output joined.
#[derive(Debug, Default)]
pub struct Said {
    pub output: Vec<u8>,
    pub pongs: usize,
    pub notices: Vec<String>,
    pub ended: Vec<(u8, u8, String)>,
    pub others: Vec<u8>,
    pub complete: bool,
}

fn decode(mut bytes: &[u8]) -> Said {
    let mut said = Said::default();
    assert_eq!(bytes.get(..4), Some(&[0, 1, 0, HELLO][..]), "the answer comes first: {bytes:?}");
    bytes = &bytes[4..];
    while let &[_, low, high, kind, ref rest @ ..] = bytes {
        let size = usize::from(u16::from_le_bytes([low, high]));
        let Some((payload, rest)) = rest.split_at_checked(size) else { return said };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        match kind {
            0 => said.output.extend_from_slice(payload),
            PING => said.pongs += 1,
            NOTICE => said.notices.push(text(payload)),
            ENDED => said.ended.push((payload[0], payload[1], text(&payload[2..]))),
            other => said.others.push(other),
        }
        bytes = rest;
    }
    said.complete = bytes.is_empty();
    said
}

/// Says hello, gets the answer, and says that this was all.
#[track_caller]
pub fn open(client: &Wire, variables: &[(&str, &str)]) {
    client.send(header(1, HELLO));
    client.send([header(33, 100), header(99, 101)].concat());
    for (name, value) in variables {
        client.send(packet(VARIABLES, &variable(name, value)));
    }
    client.send(packet(VARIABLES, &[]));
}

#[track_caller]
pub fn to_the_end(client: &mut Wire) -> Said {
    let said = decode(&client.read_to_end());
    assert!(said.complete && said.ended.len() == 1 && said.others.is_empty(), "{said:?}");
    said
}

#[test]
fn the_end_packet_comes_once_and_last() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor).script("seq 1 100000; eval \"$END\"; exit 3"));
        let server = server.option("forkptyrouter-accept-env", "END").start();
        for (end, ended) in [
            ("exit 7", (0, 7, String::new())),
            ("exit 0", (0, 0, String::new())),
            ("kill -9 $$", (1, 9, String::new())),
        ] {
            let mut client = server.connect("u");
            open(&client, &[("END", end)]);
            let said = to_the_end(&mut client);
            let lines: Vec<u8> = said.output.iter().copied().filter(|b| *b != b'\r').collect();
            assert_same(&lines, &sequence(100_000));
            assert_eq!(said.ended, [ended]);
        }
    });
}

#[test]
fn variables_in_any_pieces_reach_the_program() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor).script("stty size; echo \"$TERM:$LC_X:$SHELLOPTS\""));
        let server = server.start();
        let mut client = server.connect("u");
        let mut said = [&header(1, HELLO)[..], &header(33, 100), &header(99, 101)].concat();
        said.extend(packet(200, b"unknown"));
        let pairs = [("TERM", "foot"), ("LC_X", "y"), ("SHELLOPTS", "xtrace"), ("TERM", "last")];
        for (name, value) in pairs {
            said.extend(packet(VARIABLES, &variable(name, value)));
        }
        said.extend(packet(VARIABLES, &[]));
        for byte in said {
            client.send([byte]);
        }
        let output = String::from_utf8(to_the_end(&mut client).output).unwrap();
        assert_eq!(output, "33 99\r\nlast:y:\r\n");
    });
}

/// A client of the plain mode that is slow to speak, and one that never does.
#[test]
fn a_silent_plain_client_is_waited_for_shortly() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor).script("stty size")).start();
        let begin = Instant::now();
        let mut silent = server.connect("u");
        silent.read_until("24 80\r\n");
        let waited = begin.elapsed();
        assert!(waited >= Duration::from_millis(45), "{waited:?}");
        for _ in 0..10 {
            let mut client = server.connect("u");
            client.resize(41, 131);
            client.read_until("41 131\r\n");
        }
    });
}

#[test]
fn input_waits_for_the_request_and_its_end_is_a_packet() {
    in_process(|flavor| {
        let server = both(Setup::new(flavor).script("stty raw -echo; cat; echo after")).start();
        let mut client = server.connect("u");
        client.send([&header(1, HELLO)[..], &input("early;")].concat());
        client.send(packet(VARIABLES, &[]));
        client.send(input("late;"));
        // In raw mode there is no end of the input; after this there is.
        client.read_while("the input comes back", |seen| seen.ends_with(b"late;"));
        let mut cooked = server.connect("u");
        drop(client);
        open(&cooked, &[]);
        cooked.send(packet(END_OF_INPUT, &[]));
        cooked.send(header(0, 15));
        assert_eq!(to_the_end(&mut cooked).ended[0].0, 1);
    });
}

#[test]
fn unknown_packets_end_nothing() {
    in_process(|flavor| {
        let server =
            both(Setup::new(flavor).script("stty raw -echo; echo ready; exec cat")).start();
        // A hello that comes too late, or is of version 0, means nothing.
        let mut late = server.connect("u");
        late.resize(33, 99);
        late.send([header(1, HELLO), header(0, 200)].concat());
        assert_eq!(late.read_until("ready\n"), "ready\n");
        late.send(input("plain"));
        assert_eq!(late.read_until("plain"), "plain");
        let mut zero = server.connect("u");
        zero.send(header(0, HELLO));
        assert_eq!(zero.read_until("ready\n"), "ready\n");
        zero.send(input("plain"));
        assert_eq!(zero.read_until("plain"), "plain");

        let mut client = server.connect("u");
        client.send(header(65535, HELLO));
        let names: Vec<String> = (0..70_000).map(|number| format!("V{number}")).collect();
        let all: Vec<Vec<u8>> = names
            .iter()
            .map(|name| variable(name, "x"))
            .chain([variable("A=B", "x"), variable("N\0", "x"), vec![255, 255, 1]])
            .collect();
        for some in all.chunks(2000) {
            client.send(packet(VARIABLES, &some.concat()));
        }
        client.send(packet(VARIABLES, &[]));
        client.read_while("it is ready", |seen| seen.ends_with(b"ready\n"));
        // Nothing was offered; descriptors are not asked for.
        client.send(packet(TAKEN, &[]));
        client.send(packet(250, &[b'x'; 65535]));
        for _ in 0..1000 {
            client.send(packet(PING, &[]));
        }
        client.send(input("goes on"));
        client.read_while("it goes on", |seen| seen.ends_with(b"goes on"));
        let said = decode(client.seen());
        assert!(said.pongs > 0 && said.notices.len() == 1, "{said:?}");
        assert!(said.notices[0].contains("left out"), "{said:?}");
        assert_eq!(server.connect("s").read_until("ready"), "ready");
    });
}

/// Refused before there was a session: beside the terminal, with the reason.
#[test]
fn a_refusal_is_an_end_packet() {
    in_process(|flavor| {
        let setup = Setup::new(flavor).option("forkptyrouter-command", "{dir}/missing");
        let server = both(setup).start();
        let mut client = server.connect("u");
        open(&client, &[]);
        let said = to_the_end(&mut client);
        assert_eq!((said.ended[0].0, said.ended[0].1, said.output.len()), (2, 127, 0), "{said:?}");
        assert!(said.ended[0].2.contains("No such file or directory"), "{said:?}");
    });
}

#[test]
fn a_notice_comes_beside_the_terminal() {
    in_process(|flavor| {
        let setup = Setup::new(flavor).option("forkptyrouter-timeout", "1");
        let server = both(setup.script("exec sleep 100")).start();
        let mut client = server.connect("u");
        open(&client, &[]);
        let said = to_the_end(&mut client);
        assert_eq!((said.ended[0].0, said.output.len()), (4, 0), "{said:?}");
        let mut plain = server.connect("u");
        plain.resize(33, 99);
        assert!(plain.text_to_end().contains("no traffic for 1 seconds"));
    });
}
