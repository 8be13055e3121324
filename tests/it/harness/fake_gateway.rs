//! A gateway that the test itself is, and that knows only the plain modes.

use std::io::{ErrorKind, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use super::{DEADLINE, wait_until};

/// A server that the test itself is.
pub struct Fake {
    _folder: tempfile::TempDir,
    listener: UnixListener,
    pub address: String,
}

impl Fake {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("fp").tempdir_in("/tmp").unwrap();
        let address = folder.path().join("fake").display().to_string();
        let listener = UnixListener::bind(&address).unwrap();
        Self { _folder: folder, listener, address }
    }

    /// The listener that clients connect to.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    #[track_caller]
    pub fn accept(&self) -> Peer {
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
pub struct Peer {
    pub stream: UnixStream,
    seen: Vec<u8>,
}

/// Packets of a stream, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    pub input: Vec<u8>,
    pub rows: Vec<u16>,
    pub cols: Vec<u16>,
    pub others: Vec<[u8; 4]>,
    /// Bytes of a packet that is not complete yet.
    pub rest: usize,
}

impl Peer {
    /// Reads exactly so many bytes.
    #[track_caller]
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{count}: {error}"));
        bytes
    }

    /// Reads until `enough` says so of everything that came.
    #[track_caller]
    pub fn read_while(&mut self, enough: impl Fn(&Decoded) -> bool) -> Decoded {
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
    // The very first packet asks whether the gateway can do more.
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
