//! What the client sends in uwsgi mode, byte by byte, and what its terminal's
//! size does at the other end.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::harness::client::{Mode, Pipes, Seat, both, client, client_of};
use crate::harness::terminal::Terminal;
use crate::harness::{DEADLINE, Setup, assert_same, on_every_server, sequence, wait_until};

/// What the client says first, and an old router ignores.
const HELLO: [u8; 4] = [0, 1, 0, 102];

/// A server that the test itself is.
struct Fake {
    _folder: tempfile::TempDir,
    listener: UnixListener,
    address: String,
}

impl Fake {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap();
        let address = folder.path().join("fake").display().to_string();
        let listener = UnixListener::bind(&address).unwrap();
        Self { _folder: folder, listener, address }
    }

    #[track_caller]
    fn accept(&self) -> Peer {
        self.listener.set_nonblocking(true).unwrap();
        let mut stream = None;
        wait_until("the client connects", || {
            stream = self.listener.accept().ok();
            stream.is_some()
        });
        let stream = stream.unwrap().0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Peer { stream, seen: Vec::new() }
    }
}

/// One client of it.
struct Peer {
    stream: UnixStream,
    seen: Vec<u8>,
}

/// What the packets of a stream said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    input: Vec<u8>,
    rows: Vec<u16>,
    cols: Vec<u16>,
    others: Vec<[u8; 4]>,
    /// Bytes of a packet that is not complete yet.
    rest: usize,
}

impl Peer {
    /// Reads exactly so many bytes.
    #[track_caller]
    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{count}: {error}"));
        bytes
    }

    /// Reads until `enough` says so of everything that came.
    #[track_caller]
    fn read_while(&mut self, enough: impl Fn(&Decoded) -> bool) -> Decoded {
        let end = Instant::now() + DEADLINE;
        let mut buffer = [0; 65536];
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        loop {
            let decoded = decode(&self.seen);
            if enough(&decoded) {
                return decoded;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("ended after {decoded:?}"),
                Ok(count) => self.seen.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {}
                Err(error) => panic!("{error} after {decoded:?}"),
            }
            assert!(
                Instant::now() < end,
                "{} bytes of input, {} rows, {} columns, others {:?}, {} left",
                decoded.input.len(),
                decoded.rows.len(),
                decoded.cols.len(),
                decoded.others,
                decoded.rest
            );
        }
    }
}

/// Packets as section 3 of the protocol has them; shares no code with the
/// product.
fn decode(mut bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    // The very first packet asks whether the router can do more.
    let behind_hello = bytes.get(4..).map_or(std::ptr::null(), <[u8]>::as_ptr);
    while let &[modifier1, low, high, modifier2, ref rest @ ..] = bytes {
        assert_eq!(modifier1, 0, "a header, not something else: {:?}", &bytes[..4]);
        let size = u16::from_le_bytes([low, high]);
        bytes = rest;
        match modifier2 {
            0 if rest.len() < size.into() => {
                decoded.rest = 4 + rest.len();
                return decoded;
            }
            0 => {
                let (input, rest) = rest.split_at(size.into());
                decoded.input.extend_from_slice(input);
                bytes = rest;
            }
            100 => decoded.rows.push(size),
            101 => decoded.cols.push(size),
            _ if bytes.as_ptr() == behind_hello => {}
            _ => decoded.others.push([modifier1, low, high, modifier2]),
        }
    }
    decoded.rest = bytes.len();
    decoded
}

#[test]
fn exactly_these_packets() {
    on_every_server(|flavor| {
        let fake = Fake::new();
        let mut seat = Seat::prepared(&client(flavor, Mode::Uwsgi, &fake.address), ":");
        let mut peer = fake.accept();
        assert_eq!(peer.read(4), HELLO, "the question whether the router can do more");
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
fn a_storm_of_resizes_in_a_paste() {
    on_every_server(|flavor| {
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
    on_every_server(|flavor| {
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
    on_every_server(|flavor| {
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
