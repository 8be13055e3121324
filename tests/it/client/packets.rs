//! Packets of the client in uwsgi mode, byte by byte, and the effect of its terminal's
//! size at the other end.

use std::io::{Read, Write};
use std::time::Duration;

use crate::harness::client::{Mode, Pipes, Seat, both, client, client_of};
use crate::harness::fake_gateway::Fake;
use crate::harness::terminal::Terminal;
use crate::harness::{DEADLINE, Setup, assert_same, on_one_server, sequence, wait_until};

/// First packet of the client, which an old gateway ignores.
const HELLO: [u8; 4] = [0, 1, 0, 102];

#[test]
fn a_client_sends_exactly_these_packets() {
    on_one_server(|flavor| {
        let fake = Fake::new();
        let mut seat = Seat::prepared(&client(flavor, Mode::Uwsgi, &fake.address), ":");
        let mut peer = fake.accept();
        assert_eq!(peer.read(4), HELLO, "the question whether the gateway can do more");
        assert_eq!(peer.read(8), [0, 33, 0, 100, 0, 111, 0, 101], "the size first");
        seat.wait_for_raw();
        for (key, number) in [("\x03", 2), ("\x1c", 3), ("\x1a", 20)] {
            seat.terminal.wire.send(key);
            assert_eq!(peer.read(4), [0, 0, 0, number], "{key:?}");
        }
        seat.terminal.wire.send("k");
        assert_eq!(peer.read(5), [0, 1, 0, 0, b'k']);
        seat.terminal.resize(300, 40);
        assert_eq!(peer.read(8), [0, 44, 1, 100, 0, 40, 0, 101]);
        // What comes back is not framed.
        peer.stream.write_all(b"\0\x01\0\0 as it is").unwrap();
        seat.terminal.wire.read_until("\0\x01\0\0 as it is");
        peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(seat.back_at_the_shell().0, 0);
    });
}

/// Resizes while a paste is stuck halfway, and while it goes on.
#[test]
fn resizes_within_a_blocked_paste_arrive() {
    on_one_server(|flavor| {
        let fake = Fake::new();
        let terminal = Terminal::run(client(flavor, Mode::Uwsgi, &fake.address), 24, 80);
        let mut peer = fake.accept();
        wait_until("the client's terminal is raw", || terminal.is_raw());
        let paste = sequence(150_000);
        let decoded = std::thread::scope(|scope| {
            scope.spawn(|| terminal.wire.send(&paste));
            scope.spawn(|| {
                for number in 1..=200 {
                    terminal.resize(1000 + number, 2000 + number);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            // The server does not read for the first half of the storm.
            std::thread::sleep(Duration::from_millis(150));
            peer.read_while(|decoded| {
                decoded.input.len() >= paste.len()
                    && decoded.rows.last() == Some(&1200)
                    && decoded.cols.last() == Some(&2200)
            })
        });
        assert_same(&decoded.input, &paste);
        assert_eq!((decoded.others.len(), decoded.rest), (0, 0), "{:?}", decoded.others);
        assert_eq!((decoded.rows[0], decoded.cols[0]), (24, 80));
        assert_eq!(decoded.rows.len(), decoded.cols.len());
        for pair in decoded.rows.iter().zip(&decoded.cols).skip(1) {
            assert!(pair.0 + 1000 == *pair.1, "rows and columns of one size: {pair:?}");
        }
    });
}

/// Input from a pipe: packets, without a size that nobody has.
#[test]
fn input_from_a_pipe_is_framed() {
    on_one_server(|flavor| {
        let fake = Fake::new();
        let mut pipes = Pipes::open(client(flavor, Mode::Uwsgi, &fake.address));
        let mut peer = fake.accept();
        let content = crate::harness::noise(3, 300_000);
        let decoded = std::thread::scope(|scope| {
            scope.spawn(|| pipes.send(&content));
            peer.read_while(|decoded| decoded.input.len() >= content.len())
        });
        assert_same(&decoded.input, &content);
        assert_eq!((decoded.others.len(), decoded.rows.len(), decoded.rest), (0, 0, 0));
        pipes.stdin = None;
        let mut rest = Vec::new();
        peer.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        peer.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"", "its end is the connection's");
        peer.stream.write_all(b"the last word").unwrap();
        peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(pipes.finish().text(), "the last word");
    });
}

#[test]
fn the_size_arrives_first_and_after_each_change() {
    on_one_server(|flavor| {
        // Printed by the program's first breath.
        let script =
            "stty size; trap 'stty size' WINCH; stty -echo; echo ready; while :; do read x; done";
        let server = both(Setup::new(flavor).script(script)).start();
        let mut terminal = Terminal::run(client_of(flavor, &server, Mode::Uwsgi), 50, 132);
        terminal.wire.read_until("50 132\r\n");
        terminal.wire.read_until("ready");
        for (rows, cols) in [(51, 132), (51, 80), (1, 1), (400, 500)] {
            terminal.resize(rows, cols);
            terminal.wire.read_until(&format!("{rows} {cols}\r\n"));
        }
    });
}
